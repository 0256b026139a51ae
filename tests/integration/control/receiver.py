"""An endpoint for webhooks: a small HTTP server that does as it is told, and keeps what it was sent.

Each request is answered by ``behaviour(request)``, 200 at first. ``Hang`` answers never, ``Cut`` closes the connection
without an answer. With a certificate it speaks TLS. Every connection is closed at the end.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What came. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in the body."""
        events: list[dict[str, Any]] = self.json["events"]
        return events


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int = 200
    body: bytes = b"thanks"
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0


class Hang(Exception):
    """No answer, and the connection stays."""


class Cut(Exception):
    """No answer, and the connection goes."""


async def until(probe: Callable[[], Awaitable[T]], seconds: float = 60.0) -> T:
    """Ask until there is an answer that is true, and return it. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            if answer := await probe():
                return answer
            await asyncio.sleep(0.02)


class Receiver:
    """The endpoint."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.requests: list[Request] = []
        self.behaviour: Callable[[Request], Answer] = lambda _: Answer()
        self.port = 0
        self.connections = 0
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that came, repeats included."""
        return [event for request in self.requests for event in request.events]

    def answer(self, *statuses: int) -> None:
        """Answer with these, one after the other, and then with 200."""
        remaining = list(statuses)
        self.behaviour = lambda _: Answer(remaining.pop(0)) if remaining else Answer()

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something holds; says what came otherwise."""

        async def probe() -> bool:
            return condition()

        try:
            await until(probe, seconds)
        except TimeoutError:
            raise AssertionError(f"came: {[request.body[:200] for request in self.requests]}") from None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, Cut):
            while request := await _read(reader):
                self.requests.append(request)
                try:
                    answer = self.behaviour(request)
                except Hang:
                    await reader.read()
                    break
                await asyncio.sleep(answer.delay)
                head = [f"HTTP/1.1 {answer.status} x", f"Content-Length: {len(answer.body)}"]
                head += [f"{name}: {value}" for name, value in answer.headers]
                writer.write("\r\n".join([*head, "", ""]).encode() + answer.body)
                await writer.drain()
        writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Receiver"]:
        """Listen for the length of a block."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            with contextlib.suppress(asyncio.CancelledError):
                await self.serve(reader, writer)
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields if field)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(line.split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """An endpoint for the length of a block."""
    async with Receiver(context).running() as receiver:
        yield receiver
