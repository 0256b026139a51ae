"""One path of the bridge: which methods it has, how its problems look.

An ``Endpoint`` is an ASGI application for Starlette's router. It calls the handler of the request's method, and turns
a ``Problem`` into the dialect's error body. Refusals of control and the MTA are made Problems by ``Dialect.problem``.
Everything else that is raised is a mistake of ours and goes up to ``edge``, which answers 500 through the same
rendering.

OPTIONS answers 204 with Allow, HEAD works where GET does, other methods get 405 with Allow.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api_bridge.openapi import Document
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

Handler = Callable[[Request], Awaitable[Response]]
"""Answers one request; raises Problem or Refusal to refuse it."""

RECORD = "barua.record"
"""Key of the ``Record`` in the ASGI scope."""


class Record:
    """What the access log and the metrics say about a request.

    ``render`` draws its problems; ``problem`` is one that it has before anybody looked at it.
    """

    __slots__ = ("dialect", "problem", "render", "request_id", "route", "status")

    def __init__(self, request_id: str, render: Callable[[Problem], Response]) -> None:
        self.request_id = request_id
        self.dialect = "none"
        self.route = "unknown"
        self.status = 0
        self.render = render
        self.problem: Problem | None = None


class Speaker(Protocol):
    """Who draws the problems of an endpoint."""

    @property
    def name(self) -> str:
        """Its name in logs and metrics, and of a dialect in the options."""

    def problem(self, refusal: Refusal) -> Problem:
        """The status and text this API has for a refusal."""

    def render(self, problem: Problem) -> Response:
        """The error answer of this API: a JSON object, whatever the problem (``problems`` lists the frame's own)."""


class Pages(Speaker, Protocol):
    """Paths that belong together: a dialect, or pages of the bridge's own."""

    def routes(self) -> Sequence[Route]:
        """Its paths, each with an ``Answering``: an ``Endpoint``, or what stands before several."""


class Dialect(Pages, Protocol):
    """An API that the bridge speaks. Made of ``parts.Parts``."""

    def openapi(self) -> Document:
        """What it serves, as an OpenAPI document (``openapi``); it says the same as ``routes``, which a test checks."""


class Answering(Protocol):
    """The ASGI application of one path."""

    @property
    def methods(self) -> frozenset[str]:
        """The methods with a handler of their own, in capitals."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""


class Endpoint:
    """One path. ``handlers`` by method, in capitals; ``route`` is its name in logs and metrics."""

    def __init__(self, dialect: Speaker, route: str, handlers: Mapping[str, Handler]) -> None:
        self._dialect = dialect
        self._route = route
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]
        self._allow = ", ".join([*self._handlers, "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        record: Record = scope[RECORD]
        record.dialect, record.route, record.render = self._dialect.name, self._route, self._dialect.render
        if record.problem is not None:
            response = record.render(record.problem)
        else:
            response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        handler = self._handlers.get(request.method)
        if handler is None:
            return self._without_handler(request.method)
        try:
            return await handler(request)
        except Problem as problem:
            return self._dialect.render(problem)
        except Refusal as refusal:
            return self._dialect.render(self._dialect.problem(refusal))

    def _without_handler(self, method: str) -> Response:
        if method == "OPTIONS":
            return Response(status_code=204, headers={"allow": self._allow})
        text = f"Method {method} is not allowed here; use {', '.join(self._handlers)}."
        return self._dialect.render(Problem(405, text, {"allow": self._allow}))

    @property
    def methods(self) -> frozenset[str]:
        """The methods with a handler of their own."""
        return frozenset(self._handlers) - {"HEAD"}


def peer_of(request: Request) -> str:
    """The client's IP address, "" if unknown: what a trusted forwarder says, otherwise who connected."""
    return request.client.host if request.client else ""


def json_answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A response with JSON; errors are always an object."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def plain_error(problem: Problem) -> Response:
    """The error answer outside all dialects: ``{"status": "error", "message": ...}``."""
    return json_answer(problem.status, {"status": "error", "message": problem.message}, problem.headers)
