"""Suppressions: addresses that get no mail from a tenant and those below it."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection, Row
from control.store import policy_log
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found

_COLUMNS = "tenant_id, address, reason, note, created_at"


@dataclass(frozen=True, slots=True)
class Suppression:
    """A suppressed address in its canonical form. ``reason`` is one of those in the schema."""

    tenant_id: str
    address: str
    reason: str
    note: str
    created_at: datetime


async def put(connection: Connection, tenant_id: str, address: str, reason: str, note: str) -> Suppression:
    """Suppress an address, or replace the reason and note of a suppression; log it."""
    row = await connection.fetchrow(
        "INSERT INTO suppression (tenant_id, address, reason, note) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (tenant_id, address) DO UPDATE SET reason = excluded.reason, note = excluded.note"
        f" RETURNING {_COLUMNS}",
        tenant_id,
        address,
        reason,
        note,
    )
    assert row is not None, "INSERT RETURNING gives its row"
    await policy_log.note(connection, [_change(tenant_id, address)])
    return _suppression(row)


async def delete(connection: Connection, tenant_id: str, address: str) -> None:
    """Take a suppression back; log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM suppression WHERE tenant_id = $1 AND address = $2 RETURNING address", tenant_id, address
    )
    if gone is None:
        raise not_found("suppression", address)
    await policy_log.note(connection, [_change(tenant_id, address)])


async def page(connection: Connection, tenant_id: str, after: str, limit: int) -> list[Suppression]:
    """A tenant's own suppressions, by address."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE tenant_id = $1 AND address > $2 ORDER BY address LIMIT $3",
        tenant_id,
        after,
        limit,
    )
    return [_suppression(row) for row in rows]


async def everything(connection: Connection, after: tuple[str, str], limit: int) -> list[Suppression]:
    """All suppressions, by tenant and address, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE (tenant_id, address) > ($1, $2)"
        " ORDER BY tenant_id, address LIMIT $3",
        *after,
        limit,
    )
    return [_suppression(row) for row in rows]


async def some(connection: Connection, keys: Sequence[tuple[str, str]]) -> list[Suppression]:
    """Those of the suppressions (tenant id, address) that exist."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression"
        " WHERE (tenant_id, address) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
        [tenant_id for tenant_id, _ in keys],
        [address for _, address in keys],
    )
    return [_suppression(row) for row in rows]


def _change(tenant_id: str, address: str) -> Key:
    return Key(Kind.SUPPRESSION, address, tenant_id)


def _suppression(row: Row) -> Suppression:
    return Suppression(row["tenant_id"], row["address"], row["reason"], row["note"], row["created_at"])
