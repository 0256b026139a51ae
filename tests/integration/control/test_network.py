"""PostgreSQL over a network that stalls: calls end in time, dead connections are noticed, recovery needs nobody."""

import asyncio
import socket
import time
from contextlib import suppress
from typing import Any

import pytest

from control.database import Connection, Database
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import PostgresServer, opened
from tests.support.wire import Wire


async def one(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT 1"))


async def until_answered(database: Database) -> None:
    """Wait until a statement is answered, which takes a busy machine longer than the half second allowed here."""
    async with asyncio.timeout(60):
        while True:
            with suppress(Refusal):
                assert await database.transact(one) == 1
                return


async def test_a_stalled_network_ends_calls_in_time(postgres_server: PostgresServer, wire: Wire) -> None:
    url = postgres_server.url_through(wire.port, "barua")
    async with opened(url, command_timeout_seconds=0.5, acquire_timeout_seconds=0.5) as database:
        await until_answered(database)
        wire.stall()
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(Refusal) as refused:
                await database.transact(one)
            assert refused.value.reason is Reason.UNAVAILABLE
            assert time.monotonic() - started < 30
        wire.flow()
        await until_answered(database)


async def test_a_dead_peer_is_noticed(postgres_server: PostgresServer, wire: Wire) -> None:
    async def options(connection: Any) -> tuple[int, int]:
        channel = connection._connection._transport.get_extra_info("socket")
        return (
            channel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )

    async with opened(postgres_server.url_through(wire.port, "barua")) as database:
        assert await database.transact(options) == (1, 20_000)
