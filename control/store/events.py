"""The numbered order of events: its head, reading on from a number, and how far each consumer has come.

Intake (``store.journal``) takes numbers from the one row of ``event_head``, which stays locked until its commit. So
whoever has seen number n has seen everything before it, and can ask for what comes after n without missing anything.

``read`` and ``read_of`` return whole events, together with what the records of their recipients tell. They show what
the acting tenant may see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from control.database import Connection, Row
from control.model.events import EventKind, PastEvent
from control.model.messageids import day_of, first_of_day

CHANNEL = "barua_events"
"""NOTIFY channel; the payload is the number of the newest event."""

_KINDS = {kind.value: kind for kind in EventKind}
_Told = tuple[str, str, str, str, tuple[str, ...]]
"""Sender, recipient, canonical recipient, stream and tags of a record."""

# ruff: noqa: S608 - the only text put into statements is this list of columns
_COLUMNS = (
    "event_number, recipient_id, message_id, tenant_id, kind, occurred_at, attempt, code, enhanced_code, reply,"
    " remote_host, egress_source, provider, credits, lease_id, next_attempt_at, ip_address, user_agent, url, is_first"
)


@dataclass(frozen=True, slots=True)
class Head:
    """Where the order of events stands. ``lineage`` names it: numbers of another lineage mean nothing here."""

    lineage: str
    number: int
    trimmed_number: int


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the history."""

    day: date
    newest_number: int
    """The newest number of an event in it."""
    delivery_number: int
    """The same without what recipients did, which may be weeks later."""


async def head(connection: Connection) -> Head:
    """Where the order stands now."""
    row = await connection.fetchrow("SELECT lineage, number, trimmed_number FROM event_head")
    assert row is not None, "the migration makes this row"
    return Head(str(row["lineage"]), row["number"], row["trimmed_number"])


async def take_numbers(connection: Connection, count: int) -> int:
    """Number ``count`` events of this transaction; the number before the first of them. Locks until the commit."""
    newest: int = await connection.fetchval("UPDATE event_head SET number = number + $1 RETURNING number", count)
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, str(newest))
    return newest - count


async def read(connection: Connection, after: int, limit: int) -> list[PastEvent]:
    """The next events after a number in their order, at most ``limit``."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM delivery_event WHERE event_number > $1 ORDER BY event_number LIMIT $2", after, limit
    )
    return await _completed(connection, rows)


async def read_of(
    connection: Connection, tenant_id: str, after: int, up_to: int, limit: int, kinds: Sequence[int]
) -> list[PastEvent]:
    """The next events of a tenant and those below it, ``up_to`` at the last; only of ``kinds``, if there are any."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM delivery_event WHERE event_number > $1 AND event_number <= $2"
        " AND ($4 = 'operator' OR tenant_id IN (SELECT tenant_id FROM tenant WHERE $4 = ANY (path)))"
        " AND (cardinality($5::smallint[]) = 0 OR kind = ANY ($5)) ORDER BY event_number LIMIT $3",
        after,
        up_to,
        limit,
        tenant_id,
        kinds,
    )
    return await _completed(connection, rows)


async def _completed(connection: Connection, rows: Sequence[Row]) -> list[PastEvent]:
    """Events with what the records of their recipients tell."""
    if not rows:
        return []
    records = await _records_of(connection, {row["recipient_id"] for row in rows})
    return [_event(row, records.get(row["recipient_id"], _NO_RECORD)) for row in rows]


async def _records_of(connection: Connection, recipient_ids: set[int]) -> dict[int, _Told]:
    """What is told of each recipient that has a record; day by day."""
    days: dict[date, list[int]] = {}
    for recipient_id in recipient_ids:
        days.setdefault(day_of(recipient_id), []).append(recipient_id)
    found: dict[int, _Told] = {}
    for ids in days.values():
        # The bounds let the server leave out every other day.
        rows = await connection.fetch(
            "SELECT recipient_id, sender, recipient, recipient_key, stream, tags FROM message_record"
            " WHERE recipient_id = ANY ($1) AND recipient_id BETWEEN $2 AND $3",
            ids,
            min(ids),
            max(ids),
        )
        for row in rows:
            recipient_id, sender, recipient, key, stream, tags = row.values()
            found[recipient_id] = (sender, recipient, key, stream, tuple(tags) if tags else ())
    return found


async def paths(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, Sequence[str]]:
    """The lines of tenants: ids from the root down to each."""
    rows = await connection.fetch("SELECT tenant_id, path FROM tenant WHERE tenant_id = ANY ($1)", tenant_ids)
    return {row["tenant_id"]: row["path"] for row in rows}


async def add_cursor(connection: Connection, name: str) -> int:
    """Make sure that a consumer has a cursor, at first before every event; where it stands."""
    number: int | None = await connection.fetchval("SELECT number FROM event_cursor WHERE name = $1", name)
    if number is None:
        await connection.execute("INSERT INTO event_cursor (name) VALUES ($1) ON CONFLICT DO NOTHING", name)
    return number or 0


async def lock_cursor(connection: Connection, name: str) -> int | None:
    """Where a consumer stands, for this transaction alone; None: another transaction is at work for it."""
    number: int | None = await connection.fetchval(
        "SELECT number FROM event_cursor WHERE name = $1 FOR NO KEY UPDATE SKIP LOCKED", name
    )
    return number


async def move_cursor(connection: Connection, name: str, number: int) -> None:
    """A consumer has dealt with everything up to ``number``."""
    await connection.execute("UPDATE event_cursor SET number = $2, updated_at = now() WHERE name = $1", name, number)


async def make_days(connection: Connection, days: Sequence[date]) -> None:
    """Make the partitions of these days where they are missing."""
    await connection.execute("SELECT make_history_days($1)", days)


async def days(connection: Connection) -> list[Day]:
    """The days that have partitions, oldest first."""
    return [Day(*row.values()) for row in await connection.fetch("SELECT * FROM history_days()")]


async def oldest_consumed(connection: Connection) -> int | None:
    """The number up to which every consumer has come; None: there is no consumer."""
    number: int | None = await connection.fetchval("SELECT min(number) FROM event_cursor")
    return number


async def drop_events(connection: Connection, day: Day) -> None:
    """Drop the events of a day: who has not come to the last of its deliveries cannot go on."""
    await connection.execute("UPDATE event_head SET trimmed_number = $1 WHERE trimmed_number < $1", day.delivery_number)
    await connection.execute("SELECT drop_history_day('delivery_event', $1)", day.day)


async def drop_records(connection: Connection, day: date) -> None:
    """Drop the records of a day; its events go before."""
    await connection.execute("SELECT drop_history_day('message_record', $1)", day)


def day_bounds(day: date) -> tuple[int, int]:
    """The lowest id of a day, and that of the next."""
    return first_of_day(day), first_of_day(date.fromordinal(day.toordinal() + 1))


_NO_RECORD: _Told = ("", "", "", "", ())


def _event(row: Row, record: _Told) -> PastEvent:
    (number, recipient_id, message_id, tenant_id, kind, time, attempt, code, enhanced_code, reply, host, source,
     provider, credits, lease_id, next_attempt_at, ip_address, user_agent, url, first) = row.values()  # fmt: skip
    return PastEvent(
        number, recipient_id, message_id, tenant_id, _KINDS[kind], time, attempt, code, enhanced_code, reply, host,
        source, provider, credits, lease_id, next_attempt_at, *record,
        ip_address or "", user_agent or "", url or "", first or False,
    )  # fmt: skip
