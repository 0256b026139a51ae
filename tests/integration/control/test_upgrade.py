"""A database of an earlier version with rows in it becomes one of this version."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from control.database import Connection
from control.model import messageids
from control.store import ledger, migrations, statements
from tests.integration.control.harness import PostgresServer, opened

OLD = 9
_EMPTY: dict[str, Any] = {
    "text": "", "ARRAY": [], "boolean": False, "bytea": bytes(32), "smallint": 1, "integer": 1, "bigint": 1,
}  # fmt: skip


async def put(connection: Connection, table: str, **given: Any) -> None:
    """A row with these values, and empty ones where the table wants some."""
    rows = await connection.fetch(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1"
        " AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'",
        table,
    )
    now = datetime.now(UTC)
    values = {row["column_name"]: _EMPTY.get(row["data_type"], now) for row in rows}
    values |= {name: uuid.uuid4() for name in ("request_id", "holder_id") if name in values} | given
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", *values.values())


async def fill(connection: Connection) -> None:
    """An account with credits, one lease, and one of most things that have become numbered."""
    now = datetime.now(UTC)
    holder, id_ = uuid.uuid4(), messageids.first_at(now)
    await put(connection, "tenant", tenant_id="old", parent_id="operator", path=["operator", "old"], kind="account")
    await put(connection, "account", tenant_id="old", available=10, reserved=5)
    await put(connection, "holder", holder_id=holder)
    await put(connection, "lease", holder_id=holder, tenant_id="old", amount=5, spent=0, returned=0)
    await put(connection, "api_key", tenant_id="old", key_id="key")
    await put(connection, "webhook", tenant_id="old", webhook_id="hook", url="https://x.test/")
    await put(connection, "source", source_id="ip1", address="192.0.2.1", state="active")
    await put(connection, "pool", pool_id="pool")
    await connection.execute("SELECT make_history_days($1)", [now.date()])
    await put(connection, "message_record", recipient_id=id_, message_id=id_, tenant_id="old", state=1)
    await put(connection, "delivery_event", recipient_id=id_, message_id=id_, tenant_id="old", kind=1, event_number=7)


async def look(connection: Connection) -> None:
    """What the new version makes of it."""
    lease = await connection.fetchrow("SELECT tenant_id, payer_id FROM lease")
    assert lease is not None and tuple(lease.values()) == ("old", "old")
    for table in ("api_key", "source", "pool"):
        assert await connection.fetchval(f"SELECT number FROM {table}") == 1
    assert await connection.fetchval("SELECT count(DISTINCT number) FROM tenant") == 2
    assert await connection.fetchval("SELECT endpoint IS NULL FROM webhook")
    assert await connection.fetchval("SELECT folded('ÄÖ')") == "äö"
    assert await connection.fetchval("SELECT max(delivery_number) FROM history_days()") == 7
    has = await ledger.balance(connection, "old")
    assert (has.available, has.reserved, has.shared) == (10, 5, False)
    assert await statements.audit(connection, "operator", "")


@pytest.mark.each_postgres
async def test_an_earlier_database_is_brought_up_to_date(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"old_{uuid.uuid4().hex[:8]}"
    await postgres_server.administer(f"CREATE DATABASE {name} OWNER {postgres_server.owner}")
    every = migrations.known()
    async with opened(postgres_server.url_of(name)) as database:
        with monkeypatch.context() as earlier:
            earlier.setattr(migrations, "known", lambda: [one for one in every if one[0] <= OLD])
            await migrations.migrate(database)
        await database.transact(fill)
        await migrations.migrate(database)
        await database.transact(look)
