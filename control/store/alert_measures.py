"""What alert rules measure: counters of events per minute, balances, caps, webhooks and domains that fail.

Each function answers for many tenants at once; a tenant that has no value is left out.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from control.database import Connection
from control.model.alerts import RATES
from control.model.events import EventKind


class Counted(NamedTuple):
    """What is counted: events of a tenant, with or without those below it, of a minute and kind."""

    tenant_id: str
    subtree: bool
    minute: datetime
    kind: EventKind


async def counting(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, list[tuple[str, bool]]]:
    """For which tenants, with or without those below them, the events of each of these tenants are counted."""
    rows = await connection.fetch(
        "SELECT DISTINCT subject.tenant_id AS subject, above.tenant_id, include_subtree FROM tenant AS subject"
        " CROSS JOIN unnest(subject.path) AS above (tenant_id)"
        " JOIN alert_rule ON alert_rule.tenant_id = above.tenant_id"
        " AND (include_subtree OR above.tenant_id = subject.tenant_id)"
        " WHERE subject.tenant_id = ANY ($1) AND metric = ANY ($2)",
        tenant_ids,
        list(RATES),
    )
    found: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for row in rows:
        found[row["subject"]].append((row["tenant_id"], row["include_subtree"]))
    return found


async def count(connection: Connection, counts: Mapping[Counted, int]) -> None:
    """Add to the counters."""
    await connection.execute(
        "INSERT INTO event_minute (tenant_id, subtree, minute, kind, events)"
        " SELECT * FROM unnest($1::text[], $2::boolean[], $3::timestamptz[], $4::smallint[], $5::bigint[])"
        " ON CONFLICT (tenant_id, subtree, minute, kind)"
        " DO UPDATE SET events = event_minute.events + excluded.events",
        *(list(column) for column in zip(*((*key, counts[key]) for key in sorted(counts)), strict=True)),
    )


async def rates(
    connection: Connection, tenant_ids: Sequence[str], window_seconds: int, subtree: bool
) -> dict[str, dict[EventKind, int]]:
    """What happened within a window up to now, per tenant; with ``subtree`` including the tenants below."""
    rows = await connection.fetch(
        "SELECT tenant_id, kind, sum(events)::bigint AS events FROM event_minute WHERE tenant_id = ANY ($1)"
        " AND subtree = $3 AND minute > now() - make_interval(secs => $2) - interval '1 minute'"
        " GROUP BY tenant_id, kind",
        tenant_ids,
        window_seconds,
        subtree,
    )
    found: dict[str, dict[EventKind, int]] = defaultdict(dict)
    for row in rows:
        found[row["tenant_id"]][EventKind(row["kind"])] = row["events"]
    return found


async def balances(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, float]:
    """Available credits per tenant; those that share another one's balance are left out."""
    rows = await connection.fetch(
        "SELECT tenant_id, available FROM account WHERE tenant_id = ANY ($1) AND NOT shared", tenant_ids
    )
    return {row["tenant_id"]: float(row["available"]) for row in rows}


async def failing_webhooks(
    connection: Connection, tenant_ids: Sequence[str], window_seconds: int
) -> dict[str, list[str]]:
    """Names of webhooks per tenant that have failed for so long, or were switched off for it."""
    rows = await connection.fetch(
        "SELECT tenant_id, webhook_id FROM webhook WHERE tenant_id = ANY ($1) AND (disabled_reason <> ''"
        " OR enabled AND failing_since < now() - make_interval(secs => $2)) AND endpoint IS NULL ORDER BY webhook_id",
        tenant_ids,
        window_seconds,
    )
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["tenant_id"]].append(f"tenants/{row['tenant_id']}/webhooks/{row['webhook_id']}")
    return found


async def daily_caps(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, float]:
    """The share of its own daily cap that each tenant has leased today; those without a cap are left out."""
    rows = await connection.fetch(
        "SELECT tenant_id, coalesce(CASE WHEN day_start >= date_trunc('day', now()) THEN day_credits END, 0)::float8"
        " / max_daily AS used FROM tenant LEFT JOIN lease_count USING (tenant_id)"
        " WHERE tenant_id = ANY ($1) AND max_daily > 0",
        tenant_ids,
    )
    return {row["tenant_id"]: row["used"] for row in rows}


async def failing_domains(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, list[str]]:
    """Names of verified domains per tenant whose last check found something missing or wrong."""
    rows = await connection.fetch(
        "SELECT tenant_id, domain FROM domain WHERE tenant_id = ANY ($1) AND verified AND EXISTS ("
        "  SELECT FROM jsonb_array_elements(checks::jsonb) AS found WHERE found ->> 'state' IN ('missing', 'mismatch'))"
        " ORDER BY domain",
        tenant_ids,
    )
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["tenant_id"]].append(row["domain"])
    return found
