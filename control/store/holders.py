"""Holders (spools) as the ledger knows them, for the operator."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection


@dataclass(frozen=True, slots=True)
class Holder:
    """A holder with the sums of its open leases."""

    holder: uuid.UUID
    node: str
    epoch: int
    leases: int
    reserved: int
    last_lease_at: datetime | None
    written_off_at: datetime | None


async def page(connection: Connection, after: str, limit: int) -> list[Holder]:
    """Holders with open leases, and those written off, by UUID; ``after`` is a UUID or empty."""
    rows = await connection.fetch(
        "SELECT holder_id, node, epoch, written_off_at, count(lease_id) AS leases,"
        " coalesce(sum(amount - spent - returned), 0)::bigint AS reserved, max(created_at) AS last_lease_at"
        " FROM holder LEFT JOIN (SELECT holder_id, lease_id, amount, spent, returned, created_at FROM lease"
        " WHERE spent + returned < amount) AS open USING (holder_id)"
        " WHERE holder_id > $1 GROUP BY holder_id"
        " HAVING count(lease_id) > 0 OR written_off_at IS NOT NULL ORDER BY holder_id LIMIT $2",
        uuid.UUID(after) if after else uuid.UUID(int=0),
        limit,
    )
    return [
        Holder(
            holder=row["holder_id"],
            node=row["node"],
            epoch=row["epoch"],
            leases=row["leases"],
            reserved=row["reserved"],
            last_lease_at=row["last_lease_at"],
            written_off_at=row["written_off_at"],
        )
        for row in rows
    ]
