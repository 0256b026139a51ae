"""The paths of MSpace: read, translate, call, translate back.

A large message (``bulk``) is translated beside the loop, so that it does not hold up the small ones, and composed only
when the MTA knows its API key, so that strangers cannot have the bridge work for them.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from api_bridge import credentials
from api_bridge.backend import Backend
from api_bridge.body import Budget, parse_object, received
from api_bridge.bulk import OFF_LOOP_BYTES, Bulk
from api_bridge.dialects.mspace import errors, shapes
from api_bridge.endpoint import Endpoint, json_answer, plain_error
from api_bridge.problems import Problem, bad_request
from mta.runtime.options import BridgeOptions
from mta.runtime.refusals import Refusal

PREFIXES = ("/email/api", "/api")
"""Where the three calls are: the original's path, and the one that its documentation prints."""
RESELLER_BYTES = 65_536
"""Size of the body of a reseller call, if ``bridge.body_bytes`` allows as much."""
IDEMPOTENCY_KEY = "idempotency-key"
"""Header field of a reseller call that makes its repetition safe."""
MAX_IDEMPOTENCY_KEY = 200
"""Characters of its value."""

_REQUEST_IDS = uuid.UUID("6a1d0a52-3b7e-5c0f-9d53-8f1c8a0e7b64")
"""Namespace of the request ids that are made from idempotency keys; another one would make repetitions unknown."""


class MSpace:
    """The dialect."""

    name = "mspace"

    def __init__(self, backend: Backend, options: BridgeOptions, budget: Budget) -> None:
        self._backend = backend
        self._budget = budget
        self._bulk = Bulk()
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
        authorization, request_id = _login(request), _request_id(request)
        async with received(request, min(self._body_bytes, RESELLER_BYTES), self._budget) as data:
            body = shapes.decode(_document(request, data), shapes.CreateSubUser)
        try:
            await self._backend.create_tenant(authorization, shapes.tenant_request(body, request_id), _peer(request))
        except Refusal as refusal:
            raise errors.creation_problem(refusal) from None
        return json_answer(200, {"status": "success", "message": "Sub-user created successfully"})

    async def _manage_credits(self, request: Request) -> Response:
        authorization, request_id = _login(request), _request_id(request)
        async with received(request, min(self._body_bytes, RESELLER_BYTES), self._budget) as data:
            body = shapes.decode(_document(request, data), shapes.ManageCredits)
        adds, transfer = shapes.transfer_request(body, request_id)
        try:
            answer = await self._backend.transfer_credits(authorization, transfer, _peer(request))
        except Refusal as refusal:
            whose = errors.RESELLER_CREDITS if adds else errors.SUB_USER_CREDITS
            raise errors.transfer_problem(refusal, whose) from None
        return json_answer(200, shapes.transferred(adds, answer))

    async def _send(self, request: Request) -> Response:
        peer = _peer(request)
        async with received(request, self._body_bytes, self._budget) as data:
            if len(data) > OFF_LOOP_BYTES:
                return await self._send_large(request, data, peer)
            authorization, body = _message(request, data)
            answer = await self._backend.submit_message(authorization, shapes.message_request(body), peer)
        return json_answer(200, shapes.sent(answer))

    async def _send_large(self, request: Request, data: bytes, peer: str) -> Response:
        async with self._bulk.room(len(data)):
            authorization, message = await self._composed(request, data, peer)
            answer = await self._backend.submit_message(authorization, message, peer)
        return json_answer(200, shapes.sent(answer))

    async def _composed(self, request: Request, data: bytes, peer: str) -> tuple[str, Any]:
        authorization, body = await self._bulk.compute(lambda: _message(request, data))
        await self._backend.check_key(authorization, peer)
        return authorization, await self._bulk.compute(lambda: shapes.message_request(body))


def _peer(request: Request) -> str:
    """The client's IP address."""
    return request.client.host if request.client else ""


def _login(request: Request) -> str:
    authorization = credentials.basic(request.headers.getlist("authorization"))
    if authorization is None:
        raise errors.unauthenticated(challenge=True)
    return authorization


def _document(request: Request, data: bytes) -> dict[str, Any]:
    return parse_object(data, request.headers.get("content-type", ""))


def _message(request: Request, data: bytes) -> tuple[str, shapes.Send]:
    """The credentials and the body of a send. Raises Problem."""
    body = shapes.decode(_document(request, data), shapes.Send)
    authorization = credentials.api_key(body.apiKey)
    if authorization is None:
        raise errors.unauthenticated(challenge=False)
    return authorization, body


def _request_id(request: Request) -> str:
    """A new one, or the same for the same idempotency key. Control keeps those of each reseller and call apart."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return str(uuid.uuid4())
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_IDEMPOTENCY_KEY:
        raise bad_request(f"Idempotency-Key must be given once and have 1 to {MAX_IDEMPOTENCY_KEY} characters.")
    return str(uuid.uuid5(_REQUEST_IDS, keys[0]))
