"""The operator's gRPC client: one connection with the operator's token and a deadline on every call.

``Operator`` is opened as an asynchronous context. ``call`` makes one unary call and turns a failure into ``Refusal``
(control said no) or ``Unreachable`` (nobody answered). Belongs to the loop that opened it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import grpc

from mta.runtime import rpc
from mta.runtime.options import OptionsError

CALL_SECONDS = 20.0
"""Deadline of one call."""
PAGE_SIZE = 1000
HEALTH_POLL_SECONDS = 0.1

_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class Method(Protocol[Answer_co]):
    """A unary method of a stub."""

    def __call__(self, request: Any, /, *, timeout: float, metadata: Any) -> Awaitable[Answer_co]:
        """Make the call."""
        ...


class Unreachable(Exception):
    """No server answered at the address; the text names it."""

    def __init__(self, address: str, detail: str) -> None:
        super().__init__(f"no answer from {address}: {detail}")
        self.address = address


class Operator:
    """A connection to one gRPC server, on behalf of the operator (or of whoever the token belongs to)."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self.channel = rpc.channel(address)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def __aenter__(self) -> "Operator":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def call(self, method: Method[Answer], request: Any) -> Answer:
        """Make one call. Raises Refusal or Unreachable."""
        try:
            return await method(request, timeout=CALL_SECONDS, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() in _NOBODY and not _has_status(error):
                raise Unreachable(self.address, _first_line(error.details() or error.code().name)) from error
            raise rpc.refusal_of(error) from error

    async def pages(
        self, method: Method[Any], request: Any, field: str, limit: int | None = None
    ) -> AsyncIterator[Any]:
        """Items of a list method over all its pages, at most ``limit``."""
        left = limit
        while left is None or left > 0:
            request.page_size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            answer = await self.call(method, request)
            for item in getattr(answer, field):
                yield item
                left = None if left is None else left - 1
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def wait_until_serving(self, seconds: float) -> None:
        """Return when the server says through its health service that it serves. Raises Unreachable."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while not await rpc.is_serving(self.channel, CALL_SECONDS):
            if clock() > deadline:
                raise Unreachable(self.address, f"it does not serve after {seconds:.0f} s")
            await asyncio.sleep(HEALTH_POLL_SECONDS)


def read_token(path: Path) -> str:
    """The token in a file. Raises OptionsError with a text for the operator."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise OptionsError(
            f"cannot read the operator's token {path}: {error.strerror}; name it with --token-file, "
            "or set BARUA_HOME to the folder of the installation"
        ) from error
    except ValueError as error:
        raise OptionsError(f"{path} does not hold a token") from error


def _has_status(error: grpc.aio.AioRpcError) -> bool:
    metadata = error.trailing_metadata()
    return metadata is not None and any(key == "grpc-status-details-bin" for key, _ in metadata)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else text
