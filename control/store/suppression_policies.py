"""What becomes a suppression by itself, as each tenant says."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import astuple

from control.database import Connection, Row
from control.model.bounces import AutoPolicy

_COLUMNS = "hard_bounces, soft_bounces, soft_bounce_count, soft_bounce_days, first_pause_days, pause_count"


async def lines(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, list[AutoPolicy]]:
    """What each of these tenants and those above it say, the nearest first. Tenants that do not exist are left out.

    It has rows of tenants above, which are not for the tenants to see.
    """
    rows = await connection.fetch(
        f"SELECT tenant.tenant_id AS sender, policy.tenant_id IS NULL AS silent, {_COLUMNS} FROM tenant"
        " LEFT JOIN suppression_policy AS policy ON policy.tenant_id = ANY (tenant.path)"
        " WHERE tenant.tenant_id = ANY ($1) AND tenant.deleted_at IS NULL"
        " ORDER BY tenant.tenant_id, array_position(tenant.path, policy.tenant_id) DESC",
        tenant_ids,
    )
    found: dict[str, list[AutoPolicy]] = {}
    for row in rows:
        line = found.setdefault(row["sender"], [])
        if not row["silent"]:
            line.append(_policy(row))
    return found


async def own(connection: Connection, tenant_id: str, *, lock: bool = False) -> tuple[AutoPolicy, int]:
    """What a tenant itself says, and the version of it; 0: nothing yet."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, version FROM suppression_policy WHERE tenant_id = $1" + (" FOR UPDATE" if lock else ""),
        tenant_id,
    )
    return (_policy(row), row["version"]) if row is not None else (AutoPolicy(), 0)


async def put(connection: Connection, tenant_id: str, policy: AutoPolicy) -> int:
    """Keep what a tenant says; the new version."""
    version: int = await connection.fetchval(
        f"INSERT INTO suppression_policy AS held (tenant_id, {_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
        " ON CONFLICT (tenant_id) DO UPDATE SET hard_bounces = excluded.hard_bounces,"
        " soft_bounces = excluded.soft_bounces, soft_bounce_count = excluded.soft_bounce_count,"
        " soft_bounce_days = excluded.soft_bounce_days, first_pause_days = excluded.first_pause_days,"
        " pause_count = excluded.pause_count, updated_at = now(), version = held.version + 1 RETURNING version",
        tenant_id,
        *astuple(policy),
    )
    return version


def _policy(row: Row) -> AutoPolicy:
    return AutoPolicy(
        row["hard_bounces"],
        row["soft_bounces"],
        row["soft_bounce_count"],
        row["soft_bounce_days"],
        row["first_pause_days"],
        row["pause_count"],
    )
