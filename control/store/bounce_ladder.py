"""Recipients that soft-bounced since mail last got through to them."""

from collections.abc import Mapping, Sequence

from control.database import Connection
from control.model.bounces import Ladder

KEPT_DAYS = 180
"""What nothing was added to for so long is forgotten."""

Key = tuple[str, str]
"""Tenant id and canonical address."""


async def load(connection: Connection, keys: Sequence[Key]) -> dict[Key, Ladder]:
    """Those of these that are on record, locked."""
    rows = await connection.fetch(
        "SELECT tenant_id, address, bounces, days, last_day, pauses FROM bounce_ladder"
        " WHERE (tenant_id, address) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
        " ORDER BY tenant_id, address FOR UPDATE",
        [tenant_id for tenant_id, _ in keys],
        [address for _, address in keys],
    )
    return {
        (row["tenant_id"], row["address"]): Ladder(row["bounces"], row["days"], row["last_day"], row["pauses"])
        for row in rows
    }


async def store(connection: Connection, ladders: Mapping[Key, Ladder]) -> None:
    """Write these."""
    ordered = sorted(ladders.items())
    await connection.execute(
        "INSERT INTO bounce_ladder (tenant_id, address, bounces, days, last_day, pauses)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::date[], $6::int[])"
        " ON CONFLICT (tenant_id, address) DO UPDATE SET bounces = excluded.bounces, days = excluded.days,"
        " last_day = excluded.last_day, pauses = excluded.pauses, updated_at = now()",
        [key[0] for key, _ in ordered],
        [key[1] for key, _ in ordered],
        [ladder.bounces for _, ladder in ordered],
        [ladder.days for _, ladder in ordered],
        [ladder.last_day for _, ladder in ordered],
        [ladder.pauses for _, ladder in ordered],
    )


async def remove(connection: Connection, keys: Sequence[Key]) -> None:
    """Mail got through to these."""
    await connection.execute(
        "DELETE FROM bounce_ladder WHERE (tenant_id, address) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
        [tenant_id for tenant_id, _ in keys],
        [address for _, address in keys],
    )


async def forget_old(connection: Connection) -> None:
    """Forget those to whom nothing was sent for long."""
    await connection.execute(
        "DELETE FROM bounce_ladder WHERE updated_at < now() - make_interval(days => $1)", KEPT_DAYS
    )
