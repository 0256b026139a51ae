"""Journal intake: what holders tell, recorded once, together with the credits it cost or returned.

``record`` is idempotent: each holder has one highest recorded sequence, locked while a batch comes in, and events at or
below it are passed over. Everything of a batch is one transaction, so history and ledger cannot disagree. Events get
their numbers (``store.events``) in it too.

Usage that no lease of the holder covers cannot come from a sound node. It is refused as a whole batch with
FAILED_PRECONDITION, for losing it silently would lose money; the holder's journal stands still until somebody looks.
"""

# ruff: noqa: S608 - the only texts put into statements are the columns below

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from control.database import Connection
from control.model.events import EventKind as EventKind
from control.model.events import RecordState as RecordState
from control.model.events import recipient_key
from control.model.messageids import day_of
from control.store import events as numbered
from control.store import leases
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)


_STATE_AFTER = {
    EventKind.RECEIVED: RecordState.QUEUED,
    EventKind.DEFERRED: RecordState.QUEUED,
    EventKind.DELIVERED: RecordState.DELIVERED,
    EventKind.BOUNCED: RecordState.BOUNCED,
    EventKind.EXPIRED: RecordState.BOUNCED,
    EventKind.DROPPED: RecordState.DROPPED,
}
_BEGINNINGS = frozenset({EventKind.RECEIVED, EventKind.DROPPED})
"""Events that make a record."""
_TAG_SEPARATOR = "\n"
"""Tags have no line ends."""


class Event(NamedTuple):
    """One event, with texts fit for the database (no NUL, bounded). A NamedTuple: there are many of them."""

    sequence: int
    kind: EventKind
    time: datetime
    tenant_id: str
    recipient_id: int
    message_id: int
    sender: str
    recipient: str
    subject: str
    source: str
    size_bytes: int
    attempt: int
    code: int
    enhanced_code: str
    text: str
    remote_host: str
    next_attempt_time: datetime | None
    lease_id: int
    credits: int
    stream: str
    egress_source: str
    provider: str
    tags: tuple[str, ...] = ()
    properties: str = ""
    reference: bytes = b""

    @property
    def reply(self) -> str:
        """The remote's reply as one line, such as "250 2.0.0 Ok"."""
        return " ".join(filter(None, (str(self.code or ""), self.enhanced_code, self.text)))


class _Change(NamedTuple):
    """The last word of a batch on a recipient."""

    state: RecordState
    reply: str
    time: datetime
    egress_source: str
    provider: str
    code: int | None
    """None: there was no attempt yet."""
    enhanced_code: str | None
    remote_host: str | None


_NO_ATTEMPT = (None, None, None)


async def record(connection: Connection, holder: uuid.UUID, node: str, events: Sequence[Event]) -> tuple[int, int]:
    """Record a holder's events, whose sequences rise; (highest sequence on record, events that were new)."""
    await connection.execute("INSERT INTO holder (holder_id) VALUES ($1) ON CONFLICT DO NOTHING", holder)
    row = await connection.fetchrow(
        "SELECT number, recorded_sequence FROM holder WHERE holder_id = $1 FOR NO KEY UPDATE", holder
    )
    assert row is not None, "it was just made or was there"
    recorded: int = row["recorded_sequence"]
    fresh = [event for event in events if event.sequence > recorded]
    if not fresh:
        return recorded, 0
    happened = [event for event in fresh if event.kind is not EventKind.LEASE_RELEASED]
    if happened:
        await numbered.make_days(connection, sorted({day_of(event.recipient_id) for event in happened}))
        await _write_records(connection, happened)
        # From here on no other batch gets numbers until this one is committed.
        before = await numbered.take_numbers(connection, len(happened))
        await _write_events(connection, row["number"], before, happened)
    # Last, because it locks accounts, and other holders and transfers wait for them.
    await _settle_credits(connection, holder, fresh)
    newest = fresh[-1].sequence
    await connection.execute(
        "UPDATE holder SET recorded_sequence = $2, node = $3 WHERE holder_id = $1", holder, newest, node
    )
    return newest, len(fresh)


async def _settle_credits(connection: Connection, holder: uuid.UUID, events: Iterable[Event]) -> None:
    spent: dict[int, int] = {}
    returned: dict[int, int] = {}
    tenants: dict[int, str] = {}
    for event in events:
        if event.credits and not event.lease_id:
            raise _unsound(holder, 0, "credits without a lease")
        if event.lease_id:
            amounts = returned if event.kind is EventKind.LEASE_RELEASED else spent
            amounts[event.lease_id] = amounts.get(event.lease_id, 0) + event.credits
            if tenants.setdefault(event.lease_id, event.tenant_id) != event.tenant_id:
                raise _unsound(holder, event.lease_id, "two tenants share it")
    if not tenants:
        return
    await leases.lock_payers(connection, list(tenants))
    found = await leases.locked(connection, list(tenants))
    by_id = {lease.lease_id: lease for lease in found}
    for lease_id, tenant_id in tenants.items():
        lease = by_id.get(lease_id)
        if lease is None or lease.holder != holder or lease.tenant_id != tenant_id:
            raise _unsound(holder, lease_id, "it is not a lease of this holder and tenant")
        if spent.get(lease_id, 0) + returned.get(lease_id, 0) > lease.rest + lease.unheard:
            raise _unsound(holder, lease_id, f"more is spent or returned than the rest of {lease.rest}")
    await leases.settle(connection, spent, returned, found)


def _unsound(holder: uuid.UUID, lease_id: int, what: str) -> Refusal:
    log.error("journal_unsound", holder=str(holder), lease_id=lease_id, what=what)
    return Refusal(
        Reason.FAILED_PRECONDITION,
        f"the journal contradicts the ledger at lease {lease_id}: {what}; nothing was recorded",
        metadata={"lease_id": str(lease_id), "holder": str(holder)},
    )


async def _write_records(connection: Connection, events: Sequence[Event]) -> None:
    """Make the records of received recipients, already in the state they have at the end of the batch."""
    newest = {event.recipient_id: event for event in events}
    last = {recipient_id: _change(event) for recipient_id, event in newest.items()}
    received = [event for event in events if event.kind in _BEGINNINGS]
    plain = [_record(event, last[event.recipient_id]) for event in received if not _is_dressed(event)]
    if plain:
        await connection.execute(
            f"INSERT INTO message_record ({_PLAIN}) SELECT * FROM unnest({_PLAIN_ARRAYS})"
            " ON CONFLICT (recipient_id) DO NOTHING",
            *zip(*plain, strict=True),
        )
    dressed = [(*_record(event, last[event.recipient_id]), *_dress(event)) for event in received if _is_dressed(event)]
    if dressed:
        await connection.execute(
            f"INSERT INTO message_record ({_PLAIN}, tags, properties, reference) SELECT {_PLAIN},"
            " string_to_array(tags, E'\\n'), properties, reference"
            f" FROM unnest({_PLAIN_ARRAYS}, $20::text[], $21::text[], $22::bytea[])"
            f" AS record ({_PLAIN}, tags, properties, reference) ON CONFLICT (recipient_id) DO NOTHING",
            *zip(*dressed, strict=True),
        )
    for event in received:
        last.pop(event.recipient_id, None)
    await _update_records(connection, last)


_PLAIN = (
    "recipient_id, tenant_id, message_id, sender, recipient, recipient_key, subject, source, stream, size_bytes,"
    " received_at, state, last_reply, updated_at, egress_source, provider, last_code, last_enhanced_code, remote_host"
)
_PLAIN_ARRAYS = (
    "$1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],"
    " $10::bigint[], $11::timestamptz[], $12::smallint[], $13::text[], $14::timestamptz[], $15::text[], $16::text[],"
    " $17::integer[], $18::text[], $19::text[]"
)


def _is_dressed(event: Event) -> bool:
    """Whether the submitter gave something along; mail without it pays nothing for that."""
    return bool(event.tags or event.properties or event.reference)


def _dress(event: Event) -> tuple[str | None, str | None, bytes | None]:
    return _TAG_SEPARATOR.join(event.tags) or None, event.properties or None, event.reference or None


def _change(event: Event) -> _Change:
    """What an event makes of the record."""
    attempt = _NO_ATTEMPT if event.kind is EventKind.RECEIVED else (event.code, event.enhanced_code, event.remote_host)
    return _Change(_STATE_AFTER[event.kind], event.reply, event.time, event.egress_source, event.provider, *attempt)


def _record(event: Event, change: _Change) -> tuple[object, ...]:
    return (
        event.recipient_id, event.tenant_id, event.message_id, event.sender, event.recipient,
        recipient_key(event.recipient), event.subject, event.source, event.stream, event.size_bytes, event.time,
        *change,
    )  # fmt: skip


async def _update_records(connection: Connection, changes: dict[int, _Change]) -> None:
    """Move records on. A final state stays: what comes after it is in the events."""
    if not changes:
        return
    # The bounds let the server leave out the partitions of other days.
    await connection.execute(
        "UPDATE message_record AS record SET state = change.state, last_reply = change.reply,"
        " updated_at = change.time, egress_source = change.egress_source, provider = change.provider,"
        " last_code = change.code, last_enhanced_code = change.enhanced_code, remote_host = change.host"
        " FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::timestamptz[], $5::text[], $6::text[],"
        " $7::integer[], $8::text[], $9::text[])"
        " AS change (recipient_id, state, reply, time, egress_source, provider, code, enhanced_code, host)"
        " WHERE record.recipient_id = change.recipient_id AND record.state = $10"
        " AND record.recipient_id BETWEEN $11 AND $12",
        list(changes),
        *zip(*changes.values(), strict=True),
        RecordState.QUEUED,
        min(changes),
        max(changes),
    )


async def _write_events(connection: Connection, holder_number: int, before: int, events: Sequence[Event]) -> None:
    """Copy events, numbered from ``before`` + 1; the server puts each into the partition of its day."""
    await connection.copy_records_to_table(
        "delivery_event",
        columns=(
            "recipient_id", "event_number", "tenant_id", "message_id", "holder_number", "sequence", "kind",
            "occurred_at", "attempt", "code", "enhanced_code", "reply", "remote_host", "next_attempt_at", "lease_id",
            "credits", "egress_source", "provider",
        ),
        records=[
            (
                event.recipient_id, number, event.tenant_id, event.message_id, holder_number, event.sequence,
                event.kind, event.time, event.attempt, event.code, event.enhanced_code, event.text, event.remote_host,
                event.next_attempt_time, event.lease_id, event.credits, event.egress_source, event.provider,
            )
            for number, event in enumerate(events, before + 1)
        ],
    )  # fmt: skip
