"""Row-level security: whatever a statement for a tenant forgets, it meets no row of another.

The tables come from the catalogue of the migrated database, so one that a later migration adds is tried as well, and
refused if nothing protects it.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from control.database import APP_ROLE, Database, begin_for
from control.model.caller import act_for
from tests.integration.control.harness import PostgresServer

TABLES = (
    "SELECT class.relname AS name, class.relrowsecurity AS protected, EXISTS (SELECT FROM pg_attribute"
    " WHERE attrelid = class.oid AND attname = 'tenant_id' AND NOT attisdropped) AS of_tenants"
    " FROM pg_class AS class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    " AND NOT relispartition ORDER BY relname"
)
INDIRECT = {
    "tenant": "by its path",
    "ledger_transaction": "by its postings and on whose behalf it was made",
}
"""Tables that are protected otherwise than by protect(), and how."""
OPEN = {
    "policy_head": "one row with the newest revision, which every change raises",
}
"""Tables without tenant rows that handlers of tenants may read."""
OWN = {"request_log"}
"""Tables of which nobody sees the rows of those below."""
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
VALUES = {
    "bool": "false", "bytea": "'x'", "cidr": "'192.0.2.0/24'", "date": "now()", "float8": "1", "inet": "'192.0.2.1'",
    "int2": "1", "int4": "1", "int8": "1", "interval": "'1 s'", "json": "'{}'", "jsonb": "'{}'", "numeric": "1",
    "text": "'x'", "time": "'12:00'", "timestamptz": "now()", "tsvector": "'x'", "uuid": "gen_random_uuid()",
}  # fmt: skip
"""Something for a column of each type that the schema has."""


_prepared: dict[PostgresServer, str] = {}
"""A database of each server that the tests share: they leave nothing in it but what no other minds."""


@pytest.fixture
async def owner(postgres_server: PostgresServer) -> AsyncIterator[Any]:
    """A connection of the owner to a database in which "ours", "theirs" and "below" (ours) have a row in each table."""
    if postgres_server not in _prepared:
        _prepared[postgres_server] = await postgres_server.new_database()
        await _prepare(_prepared[postgres_server])
    connection = await asyncpg.connect(_prepared[postgres_server])
    try:
        yield connection
    finally:
        await connection.close()


async def test_every_table_is_protected_or_closed(owner: Any) -> None:
    for table in await owner.fetch(TABLES):
        name = table["name"]
        allowed = await _allowed(owner, name)
        if table["protected"]:
            policies = await owner.fetch("SELECT roles, qual FROM pg_policies WHERE tablename = $1", name)
            assert policies, f"{name} has row-level security and no policy"
            assert table["of_tenants"] or name in INDIRECT, f"say in INDIRECT how {name} is protected"
            if name not in INDIRECT:
                assert all("barua.tenant" in policy["qual"] for policy in policies), name
        else:
            assert not (allowed and table["of_tenants"]), f"its migration must CALL protect('{name}')"
            assert "SELECT" not in allowed or name in OPEN, f"{name} is readable for all tenants: say in OPEN why"
        assert not {"TRUNCATE", "REFERENCES", "TRIGGER"} & allowed, name
    for name in {*INDIRECT, *OPEN}:
        assert name in {table["name"] for table in await owner.fetch(TABLES)}, f"{name} is no table any more"


async def test_partitions_and_sequences_cannot_be_named(owner: Any) -> None:
    partitions = await owner.fetch("SELECT relname AS name FROM pg_class WHERE relispartition AND relkind IN ('r','p')")
    for partition in partitions:
        assert not await _allowed(owner, partition["name"]), f"{partition['name']} is reachable past its parent"


async def test_the_role_owns_nothing_and_bypasses_nothing(owner: Any) -> None:
    role = await owner.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin, rolinherit,"
        " EXISTS (SELECT FROM pg_class WHERE relowner = role.oid) AS owns,"
        " EXISTS (SELECT FROM pg_auth_members WHERE member = role.oid) AS becomes"
        " FROM pg_roles AS role WHERE rolname = $1",
        APP_ROLE,
    )
    assert not any(role.values())
    for statement in (
        "SELECT set_config('row_security', 'off', true), * FROM login",
        "ALTER TABLE login DISABLE ROW LEVEL SECURITY",
        "DROP POLICY subtree ON login",
        "CREATE POLICY mine ON login USING (true)",
        "ALTER TABLE login OWNER TO barua_app",
        "TRUNCATE login",
        "UPDATE account SET available = 1000000",
        "UPDATE ledger_posting SET amount = 1",
        "DELETE FROM ledger_transaction",
        "SELECT * FROM policy_change",
        "SELECT * FROM holder",
    ):
        async with _acting(owner, "ours"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(statement)
                # With row_security off, statements under a policy fail instead of being filtered.
                await owner.fetch("SELECT * FROM login")


@pytest.mark.each_postgres
async def test_the_rows_of_others_are_not_there(owner: Any) -> None:
    tried = 0
    for table, allowed in await _reachable(owner):
        if "SELECT" not in allowed:
            continue
        everything = await owner.fetchval(f"SELECT count(*) FROM {table}")
        async with _acting(owner, "ours"):
            seen = {row["tenant_id"] for row in await owner.fetch(f"SELECT tenant_id FROM {table}")}
        assert seen == ({"ours"} if table in OWN else {"ours", "below"}), table
        async with _acting(owner, "below"):
            assert {row["tenant_id"] for row in await owner.fetch(f"SELECT tenant_id FROM {table}")} == {"below"}, table
        async with _acting(owner, "nobody"):
            assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 0, table
        async with _acting(owner, "operator"):
            assert await owner.fetchval(f"SELECT count(*) FROM {table}") == (0 if table in OWN else everything), table
        tried += 1
    assert tried >= 10


async def test_without_a_tenant_nothing_is_there(owner: Any) -> None:
    for table, allowed in await _reachable(owner):
        if "SELECT" in allowed:
            async with _acting(owner, "ours"):
                await owner.execute("SET LOCAL barua.tenant = ''")
                assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 0, table


async def test_the_rows_of_others_cannot_be_changed_or_removed(owner: Any) -> None:
    for table, allowed in await _reachable(owner):
        if await _may_update(owner, table):
            async with _acting(owner, "ours"):
                column = await _updatable(owner, table)
                done = await owner.execute(f"UPDATE {table} SET {column} = {column} WHERE tenant_id = 'theirs'")
                assert done == "UPDATE 0", table
        if "DELETE" in allowed:
            async with _acting(owner, "ours"):
                assert await owner.execute(f"DELETE FROM {table} WHERE tenant_id = 'theirs'") == "DELETE 0", table
                assert await owner.execute(f"DELETE FROM {table} WHERE tenant_id = 'ours'") != "DELETE 0", table


async def test_rows_cannot_be_given_to_others(owner: Any) -> None:
    for table, allowed in await _reachable(owner):
        if "INSERT" in allowed and table not in INDIRECT:
            for tenant_id in ("theirs", "operator"):
                async with _acting(owner, "ours"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                        await _insert(owner, table, {"tenant_id": tenant_id})
        if "UPDATE" in allowed and table != "tenant":
            async with _acting(owner, "ours"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                    await owner.execute(f"UPDATE {table} SET tenant_id = 'theirs' WHERE tenant_id = 'ours'")


async def test_a_tenant_is_made_below_the_caller_only(owner: Any) -> None:
    async with _acting(owner, "ours"):
        await owner.execute(_NEW_TENANT, "new", "below", ["operator", "ours", "below", "new"])
    for path in (["operator", "new"], ["operator", "theirs", "new"]):
        async with _acting(owner, "ours"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await owner.execute(_NEW_TENANT, "new", path[-2], path)
    async with _acting(owner, "ours"):
        assert await owner.execute("UPDATE tenant SET suspended = true WHERE tenant_id <> 'ours'") == "UPDATE 1"


async def test_ledger_transactions_follow_their_postings(owner: Any) -> None:
    await _insert(owner, "ledger_transaction", {"transaction_id": 10**9, "note": "secret", "acting_tenant": "operator"})
    await _insert(owner, "ledger_posting", {"transaction_id": 10**9, "tenant_id": "theirs"})
    for tenant_id, sees in (("ours", 0), ("theirs", 1)):
        async with _acting(owner, tenant_id):
            entries = "SELECT count(*) FROM ledger_transaction WHERE note = 'secret'"
            assert await owner.fetchval(entries) == sees


@pytest.mark.each_postgres
async def test_transactions_run_as_whom_they_act_for(postgres_server: PostgresServer, database: Database) -> None:
    query = "SELECT current_user::text AS role, current_setting('barua.tenant') AS tenant"
    row = await database.transact(lambda connection: connection.fetchrow(query))
    assert row is not None and (row["role"], row["tenant"]) == (postgres_server.owner, "operator")
    act_for("ours")
    row = await database.transact(lambda connection: connection.fetchrow(query))
    assert row is not None and (row["role"], row["tenant"]) == (APP_ROLE, "ours")


@pytest.mark.parametrize("tenant_id", ["", "a'; DROP TABLE login --", "A", "-a", "a" * 64, "a\n"])
def test_only_a_tenant_id_gets_into_the_statement(tenant_id: str) -> None:
    with pytest.raises(ValueError, match="no tenant id"):
        begin_for(tenant_id)


_NEW_TENANT = (
    "INSERT INTO tenant (tenant_id, parent_id, path, display_name, first_name, surname, organization, phone,"
    " default_sender) VALUES ($1, $2, $3, '', '', '', '', '', '')"
)


async def _prepare(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for tenant_id, parent_id in (("ours", "operator"), ("theirs", "operator"), ("below", "ours")):
            await _add_tenant(connection, tenant_id, parent_id)
        await _relax(connection)
        for tenant_id in ("ours", "theirs", "below"):
            await _fill(connection, tenant_id)
    finally:
        await connection.close()


async def _add_tenant(connection: Any, tenant_id: str, parent_id: str) -> None:
    path = await connection.fetchval("SELECT path FROM tenant WHERE tenant_id = $1", parent_id)
    await connection.execute(_NEW_TENANT, tenant_id, parent_id, [*path, tenant_id])


async def _relax(connection: Any) -> None:
    """Take away what keeps made-up rows out, but not the policies."""
    constraints = (
        "SELECT conname, conrelid::regclass::text AS name FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f') AND conparentid = 0"
        " AND coninhcount = 0 ORDER BY contype"
    )
    for constraint in await connection.fetch(constraints):
        await connection.execute(f'ALTER TABLE {constraint["name"]} DROP CONSTRAINT "{constraint["conname"]}"')
    for table in await connection.fetch(TABLES):
        await connection.execute(f"ALTER TABLE {table['name']} DISABLE TRIGGER USER")
    parents = (
        "SELECT partrelid::regclass::text AS name FROM pg_partitioned_table WHERE partdefid = 0 AND partstrat <> 'h'"
    )
    for parent in await connection.fetch(parents):
        await connection.execute(f"CREATE TABLE {parent['name']}_rest PARTITION OF {parent['name']} DEFAULT")


async def _fill(connection: Any, tenant_id: str) -> None:
    """Put a row of the tenant into each table that has such rows."""
    for table in await connection.fetch(TABLES):
        if table["of_tenants"] and table["name"] != "tenant":
            await _insert(connection, table["name"], {"tenant_id": tenant_id})


async def _insert(connection: Any, table: str, given: Mapping[str, object]) -> None:
    """Insert a row with these values and something in all other columns that must have a value."""
    columns = await connection.fetch(
        "SELECT attname AS name, typname AS type, typcategory = 'A' AS is_array, attnotnull AS needed,"
        " atthasdef OR attidentity <> '' AS has_default"
        " FROM pg_attribute JOIN pg_type ON atttypid = pg_type.oid"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        table,
    )
    unique = await connection.fetchval(
        "SELECT array_agg(DISTINCT attname) FROM pg_index JOIN pg_attribute ON attrelid = indrelid"
        " AND attnum = ANY (indkey::smallint[]) WHERE indrelid = $1::text::regclass AND indisunique",
        table,
    )
    values: dict[str, str] = {}
    for column in columns:
        name = column["name"]
        if name in given:
            values[name] = _literal(given[name])
        elif name in (unique or ()) and column["type"] == "text":
            values[name] = "gen_random_uuid()::text"
        elif name in (unique or ()) and column["type"] == "bytea":
            values[name] = "uuid_send(gen_random_uuid())"
        elif name in (unique or ()) and column["type"] in ("int4", "int8") and not column["has_default"]:
            values[name] = "(random() * 1000000000)::int"
        elif column["needed"] and not column["has_default"]:
            values[name] = "'{}'" if column["is_array"] else VALUES[column["type"]]
    names = ", ".join(f'"{name}"' for name in values)
    await connection.execute(
        f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({', '.join(values.values())})"
    )


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, int) else f"'{value}'"


@asynccontextmanager
async def _acting(connection: Any, tenant_id: str) -> AsyncIterator[None]:
    """A transaction as ``transact`` makes it for a tenant; for the root, too, under the policies."""
    await connection.execute(begin_for(tenant_id))
    await connection.execute(f"SET LOCAL ROLE {APP_ROLE}")
    try:
        yield
    finally:
        await connection.execute("ROLLBACK")


async def _reachable(connection: Any) -> list[tuple[str, set[str]]]:
    """Tables with tenant rows, and what the role may do with them."""
    tables = [table["name"] for table in await connection.fetch(TABLES) if table["of_tenants"]]
    return [(table, await _allowed(connection, table)) for table in tables if await _allowed(connection, table)]


async def _allowed(connection: Any, table: str) -> set[str]:
    every = (*PRIVILEGES, "TRUNCATE", "REFERENCES", "TRIGGER")
    return {p for p in every if await connection.fetchval("SELECT has_table_privilege($1, $2, $3)", APP_ROLE, table, p)}


async def _may_update(connection: Any, table: str) -> bool:
    may: bool = await connection.fetchval("SELECT has_any_column_privilege($1, $2, 'UPDATE')", APP_ROLE, table)
    return may


async def _updatable(connection: Any, table: str) -> str:
    column: str = await connection.fetchval(
        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = $2::text::regclass AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' AND attidentity = ''"
        " AND has_column_privilege($1, attrelid, attnum, 'UPDATE') LIMIT 1",
        APP_ROLE,
        table,
    )
    return column
