"""A TCP port in front of PostgreSQL's Unix socket that stalls, or breaks a connection exactly at a COMMIT.

asyncpg sends COMMIT as a simple query, so its octets are found in the stream as they are. One event loop.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from pathlib import Path

_COMMIT = b"COMMIT\0"


class Cut(Enum):
    """When a connection breaks."""

    BEFORE_COMMIT = auto()
    """The server never gets the COMMIT and rolls back."""
    DURING_COMMIT = auto()
    """The server has the COMMIT and is at it."""
    AFTER_COMMIT = auto()
    """The server has committed; its answer is lost."""


class Wire:
    """The port. ``cuts`` counts connections that were broken."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._armed: tuple[Cut, bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0
        self.port = 0

    def stall(self) -> None:
        """Let nothing through from now on."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    def cut(self, when: Cut, marker: bytes) -> None:
        """Break the next connection that commits a transaction with ``marker`` in one of its parameters."""
        self._armed = (when, marker)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Wire"]:
        """Listen for the length of a block."""
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._path))
        link = _Link(writer, far_writer)
        for copying in (self._to_server(link, reader), self._to_client(link, far_reader)):
            task = asyncio.create_task(copying)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _to_server(self, link: "_Link", source: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                link.marked |= self._armed is not None and self._armed[1] in data
                if self._armed is None or not link.marked or _COMMIT not in data:
                    await link.to_server(data)
                    continue
                when, self._armed = self._armed[0], None
                self.cuts += 1
                link.withholding = when is Cut.AFTER_COMMIT
                if when is not Cut.BEFORE_COMMIT:
                    await link.to_server(data)
                if when is Cut.AFTER_COMMIT:
                    await link.answered.wait()
                break
        link.close()

    async def _to_client(self, link: "_Link", source: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                if link.withholding:
                    link.answered.set()
                    continue
                link.client.write(data)
                await link.client.drain()
        link.answered.set()
        link.close()


class _Link:
    """Both ends of one connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self._server = server
        self.marked = False
        self.withholding = False
        self.answered = asyncio.Event()

    async def to_server(self, data: bytes) -> None:
        self._server.write(data)
        await self._server.drain()

    def close(self) -> None:
        self.client.close()
        self._server.close()
