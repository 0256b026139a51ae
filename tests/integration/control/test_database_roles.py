"""What a database and its user must be like: set up by hand, by migration, or refused with a hint."""

import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest

from control.database import APP_ROLE
from control.model.caller import act_for
from control.store.migrations import migrate
from mta.runtime.options import OptionsError
from tests.integration.control.harness import PostgresServer, opened

_numbers = itertools.count(1)


@pytest.fixture
async def empty(postgres_server: PostgresServer) -> AsyncIterator[tuple[str, str]]:
    """Name of a user without rights, who owns an empty database, and that database's URL."""
    user = f"plain{next(_numbers)}"
    await postgres_server.administer(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'")
    await postgres_server.administer(f"CREATE DATABASE {user} OWNER {user}")
    socket = postgres_server.socket_path
    port = socket.name.rpartition(".")[2]
    yield user, f"postgresql://{user}:secret@/{user}?host={socket.parent}&port={port}"
    await postgres_server.administer(f"DROP DATABASE {user} WITH (FORCE)")
    await postgres_server.administer(f"DROP ROLE {user}")


@pytest.mark.each_postgres
async def test_an_owner_with_the_role_granted_can_migrate(
    postgres_server: PostgresServer, empty: tuple[str, str]
) -> None:
    user, url = empty
    await postgres_server.administer(f"GRANT {APP_ROLE} TO {user}")
    async with opened(url) as database:
        await migrate(database)
        await migrate(database)
        assert await database.transact(lambda c: c.fetchval("SELECT count(*) FROM tenant")) == 1


@pytest.mark.each_postgres
async def test_an_owner_without_the_role_is_told_what_is_missing(empty: tuple[str, str]) -> None:
    async with opened(empty[1]) as database:
        with pytest.raises(OptionsError, match=APP_ROLE):
            await migrate(database)
        exists = "SELECT to_regclass('tenant') IS NOT NULL"
        assert not await database.transact(lambda c: c.fetchval(exists)), "nothing was made"


async def test_a_role_that_bypasses_the_policies_is_refused(
    postgres_server: PostgresServer, empty: tuple[str, str]
) -> None:
    user, url = empty
    await postgres_server.administer(f"GRANT {APP_ROLE} TO {user}")
    async with opened(url) as database:
        await migrate(database)
        await postgres_server.administer(f"ALTER ROLE {APP_ROLE} BYPASSRLS")
        try:
            with pytest.raises(OptionsError, match="bypasses row-level security"):
                await migrate(database)
        finally:
            await postgres_server.administer(f"ALTER ROLE {APP_ROLE} NOBYPASSRLS")
        await migrate(database)


async def test_a_user_who_is_no_owner_is_refused(postgres_server: PostgresServer, empty: tuple[str, str]) -> None:
    user, url = empty
    stranger = f"{user}x"
    await postgres_server.administer(f"CREATE ROLE {stranger} LOGIN")
    try:
        async with opened(url.replace(f"//{user}:secret@", f"//{stranger}@")) as database:
            with pytest.raises(OptionsError, match="must own the database"):
                await migrate(database)
    finally:
        await postgres_server.administer(f"DROP ROLE {stranger}")


async def test_the_session_is_as_the_options_say(database_url: str) -> None:
    async with opened(database_url, command_timeout_seconds=7.0) as database:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone")
        query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
        row = await database.transact(lambda connection: connection.fetchrow(query))
    assert row is not None and list(row.values()) == ["7s", "5s", "30s", "UTC"]


async def test_nothing_of_a_transaction_stays_in_the_session(database_url: str) -> None:
    query = "SELECT current_user::text || '/' || coalesce(current_setting('barua.tenant', true), '')"
    async with opened(database_url, pool_size=2) as database:
        act_for("nobody")
        assert await database.transact(lambda c: c.fetchval(query)) == f"{APP_ROLE}/nobody"
        async with database._pool.acquire() as raw:
            assert await raw.fetchval(query) == "postgres/"


async def test_work_that_runs_no_statement_asks_for_nothing(database_url: str) -> None:
    async with opened(database_url, pool_size=2) as database:

        async def nothing(connection: object) -> int:
            return 7

        assert await database.transact(nothing) == 7


async def test_foreign_sessions_see_no_rows(database_url: str) -> None:
    """A session that becomes the role and forgets to say for whom."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"SET ROLE {APP_ROLE}")
        assert await connection.fetchval("SELECT count(*) FROM tenant") == 0
    finally:
        await connection.close()
