"""The outermost layer of the HTTP application: what holds for every request, whatever its dialect.

Each request gets an id (the client's ``X-Request-Id`` if it is short and plain, otherwise a new one), one access log
line and its place in the metrics. Behind a trusted proxy the client is the one the proxy names (``forwarders``).
Nothing is ever redirected, because clients lose the body of a redirected POST; ``paths`` takes doubled and trailing
slashes. Too many requests at once are answered 503 at once. An exception is a mistake of ours: the answer is 500 with
the request's id, the log has the place where it happened.

Never logged: bodies, queries, Authorization, credentials of any kind.
"""

import os
import re
import time
import traceback
from collections.abc import MutableMapping
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_bridge.endpoint import RECORD, Record, plain_error
from api_bridge.forwarders import Forwarders
from api_bridge.problems import Problem, overloaded
from mta.runtime.lifecycle import Drain
from mta.runtime.log import get_logger

log = get_logger(__name__)

MAX_REQUESTS = 1000
"""Requests handled at once; each waits for one gRPC call, and the MTA takes 1000 streams on a connection."""

REQUESTS = Counter("barua_bridge_requests_total", "Requests answered.", ["dialect", "route", "status"])
SECONDS = Histogram("barua_bridge_request_seconds", "Time from the head of a request to the end of its answer.",
                    ["dialect", "route"],
                    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))  # fmt: skip

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,64}")


class Edge:
    """The ASGI application that wraps the router."""

    def __init__(self, router: ASGIApp, drain: Drain, forwarders: Forwarders | None = None) -> None:
        self._router = router
        self._drain = drain
        self._forwarders = forwarders
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        started = time.perf_counter()
        record = Record(_request_id(scope), plain_error)
        scope[RECORD] = record
        if self._forwarders:
            self._forwarders.apply(scope)
        responding = _Responding(send, record)
        self._active += 1
        try:
            self._drain.begin("request")
            await self._handle(scope, receive, responding)
        finally:
            self._drain.end("request")
            self._active -= 1
            _account(scope, record, time.perf_counter() - started)

    async def _handle(self, scope: Scope, receive: Receive, responding: "_Responding") -> None:
        record: Record = scope[RECORD]
        try:
            if self._active > MAX_REQUESTS:
                record.problem = overloaded("Rate limit or connection error.", 2)
            await self._router(scope, receive, responding)
        except Exception as error:
            log.error("request_failed", request_id=record.request_id, error=type(error).__name__, place=_place(error))
            if responding.started:
                raise
            problem = Problem(500, f"Internal error; quote {record.request_id}.")
            await record.render(problem)(scope, receive, responding)


class _Responding:
    """Passes the answer on, with the request's id in it, and remembers its status."""

    __slots__ = ("_record", "_send", "started")

    def __init__(self, send: Send, record: Record) -> None:
        self._send = send
        self._record = record
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._record.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._record.request_id
        await self._send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()


@cache
def _metrics(dialect: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Of one kind of answer. There are as many kinds as routes and statuses: clients cannot make up more."""
    return REQUESTS.labels(dialect, route, str(status)), SECONDS.labels(dialect, route)


def _account(scope: MutableMapping[str, Any], record: Record, seconds: float) -> None:
    counter, histogram = _metrics(record.dialect, record.route, record.status)
    counter.inc()
    histogram.observe(seconds)
    log.info(
        "request_answered",
        request_id=record.request_id,
        peer=scope["client"][0] if scope.get("client") else "",
        method=scope["method"],
        path=scope["path"][:200],
        dialect=record.dialect,
        route=record.route,
        status=record.status,
        milliseconds=round(seconds * 1000, 1),
    )


def _place(error: BaseException) -> list[str]:
    """Where it happened. Neither values nor the error's text: both may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
