"""What happened to messages: one record per recipient, with its events."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection, Row
from control.store.journal import EventKind, RecordState
from control.store.tenants import not_found

_COLUMNS = (
    "recipient_id, tenant_id, message_id, sender, recipient, subject, source, size_bytes, state, last_reply,"
    " received_at, updated_at"
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
        " lease_id, credits FROM delivery_event WHERE recipient_id = $1 ORDER BY holder_number, sequence",
        recipient_id,
    )
    return _record(row), [_event(event) for event in events]


async def page(connection: Connection, tenant_id: str, before: int, limit: int) -> list[MessageRecord]:
    """A tenant's records with an id below ``before``, newest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM message_record WHERE tenant_id = $1 AND recipient_id < $2"
        " ORDER BY recipient_id DESC LIMIT $3",
        tenant_id,
        before,
        limit,
    )
    return [_record(row) for row in rows]


async def page_of_recipient(
    connection: Connection, tenant_id: str, address: str, before: int, limit: int
) -> list[MessageRecord]:
    """The same, only of one recipient address, compared without case."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM message_record WHERE tenant_id = $1"
        ' AND lower(recipient COLLATE "C") = lower($2::text COLLATE "C") AND recipient_id < $3'
        " ORDER BY recipient_id DESC LIMIT $4",
        tenant_id,
        address,
        before,
        limit,
    )
    return [_record(row) for row in rows]


def _record(row: Row) -> MessageRecord:
    return MessageRecord(
        recipient_id=row["recipient_id"],
        tenant_id=row["tenant_id"],
        message_id=row["message_id"],
        sender=row["sender"],
        recipient=row["recipient"],
        subject=row["subject"],
        source=row["source"],
        size_bytes=row["size_bytes"],
        state=RecordState(row["state"]),
        last_reply=row["last_reply"],
        received_at=row["received_at"],
        updated_at=row["updated_at"],
    )


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
    )
