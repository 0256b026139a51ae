"""What real clients send and strict servers refuse: it is taken, and it means the same. And what is too much."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge.body import Budget, received
from api_bridge.endpoint import Endpoint, json_answer, plain_error
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

from .conftest import Bridge, Start, running

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Echo:
    """Answers with what it got."""

    name = "echo"

    def __init__(self) -> None:
        self._budget = Budget()

    def routes(self) -> Sequence[Route]:
        methods = ("GET", "POST", "PUT", "DELETE")
        endpoint = Endpoint(self, "echo", dict.fromkeys(methods, self._echo))
        return [Route("/echo", endpoint), Route("/echo/{value}", endpoint)]

    def problem(self, refusal: Refusal) -> Problem:
        return Problem(500, "unused")

    def render(self, problem: Problem) -> Response:
        return plain_error(problem)

    async def _echo(self, request: Request) -> Response:
        async with received(request, 1_000_000, self._budget) as data:
            body = {
                "method": request.method,
                "value": request.path_params.get("value"),
                "query": request.url.query,
                "body": data.decode("latin-1"),
                "peer": request.client.host if request.client else "",
                "scheme": request.scope["scheme"],
            }
        return json_answer(200, body)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def echo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bridge]:
    async with running(tmp_path_factory.mktemp("echo"), (Echo(),), trusted_forwarders=["127.0.0.1"]) as started:
        yield started


def head(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *fields, "", ""]).encode("latin-1")


async def ask(bridge: Bridge, octets: bytes) -> tuple[int, dict[str, Any]]:
    top, _, rest = (await bridge.exchange(octets)).partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(rest)


@pytest.mark.parametrize(
    ("target", "value", "query"),
    [
        ("/echo/<abc.1706600000@mail.example>", "<abc.1706600000@mail.example>", ""),
        ("/echo/%3Cabc%40mail.example%3E", "<abc@mail.example>", ""),
        ("/echo/xn--80ak6aa92e.com", "xn--80ak6aa92e.com", ""),
        ("/echo/%D0%BF%D1%80%D0%B8.com", "при.com", ""),
        ("/echo/при.com?ü".encode().decode("latin-1"), "при.com", "%C3%BC"),
        ("/echo/a%2Fb", "a/b", ""),
        ("/echo/a+b%20c", "a+b c", ""),
        ("/echo/{x}|\"y\"^`z\\", "{x}|\"y\"^`z\\", ""),
        ("//echo//v/", "v", ""),
        ("/echo?", None, ""),
        ("/echo/?", None, ""),
        ("/echo?{}", None, "{}"),
        ('/echo?{"limit":0,"from":null}', None, '{"limit":0,"from":null}'),
        ("/echo?%7B%22limit%22%3A%200%7D", None, "%7B%22limit%22%3A%200%7D"),
        ("/echo?a=<b>&c[d][]=e", None, "a=<b>&c[d][]=e"),
        ("/echo?a?b?c", None, "a?b?c"),
        ("http://other.example/echo/v?q", "v", "q"),
        ("http://other.example:8080//echo?q", None, "q"),
    ],
)  # fmt: skip
async def test_targets(echo: Bridge, target: str, value: str | None, query: str) -> None:
    status, answer = await ask(echo, head(target, "Connection: close"))
    assert (status, answer["value"], answer["query"]) == (200, value, query)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "POST"])
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 2"], b"{}"),
        (["Content-Length: 0"], b""),
        (["Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"1\r\n{\r\n1;a=b;c=\"d\"\r\n}\r\n0\r\nX-Trailer: a\r\n\r\n"),
        ([], b""),
    ],
)  # fmt: skip
async def test_any_method_may_have_a_body(echo: Bridge, method: str, fields: list[str], body: bytes) -> None:
    status, answer = await ask(echo, head("/echo", "Connection: close", *fields, method=method) + body)
    assert (status, answer["method"]) == (200, method)
    assert answer["body"] == ("" if body in (b"", b"0\r\n\r\n") else "{}")


async def test_http_1_0(echo: Bridge) -> None:
    assert (await ask(echo, head("/echo", version="1.0")))[0] == 200
    status, answer = await ask(echo, head("/echo", "Content-Length: 2", method="POST", version="1.0") + b"{}")
    assert (status, answer["body"]) == (200, "{}")


async def test_expect_is_answered_for_any_method(echo: Bridge) -> None:
    for method in ("POST", "DELETE"):
        reader, writer = await asyncio.open_connection(*echo.address)
        writer.write(head("/echo", "Expect: 100-continue", "Content-Length: 2", "Connection: close", method=method))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["body"] == "{}"
        writer.close()


async def test_offers_to_upgrade_are_ignored(echo: Bridge) -> None:
    for offer in ("h2c", "websocket", "TLS/1.0"):
        fields = ["Connection: Upgrade, close", f"Upgrade: {offer}", "Content-Length: 2"]
        status, answer = await ask(echo, head("/echo", *fields, method="POST") + b"{}")
        assert (status, answer["body"]) == (200, "{}")


async def test_a_trusted_proxy_names_the_client(echo: Bridge) -> None:
    fields = ["X-Forwarded-For: 192.0.2.1, 198.51.100.7", "X-Forwarded-Proto: https", "Connection: close"]
    _, answer = await ask(echo, head("/echo", *fields))
    assert (answer["peer"], answer["scheme"]) == ("198.51.100.7", "https")


async def test_others_do_not(start: Start) -> None:
    bridge = await start(Echo(), trusted_forwarders=["192.0.2.0/24"])
    fields = ["X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https", "Connection: close"]
    _, answer = await ask(bridge, head("/echo", *fields))
    assert (answer["peer"], answer["scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    "octets",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
        b"GET /echo\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nX\x00Y: a\r\n\r\n",
        b"GET /ec\rho HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nX: a\rY: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n X: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\n{}",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /echo HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x y\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x/y\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n0\r\n\r\n",
        b"GET echo HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_parsers_disagree_about_ends_the_connection(echo: Bridge, octets: bytes) -> None:
    answer = await echo.exchange(octets + head("/echo"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "error"


@pytest.mark.parametrize(
    "rest",
    [b"1;" + b"a" * 200_000, b"0\r\nX: " + b"a" * 200_000, b"0\r\n" + b"X: a\r\n" * 30_000],
    ids=["extension", "trailer", "trailers"],
)
async def test_chunk_extensions_and_trailers_have_a_limit(echo: Bridge, rest: bytes) -> None:
    answer = await echo.exchange(head("/echo", "Transfer-Encoding: chunked", method="POST") + rest)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_trailers_change_nothing(echo: Bridge) -> None:
    start = head("/echo", "Transfer-Encoding: chunked", "Connection: close", method="POST")
    status, answer = await ask(echo, start + b"1\r\na\r\n0\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
    assert (status, answer["body"], answer["peer"]) == (200, "a", "127.0.0.1")


async def test_options_for_the_server_as_a_whole(echo: Bridge) -> None:
    status, _ = await ask(echo, head("*", "Connection: close", method="OPTIONS"))
    assert status == 404


async def test_many_small_chunks(echo: Bridge) -> None:
    start = head("/echo", "Transfer-Encoding: chunked", "Connection: close", method="POST")
    status, answer = await ask(echo, start + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n")
    assert (status, answer["body"]) == (200, "a" * 50_000)
