"""When PostgreSQL goes away, when control is killed, when the database is of another age."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from barua.control.v1 import tenant_service_pb2
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from control.database import Database
from control.embedded import EmbeddedPostgres
from control.store.migrations import migrate
from mta.runtime import rpc
from mta.runtime.options import OptionsError
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, PostgresServer, bearer, opened, running, until_serving
from tests.support import memory
from tests.support.ports import free_port

ROOT = tenant_service_pb2.GetTenantRequest(name="tenants/operator")


@pytest.fixture
def memory_home() -> Iterator[Path]:
    """The folder of an installation whose database is the embedded one."""
    with memory.folder() as home:
        yield home


async def test_control_survives_the_absence_of_postgres(tmp_path: Path) -> None:
    own = PostgresServer()
    await asyncio.to_thread(own.start)
    try:
        url = await own.new_database()
        async with running(url, tmp_path) as control:
            await own.embedded.stop("immediate")
            started = time.monotonic()
            assert await control.refused(control.tenants.GetTenant, ROOT) is Reason.UNAVAILABLE
            assert time.monotonic() - started < 20  # of the sixty that the caller has
            await until_serving(control.channel, False)
            await own.embedded.start()
            await until_serving(control.channel, True)
            assert (await control.call(control.tenants.GetTenant, ROOT)).name == "tenants/operator"
    finally:
        await asyncio.to_thread(own.stop)


@pytest.mark.each_postgres
async def test_ended_sessions_are_replaced_within_the_call(control: Control, postgres_server: PostgresServer) -> None:
    await control.call(control.tenants.GetTenant, ROOT)
    connection = await asyncpg.connect(postgres_server.url_of("postgres"))
    try:
        for _ in range(3):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'barua-control'"
            )
            await control.call(control.tenants.GetTenant, ROOT)
    finally:
        await connection.close()


async def test_conflicts_are_run_again(database: Database) -> None:
    """Two transactions that lock two rows in opposite orders: one is the victim of the deadlock and runs again."""
    await database.transact(lambda c: c.execute("CREATE TABLE pair (number integer PRIMARY KEY, count integer)"))
    await database.transact(lambda c: c.execute("INSERT INTO pair VALUES (1, 0), (2, 0)"))

    async def add(first: int, second: int) -> None:
        async def work(connection: object) -> None:
            for number in (first, second):
                await connection.execute("UPDATE pair SET count = count + 1 WHERE number = $1", number)  # type: ignore[attr-defined]
                await asyncio.sleep(0.1)

        await database.transact(work)

    await asyncio.gather(add(1, 2), add(2, 1))
    assert await database.transact(lambda c: c.fetchval("SELECT sum(count) FROM pair")) == 4


async def test_a_slow_statement_is_cut_off(database_url: str) -> None:
    async with opened(database_url, command_timeout_seconds=0.3) as database:
        with pytest.raises(Refusal) as refused:
            await database.transact(lambda connection: connection.execute("SELECT pg_sleep(5)"))
        assert refused.value.reason is Reason.UNAVAILABLE
        async with asyncio.timeout(60):
            while not await database.healthy(2):
                pass


async def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    await migrate(database)
    await database.transact(lambda c: c.execute("INSERT INTO schema_migration (number, name) VALUES (9999, 'future')"))
    with pytest.raises(OptionsError, match="9999"):
        await migrate(database)


async def test_migrations_run_once_when_many_start_together(postgres_server: PostgresServer) -> None:
    await postgres_server.administer(f"CREATE DATABASE many_starts OWNER {postgres_server.owner}")
    async with opened(postgres_server.url_of("many_starts"), pool_size=5) as database:
        await asyncio.gather(*(migrate(database) for _ in range(5)))
        assert await database.transact(lambda c: c.fetchval("SELECT count(*) FROM tenant")) == 1


async def test_an_embedded_server_that_was_killed_is_started_again(memory_home: Path) -> None:
    embedded = EmbeddedPostgres(memory_home / "postgres")
    async with running("embedded", memory_home) as control:
        killed = embedded.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(60):
            while embedded.pid in (None, killed):  # noqa: ASYNC110 - a file tells
                await asyncio.sleep(0.05)
            while True:
                with suppress(Refusal):
                    await control.call(control.tenants.GetTenant, ROOT)
                    break
                await asyncio.sleep(0.1)
        await until_serving(control.channel)
    assert embedded.pid is None


@pytest.fixture
def process_home(memory_home: Path) -> Path:
    home = memory_home / "home"
    address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    (memory_home / "barua.toml").write_text(
        f"home = {json.dumps(str(home))}\n[control]\nlisten = '{address}'\nmetrics_listen = '{metrics}'\n"
    )
    (memory_home / "address").write_text(address)
    return home


def _start(home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "control", "serve", "--config", str(home.with_name("barua.toml"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


async def _started(home: Path) -> subprocess.Popen[bytes]:
    process = _start(home)
    channel = rpc.channel(home.with_name("address").read_text())
    try:
        await until_serving(channel, seconds=180)
        token = bearer((home / "secrets" / "operator.token").read_text().strip())
        await TenantServiceStub(channel).GetTenant(ROOT, metadata=token, timeout=60)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        await channel.close()
    return process


@pytest.mark.timeout(600)
async def test_a_killed_control_finds_its_database_again_and_a_stopped_one_stops_it(process_home: Path) -> None:
    embedded = EmbeddedPostgres(process_home / "postgres")
    first = await _started(process_home)
    survivor = embedded.pid
    assert survivor is not None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert embedded.pid == survivor
    second = await _started(process_home)
    assert embedded.pid == survivor
    with pytest.raises(OptionsError, match="another control"):
        await embedded.start()
    os.kill(survivor, signal.SIGKILL)
    second.send_signal(signal.SIGKILL)
    second.wait()
    third = await _started(process_home)
    assert embedded.pid != survivor
    third.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(third.wait, 120) == 0
    assert not (process_home / "postgres" / "postmaster.pid").exists()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (process_home / "secrets").iterdir()}
    assert modes == dict.fromkeys(("operator.token", "node.token", "sealing.key", "token.key", "tracking.key"), 0o600)
