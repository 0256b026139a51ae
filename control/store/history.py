"""What happened to messages: one record per recipient, with its events.

A search whose conditions an index answers (a recipient, an id, or everything of a tenant) is one statement. Any other
walks back through the days in windows that grow and shrink with the time they take, for ``WALK_SECONDS`` at most, and
says how far it came: so no search holds up the database, and none gives up.
"""

# ruff: noqa: S608 - the only texts put into statements are the columns and conditions below

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from control.database import Connection, Row
from control.model.events import EventKind, RecordState
from control.model.messageids import MAX_RECIPIENTS_SPAN, first_at
from control.store.events import day_bounds
from control.store.tenants import not_found

WALK_SECONDS = 2.0
"""A search that no index answers stops after this time."""

LONGEST_LIFE = timedelta(days=10)
"""From acceptance to the outcome: a search by the time of the outcome looks back so far."""
_CLOCKS = timedelta(hours=1)
"""So far may clocks be apart."""
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Far enough from the ends of time that something can be taken off or added."""
_HOUR = 3_600_000 << 21
"""An hour in ids."""
_FIRST_WINDOW, _SMALLEST_WINDOW, _LARGEST_WINDOW = _HOUR, _HOUR // 60, 24 * _HOUR
_QUICK_SECONDS, _SLOW_SECONDS = 0.1, 0.5
"""A window that took less than the one is followed by one of twice its size; after more than the other, of half."""

_COLUMNS = (
    "recipient_id, tenant_id, message_id, sender, recipient, subject, source, stream, egress_source, provider,"
    " size_bytes, state, last_reply, received_at, updated_at, tags, reference, coalesce(last_code, 0) AS last_code,"
    " coalesce(last_enhanced_code, '') AS last_enhanced_code, coalesce(remote_host, '') AS remote_host,"
    " coalesce(open_count, 0) AS open_count, coalesce(click_count, 0) AS click_count, first_open_at, first_click_at,"
    " unsubscribed_at, complained_at"
)
_ALL_COLUMNS = _COLUMNS + ", coalesce(properties, '') AS properties"
_EVENT_COLUMNS = (
    "sequence, kind, occurred_at, attempt, code, enhanced_code, reply, remote_host, next_attempt_at, lease_id,"
    " credits, egress_source, provider, coalesce(ip_address, ''), coalesce(user_agent, ''), coalesce(url, ''),"
    " coalesce(is_first, false)"
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
    tags: Sequence[str]
    reference: bytes
    last_code: int
    last_enhanced_code: str
    remote_host: str
    open_count: int
    click_count: int
    first_open_at: datetime | None
    first_click_at: datetime | None
    unsubscribed_at: datetime | None
    complained_at: datetime | None
    properties: str = ""
    """Empty, too, if it was not asked for."""


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
    ip_address: str
    user_agent: str
    url: str
    first: bool


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
    states: Sequence[RecordState] | None = None
    stream: str | None = None
    tag: str | None = None
    reference: bytes | None = None
    outcome_start: datetime | None = None
    outcome_end: datetime | None = None
    """Those that were done with from the one time on and before the other."""
    submitted: bool = False
    """Only what somebody submitted, no notifications of the MTA's own. Few are not, so every index still serves."""
    full: bool = False
    """Read the properties, too, which may be large."""

    def is_indexed(self) -> bool:
        """Whether an index finds the records at once."""
        if self.is_narrow():
            return True
        conditions = (
            self.recipient_domain, self.sender, self.states, self.stream, self.tag, self.outcome_start, self.outcome_end
        )  # fmt: skip
        return not self.descendants and all(condition is None for condition in conditions)

    def is_narrow(self) -> bool:
        """Whether these are few records, found by an index."""
        return self.id is not None or self.recipient_key is not None or self.reference is not None

    def bounds(self) -> tuple[int, int]:
        """Between which ids such records are: the lowest, and what all are below."""
        lowest, below = self.lowest, self.below
        if self.id is not None:
            lowest, below = max(lowest, self.id), min(below, self.id + MAX_RECIPIENTS_SPAN)
        if self.outcome_start is not None:
            lowest = max(lowest, first_at(max(self.outcome_start, _EARLIEST) - LONGEST_LIFE))
        if self.outcome_end is not None:
            below = min(below, first_at(min(self.outcome_end, _LATEST) + _CLOCKS))
        return lowest, below


async def get(
    connection: Connection, tenant_id: str, recipient_id: int
) -> tuple[MessageRecord, Sequence[RecordedEvent]]:
    """A tenant's record with its events, oldest first. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_ALL_COLUMNS} FROM message_record WHERE recipient_id = $1 AND tenant_id = $2", recipient_id, tenant_id
    )
    if row is None:
        raise not_found("message", str(recipient_id))
    return _record(row), (await events_of(connection, [recipient_id])).get(recipient_id, ())


async def get_several(
    connection: Connection, tenant_id: str, ids: Sequence[int], *, descendants: bool, full: bool
) -> dict[int, MessageRecord]:
    """Those of these recipients of a tenant that are on record, by id."""
    rows = await connection.fetch(
        f"SELECT {_ALL_COLUMNS if full else _COLUMNS} FROM message_record AS record WHERE recipient_id = ANY ($1)"
        " AND recipient_id BETWEEN $3 AND $4 AND (tenant_id = $2 OR $5 AND"
        " $2 = ANY ((SELECT path FROM tenant AS owner WHERE owner.tenant_id = record.tenant_id)::text[]))",
        ids,
        tenant_id,
        min(ids),
        max(ids),
        descendants,
    )
    return {row["recipient_id"]: _record(row) for row in rows}


async def events_of(connection: Connection, ids: Sequence[int]) -> dict[int, list[RecordedEvent]]:
    """The events of these recipients, oldest first."""
    if not ids:
        return {}
    rows = await connection.fetch(
        f"SELECT recipient_id, {_EVENT_COLUMNS} FROM delivery_event WHERE recipient_id = ANY ($1)"
        " AND recipient_id BETWEEN $2 AND $3 ORDER BY recipient_id, event_number",
        ids,
        min(ids),
        max(ids),
    )
    found: dict[int, list[RecordedEvent]] = {}
    for row in rows:
        recipient_id, *values = row.values()
        found.setdefault(recipient_id, []).append(_event(values))
    return found


async def properties_of(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """What submitters gave along with these recipients' messages, of those that have any."""
    if not ids:
        return {}
    rows = await connection.fetch(
        "SELECT recipient_id, properties FROM message_record WHERE recipient_id = ANY ($1)"
        " AND recipient_id BETWEEN $2 AND $3 AND properties IS NOT NULL",
        ids,
        min(ids),
        max(ids),
    )
    return {row["recipient_id"]: row["properties"] for row in rows}


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    records: Sequence[MessageRecord]
    below: int
    """A further search is below this id; 0: there is nothing left."""
    skip: int = 0
    """What a further search has still to pass over."""


async def search(connection: Connection, wanted: Search, limit: int, skip: int = 0) -> Found:
    """Records, newest first, at most ``limit``, after the first ``skip``."""
    lowest, below = wanted.bounds()
    if wanted.is_indexed():
        found, reached = await _window(connection, wanted, lowest, below, limit + 1, skip), 0
        skip = 0
    else:
        found = []
        reached = 0
        async for bottom, top in _windows(connection, lowest, below):
            if bottom is None:
                reached = top
                break
            if skip:
                passed = await _count(connection, wanted, bottom, top, skip)
                if passed < skip:
                    skip -= passed
                    continue
            found += await _window(connection, wanted, bottom, top, limit + 1 - len(found), skip)
            skip = 0
            if len(found) > limit:
                break
    if len(found) > limit:
        return Found(found[:limit], found[limit - 1].recipient_id)
    return Found(found, reached, skip if reached else 0)


async def count(connection: Connection, wanted: Search) -> tuple[int, bool]:
    """How many records there are, and whether that is all: a count takes ``WALK_SECONDS`` at most."""
    lowest, below = wanted.bounds()
    if wanted.is_narrow():
        return await _count(connection, wanted, lowest, below, None), True
    counted = 0
    async for bottom, top in _windows(connection, lowest, below):
        if bottom is None:
            return counted, False
        counted += await _count(connection, wanted, bottom, top, None)
    return counted, True


async def _windows(connection: Connection, lowest: int, below: int) -> AsyncIterator[tuple[int | None, int]]:
    """Walk back through the days: windows of ids, one at least. At last (None, where it came to), if time is over."""
    size, deadline, looked = _FIRST_WINDOW, time.monotonic() + WALK_SECONDS, False
    for day in await _days(connection):
        first, next_first = day_bounds(day)
        top, bottom_of_day = min(below, next_first), max(lowest, first)
        while top > bottom_of_day:
            started = time.monotonic()
            if looked and started > deadline:
                yield None, top
                return
            bottom = max(bottom_of_day, top - size)
            yield bottom, top
            looked = True
            top, took = bottom, time.monotonic() - started
            if took < _QUICK_SECONDS:
                size = min(2 * size, _LARGEST_WINDOW)
            elif took > _SLOW_SECONDS:
                size = max(size // 2, _SMALLEST_WINDOW)


async def _days(connection: Connection) -> list[date]:
    """The days that have records, newest first."""
    rows = await connection.fetch(
        "SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = 'message_record'::regclass ORDER BY day DESC"
    )
    return [row["day"] for row in rows]


async def _window(
    connection: Connection, wanted: Search, lowest: int, below: int, limit: int, skip: int
) -> list[MessageRecord]:
    conditions, values = _conditions(wanted, lowest, below)
    rows = await connection.fetch(
        f"SELECT {_ALL_COLUMNS if wanted.full else _COLUMNS} FROM message_record AS record WHERE {conditions}"
        f" ORDER BY recipient_id DESC LIMIT {limit:d} OFFSET {skip:d}",
        *values,
    )
    return [_record(row) for row in rows]


async def _count(connection: Connection, wanted: Search, lowest: int, below: int, limit: int | None) -> int:
    """How many there are, ``limit`` at most."""
    conditions, values = _conditions(wanted, lowest, below)
    if limit is None:
        statement = f"SELECT count(*) FROM message_record AS record WHERE {conditions}"
    else:
        statement = (
            f"SELECT count(*) FROM (SELECT FROM message_record AS record WHERE {conditions} LIMIT {limit:d}) AS found"
        )
    counted: int = await connection.fetchval(statement, *values)
    return counted


def _conditions(wanted: Search, lowest: int, below: int) -> tuple[str, list[object]]:
    """What records meet, in SQL, and the values in it."""
    conditions = ["recipient_id >= $1", "recipient_id < $2"]
    values: list[object] = [lowest, below, wanted.tenant_id]
    if not wanted.descendants:
        conditions.append("tenant_id = $3")
    elif wanted.is_indexed():
        # Looked up for each of the few rows; the other way would go through all tenants first.
        conditions.append(
            "$3 = ANY ((SELECT path FROM tenant AS owner WHERE owner.tenant_id = record.tenant_id)::text[])"
        )
    else:
        conditions.append("tenant_id IN (SELECT tenant_id FROM tenant WHERE $3 = ANY (path))")
    for condition, value in (
        # A recipient's own id, or the id that all recipients of its message share.
        ("{0}::bigint IN (recipient_id, message_id)", wanted.id),
        ("recipient_key = {0}::text", wanted.recipient_key),
        ("right(recipient_key, length({0}::text) + 1) = '@' || {0}::text", wanted.recipient_domain),
        ("lower(sender) = lower({0}::text)", wanted.sender),
        ("state = ANY ({0}::smallint[])", wanted.states),
        ("stream = {0}::text", wanted.stream),
        ("{0}::text = ANY (tags)", wanted.tag),
        ("reference IS NOT NULL AND reference = {0}::bytea", wanted.reference),
        ("state <> 1 AND updated_at >= {0}::timestamptz", wanted.outcome_start),
        ("state <> 1 AND updated_at < {0}::timestamptz", wanted.outcome_end),
    ):
        if value is not None:
            values.append(value)
            conditions.append(condition.format(f"${len(values)}"))
    if wanted.submitted:
        conditions.append("source <> 'bounce'")
    return " AND ".join(conditions), values


def _record(row: Row) -> MessageRecord:
    values = dict(row)
    return MessageRecord(
        **{
            **values,
            "state": RecordState(values["state"]),
            "tags": values["tags"] or (),
            "reference": values["reference"] or b"",
        }
    )


def _event(values: Sequence[Any]) -> RecordedEvent:
    sequence, kind, *rest = values
    return RecordedEvent(sequence, EventKind(kind), *rest)
