"""The paths of MSpace: read, translate, call, translate back.

A large message (``bulk``) is translated beside the loop, so that it does not hold up the small ones, and composed only
when the MTA knows its API key, so that strangers cannot have the bridge work for them. What is wrong with a request is
told only to those whose credentials are anybody's (``precedence``); the API key of a send is in its body, so one that
cannot be read is told of before the key.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge import credentials, idempotency
from api_bridge.body import parse_object
from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.mspace import document, errors, shapes
from api_bridge.endpoint import Endpoint, Handler, json_answer, peer_of, plain_error
from api_bridge.openapi import Document
from api_bridge.parts import Parts
from api_bridge.precedence import credentials_first
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

PREFIXES = ("/email/api", "/api")
"""Where the three calls are: the original's path, and the one that its documentation prints."""
RESELLER_BYTES = 65_536
"""Size of the body of a reseller call, if ``bridge.body_bytes`` allows as much."""

_Result = TypeVar("_Result")


class MSpace:
    """The dialect."""

    name = "mspace"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._backend = parts.backend
        self._errors_as_200 = parts.options.dialects.mspace.errors_as_200

    def routes(self) -> Sequence[Route]:
        """The three calls under both prefixes."""
        calls = {
            "/reseller/createSubUser": self._as_login(self._create_sub_user),
            "/reseller/manageCredits": self._as_login(self._manage_credits),
            "/send": self._send,
        }
        endpoints = {path: Endpoint(self, path.rpartition("/")[2], {"POST": call}) for path, call in calls.items()}
        return [Route(prefix + path, endpoint) for prefix in PREFIXES for path, endpoint in endpoints.items()]

    def openapi(self) -> Document:
        """The three calls as an OpenAPI document."""
        return document.openapi(PREFIXES, self._errors_as_200)

    def problem(self, refusal: Refusal) -> Problem:
        """The status and text for a refusal."""
        return errors.problem(refusal)

    def render(self, problem: Problem) -> Response:
        """The error body; with ``errors_as_200`` the status is 200."""
        response = plain_error(problem)
        if self._errors_as_200:
            response.status_code = 200
        return response

    def _as_login(self, answering: Callable[[Request, str], Awaitable[Response]]) -> Handler:
        """For ``Endpoint``: the login, its rate, then ``answering``."""

        async def handle(request: Request) -> Response:
            authorization = self._login(request)
            try:
                return await answering(request, authorization)
            except Problem as problem:
                try:
                    await credentials_first(problem, self._backend, authorization, peer_of(request))
                except Refusal:
                    raise errors.unauthenticated(challenge=True) from None
                raise

        return handle

    async def _create_sub_user(self, request: Request, authorization: str) -> Response:
        request_id = idempotency.request_id(request)
        async with self._parts.received(request, RESELLER_BYTES) as data:
            body = shapes.decode(_document(request, data), shapes.CreateSubUser)
        try:
            await self._backend.create_tenant(authorization, shapes.tenant_request(body, request_id), peer_of(request))
        except Refusal as refusal:
            raise errors.creation_problem(refusal) from None
        return json_answer(200, {"status": "success", "message": "Sub-user created successfully"})

    async def _manage_credits(self, request: Request, authorization: str) -> Response:
        request_id = idempotency.request_id(request)
        async with self._parts.received(request, RESELLER_BYTES) as data:
            body = shapes.decode(_document(request, data), shapes.ManageCredits)
        adds, transfer = shapes.transfer_request(body, request_id)
        try:
            answer = await self._backend.transfer_credits(authorization, transfer, peer_of(request))
        except Refusal as refusal:
            whose = errors.RESELLER_CREDITS if adds else errors.SUB_USER_CREDITS
            raise errors.transfer_problem(refusal, whose) from None
        return json_answer(200, shapes.transferred(adds, answer))

    def _login(self, request: Request) -> str:
        authorization = credentials.basic(request.headers.getlist("authorization"))
        if authorization is None:
            raise errors.unauthenticated(challenge=True)
        self._parts.rates.admit(self.name, authorization)
        return authorization

    async def _send(self, request: Request) -> Response:
        async with self._parts.received(request) as data:
            if len(data) <= OFF_LOOP_BYTES:
                return await self._send_read(request, data)
            async with self._parts.bulk.room(len(data)):
                return await self._send_read(request, data)

    async def _send_read(self, request: Request, data: bytes) -> Response:
        document, authorization = await self._compute(data, lambda: _opened(request, data))
        self._parts.rates.admit(self.name, authorization)
        try:
            return await self._submit(request, data, document, authorization)
        except Problem as problem:
            await credentials_first(problem, self._backend, authorization, peer_of(request), sends=True)
            raise

    async def _submit(self, request: Request, data: bytes, document: dict[str, Any], authorization: str) -> Response:
        body = await self._compute(data, lambda: shapes.decode(document, shapes.Send))
        key, peer = idempotency.key_of(request, data), peer_of(request)
        if len(data) > OFF_LOOP_BYTES:
            await self._backend.check_key(authorization, peer)
        message = await self._compute(data, lambda: shapes.message_request(body))
        [answer] = await self._backend.submit([message], authorization=authorization, peer=peer, key=key)
        if isinstance(answer, Refusal):
            raise answer
        return json_answer(200, shapes.sent(answer))

    async def _compute(self, data: bytes, work: Callable[[], _Result]) -> _Result:
        """What ``work`` returns or raises, beside the loop if the body is large."""
        return work() if len(data) <= OFF_LOOP_BYTES else await self._parts.bulk.compute(work)


def _document(request: Request, data: bytes) -> dict[str, Any]:
    return parse_object(data, request.headers.get("content-type", ""))


def _opened(request: Request, data: bytes) -> tuple[dict[str, Any], str]:
    """The body of a send, and its credentials. Raises Problem: it cannot be read, or has no API key."""
    document = _document(request, data)
    key = document.get("apiKey")
    if not key or not isinstance(key, str):
        key = shapes.decode(document, shapes.Send).apiKey  # raises what is wrong with it
    authorization = credentials.api_key(key)
    if authorization is None:
        raise errors.unauthenticated(challenge=False)
    return document, authorization
