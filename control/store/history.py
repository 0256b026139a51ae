"""What happened to messages: one record per recipient, with its events.

A search whose conditions an index answers (a recipient, an id, or everything of a tenant) is one statement. Any other
walks back through the days in windows that grow and shrink with the time they take, for ``WALK_SECONDS`` at most, and
says how far it came: so no search holds up the database, and none gives up.
"""

# ruff: noqa: S608 - the only texts put into statements are the columns and conditions below

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from control.database import Connection, Row
from control.model.events import EventKind, RecordState
from control.model.messageids import MAX_RECIPIENTS_SPAN
from control.store.events import day_bounds
from control.store.tenants import not_found

WALK_SECONDS = 2.0
"""A search that no index answers stops after this time."""

_HOUR = 3_600_000 << 21
"""An hour in ids."""
_FIRST_WINDOW, _SMALLEST_WINDOW, _LARGEST_WINDOW = _HOUR, _HOUR // 60, 24 * _HOUR
_QUICK_SECONDS, _SLOW_SECONDS = 0.1, 0.5
"""A window that took less than the one is followed by one of twice its size; after more than the other, of half."""

_COLUMNS = (
    "recipient_id, tenant_id, message_id, sender, recipient, subject, source, stream, egress_source, provider,"
    " size_bytes, state, last_reply, received_at, updated_at"
)


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One recipient of one message."""

    recipient_id: int
    tenant_id: str
    message_id: int
    sender: str
    recipient: str
    subject: str
    source: str
    stream: str
    egress_source: str
    provider: str
    size_bytes: int
    state: RecordState
    last_reply: str
    received_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """Something that happened to a recipient; what only RECEIVED carries is in its record."""

    sequence: int
    kind: EventKind
    time: datetime
    attempt: int
    code: int
    enhanced_code: str
    text: str
    remote_host: str
    next_attempt_time: datetime | None
    lease_id: int
    credits: int
    egress_source: str
    provider: str


@dataclass(frozen=True, slots=True)
class Search:
    """Which records: those with ``lowest`` <= id < ``below`` that meet all conditions. None: no such condition."""

    tenant_id: str
    below: int
    lowest: int = 0
    descendants: bool = False
    id: int | None = None
    """The id of a recipient, or of a message, which is that of its first recipient."""
    recipient_key: str | None = None
    recipient_domain: str | None = None
    sender: str | None = None
    state: RecordState | None = None
    stream: str | None = None

    def is_indexed(self) -> bool:
        """Whether an index finds the records at once."""
        if self.id is not None or self.recipient_key is not None:
            return True
        conditions = (self.recipient_domain, self.sender, self.state, self.stream)
        return not self.descendants and all(condition is None for condition in conditions)


async def get(
    connection: Connection, tenant_id: str, recipient_id: int
) -> tuple[MessageRecord, Sequence[RecordedEvent]]:
    """A tenant's record with its events, oldest first. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM message_record WHERE recipient_id = $1 AND tenant_id = $2", recipient_id, tenant_id
    )
    if row is None:
        raise not_found("message", str(recipient_id))
    events = await connection.fetch(
        "SELECT sequence, kind, occurred_at, attempt, code, enhanced_code, reply, remote_host, next_attempt_at,"
        " lease_id, credits, egress_source, provider FROM delivery_event WHERE recipient_id = $1 ORDER BY event_number",
        recipient_id,
    )
    return _record(row), [_event(event) for event in events]


async def search(connection: Connection, wanted: Search, limit: int) -> tuple[list[MessageRecord], int]:
    """Records, newest first, at most ``limit``; and the id that a further search is below, 0 if there is none left."""
    if wanted.is_indexed():
        lowest, below = wanted.lowest, wanted.below
        if wanted.id is not None:
            lowest, below = max(lowest, wanted.id), min(below, wanted.id + MAX_RECIPIENTS_SPAN)
        found, reached = await _window(connection, wanted, lowest, below, limit + 1), 0
    else:
        found, reached = await _walk(connection, wanted, limit + 1)
    if len(found) > limit:
        return found[:limit], found[limit - 1].recipient_id
    return found, reached


async def _walk(connection: Connection, wanted: Search, limit: int) -> tuple[list[MessageRecord], int]:
    """Records, and the id that the walk came to before its time was over; 0 if it came to its end."""
    found: list[MessageRecord] = []
    size, deadline = _FIRST_WINDOW, time.monotonic() + WALK_SECONDS
    for day in await _days(connection):
        first, next_first = day_bounds(day)
        below, lowest = min(wanted.below, next_first), max(wanted.lowest, first)
        while below > lowest and len(found) < limit:
            started = time.monotonic()
            if started > deadline:
                return found, below
            bottom = max(lowest, below - size)
            found += await _window(connection, wanted, bottom, below, limit - len(found))
            below, took = bottom, time.monotonic() - started
            if took < _QUICK_SECONDS:
                size = min(2 * size, _LARGEST_WINDOW)
            elif took > _SLOW_SECONDS:
                size = max(size // 2, _SMALLEST_WINDOW)
    return found, 0


async def _days(connection: Connection) -> list[date]:
    """The days that have records, newest first."""
    rows = await connection.fetch(
        "SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = 'message_record'::regclass ORDER BY day DESC"
    )
    return [row["day"] for row in rows]


async def _window(connection: Connection, wanted: Search, lowest: int, below: int, limit: int) -> list[MessageRecord]:
    conditions = ["recipient_id >= $1", "recipient_id < $2"]
    values: list[object] = [lowest, below, limit, wanted.tenant_id]
    if not wanted.descendants:
        conditions.append("tenant_id = $4")
    elif wanted.is_indexed():
        # Looked up for each of the few rows; the other way would go through all tenants first.
        conditions.append(
            "$4 = ANY ((SELECT path FROM tenant AS owner WHERE owner.tenant_id = record.tenant_id)::text[])"
        )
    else:
        conditions.append("tenant_id IN (SELECT tenant_id FROM tenant WHERE $4 = ANY (path))")
    for condition, value in (
        # A recipient's own id, or the id that all recipients of its message share.
        ("{0} IN (recipient_id, message_id)", wanted.id),
        ("recipient_key = {0}", wanted.recipient_key),
        ("right(recipient_key, length({0}) + 1) = '@' || {0}", wanted.recipient_domain),
        ("lower(sender) = lower({0})", wanted.sender),
        ("state = {0}", wanted.state),
        ("stream = {0}", wanted.stream),
    ):
        if value is not None:
            values.append(value)
            kind = "bigint" if isinstance(value, int) else "text"
            conditions.append(condition.format(f"${len(values)}::{kind}"))
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM message_record AS record WHERE {' AND '.join(conditions)}"
        " ORDER BY recipient_id DESC LIMIT $3",
        *values,
    )
    return [_record(row) for row in rows]


def _record(row: Row) -> MessageRecord:
    values = dict(row)
    return MessageRecord(**{**values, "state": RecordState(values["state"])})


def _event(row: Row) -> RecordedEvent:
    return RecordedEvent(
        sequence=row["sequence"],
        kind=EventKind(row["kind"]),
        time=row["occurred_at"],
        attempt=row["attempt"],
        code=row["code"],
        enhanced_code=row["enhanced_code"],
        text=row["reply"],
        remote_host=row["remote_host"],
        next_attempt_time=row["next_attempt_at"],
        lease_id=row["lease_id"],
        credits=row["credits"],
        egress_source=row["egress_source"],
        provider=row["provider"],
    )
