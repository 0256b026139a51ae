"""What became of a tenant's last mail to addresses, as far as it is on record."""

from collections.abc import Sequence

from control.database import Connection
from control.model.events import RecordState
from control.model.validation import LastOutcome


async def find(connection: Connection, tenant_id: str, keys: Sequence[str]) -> dict[str, LastOutcome]:
    """By canonical address; mail that is still queued does not count."""
    rows = await connection.fetch(
        "SELECT wanted.address, last.state, last.last_reply, last.updated_at"
        " FROM unnest($2::text[]) AS wanted (address),"
        " LATERAL (SELECT state, last_reply, updated_at FROM message_record WHERE recipient_key = wanted.address"
        " AND tenant_id = $1 AND state <> $3 ORDER BY recipient_id DESC LIMIT 1) AS last",
        tenant_id,
        keys,
        RecordState.QUEUED.value,
    )
    return {
        row["address"]: LastOutcome(row["state"] == RecordState.DELIVERED, row["last_reply"], row["updated_at"])
        for row in rows
    }
