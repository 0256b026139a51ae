"""The paths of MSpace: read, translate, call, translate back.

A message larger than ``OFF_LOOP_BYTES`` is translated in a thread, so that it does not hold up the small ones.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from api_bridge import credentials
from api_bridge.backend import Backend
from api_bridge.body import Budget, parse_object, received
from api_bridge.dialects.mspace import errors, shapes
from api_bridge.endpoint import Endpoint, json_answer, plain_error
from api_bridge.problems import Problem
from mta.runtime.options import BridgeOptions
from mta.runtime.refusals import Refusal

PREFIXES = ("/email/api", "/api")
"""Where the three calls are: the original's path, and the one that its documentation prints."""
OFF_LOOP_BYTES = 262_144
"""Bodies above this are parsed and composed in a thread (about 3 ms of work at this size)."""

_Result = TypeVar("_Result")


class MSpace:
    """The dialect."""

    name = "mspace"

    def __init__(self, backend: Backend, options: BridgeOptions, budget: Budget) -> None:
        self._backend = backend
        self._budget = budget
        self._body_bytes = options.body_bytes
        self._errors_as_200 = options.mspace_errors_as_200

    def routes(self) -> Sequence[BaseRoute]:
        """The three calls under both prefixes."""
        calls = {
            "/reseller/createSubUser": self._create_sub_user,
            "/reseller/manageCredits": self._manage_credits,
            "/send": self._send,
        }
        endpoints = {path: Endpoint(self, path.rpartition("/")[2], {"POST": call}) for path, call in calls.items()}
        return [Route(prefix + path, endpoint) for prefix in PREFIXES for path, endpoint in endpoints.items()]

    def problem(self, refusal: Refusal) -> Problem:
        """The status and text for a refusal."""
        return errors.problem(refusal)

    def render(self, problem: Problem) -> Response:
        """The error body; with ``mspace_errors_as_200`` the status is 200."""
        response = plain_error(problem)
        if self._errors_as_200:
            response.status_code = 200
        return response

    async def _create_sub_user(self, request: Request) -> Response:
        authorization = _login(request)
        async with received(request, self._body_bytes, self._budget) as data:
            body = shapes.decode(_document(request, data), shapes.CreateSubUser)
        try:
            await self._backend.create_tenant(authorization, shapes.tenant_request(body, str(uuid.uuid4())))
        except Refusal as refusal:
            raise errors.creation_problem(refusal) from None
        return json_answer(200, {"status": "success", "message": "Sub-user created successfully"})

    async def _manage_credits(self, request: Request) -> Response:
        authorization = _login(request)
        async with received(request, self._body_bytes, self._budget) as data:
            body = shapes.decode(_document(request, data), shapes.ManageCredits)
        adds, transfer = shapes.transfer_request(body, str(uuid.uuid4()))
        try:
            answer = await self._backend.transfer_credits(authorization, transfer)
        except Refusal as refusal:
            whose = errors.RESELLER_CREDITS if adds else errors.SUB_USER_CREDITS
            raise errors.transfer_problem(refusal, whose) from None
        return json_answer(200, shapes.transferred(adds, answer))

    async def _send(self, request: Request) -> Response:
        async with received(request, self._body_bytes, self._budget) as data:

            def translate() -> tuple[str | None, Any]:
                body = shapes.decode(_document(request, data), shapes.Send)
                return credentials.api_key(body.apiKey), shapes.message_request(body)

            authorization, message = await _computed(len(data), translate)
            if authorization is None:
                raise errors.unauthenticated(challenge=False)
            peer = request.client.host if request.client else ""
            answer = await self._backend.submit_message(authorization, message, peer)
        return json_answer(200, shapes.sent(answer))


def _login(request: Request) -> str:
    authorization = credentials.basic(request.headers.getlist("authorization"))
    if authorization is None:
        raise errors.unauthenticated(challenge=True)
    return authorization


def _document(request: Request, data: bytes) -> dict[str, Any]:
    return parse_object(data, request.headers.get("content-type", ""))


async def _computed(size: int, compute: Callable[[], _Result]) -> _Result:
    return compute() if size <= OFF_LOOP_BYTES else await asyncio.to_thread(compute)
