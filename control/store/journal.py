"""Journal intake: what holders tell, recorded once, together with the credits it cost or returned.

``record`` is idempotent: each holder has one highest recorded sequence, locked while a batch comes in, and events at or
below it are passed over. Everything of a batch is one transaction, so history and ledger cannot disagree.

Usage that no lease of the holder covers cannot come from a sound node. It is refused as a whole batch with
FAILED_PRECONDITION, for losing it silently would lose money; the holder's journal stands still until somebody looks.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from control.database import Connection
from control.store import leases, ledger
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)


class EventKind(IntEnum):
    """What happened; the numbers of ``barua.journal.v1.Event.Kind``."""

    RECEIVED = 1
    DELIVERED = 2
    DEFERRED = 3
    BOUNCED = 4
    EXPIRED = 5
    LEASE_RELEASED = 6


class RecordState(IntEnum):
    """Where a recipient stands; the numbers of ``barua.control.v1.MessageRecord.State``."""

    QUEUED = 1
    DELIVERED = 2
    BOUNCED = 3


_STATE_AFTER = {
    EventKind.RECEIVED: RecordState.QUEUED,
    EventKind.DEFERRED: RecordState.QUEUED,
    EventKind.DELIVERED: RecordState.DELIVERED,
    EventKind.BOUNCED: RecordState.BOUNCED,
    EventKind.EXPIRED: RecordState.BOUNCED,
}


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

    @property
    def reply(self) -> str:
        """The remote's reply as one line, such as "250 2.0.0 Ok"."""
        return " ".join(part for part in (str(self.code or ""), self.enhanced_code, self.text) if part)


class _Change(NamedTuple):
    """The last word of a batch on a recipient."""

    state: RecordState
    reply: str
    time: datetime


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
    await _write_records(connection, happened)
    await _write_events(connection, row["number"], happened)
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
    await ledger.lock(connection, list(set(tenants.values())))
    found = await leases.locked(connection, list(tenants))
    by_id = {lease.lease_id: lease for lease in found}
    for lease_id, tenant_id in tenants.items():
        lease = by_id.get(lease_id)
        if lease is None or lease.holder != holder or lease.tenant_id != tenant_id:
            raise _unsound(holder, lease_id, "it is not a lease of this holder and tenant")
        if spent.get(lease_id, 0) + returned.get(lease_id, 0) > lease.rest:
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
    last = {event.recipient_id: _Change(_STATE_AFTER[event.kind], event.reply, event.time) for event in events}
    received = [event for event in events if event.kind is EventKind.RECEIVED]
    if received:
        changes = [last.pop(event.recipient_id, None) for event in received]
        await connection.execute(
            "INSERT INTO message_record (recipient_id, tenant_id, message_id, sender, recipient, subject, source,"
            " size_bytes, received_at, state, last_reply, updated_at)"
            " SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[],"
            " $7::text[], $8::bigint[], $9::timestamptz[], $10::smallint[], $11::text[], $12::timestamptz[])"
            " ON CONFLICT (recipient_id) DO NOTHING",
            [event.recipient_id for event in received],
            [event.tenant_id for event in received],
            [event.message_id for event in received],
            [event.sender for event in received],
            [event.recipient for event in received],
            [event.subject for event in received],
            [event.source for event in received],
            [event.size_bytes for event in received],
            [event.time for event in received],
            [change.state if change else RecordState.QUEUED for change in changes],
            [change.reply if change else "" for change in changes],
            [change.time if change else event.time for change, event in zip(changes, received, strict=True)],
        )
    await _update_records(connection, last)


async def _update_records(connection: Connection, changes: dict[int, _Change]) -> None:
    """Move records on. A final state stays: what comes after it is in the events."""
    if not changes:
        return
    await connection.execute(
        "UPDATE message_record AS record SET state = change.state, last_reply = change.reply, updated_at = change.time"
        " FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::timestamptz[])"
        " AS change (recipient_id, state, reply, time)"
        " WHERE record.recipient_id = change.recipient_id AND record.state = $5",
        list(changes),
        [change.state for change in changes.values()],
        [change.reply for change in changes.values()],
        [change.time for change in changes.values()],
        RecordState.QUEUED,
    )


async def _write_events(connection: Connection, holder_number: int, events: Sequence[Event]) -> None:
    await connection.copy_records_to_table(
        "delivery_event",
        columns=(
            "recipient_id", "holder_number", "sequence", "kind", "occurred_at", "attempt", "code", "enhanced_code",
            "reply", "remote_host", "next_attempt_at", "lease_id", "credits",
        ),
        records=[
            (
                event.recipient_id, holder_number, event.sequence, event.kind, event.time, event.attempt, event.code,
                event.enhanced_code, event.text, event.remote_host, event.next_attempt_time, event.lease_id,
                event.credits,
            )
            for event in events
        ],
    )  # fmt: skip
