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
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

Handler = Callable[[Request], Awaitable[Response]]
"""Answers one request; raises Problem or Refusal to refuse it."""

RECORD = "barua.record"
"""Key of the ``Record`` in the ASGI scope."""


class Record:
    """What the access log and the metrics say about a request. ``render`` draws its problems."""

    __slots__ = ("dialect", "render", "request_id", "route", "status")

    def __init__(self, request_id: str, render: Callable[[Problem], Response]) -> None:
        self.request_id = request_id
        self.dialect = "none"
        self.route = "unknown"
        self.status = 0
        self.render = render


class Dialect(Protocol):
    """An API that the bridge speaks."""

    @property
    def name(self) -> str:
        """Its name in logs and metrics."""

    def routes(self) -> Sequence[BaseRoute]:
        """Its paths."""

    def problem(self, refusal: Refusal) -> Problem:
        """The status and text this API has for a refusal."""

    def render(self, problem: Problem) -> Response:
        """The error answer of this API."""


class Endpoint:
    """One path. ``handlers`` by method, in capitals; ``route`` is its name in logs and metrics."""

    def __init__(self, dialect: Dialect, route: str, handlers: Mapping[str, Handler]) -> None:
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


def json_answer(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A response with a JSON object."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def plain_error(problem: Problem) -> Response:
    """The error answer outside all dialects: ``{"status": "error", "message": ...}``."""
    return json_answer(problem.status, {"status": "error", "message": problem.message}, problem.headers)
