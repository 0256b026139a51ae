"""One request, read: who asks, for what, and how control is asked for it.

``reading`` turns a handler that takes a ``Call`` and returns a JSON value into one for ``Endpoint``. It answers 200
whatever the method: one client takes anything else for an error. What is wrong with a request is told only to those
whose credentials are anybody's (``precedence``).
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api_bridge import idempotency
from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.sendpulse import decoder, errors
from api_bridge.dialects.sendpulse.decoder import Parameters, Undecodable
from api_bridge.endpoint import Handler, peer_of
from api_bridge.parts import Parts
from api_bridge.precedence import credentials_first
from api_bridge.problems import Problem
from mta.runtime.options import SendPulseOptions

NAME = "sendpulse"
"""The dialect's name."""
SMALL_BYTES = 1_048_576
"""Size of a body, except of a message: 1000 unsubscribed addresses with comments are below."""
ME = "tenants/me"
"""The account of the credentials, to control."""

_CREDENTIALS = re.compile(r"(?:bk|bt)_[\x21-\x7e]{1,2000}")
_WRAPPED = re.compile(r"b'([^']*)'|b\"([^\"]*)\"")


@dataclass(frozen=True, slots=True)
class Call:
    """A request of somebody who showed credentials; whether they are good, control or the MTA says."""

    parts: Parts
    options: SendPulseOptions
    request: Request
    authorization: str
    parameters: Parameters
    body: bytes

    @property
    def peer(self) -> str:
        """The client's IP address."""
        return peer_of(self.request)

    @property
    def request_id(self) -> str:
        """For a call to control that changes something."""
        return idempotency.request_id(self.request)

    def in_path(self, name: str) -> str:
        """A part of the path."""
        value: str = self.request.path_params[name]
        return value.strip()

    async def ask(self, service: str, method: str, request: Any) -> Any:
        """One call to control. Raises Refusal."""
        return await self.parts.backend.ask(service, method, request, authorization=self.authorization, peer=self.peer)

    def ask_pages(self, service: str, method: str, request: Any) -> AsyncIterator[Any]:
        """All items of a list of control's. Raises Refusal."""
        return self.parts.backend.ask_pages(service, method, request, authorization=self.authorization, peer=self.peer)

    def page(self) -> tuple[int, int]:
        """``limit`` and ``offset``; 0 and absence are the page that the options say, which is the largest, too."""
        limit, offset = self._count("limit"), self._count("offset")
        return min(limit or self.options.page_size, self.options.page_size), offset

    def _count(self, name: str) -> int:
        text = self.parameters.text(name)
        if not text:
            return 0
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            raise errors.invalid(name)
        return int(text)


Answering = Callable[[Call], Awaitable[Any]]
"""A handler of this dialect: returns the JSON value of the answer, or a Response; raises Problem or Refusal."""
Paths = Sequence[tuple[str, dict[str, Answering]]]
"""Paths of a resource, with a handler for each method."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What makes Calls of requests."""

    parts: Parts
    options: SendPulseOptions

    def handler(self, answering: Answering) -> Handler:
        """For ``Endpoint``: credentials, rate, parameters, then ``answering``."""

        async def handle(request: Request) -> Response:
            authorization = credentials(request)
            self.parts.rates.admit(NAME, authorization)
            try:
                answer = await read(request, authorization)
            except Problem as problem:
                await credentials_first(problem, self.parts.backend, authorization, peer_of(request))
                raise
            return answer if isinstance(answer, Response) else answered(answer)

        async def read(request: Request, authorization: str) -> Any:
            async with self.parts.received(request, SMALL_BYTES) as data:
                parameters = await self.parameters(request, data)
                try:
                    return await answering(Call(self.parts, self.options, request, authorization, parameters, data))
                except Undecodable:
                    raise errors.BADLY_FORMED.problem() from None

        return handle

    async def parameters(self, request: Request, data: bytes) -> Parameters:
        """What a request asks for; those of a large body are read beside the loop. Raises Problem."""
        query = request.scope["query_string"]
        content_type = request.headers.get("content-type", "")
        try:
            if len(data) <= OFF_LOOP_BYTES:
                return decoder.parameters(query, data, content_type)
            return await self.parts.bulk.compute(lambda: decoder.parameters(query, data, content_type))
        except Undecodable:
            raise errors.BADLY_FORMED.problem() from None


def credentials(request: Request) -> str:
    """The gRPC ``authorization`` of a request: an OAuth token or an API key. Raises Problem 401."""
    fields = request.headers.getlist("authorization")
    scheme, _, value = fields[0].strip().partition(" ") if len(fields) == 1 else ("", "", "")
    value = value.strip()
    # One client writes the token to a file and reads it back as Python's b'...'.
    wrapped = _WRAPPED.fullmatch(value)
    if wrapped is not None:
        value = wrapped[1] or wrapped[2] or ""
    if scheme.lower() != "bearer" or not _CREDENTIALS.fullmatch(value):
        raise errors.UNAUTHORIZED.problem()
    return f"Bearer {value}"


def answered(value: Any) -> Response:
    """200 with a JSON value."""
    return Response(msgspec.json.encode(value), 200, media_type="application/json")
