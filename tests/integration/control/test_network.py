"""PostgreSQL over a network that stalls: calls end in time, dead connections are noticed, recovery needs nobody."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control.database import Connection
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import PostgresServer, opened


class Wire:
    """A TCP port in front of the server's Unix socket, which can stall: bytes then go neither way."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def stall(self) -> None:
        """Let nothing through from now on."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let everything through again."""
        self._flowing.set()

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
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._copy(source, target))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                target.write(data)
                await target.drain()
        target.close()


@pytest.fixture
async def wire(postgres_server: PostgresServer) -> AsyncIterator[Wire]:
    async with Wire(postgres_server.embedded.data / ".s.PGSQL.5432").open() as wire:
        yield wire


async def one(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT 1"))


async def test_a_stalled_network_ends_calls_in_time(wire: Wire) -> None:
    url = f"postgresql://postgres@127.0.0.1:{wire.port}/barua"
    async with opened(url, command_timeout_seconds=0.5, acquire_timeout_seconds=0.5) as database:
        assert await database.transact(one) == 1
        wire.stall()
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(Refusal) as refused:
                await database.transact(one)
            assert refused.value.reason is Reason.UNAVAILABLE
            assert time.monotonic() - started < 8
        wire.flow()
        for _ in range(100):
            if await database.healthy(1.0):
                break
            await asyncio.sleep(0.05)
        assert await database.transact(one) == 1


async def test_a_dead_peer_is_noticed(wire: Wire) -> None:
    async def options(connection: Any) -> tuple[int, int]:
        channel = connection._transport.get_extra_info("socket")
        return (
            channel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )

    async with opened(f"postgresql://postgres@127.0.0.1:{wire.port}/barua") as database:
        assert await database.transact(options) == (1, 20_000)
