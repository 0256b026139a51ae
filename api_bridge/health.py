"""``/healthz`` and ``/readyz``.

``/healthz`` says that this installation came up: 503 until control and one worker have answered once since the start,
then 200 for as long as the process lives. It is the signal to begin (README) and not to restart the bridge because
another program is down. ``/readyz`` asks the programs behind each time: 200, or 503 with the names of those that do
not answer; it is the signal for load balancers.
"""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge.backend import Backend, Readiness
from api_bridge.endpoint import Endpoint, json_answer, plain_error
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

FRESH_SECONDS = 0.5
"""An answer of the programs behind is used this long, so that probes cannot load them."""


class Health:
    """The two pages, in the form of a dialect."""

    name = "health"

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = asyncio.Lock()
        self._came_up = False
        self._asked = float("-inf")
        self._readiness = Readiness(control=False, mta=False)

    def routes(self) -> Sequence[Route]:
        """Both paths."""
        return [
            Route("/healthz", Endpoint(self, "healthz", {"GET": self._healthz})),
            Route("/readyz", Endpoint(self, "readyz", {"GET": self._readyz})),
        ]

    def problem(self, refusal: Refusal) -> Problem:
        """No refusal reaches these pages."""
        return Problem(refusal.rendering.http, refusal.message)

    def render(self, problem: Problem) -> Response:
        """The neutral error body."""
        return plain_error(problem)

    async def _healthz(self, _: Request) -> Response:
        if not self._came_up:
            self._came_up = (await self._ask()).ready
        if self._came_up:
            return json_answer(200, {"status": "ok"})
        return _not_ready("starting", self._readiness)

    async def _readyz(self, _: Request) -> Response:
        readiness = await self._ask()
        if readiness.ready:
            return json_answer(200, {"status": "ok", "control": "ok", "mta": "ok"})
        return _not_ready("unavailable", readiness)

    async def _ask(self) -> Readiness:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._asked >= FRESH_SECONDS:
                self._readiness = await self._backend.readiness()
                self._asked = asyncio.get_running_loop().time()
        return self._readiness


def _not_ready(status: str, readiness: Readiness) -> Response:
    words = {True: "ok", False: "unavailable"}
    body = {"status": status, "control": words[readiness.control], "mta": words[readiness.mta]}
    return json_answer(503, body, {"retry-after": "1"})
