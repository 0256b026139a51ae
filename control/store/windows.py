"""How many credits each part of the tree has leased in the running hour, day and month (UTC).

``count`` adds a new lease to the tenant's row and to that of each tenant above, ``uncount`` takes away what came back
of a lease in the windows in which it was taken; both belong to the transaction that moves the credits. The root has no
row: nothing limits it. A window ends by itself: a row of an earlier one counts as empty.

Rows are locked from the top of the tree downwards, after the accounts, so that two transactions cannot deadlock. Leases
of a whole subtree wait for each other at its top row, for the rest of a short transaction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection
from control.model.limits import Counted


@dataclass(frozen=True, slots=True)
class Returned:
    """Credits that came back of a lease."""

    tenant_id: str
    leased_at: datetime
    credits: int


async def locked(connection: Connection, path: Sequence[str]) -> tuple[dict[str, Counted], datetime]:
    """What is counted for the tenants of a path, locked until the transaction ends; and the time it is counted for."""
    rows = await connection.fetch(
        "SELECT tenant_id, now() AS now,"
        " CASE WHEN hour_start >= date_trunc('hour', now()) THEN hour_credits ELSE 0 END AS hour,"
        " CASE WHEN day_start >= date_trunc('day', now()) THEN day_credits ELSE 0 END AS day,"
        " CASE WHEN month_start >= date_trunc('month', now()) THEN month_credits ELSE 0 END AS month"
        " FROM lease_count WHERE tenant_id = ANY ($1::text[])"
        " ORDER BY array_position($1::text[], tenant_id) FOR NO KEY UPDATE",
        path,
    )
    return {row["tenant_id"]: Counted(row["hour"], row["day"], row["month"]) for row in rows}, rows[0]["now"]


async def counted(connection: Connection, tenant_ids: Iterable[str]) -> dict[str, Counted]:
    """What is counted for some tenants now; those without a row are left out."""
    rows = await connection.fetch(
        "SELECT tenant_id,"
        " CASE WHEN hour_start >= date_trunc('hour', now()) THEN hour_credits ELSE 0 END AS hour,"
        " CASE WHEN day_start >= date_trunc('day', now()) THEN day_credits ELSE 0 END AS day,"
        " CASE WHEN month_start >= date_trunc('month', now()) THEN month_credits ELSE 0 END AS month"
        " FROM lease_count WHERE tenant_id = ANY ($1)",
        list(tenant_ids),
    )
    return {row["tenant_id"]: Counted(row["hour"], row["day"], row["month"]) for row in rows}


async def count(connection: Connection, path: Sequence[str], credits: int) -> None:
    """Count a lease for every tenant of a path below the root, given from the top downwards.

    A transaction that began before a window's end and got its turn after it counts in the later one.
    """
    await connection.execute(
        "INSERT INTO lease_count AS kept"
        " (tenant_id, hour_start, hour_credits, day_start, day_credits, month_start, month_credits)"
        " SELECT tenant_id, date_trunc('hour', now()), $2, date_trunc('day', now()), $2, date_trunc('month', now()), $2"
        " FROM unnest($1::text[]) WITH ORDINALITY AS line (tenant_id, place) ORDER BY place"
        " ON CONFLICT (tenant_id) DO UPDATE SET"
        " hour_credits = CASE WHEN kept.hour_start >= excluded.hour_start THEN kept.hour_credits ELSE 0 END + $2,"
        " hour_start = greatest(kept.hour_start, excluded.hour_start),"
        " day_credits = CASE WHEN kept.day_start >= excluded.day_start THEN kept.day_credits ELSE 0 END + $2,"
        " day_start = greatest(kept.day_start, excluded.day_start),"
        " month_credits = CASE WHEN kept.month_start >= excluded.month_start THEN kept.month_credits ELSE 0 END + $2,"
        " month_start = greatest(kept.month_start, excluded.month_start)",
        path,
        credits,
    )


async def uncount(connection: Connection, came_back: Sequence[Returned]) -> None:
    """Take back what came back of leases: only from the windows they were taken in, as far as those still run."""
    tenants = [returned.tenant_id for returned in came_back]
    await connection.execute(
        "SELECT FROM lease_count JOIN tenant USING (tenant_id) WHERE tenant_id IN"
        " (SELECT unnest(path) FROM tenant WHERE tenant_id = ANY ($1))"
        " ORDER BY cardinality(path), tenant_id FOR NO KEY UPDATE OF lease_count",
        tenants,
    )
    await connection.execute(
        "WITH change AS (SELECT unnest(path) AS tenant_id, leased_at, credits"
        " FROM unnest($1::text[], $2::timestamptz[], $3::bigint[]) AS returned (lessee_id, leased_at, credits)"
        " JOIN tenant ON tenant_id = lessee_id)"
        " UPDATE lease_count AS kept SET hour_credits = greatest(0, hour_credits - hour),"
        " day_credits = greatest(0, day_credits - day), month_credits = greatest(0, month_credits - month)"
        " FROM (SELECT tenant_id, coalesce(sum(credits) FILTER (WHERE leased_at >= hour_start), 0) AS hour,"
        " coalesce(sum(credits) FILTER (WHERE leased_at >= day_start), 0) AS day,"
        " coalesce(sum(credits) FILTER (WHERE leased_at >= month_start), 0) AS month"
        " FROM change JOIN lease_count USING (tenant_id) GROUP BY tenant_id) AS less"
        " WHERE kept.tenant_id = less.tenant_id",
        tenants,
        [returned.leased_at for returned in came_back],
        [returned.credits for returned in came_back],
    )
