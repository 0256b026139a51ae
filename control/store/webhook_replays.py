"""Events of a time, read back from the history for webhooks that want them again.

The history is found by the ids of recipients, which hold the time a message was accepted; what happened to it later is
looked for ``LATEST`` after that. So a tenant's replay reads that tenant's messages of those days, and nobody else's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from control.database import Connection, Row
from control.model import messageids
from control.model.events import EventKind, PastEvent
from control.store.webhooks import Webhook

LATEST = timedelta(days=6)
"""A recipient's last event comes at most so long after the message: the longest life of a message, and a day."""

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Before any message; far enough from the first day there is that time can be taken off."""

_MINE = "recipient_id, tenant_id, sender, recipient, recipient_key, stream"
_THEIRS = (
    "recipient_id, event_number, message_id, kind, occurred_at, attempt, code, enhanced_code, reply, remote_host,"
    " egress_source, provider, credits, lease_id, next_attempt_at, coalesce(ip_address, '') AS ip_address,"
    " coalesce(user_agent, '') AS user_agent, coalesce(url, '') AS url, coalesce(is_first, false) AS first"
)


async def subjects(connection: Connection, webhook: Webhook) -> list[str]:
    """The tenants that a webhook looks at."""
    if not webhook.settings.include_subtree:
        return [webhook.tenant_id]
    rows = await connection.fetch("SELECT tenant_id FROM tenant WHERE $1 = ANY (path)", webhook.tenant_id)
    return [row["tenant_id"] for row in rows]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are read back: of which tenants and kinds, from a time on and before another."""

    tenant_ids: Sequence[str]
    kinds: Sequence[EventKind]
    start: datetime
    end: datetime


async def read(connection: Connection, wanted: Wanted, after: tuple[int, int], limit: int) -> list[PastEvent]:
    """Events by recipient and number, after a place in that order."""
    rows = await connection.fetch(
        f"SELECT * FROM (SELECT {_MINE} FROM message_record"  # noqa: S608 - lists of columns
        "  WHERE tenant_id = ANY ($1) AND recipient_id >= $2 AND recipient_id BETWEEN $4 AND $5) AS record"
        f" JOIN (SELECT {_THEIRS} FROM delivery_event"
        "  WHERE recipient_id >= $2 AND recipient_id BETWEEN $4 AND $5 AND occurred_at >= $6 AND occurred_at < $7"
        "  AND kind = ANY ($9)) AS event USING (recipient_id)"
        " WHERE (recipient_id, event_number) > ($2, $3) ORDER BY recipient_id, event_number LIMIT $8",
        wanted.tenant_ids,
        *after,
        messageids.first_at(max(wanted.start, _EARLIEST) - LATEST),
        messageids.first_at(wanted.end),
        wanted.start,
        wanted.end,
        limit,
        list(wanted.kinds),
    )
    return [_event(row) for row in rows]


def _event(row: Row) -> PastEvent:
    return PastEvent(**{**row, "kind": EventKind(row["kind"])})
