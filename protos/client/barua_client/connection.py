"""One connection to one gRPC server: credentials, deadlines, repeats, and failures as ``Refusal``.

A repeat is made only after UNAVAILABLE, only where it is safe (see ``_repeatable``), with growing pauses or the one
that the server asks for, and never beyond the call's deadline. Streams are not repeated: their methods say how to
resume.

Loop rules: made, used and closed on one running loop.
"""

import asyncio
import base64
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal

DEADLINE_SECONDS = 20.0
"""Time for one call with all its repeats, unless the caller says otherwise."""
MAX_ATTEMPTS = 4
"""Runs of one call, unless the caller says otherwise."""
FIRST_PAUSE_SECONDS = 0.1
"""Before the first repeat; each later one is twice as long, and all are spread by chance."""
PAGE_SIZE = 1000
HEALTH_POLL_SECONDS = 0.1

_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_READING = ("Get", "BatchGet", "List", "Count", "Check", "Search", "Explain", "Audit", "Render", "Validate")
"""How methods begin that change nothing."""

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
Stub = TypeVar("Stub")


class Method(Protocol[Answer_co]):
    """A unary method of a stub."""

    def __call__(self, request: Any, /, *, timeout: float, metadata: Any) -> Awaitable[Answer_co]:
        """Make the call."""
        ...


class Unreachable(Refusal):
    """Nobody answered at ``address`` in time. What a change did is open, unless it is repeated with its request id."""

    def __init__(self, address: str, detail: str) -> None:
        super().__init__(Reason.UNAVAILABLE, f"no answer from {address}: {detail}")
        self.address = address


def bearer(token: str) -> str:
    """The credentials of a token or API key."""
    return f"Bearer {token}"


def basic(username: str, password: str) -> str:
    """The credentials of a login."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class Connection:
    """A connection to one server on behalf of one caller. An asynchronous context; ``close`` does the same."""

    def __init__(
        self,
        address: str,
        credentials: str = "",
        *,
        channel: grpc.aio.Channel | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """``address`` is host:port or unix:path. ``channel`` takes the place of a plain one: see mta.runtime.rpc."""
        self.address = address
        self.channel = channel if channel is not None else rpc.channel(address)
        self._metadata = (("authorization", credentials),) if credentials else ()
        self._deadline = deadline_seconds
        self._attempts = attempts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight end as Unreachable."""
        await self.channel.close()

    async def call(
        self,
        method: Method[Answer],
        request: Any,
        *,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Answer:
        """Make one unary call of a stub, repeating it where that is safe. Raises Refusal.

        ``metadata`` takes the place of the connection's credentials.
        """
        request = _named(request)
        clock = asyncio.get_running_loop().time
        until = clock() + (self._deadline if timeout is None else timeout)
        sent = self._metadata if metadata is None else metadata
        attempt, pause = 1, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await method(request, timeout=max(0.0, until - clock()), metadata=sent)
            except grpc.aio.AioRpcError as error:
                refusal = self._refusal(error)
                wait = max(pause * random.uniform(0.5, 1.5), refusal.retry_after or 0.0)  # noqa: S311 (spreads load)
                unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
                may_repeat = unavailable and attempt < self._attempts and _repeatable(request)
                if not may_repeat or clock() + wait >= until:
                    raise refusal from error
                await asyncio.sleep(wait)
                attempt, pause = attempt + 1, pause * 2

    async def stream(self, calling: Callable[..., Any], request: Any) -> AsyncIterator[Any]:
        """The answers of a server-streaming method; no deadline, for a stream may last. Raises Refusal."""
        call = calling(request, metadata=self._metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from error
        finally:
            call.cancel()

    async def upload(self, calling: Callable[..., Any], requests: AsyncIterator[Any], timeout: float | None) -> Any:
        """The answer of a client-streaming method. Raises Refusal."""
        try:
            return await calling(requests, metadata=self._metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from error

    async def pages(
        self, method: Method[Any], request: Any, field: str = "", limit: int | None = None
    ) -> AsyncIterator[Any]:
        """Items of a list method over all its pages, at most ``limit``; ``field`` is found if it is not given."""
        left, asked = limit, type(request)()
        asked.CopyFrom(request)
        while left is None or left > 0:
            asked.page_size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            answer = await self.call(method, asked)
            for item in getattr(answer, field or _repeated(answer)):
                yield item
                left = None if left is None else left - 1
            if not answer.next_page_token:
                return
            asked.page_token = answer.next_page_token
            if "skip" in asked.DESCRIPTOR.fields_by_name:
                asked.ClearField("skip")  # it would count anew from the token's place

    async def wait_until_serving(self, seconds: float) -> None:
        """Return when the server says through its health service that it serves. Raises Unreachable."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while not await rpc.is_serving(self.channel, self._deadline):
            if clock() > deadline:
                raise Unreachable(self.address, f"it does not serve after {seconds:.0f} s")
            await asyncio.sleep(HEALTH_POLL_SECONDS)

    def service(self, stub: Stub) -> Stub:
        """A stub whose methods go through this connection, with the types that the stub has."""
        guarded = object.__new__(type(stub))
        for name, method in vars(stub).items():
            setattr(guarded, name, self._guarded(method))
        return guarded

    def _guarded(self, method: Any) -> Any:
        if isinstance(method, grpc.aio.UnaryStreamMultiCallable):
            return lambda request: self.stream(method, request)
        if isinstance(method, grpc.aio.StreamUnaryMultiCallable):
            return lambda requests, timeout=None: self.upload(method, requests, timeout)

        def call(request: Any, *, timeout: float | None = None, metadata: Any = None) -> Awaitable[Any]:
            return self.call(method, request, timeout=timeout, metadata=metadata)

        return call

    def _refusal(self, error: grpc.aio.AioRpcError) -> Refusal:
        if error.code() in _NOBODY and not rpc.is_considered(error):
            return Unreachable(self.address, (error.details() or error.code().name).partition("\n")[0])
        return rpc.refusal_of(error)


def _named(request: Any) -> Any:
    """The request with a request id, if it can have one: its repeats are the same request then.

    A copy, because the caller may use its request again, and means another one then.
    """
    if "request_id" not in request.DESCRIPTOR.fields_by_name or request.request_id:
        return request
    named = type(request)()
    named.CopyFrom(request)
    named.request_id = str(uuid.uuid4())
    return named


def _repeatable(request: Message) -> bool:
    """Whether a request can be made again although it may have been carried out."""
    named = "request_id" in request.DESCRIPTOR.fields_by_name or bool(getattr(request, "idempotency_key", ""))
    return named or request.DESCRIPTOR.name.startswith(_READING)


def _repeated(answer: Message) -> str:
    (name,) = (field.name for field in answer.DESCRIPTOR.fields if field.is_repeated)
    return str(name)
