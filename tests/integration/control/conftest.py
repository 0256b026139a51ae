"""Fixtures of control's tests: a PostgreSQL server per test process, a database and a control program per test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control.database import Database
from tests.integration.control.harness import Control, PostgresServer, opened, running
from tests.support.dns import DnsServer
from tests.support.wire import Wire


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[PostgresServer]:
    """The running embedded server."""
    yield from _running(PostgresServer())


@pytest.fixture(scope="session")
def external_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL 15."""
    yield from _running(PostgresServer(external=True))


def _running(server: PostgresServer) -> Iterator[PostgresServer]:
    server.start()
    yield server
    server.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked ``each_postgres`` on both servers, and all others on the one that ``--postgres`` names."""
    if "postgres_server" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("postgres")
        marked = metafunc.definition.get_closest_marker("each_postgres") is not None
        servers = {"embedded": "embedded_server", "15": "external_server"}
        if chosen == "15":
            metafunc.parametrize("postgres_server", ["external_server"], indirect=True, ids=["15"])
        elif marked:
            metafunc.parametrize("postgres_server", servers.values(), indirect=True, ids=servers)


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest) -> PostgresServer:
    """A running server."""
    server: PostgresServer = request.getfixturevalue(getattr(request, "param", "embedded_server"))
    return server


@pytest.fixture
async def wire(postgres_server: PostgresServer) -> AsyncIterator[Wire]:
    """A network between control and the server, which can stall and break."""
    async with Wire(postgres_server.socket_path).open() as wire:
        yield wire


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A fresh, migrated database, which goes with the test: the server is in memory."""
    url = await postgres_server.new_database()
    yield url
    await postgres_server.drop_database(url)


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
