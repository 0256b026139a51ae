"""What recipients do with messages: taken in once, and made into events of the message once that is on record.

``take`` writes what came in to the table ``engagement``, passes over what came before, and settles what it can;
``settle_due`` settles the rest, a message's record being later than its links at times. Settling is one transaction:
events with their numbers (as ``store.journal`` has them), counts in the record, and the row in ``engagement`` marked as
done with. So each becomes events at most once, and, if its message comes to be on record in time, at least once.

Not everything becomes an event: a recipient has ``MAX_EVENTS`` openings and as many clicks at most, and who
unsubscribes again with the suppression still in force says nothing new. What does not is not remembered either, so that
nobody who has a link fills the table with it.

Acts for the platform: the caller has proved what it tells.
"""

# ruff: noqa: S608 - the only texts put into statements are the columns below

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from control.database import Connection, Row
from control.model import messageids
from control.model.events import EventKind
from control.model.messageids import day_of
from control.store import events as numbered
from mta.runtime import links
from mta.runtime.log import get_logger

log = get_logger(__name__)

MAX_EVENTS = 100
"""Openings, and clicks, of one recipient that are recorded: programs that reload a picture would fill the history."""
WAIT = timedelta(hours=24)
"""What belongs to a message that does not come to be on record is dropped after this time."""
REMEMBERED = timedelta(hours=48)
"""What came in is known by its request id for so long."""
PIECE = 500
"""Settled in one transaction."""

_EARLIER, _LATER = timedelta(hours=1), timedelta(hours=24)
"""A message gets its id so long before its reference was made, as clocks go, and so long after it, at most."""
_REPEATED = timedelta(minutes=1)
"""For so long the suppression that follows from an event may not be made yet."""
_COLUMNS = (
    "recipient_id, tenant_id, message_id, reference, recipient_key, stream, egress_source, provider,"
    " coalesce(open_count, 0) AS opens, coalesce(click_count, 0) AS clicks, first_open_at, first_click_at,"
    " unsubscribed_at, complained_at"
)


@dataclass(frozen=True, slots=True)
class Engagement:
    """Something that a recipient did, with texts fit for the database."""

    kind: EventKind
    time: datetime
    who: bytes | int
    """The reference of the message, or the recipient's id."""
    ip_address: str = ""
    user_agent: str = ""
    url: str = ""
    text: str = ""
    request_id: uuid.UUID = field(default_factory=uuid.uuid4)


@dataclass(slots=True)
class _Record:
    """The record of a recipient as far as it changes here."""

    recipient_id: int
    tenant_id: str
    message_id: int
    reference: bytes | None
    recipient_key: str
    stream: str
    egress_source: str
    provider: str
    opens: int
    clicks: int
    first_open_at: datetime | None
    first_click_at: datetime | None
    unsubscribed_at: datetime | None
    complained_at: datetime | None
    suppressed: bool = False
    """Who asked for no more mail gets none."""
    shared: bool = False
    """Other recipients have the same reference."""


@dataclass(frozen=True, slots=True)
class _Event:
    record: _Record
    engagement: Engagement
    first: bool


async def take(connection: Connection, engagements: Sequence[Engagement]) -> None:
    """Take in what recipients did; what came before, by its request id, is passed over. Some may be yet to come."""
    fresh = {one.request_id: one for one in engagements}
    rows = await connection.fetch(
        "INSERT INTO engagement"
        " (request_id, kind, reference, recipient_id, occurred_at, ip_address, user_agent, url, due_at)"
        " SELECT *, greatest(now(), occurred_at) + interval '1 second' FROM unnest($1::uuid[], $2::smallint[],"
        " $3::bytea[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[], $8::text[])"
        " AS one (request_id, kind, reference, recipient_id, occurred_at, ip_address, user_agent, url)"
        " ON CONFLICT DO NOTHING RETURNING request_id",
        *zip(*(_row(one) for one in sorted(fresh.values(), key=lambda one: one.request_id)), strict=True),
    )
    taken, now = {row["request_id"] for row in rows}, datetime.now(UTC)
    await _settle(connection, [one for one in fresh.values() if one.request_id in taken and one.time <= now])


async def settle_due(connection: Connection) -> int:
    """Settle what waits and is due, ``PIECE`` at most; how many of them were looked at."""
    rows = await connection.fetch(
        "SELECT request_id, kind, reference, recipient_id, occurred_at, ip_address, user_agent, url FROM engagement"
        " WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED",
        PIECE,
    )
    await _settle(
        connection,
        [
            Engagement(
                EventKind(row["kind"]), row["occurred_at"], row["reference"] or row["recipient_id"], row["ip_address"],
                row["user_agent"], row["url"], request_id=row["request_id"],
            )
            for row in rows
        ],
    )  # fmt: skip
    if rows:
        # Those that are still due wait for longer the longer they have waited.
        await connection.execute(
            "UPDATE engagement SET due_at = CASE WHEN arrived_at > now() - $2::interval"
            " THEN now() + greatest(interval '1 second', (now() - arrived_at) / 2) END"
            " WHERE request_id = ANY ($1) AND due_at IS NOT NULL",
            [row["request_id"] for row in rows],
            WAIT,
        )
    return len(rows)


async def complain(connection: Connection, recipient_id: int, time: datetime, source: str) -> None:
    """Record that the recipient with this id, who is on record, called the message spam."""
    complaint = Engagement(EventKind.COMPLAINED, time, recipient_id, text=source)
    found = await _found(connection, [complaint])
    await _look_up_suppressions(connection, [record for record, _ in found])
    await _write(connection, _events(found))


async def forget_old(connection: Connection, limit: int) -> int:
    """Forget what came in long ago and is done with; how many, at most so many."""
    tag = await connection.execute(
        "DELETE FROM engagement WHERE request_id = ANY (ARRAY(SELECT request_id FROM engagement"
        " WHERE arrived_at < now() - $1::interval AND due_at IS NULL LIMIT $2))",
        REMEMBERED,
        limit,
    )
    return int(tag.rpartition(" ")[2])


async def _settle(connection: Connection, engagements: Sequence[Engagement]) -> None:
    """Make events of those whose message is on record, in the order of their times; the others stay due."""
    if not engagements:
        return
    found = await _found(connection, sorted(engagements, key=lambda one: one.time))
    if not found:
        return
    asking = [record for record, one in found if one.kind is EventKind.UNSUBSCRIBED]
    await _look_up_suppressions(connection, asking)
    made = _events(found)
    await _write(connection, made)
    told = {event.engagement.request_id for event in made}
    await connection.execute("UPDATE engagement SET due_at = NULL WHERE request_id = ANY ($1)", list(told))
    # What says nothing new would not say more if it came again.
    nothing_new = [one.request_id for _, one in found if one.request_id not in told]
    await connection.execute("DELETE FROM engagement WHERE request_id = ANY ($1)", nothing_new)


async def _found(connection: Connection, engagements: Sequence[Engagement]) -> list[tuple[_Record, Engagement]]:
    """Each with the record of its recipient, locked; without those that are not on record."""
    records: dict[bytes | int, _Record] = {}
    references = {one.who for one in engagements if isinstance(one.who, bytes)}
    if references:
        lowest, highest = _span(references)
        rows = await connection.fetch(
            # One by one: a plan for all at once, made for any bounds, goes through all records between them.
            "SELECT record.* FROM unnest($1::bytea[]) AS wanted (sought) CROSS JOIN LATERAL"
            f" (SELECT {_COLUMNS} FROM message_record WHERE reference = sought AND reference IS NOT NULL"
            "   AND recipient_id BETWEEN $2 AND $3 ORDER BY recipient_id FOR NO KEY UPDATE) AS record"
            " ORDER BY record.recipient_id DESC",
            sorted(references),
            lowest,
            highest,
        )
        # Several with one reference: the first recipient stands for all. One of another tenant is no matter: its
        # submitter saw the reference in a message and gave it to another.
        sharing = Counter((row["reference"], row["tenant_id"]) for row in rows)
        for row in rows:
            reference = row["reference"]
            records[reference] = _record(row, shared=sharing[reference, row["tenant_id"]] > 1)
    ids = sorted({one.who for one in engagements if isinstance(one.who, int)})
    if ids:
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} FROM message_record WHERE recipient_id = ANY ($1)"
            " AND recipient_id BETWEEN $2 AND $3 ORDER BY recipient_id DESC FOR NO KEY UPDATE",
            ids,
            ids[0],
            ids[-1],
        )
        # One record for one recipient, however it was named.
        by_id = {record.recipient_id: record for record in records.values()}
        records |= {row["recipient_id"]: by_id.get(row["recipient_id"]) or _record(row) for row in rows}
    return [(records[one.who], one) for one in engagements if one.who in records]


def _span(references: Iterable[bytes]) -> tuple[int, int]:
    """Between which ids the messages are; the server leaves out the days of all others."""
    made = [links.made_at(reference) for reference in references]
    known = [datetime.fromtimestamp(time, UTC) for time in made if time is not None and time < 4e9]
    if not known or len(known) < len(made):
        return 0, messageids.MAX_ID
    return messageids.first_at(min(known) - _EARLIER), messageids.first_at(max(known) + _LATER)


async def _look_up_suppressions(connection: Connection, records: Sequence[_Record]) -> None:
    """See which recipients get no mail already."""
    if not records:
        return
    rows = await connection.fetch(
        "SELECT DISTINCT wanted.tenant_id, wanted.address, wanted.stream"
        " FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant_id, address, stream)"
        " JOIN suppression USING (tenant_id, address)"
        " WHERE suppression.stream IN ('', wanted.stream)"
        " AND (suppression.expires_at IS NULL OR suppression.expires_at > now())",
        [record.tenant_id for record in records],
        [record.recipient_key for record in records],
        [record.stream for record in records],
    )
    held = {tuple(row.values()) for row in rows}
    for record in records:
        record.suppressed = (record.tenant_id, record.recipient_key, record.stream) in held


def _events(found: Sequence[tuple[_Record, Engagement]]) -> list[_Event]:
    """What becomes an event, with the records brought up to it."""
    made: list[_Event] = []
    for record, one in found:
        first = _advance(record, one)
        if first is not None:
            made.append(_Event(record, one, first))
    return made


def _advance(record: _Record, one: Engagement) -> bool | None:
    """Bring a record up to what happened: whether that was the first of its kind; None: it says nothing new."""
    match one.kind:
        case EventKind.OPENED:
            if record.opens >= MAX_EVENTS:
                return None
            record.opens += 1
            first, record.first_open_at = record.first_open_at is None, record.first_open_at or one.time
            return first
        case EventKind.CLICKED:
            if record.clicks >= MAX_EVENTS:
                return None
            record.clicks += 1
            first, record.first_click_at = record.first_click_at is None, record.first_click_at or one.time
            return first
        case EventKind.UNSUBSCRIBED if record.shared:
            # Whose wish it is cannot be told; nobody else's mail may end for it.
            log.warning("unsubscription_of_nobody", recipient_id=record.recipient_id)
            return None
        case EventKind.UNSUBSCRIBED:
            before, record.unsubscribed_at = record.unsubscribed_at, one.time
        case _:
            before, record.complained_at = record.complained_at, one.time
    # Again: only if mail was allowed once more meanwhile.
    if before is not None and (record.suppressed or one.time - before < _REPEATED):
        return None
    return before is None


async def _write(connection: Connection, made: Sequence[_Event]) -> None:
    if not made:
        return
    records = {event.record.recipient_id: event.record for event in made}
    await connection.execute(
        "UPDATE message_record AS record SET open_count = nullif(change.opens, 0),"
        " click_count = nullif(change.clicks, 0), first_open_at = change.opened, first_click_at = change.clicked,"
        " unsubscribed_at = change.unsubscribed, complained_at = change.complained"
        " FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::timestamptz[], $5::timestamptz[],"
        " $6::timestamptz[], $7::timestamptz[])"
        " AS change (recipient_id, opens, clicks, opened, clicked, unsubscribed, complained)"
        " WHERE record.recipient_id = change.recipient_id AND record.recipient_id BETWEEN $8 AND $9",
        *zip(
            *(
                (
                    record.recipient_id, record.opens, record.clicks, record.first_open_at, record.first_click_at,
                    record.unsubscribed_at, record.complained_at,
                )
                for record in records.values()
            ),
            strict=True,
        ),
        min(records),
        max(records),
    )  # fmt: skip
    # A day's events go before its records: the place may have to be made again.
    await numbered.make_days(connection, sorted({day_of(recipient_id) for recipient_id in records}))
    before = await numbered.take_numbers(connection, len(made))
    await connection.copy_records_to_table(
        "delivery_event",
        columns=(
            "recipient_id", "event_number", "tenant_id", "message_id", "holder_number", "sequence", "kind",
            "occurred_at", "attempt", "code", "enhanced_code", "reply", "remote_host", "lease_id", "credits",
            "egress_source", "provider", "ip_address", "user_agent", "url", "is_first",
        ),
        records=[
            (
                event.record.recipient_id, number, event.record.tenant_id, event.record.message_id, 0, 0,
                event.engagement.kind, event.engagement.time, 0, 0, "", event.engagement.text, "", 0, 0,
                event.record.egress_source, event.record.provider, event.engagement.ip_address,
                event.engagement.user_agent, event.engagement.url, event.first,
            )
            for number, event in enumerate(made, before + 1)
        ],
    )  # fmt: skip


def _row(one: Engagement) -> tuple[object, ...]:
    reference, recipient_id = (one.who, None) if isinstance(one.who, bytes) else (None, one.who)
    return (
        one.request_id, one.kind, reference, recipient_id, one.time, one.ip_address, one.user_agent, one.url,
    )  # fmt: skip


def _record(row: Row, *, shared: bool = False) -> _Record:
    record = _Record(*row.values())
    record.shared = shared
    return record
