"""Events for webhooks: what is due, who is at work on it, how the last attempt went.

A delivery is claimed by giving it a claim and a ``due_at`` at which the claim counts as lost; so "due" covers first
attempts, repeats, and what a program that died had in its hands. Several control programs claim at once without seeing
each other's (SKIP LOCKED). The outcome is recorded under the claim alone: who took too long changes nothing.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from control.database import Connection, Row
from control.model.webhooks import Kind
from control.store.tenants import not_found

_COLUMNS = (
    "delivery_id, tenant_id, webhook_id, event_id, kind, occurred_at, state, due_at, attempts, status_code, answer,"
    " error, duration_ms, attempted_at, created_at"
)


class State(IntEnum):
    """Where a delivery stands; the numbers of ``WebhookDelivery.State``."""

    PENDING = 1
    DELIVERED = 2
    FAILED = 3


class NewDelivery(NamedTuple):
    """An event for a webhook. There are many of them."""

    tenant_id: str
    webhook_id: str
    event_id: uuid.UUID
    kind: Kind
    occurred_at: datetime
    content: bytes
    url: str = ""
    """Where to post it; empty: to the webhook's."""
    delay_seconds: float = 0.0
    """It waits so long for others."""


class Record(NamedTuple):
    """What the record of a recipient tells. ``properties`` is the text of a JSON object, or empty."""

    subject: str
    tags: Sequence[str]
    properties: str


class Involved(NamedTuple):
    """Numbers of a tenant and of its account: the nearest reseller from it upwards, or the tenant itself."""

    tenant: int
    account: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook, and how the last attempt went."""

    delivery_id: int
    tenant_id: str
    webhook_id: str
    event_id: uuid.UUID
    kind: Kind
    occurred_at: datetime
    state: State
    due_at: datetime
    attempts: int
    status_code: int
    answer: str
    error: str
    duration_ms: int
    attempted_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery in our hands. ``attempts`` counts the one that begins now."""

    delivery_id: int
    content: bytes
    attempts: int
    url: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a request went: 0 and empty texts where there was no answer, or no error."""

    status_code: int
    answer: str
    error: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits: pending deliveries of enabled webhooks, and for how long the oldest of them has been due."""

    pending: int
    lag_seconds: float


async def add(connection: Connection, deliveries: Sequence[NewDelivery], *, again: bool = False) -> int:
    """Queue events; how many. One that is there already stays as it is, or with ``again`` starts anew."""
    conflict = f"UPDATE SET {_ANEW}" if again else "NOTHING"
    tag = await connection.execute(
        "INSERT INTO webhook_delivery AS d"  # noqa: S608 - constants
        " (tenant_id, webhook_id, event_id, kind, occurred_at, content, url, due_at)"
        " SELECT one, two, three, four, five, six, seven, now() + make_interval(secs => eight)"
        " FROM unnest($1::text[], $2::text[], $3::uuid[], $4::smallint[], $5::timestamptz[], $6::bytea[], $7::text[],"
        " $8::float8[]) AS new (one, two, three, four, five, six, seven, eight)"
        f" ON CONFLICT (webhook_id, event_id) DO {conflict}",
        *(list(column) for column in zip(*deliveries, strict=True)),
    )
    return _count(tag)


async def gathered(connection: Connection, webhook_id: str, enough: int) -> None:
    """What waits for others is due if there are enough of them."""
    await connection.execute(
        "UPDATE webhook_delivery SET due_at = now() WHERE delivery_id ="
        " (SELECT min(delivery_id) FROM (SELECT delivery_id FROM webhook_delivery"
        "  WHERE webhook_id = $1 AND state = 1 AND attempts = 0 ORDER BY due_at LIMIT $2) AS waiting"
        "  HAVING count(*) >= $2) AND due_at > now()",
        webhook_id,
        enough,
    )


async def records(connection: Connection, recipient_ids: Sequence[int], surely: Sequence[int]) -> dict[int, Record]:
    """The records of recipients, whose ids are sorted: of those in ``surely``, and of who names an endpoint."""
    rows = await connection.fetch(
        "SELECT recipient_id, subject, tags, properties FROM message_record"
        " WHERE recipient_id = ANY ($1) AND recipient_id BETWEEN $2 AND $3"
        " AND (recipient_id = ANY ($4) OR position('\"webhook_endpoint\"' IN properties) > 0)",
        recipient_ids,
        recipient_ids[0],
        recipient_ids[-1],
        surely,
    )
    return {row["recipient_id"]: Record(row["subject"], row["tags"] or (), row["properties"] or "") for row in rows}


async def involved(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, Involved]:
    """The numbers of tenants and of their accounts."""
    rows = await connection.fetch(
        "SELECT subject.tenant_id, subject.number, coalesce((SELECT above.number FROM tenant AS above"
        "  WHERE above.tenant_id = ANY (subject.path) AND above.kind = 'reseller'"
        "  ORDER BY cardinality(above.path) DESC LIMIT 1), subject.number) AS account"
        " FROM tenant AS subject WHERE subject.tenant_id = ANY ($1)",
        tenant_ids,
    )
    return {row["tenant_id"]: Involved(row["number"], row["account"]) for row in rows}


async def addresses(connection: Connection, source_ids: Sequence[str]) -> dict[str, str]:
    """The addresses of sources."""
    rows = await connection.fetch(
        "SELECT source_id, host(address) AS address FROM source WHERE source_id = ANY ($1)", source_ids
    )
    return {row["source_id"]: row["address"] for row in rows}


async def success_rates(connection: Connection, webhook_ids: Sequence[str], newest: int) -> dict[str, float]:
    """The share of events that each webhook took, of those among its ``newest`` that were tried; none: not there."""
    rows = await connection.fetch(
        "SELECT webhook_id, (count(*) FILTER (WHERE state = 2))::float8 / count(*) AS rate"
        " FROM unnest($1::text[]) AS wanted (webhook_id) CROSS JOIN LATERAL"
        " (SELECT state, attempts FROM webhook_delivery AS d WHERE d.webhook_id = wanted.webhook_id"
        "  ORDER BY delivery_id DESC LIMIT $2) AS newest WHERE attempts > 0 GROUP BY webhook_id",
        webhook_ids,
        newest,
    )
    return {row["webhook_id"]: row["rate"] for row in rows}


async def due(connection: Connection) -> list[tuple[str, str]]:
    """Webhooks that have something due and may be asked now: tenant and webhook id."""
    rows = await connection.fetch(
        # LIMIT keeps the server from reading everything that is pending: one look at the index per webhook is enough.
        "SELECT tenant_id, webhook_id FROM webhook CROSS JOIN LATERAL (SELECT FROM webhook_delivery AS d"
        "  WHERE d.webhook_id = webhook.webhook_id AND d.state = 1 AND d.due_at <= now() LIMIT 1) AS due"
        " WHERE enabled AND paused_until <= now()"
    )
    return [(row["tenant_id"], row["webhook_id"]) for row in rows]


async def claim(
    connection: Connection, webhook_id: str, token: uuid.UUID, limit: int, seconds: float, *, early: bool = False
) -> list[Claimed]:
    """Take what is due longest, for so many seconds; ``early``: and with it what was not tried yet.

    An event that the endpoint turned down itself (4xx) comes alone, so that it cannot take a batch down with it.
    """
    alone = await connection.fetchval(
        "SELECT attempts > 0 AND status_code BETWEEN 400 AND 499 FROM webhook_delivery"
        " WHERE webhook_id = $1 AND state = 1 AND due_at <= now() ORDER BY due_at LIMIT 1",
        webhook_id,
    )
    if alone is None:
        return []
    rows = await connection.fetch(
        "WITH picked AS (SELECT delivery_id FROM webhook_delivery"
        "  WHERE webhook_id = $1 AND state = 1 AND (due_at <= now() OR $6 AND attempts = 0)"
        "  AND (attempts > 0 AND status_code BETWEEN 400 AND 499) = $2"
        "  ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)"
        " UPDATE webhook_delivery AS d SET claim = $4, attempts = attempts + 1, attempted_at = clock_timestamp(),"
        "  due_at = clock_timestamp() + make_interval(secs => $5)"
        " FROM picked WHERE d.delivery_id = picked.delivery_id RETURNING d.delivery_id, d.content, d.attempts, d.url",
        webhook_id,
        alone,
        1 if alone else limit,
        token,
        seconds,
        early,
    )
    return [Claimed(row["delivery_id"], row["content"], row["attempts"], row["url"]) for row in rows]


async def settle(
    connection: Connection,
    token: uuid.UUID,
    attempt: Attempt,
    pauses: Sequence[tuple[int, float | None]],
    delivered: bool,
) -> int:
    """Record an attempt for the deliveries of a claim: (delivery id, pause before the next attempt or None).

    How many were still ours.
    """
    tag = await connection.execute(
        "UPDATE webhook_delivery AS d SET claim = NULL, status_code = $2, answer = $3, error = $4, duration_ms = $5,"
        " state = CASE WHEN $8 THEN 2 WHEN outcome.pause IS NULL THEN 3 ELSE 1 END,"
        " due_at = CASE WHEN outcome.pause IS NULL THEN d.due_at ELSE now() + make_interval(secs => outcome.pause) END"
        " FROM unnest($6::bigint[], $7::float8[]) AS outcome (delivery_id, pause)"
        " WHERE d.delivery_id = outcome.delivery_id AND d.claim = $1",
        token,
        attempt.status_code,
        attempt.answer,
        attempt.error,
        attempt.duration_ms,
        [delivery_id for delivery_id, _ in pauses],
        [pause for _, pause in pauses],
        delivered,
    )
    return _count(tag)


async def page(connection: Connection, webhook_id: str, state: State | None, before: int, limit: int) -> list[Delivery]:
    """A webhook's deliveries with an id below ``before``, newest first; only in one state if wanted."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM webhook_delivery"  # noqa: S608 - a list of columns
        " WHERE webhook_id = $1 AND delivery_id < $2 AND ($3::smallint IS NULL OR state = $3)"
        " ORDER BY delivery_id DESC LIMIT $4",
        webhook_id,
        before,
        state,
        limit,
    )
    return [_delivery(row) for row in rows]


async def again(connection: Connection, webhook_id: str, delivery_ids: Sequence[int]) -> int:
    """Queue deliveries of a webhook anew; how many. NOT_FOUND if one is not there."""
    wanted = set(delivery_ids)
    rows = await connection.fetch(
        f"UPDATE webhook_delivery AS d SET {_ANEW}"  # noqa: S608 - constants
        " WHERE webhook_id = $1 AND delivery_id = ANY ($2) RETURNING delivery_id",
        webhook_id,
        list(wanted),
    )
    missing = wanted - {row["delivery_id"] for row in rows}
    if missing:
        raise not_found("delivery", str(min(missing)))
    return len(rows)


async def again_between(connection: Connection, webhook_id: str, kind: Kind, start: datetime, end: datetime) -> int:
    """Queue deliveries of events of one kind and a time anew; how many."""
    tag = await connection.execute(
        f"UPDATE webhook_delivery AS d SET {_ANEW}"  # noqa: S608 - constants
        " WHERE webhook_id = $1 AND kind = $2 AND occurred_at >= $3 AND occurred_at < $4",
        webhook_id,
        kind,
        start,
        end,
    )
    return _count(tag)


async def backlog(connection: Connection) -> Backlog:
    """What waits."""
    row = await connection.fetchrow(
        "SELECT count(*) AS pending, coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 AS lag"
        " FROM webhook_delivery JOIN webhook USING (webhook_id) WHERE state = 1 AND enabled"
    )
    assert row is not None, "an aggregate gives a row"
    return Backlog(row["pending"], max(0.0, row["lag"]))


async def give_up(connection: Connection, lifetime_seconds: float, limit: int) -> int:
    """Give up what has been pending for longer than this, whatever was in the way; how many."""
    tag = await connection.execute(
        "UPDATE webhook_delivery SET state = 3, claim = NULL, error = CASE WHEN error = '' THEN $3 ELSE error END"
        " WHERE delivery_id IN (SELECT delivery_id FROM webhook_delivery WHERE state = 1 AND due_at <= now()"
        " AND queued_at < now() - make_interval(secs => $1) LIMIT $2)",
        lifetime_seconds,
        limit,
        "it waited too long: the webhook was disabled, or its endpoint took nothing",
    )
    return _count(tag)


async def forget(connection: Connection, kept_seconds: float, limit: int) -> int:
    """Remove what was finished and is older than this; how many."""
    tag = await connection.execute(
        "DELETE FROM webhook_delivery WHERE delivery_id IN (SELECT delivery_id FROM webhook_delivery"
        " WHERE state <> 1 AND queued_at < now() - make_interval(secs => $1) LIMIT $2)",
        kept_seconds,
        limit,
    )
    return _count(tag)


_ANEW = (
    "state = 1, claim = NULL, attempts = 0, status_code = 0, answer = '', error = '', duration_ms = 0, due_at = now(),"
    " attempted_at = NULL, queued_at = now()"
)


def _count(tag: str) -> int:
    """The rows of a command tag, such as "UPDATE 3"."""
    return int(tag.rpartition(" ")[2])


def _delivery(row: Row) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        tenant_id=row["tenant_id"],
        webhook_id=row["webhook_id"],
        event_id=row["event_id"],
        kind=Kind(row["kind"]),
        occurred_at=row["occurred_at"],
        state=State(row["state"]),
        due_at=row["due_at"],
        attempts=row["attempts"],
        status_code=row["status_code"],
        answer=row["answer"],
        error=row["error"],
        duration_ms=row["duration_ms"],
        attempted_at=row["attempted_at"],
        created_at=row["created_at"],
    )
