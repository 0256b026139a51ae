"""Which endpoint answers a path: segments, parameters, host names, and who draws the 404."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge.endpoint import RECORD, Endpoint, Record, json_answer, plain_error
from api_bridge.paths import Paths
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal


class Spoken:
    """A dialect that answers each of its paths with the path's pattern and the parameters."""

    def __init__(self, name: str, *paths: str) -> None:
        self.name = name
        self._paths = paths

    def routes(self) -> Sequence[Route]:
        return [Route(path, Endpoint(self, path, {"GET": self._handler(path)})) for path in self._paths]

    def problem(self, refusal: Refusal) -> Problem:
        return Problem(500, "unused")

    def render(self, problem: Problem) -> Response:
        return json_answer(problem.status, {"by": self.name, "text": problem.message})

    def _handler(self, path: str) -> Any:
        async def answer(request: Request) -> Response:
            return json_answer(200, {"path": path, **request.path_params})

        return answer


def ask(paths: Paths, target: str, host: str = "localhost") -> tuple[int, dict[str, Any]]:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": b"",
        "headers": [(b"host", host.encode())],
        RECORD: Record("id", plain_error),
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(paths(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def built(*spoken: tuple[Spoken, Iterable[str]]) -> Paths:
    paths = Paths()
    for pages, hosts in spoken:
        paths.add(pages, hosts)
    return paths


DEEP = "/account/{kind}/{id}/{event}"
POST = Spoken("post", "/account/ip", "/account/ip/{id}", "/account/ip/allocate", DEEP)
PULSE = Spoken("pulse", "/smtp/emails", "/smtp/emails/{id}", "/senders/{email}/code")


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/smtp/emails", {"path": "/smtp/emails"}),
        ("//smtp//emails/", {"path": "/smtp/emails"}),
        ("/account/ip/allocate", {"path": "/account/ip/allocate"}),
        ("/account/ip/7", {"path": "/account/ip/{id}", "id": "7"}),
        ("/account/ip/allocate/x", {"path": DEEP, "kind": "ip", "id": "allocate", "event": "x"}),
        ("/senders/a%2Fb@example.com/code", {"path": "/senders/{email}/code", "email": "a/b@example.com"}),
        ("/senders/a%20b/code", {"path": "/senders/{email}/code", "email": "a b"}),
        ("/senders/<a.1@b>/code", {"path": "/senders/{email}/code", "email": "<a.1@b>"}),
    ],
)
def test_paths_are_found(target: str, found: dict[str, str]) -> None:
    assert ask(built((POST, ()), (PULSE, ())), target) == (200, found)


@pytest.mark.parametrize(
    ("target", "owner"),
    [
        ("/smtp/other", "pulse"),
        ("/smtp", "pulse"),
        ("/senders/x/other", "pulse"),
        ("/account/ip/1/2/3", "post"),
        ("/", None),
        ("/other", None),
        ("/senders/a%2Fcode", "pulse"),
    ],
)
def test_nothing_there_is_said_by_whose_paths_these_are(target: str, owner: str | None) -> None:
    status, answer = ask(built((POST, ()), (PULSE, ())), target)
    assert status == 404
    assert answer.get("by") == owner
    assert answer.get("text") or answer["status"] == "error"


def test_shared_beginnings_are_nobodys() -> None:
    one, other = Spoken("one", "/api/v1/mail"), Spoken("other", "/api/v1/account")
    assert "by" not in ask(built((one, ()), (other, ())), "/api/v1/x")[1]
    assert ask(built((one, ()), (other, ())), "/api/v1/mail/x")[1]["by"] == "one"


def test_dialects_answer_on_their_own_hosts() -> None:
    paths = built((PULSE, ["API.Pulse.example", "other.example."]), (POST, ()))
    for host in ("api.pulse.example", "api.pulse.example:8080", "API.PULSE.EXAMPLE.", "other.example"):
        assert ask(paths, "/smtp/emails", host)[0] == 200
        assert ask(paths, "/account/ip", host)[0] == 200
        assert ask(paths, "/none", host) == (404, {"by": "pulse", "text": "Not Found"})
    for host in ("localhost", "", "pulse.example", "x.api.pulse.example", "[::1]:8080"):
        assert ask(paths, "/smtp/emails", host)[0] == 404
        assert ask(paths, "/account/ip", host)[0] == 200


def test_addresses_can_be_hosts() -> None:
    paths = built((PULSE, ["[2001:db8::1]", "192.0.2.1"]))
    assert ask(paths, "/smtp/emails", "[2001:db8::1]:8080")[0] == 200
    assert ask(paths, "/smtp/emails", "[2001:db8::1]")[0] == 200
    assert ask(paths, "/smtp/emails", "192.0.2.1:80")[0] == 200
    assert ask(paths, "/smtp/emails", "192.0.2.2:80")[0] == 404


def test_two_pages_cannot_have_the_same_path() -> None:
    with pytest.raises(ValueError, match=r"other has a path that is there already: /smtp/emails/\{number\}"):
        built((PULSE, ()), (Spoken("other", "/smtp/emails/{number}"), ()))
    built((PULSE, ["one.example"]), (Spoken("other", "/smtp/emails"), ["other.example"]))
