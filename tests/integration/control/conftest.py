"""Fixtures of control's tests: a PostgreSQL server per test process, a database and a control program per test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control.database import Database
from tests.integration.control.harness import Control, PostgresServer, opened, running
from tests.support.dns import DnsServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> str:
    """A fresh, migrated database."""
    return await postgres_server.new_database()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on the fresh database."""
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def control(database_url: str, tmp_path: Path, dns_server: DnsServer) -> AsyncIterator[Control]:
    """A control program on the fresh database, which asks the test's DNS server."""
    async with running(database_url, tmp_path / "home", [f"127.0.0.1:{dns_server.port}"]) as control:
        yield control
