"""The HTTP side of the bridge, through real sockets: shapes, limits, deadlines, smuggling."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge import body as body_module
from api_bridge import connection, edge, workers
from api_bridge.endpoint import Endpoint, plain_error
from api_bridge.problems import Problem
from mta.runtime.options import DialectsOptions, MSpaceOptions
from mta.runtime.refusals import Refusal

from .conftest import BODY_BYTES, Bridge, Start

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEND = {
    "apiKey": "bk_" + "a" * 12 + "_" + "a" * 32,
    "to": "recipient@example.com",
    "subject": "Hello",
    "body": "<h1>HTML</h1>",
}
LOGIN = {"authorization": "Basic " + base64.b64encode(b"reseller:secret-password").decode()}
RESELLER = ("/email/api/reseller/createSubUser", "/email/api/reseller/manageCredits")
TRY_LATER = {"status": "error", "message": "Rate limit or connection error."}
DENIED = {"status": "error", "message": "Authentication passed failed."}


def head(path: str = "/email/api/send", *fields: str, length: int | None = None, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@pytest.fixture(autouse=True, scope="module")
def impatient() -> Iterator[None]:
    """No worker runs behind these bridges, and waiting for one proves nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "CONNECT_SECONDS", 0.1)
        yield


def parsed(answer: bytes) -> tuple[int, dict[str, object]]:
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(rest)


async def test_without_a_backend_each_call_is_temporary(bridge: Bridge) -> None:
    calls = [
        ("/send", SEND),
        ("/reseller/createSubUser", {"username": "developer", "password": "developer123"}),
        ("/reseller/manageCredits", {"sub_username": "developer", "action": "ADD", "amount": 100}),
    ]
    for prefix in ("/email/api", "/api"):
        for path, document in calls:
            answer = await bridge.client.post(prefix + path, json=document, headers=LOGIN)
            assert answer.status_code == 503
            assert answer.json() == TRY_LATER
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", ["//email/api/send", "///api/send", "/email/api/send/", "//api/send//", "/email/api/send?x=<y>"]
)
async def test_paths_are_put_in_order_and_never_redirected(bridge: Bridge, path: str) -> None:
    document = json.dumps({**SEND, "to": ""}).encode()
    answer = await bridge.exchange(head(path, "Connection: close", length=len(document)) + document)
    assert parsed(answer) == (400, {"status": "error", "message": "to is required"})


async def test_health(bridge: Bridge) -> None:
    for path, status in (("/healthz", "starting"), ("/readyz", "unavailable")):
        answer = await bridge.client.get(path)
        assert answer.status_code == 503
        assert answer.json() == {"status": status, "control": "unavailable", "mta": "unavailable"}
        answer = await bridge.client.head(path)
        assert answer.status_code == 503
        assert answer.content == b""


async def test_unknown_paths_and_methods(bridge: Bridge) -> None:
    answer = await bridge.client.get("/email/api/unknown")
    assert answer.status_code == 404
    assert answer.json() == {"status": "error", "message": "Not Found"}
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = await bridge.client.request(method, "/email/api/send")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST, OPTIONS"
        assert answer.json()["status"] == "error"
    answer = await bridge.client.head("/email/api/send")
    assert (answer.status_code, answer.content) == (405, b"")
    answer = await bridge.client.options("/email/api/send")
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    answer = await bridge.client.options("/healthz")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", RESELLER)
@pytest.mark.parametrize(
    "header", [None, "", "Basic", "Basic !!", "Bearer x", "Basic " + base64.b64encode(b"nocolon").decode()]
)
async def test_the_reseller_paths_ask_for_basic(bridge: Bridge, path: str, header: str | None) -> None:
    answer = await bridge.client.post(path, json={}, headers={} if header is None else {"authorization": header})
    assert answer.status_code == 401
    assert answer.json() == DENIED
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


async def test_an_api_key_that_cannot_be_one(bridge: Bridge) -> None:
    answer = await bridge.client.post("/email/api/send", json={**SEND, "apiKey": "a\r\nb: c"})
    assert answer.status_code == 401
    assert answer.json() == DENIED
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("fields", [[""], ["x" * 201], ["a", "b"]], ids=["empty", "long", "two"])
@pytest.mark.parametrize("path", RESELLER)
async def test_idempotency_keys_that_cannot_be_one(bridge: Bridge, path: str, fields: list[str]) -> None:
    headers = [*LOGIN.items(), *(("Idempotency-Key", value) for value in fields)]
    answer = await bridge.client.post(path, json={}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Idempotency-Key must")


async def test_reseller_calls_have_small_bodies(start: Start) -> None:
    bridge = await start(body_bytes=36_700_160)
    for path in RESELLER:
        answer = await bridge.client.post(path, content=b" " * 65_537, headers=LOGIN)
        assert answer.status_code == 413


async def test_errors_as_200(start: Start) -> None:
    bridge = await start(dialects=DialectsOptions(mspace=MSpaceOptions(errors_as_200=True)))
    for path, document in (("/email/api/send", {}), ("/api/reseller/createSubUser", {}), ("/email/api/send", SEND)):
        answer = await bridge.client.post(path, json=document)
        assert answer.status_code == 200
        assert answer.json()["status"] == "error"
    assert (await bridge.client.get("/healthz")).status_code == 503
    assert (await bridge.client.get("/other")).status_code == 404


async def test_request_ids(bridge: Bridge) -> None:
    answer = await bridge.client.get("/healthz", headers={"x-request-id": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"
    for bad in ("x" * 65, "a b", "<script>"):
        answer = await bridge.client.get("/healthz", headers={"x-request-id": bad})
        assert len(answer.headers["x-request-id"]) == 32


async def test_content_types_are_not_believed(bridge: Bridge) -> None:
    document = json.dumps({**SEND, "to": ""})
    for kind in ("application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", None):
        headers = {} if kind is None else {"content-type": kind}
        answer = await bridge.client.post("/email/api/send", content=document, headers=headers)
        assert answer.json()["message"] == "to is required"
    answer = await bridge.client.post("/email/api/send", data={"to": "a@b.example"})
    assert answer.status_code == 400
    assert "not form data" in answer.json()["message"]
    answer = await bridge.client.post("/email/api/send", files={"to": b"x"})
    assert "not form data" in answer.json()["message"]


async def test_compressed_bodies_are_refused_unread(bridge: Bridge) -> None:
    answer = await bridge.client.post("/email/api/send", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.json()["status"] == "error"


async def test_bodies_have_a_limit(bridge: Bridge) -> None:
    text = "x" * (BODY_BYTES - len(json.dumps({**SEND, "body": "", "to": ""})))
    answer = await bridge.client.post("/email/api/send", content=json.dumps({**SEND, "body": text, "to": ""}))
    assert answer.json()["message"] == "to is required"
    answer = await bridge.client.post("/email/api/send", content=json.dumps({**SEND, "body": text + "x", "to": ""}))
    assert answer.status_code == 413
    assert answer.json() == {"status": "error", "message": "The request body is larger than 65536 bytes."}

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 60_000

    answer = await bridge.client.post("/email/api/send", content=chunks())
    assert answer.status_code == 413


async def test_a_large_body_is_not_kept_and_the_client_sees_the_answer(bridge: Bridge) -> None:
    answer = await bridge.client.post("/email/api/send", content=b" " * 50_000_000)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


async def test_expect_100_continue(bridge: Bridge) -> None:
    answer = await bridge.exchange(head("/email/api/send", "Expect: 100-continue", length=BODY_BYTES + 1))
    assert parsed(answer)[0] == 413
    reader, writer = await asyncio.open_connection(*bridge.address)
    writer.write(head("/email/api/send", "Expect: 100-continue", "Connection: close", length=2))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(b"{}")
    await reader.readline()
    assert parsed(await reader.read()) == (400, {"status": "error", "message": "apiKey is required"})
    writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        head("/email/api/send", "Transfer-Encoding: chunked", length=2) + b"0\r\n\r\n",
        head("/email/api/send", "Content-Length: 3", length=2) + b"{} ",
        head("/email/api/send", "Content-Length: 2, 3") + b"{} ",
        head("/email/api/send", "Content-Length: -2") + b"{}",
        head("/email/api/send", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        head("/email/api/send", "X-Folded: a\r\n b", length=2) + b"{}",
        b"POST /email/api/send HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}",
        b"POST /email/api/send HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST /email/api/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"EHLO example.com\r\nMAIL FROM:<a@b>\r\n",
        head("/email/api/send", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("/email/api/send", "X: a\0b", length=2) + b"{}",
    ],
)
async def test_ambiguous_requests_are_refused_and_the_connection_closed(bridge: Bridge, request_: bytes) -> None:
    answer = await bridge.exchange(request_ + head("/healthz", method="GET"))
    assert answer.count(b"HTTP/1.1 ") == 1
    status, document = parsed(answer)
    assert status == 400
    assert document["status"] == "error"


async def test_h2c_upgrades_are_ignored(bridge: Bridge) -> None:
    """Java's HttpClient sends these fields with its first request to a clear-text server."""
    fields = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    document = json.dumps({**SEND, "to": ""}).encode()
    request = head("/email/api/send", *fields, length=len(document)) + document
    reader, writer = await asyncio.open_connection(*bridge.address)
    for _ in range(3):
        writer.write(request[:-5])
        await asyncio.sleep(0.05)
        writer.write(request[-5:])
        assert b" 400 " in await reader.readline()
        answer = await reader.readuntil(b'"message":"to is required"}')
        assert b"connection: close" not in answer
    writer.close()


async def test_pipelined_requests_are_answered_in_order(bridge: Bridge) -> None:
    bodies = [json.dumps({**SEND, "to": f"none{number}"}).encode() for number in range(5)]
    requests = b"".join(head(length=len(body)) + body for body in bodies[:4])
    answer = await bridge.exchange(
        requests + head("/email/api/send", "Connection: close", length=len(bodies[4])) + bodies[4]
    )
    assert [
        f'\\"none{number}\\"'.encode() in part for number, part in enumerate(answer.split(b"HTTP/1.1 400")[1:])
    ] == [True] * 5


async def test_any_chunking_means_the_same(bridge: Bridge) -> None:
    document = json.dumps({**SEND, "to": ""}).encode()
    request = head("/email/api/send", "Connection: close", length=len(document)) + document
    reader, writer = await asyncio.open_connection(*bridge.address)
    for number in range(len(request)):
        writer.write(request[number : number + 1])
        await asyncio.sleep(0)
    assert parsed(await reader.read()) == (400, {"status": "error", "message": "to is required"})
    writer.close()


@pytest.mark.parametrize(
    "fields",
    [["X: " + "a" * 1_000_000], [f"X-{number}: a" for number in range(200)], ["X-" + "n" * 100_000 + ": a"]],
    ids=["value", "count", "name"],
)
async def test_heads_have_a_limit(bridge: Bridge, fields: list[str]) -> None:
    with_end = head("/email/api/send", *fields, length=0)
    for request in (with_end, with_end.removesuffix(b"\r\n\r\n")):
        if request is not with_end and len(fields) > 1:
            continue
        reader, writer = await asyncio.open_connection(*bridge.address)
        writer.write(request)
        assert b" 431 " in await asyncio.wait_for(reader.readline(), 60)
        writer.close()


async def test_a_head_of_the_allowed_size_is_taken(bridge: Bridge) -> None:
    answer = await bridge.client.get("/healthz", headers={"x": "a" * 30_000})
    assert answer.status_code == 503


async def test_slow_heads_end(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    assert await bridge.exchange(b"") == b""
    assert await bridge.exchange(b"\r\n") == b""
    status, document = parsed(await bridge.exchange(b"POST /email/api/send HTTP/1.1\r\nHost:"))
    assert (status, document["status"]) == (408, "error")
    answer = await bridge.exchange(head("/other", method="GET") + b"GET /he")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"404", b"408"]


async def test_a_slow_head_never_answers_the_request_before_it(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request waits long for a worker; the deadline of the second's head ends the connection."""
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 3.0)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    document = json.dumps(SEND).encode()
    assert await bridge.exchange(head(length=len(document)) + document + b"GET /he") == b""


async def test_slow_bodies_end(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "IDLE_SECONDS", 0.3)
    status, document = parsed(await bridge.exchange(head(length=10) + b"{"))
    assert (status, document["message"]) == (408, "The request body did not arrive in time.")


async def test_bodies_have_a_least_rate(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "GRACE_SECONDS", 0.5)
    reader, writer = await asyncio.open_connection(*bridge.address)
    writer.write(head(length=10_000))

    async def drip() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 3)
    dripping.cancel()
    writer.close()


async def test_a_body_after_its_answer_does_not_hold_the_connection(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.3)
    answer = await bridge.exchange(head(RESELLER[0], length=1000) + b"{")
    assert parsed(answer) == (401, DENIED)


async def test_connections_have_a_limit(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    opened = [await asyncio.open_connection(*bridge.address) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert parsed(await bridge.exchange(b"")) == (503, TRY_LATER)
    for _, writer in opened:
        writer.close()


async def test_requests_at_once_have_a_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = await start()
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(edge, "MAX_REQUESTS", 2)
    answers = await asyncio.gather(*(bridge.client.post("/email/api/send", json=SEND) for _ in range(6)))
    assert all(answer.status_code == 503 and answer.json() == TRY_LATER for answer in answers)
    assert sum(answer.headers["retry-after"] == "2" for answer in answers) == 4
    monkeypatch.setattr(edge, "MAX_REQUESTS", 0)
    for path, key in (("/smtp/emails", "error_code"), ("/api/v1/mail/send", "success")):
        answer = await bridge.client.post(path, json={})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert key in answer.json()


class Broken:
    """A dialect whose only page has a mistake in it."""

    name = "broken"

    def routes(self) -> Sequence[Route]:
        return [Route("/broken", Endpoint(self, "broken", {"GET": self._fail}))]

    def problem(self, refusal: Refusal) -> Problem:
        return Problem(500, "unused")

    def render(self, problem: Problem) -> Response:
        return plain_error(problem)

    async def _fail(self, _: Request) -> Response:
        raise ValueError("secret-of-a-client")


async def test_our_mistakes_give_an_id_and_nothing_else(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    bridge = await start(Broken())
    answer = await bridge.client.get("/broken", headers={"x-request-id": "q1"})
    assert answer.status_code == 500
    assert answer.json() == {"status": "error", "message": "Internal error; quote q1."}
    assert (await bridge.client.get("/broken")).status_code == 500
    written = "".join(capfd.readouterr())
    assert "request_failed" in written
    assert "test_http.py" in written
    assert "secret-of-a-client" not in written


async def test_the_log_has_no_secrets(bridge: Bridge, capfd: pytest.CaptureFixture[str]) -> None:
    await bridge.client.post(
        "/email/api/send?apiKey=in-the-query", json={**SEND, "apiKey": "bk_secret", "body": "private words"}
    )
    await bridge.client.post(RESELLER[0], json={"username": "u", "password": "new-password"}, headers=LOGIN)
    await bridge.client.post(RESELLER[1], content=b'{"sub_username": private words', headers=LOGIN)
    written = "".join(capfd.readouterr())
    assert written.count("request_answered") == 3
    for secret in (
        "bk_secret",
        "private words",
        "new-password",
        "secret-password",
        LOGIN["authorization"][6:],
        "in-the-query",
    ):
        assert secret not in written


async def test_the_drain_finishes_what_was_begun(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, handle = asyncio.Event(), edge.Edge._handle

    async def noticed(self: edge.Edge, *arguments: Any) -> None:
        begun.set()
        await handle(self, *arguments)

    monkeypatch.setattr(edge.Edge, "_handle", noticed)
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 2.0)
    bridge = await start()
    pending = asyncio.create_task(bridge.client.post("/email/api/send", json=SEND))
    await begun.wait()
    bridge.drain.stop()
    answer = await pending
    assert (answer.status_code, answer.json()) == (503, TRY_LATER)
    async with asyncio.timeout(60):
        while await _is_open(bridge):
            pass


async def _is_open(bridge: Bridge) -> bool:
    """Whether new connections are taken."""
    try:
        _, writer = await asyncio.open_connection(*bridge.address)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*SEND, "username"]) | st.text(max_size=5), inner, max_size=6)
        ),
    ).map(lambda value: json.dumps(value).encode()),
)


@given(CONTENTS, st.sampled_from(["/email/api/send", *RESELLER]))
@settings(max_examples=100, deadline=None)
async def test_any_content_gives_an_error_in_the_shape_of_the_api(bridge: Bridge, content: bytes, path: str) -> None:
    answer = await bridge.client.post(path, content=content, headers=LOGIN)
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    document = answer.json()
    assert set(document) == {"status", "message"}
    assert document["status"] == "error"
    assert isinstance(document["message"], str)
