"""What became of a message: ``GET /api/v1/mail/status/{message_id}``.

The id is the Message-ID of the answer, with or without its angle brackets, or the ``queue_id`` of a batch. What the MTA
has taken, control knows a moment later: a message that was just sent is looked for again for a while before it is said
not to be there.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import history_service_pb2
from barua.control.v1.history_service_pb2 import MessageRecord
from barua.journal.v1.event_pb2 import Event

from api_bridge import messageids
from api_bridge.dialects.mailpass import errors, shapes
from api_bridge.dialects.mailpass.calls import ME, Call
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

RECENT_SECONDS = 30.0
"""A message that is younger may not be on record yet."""
PATIENCE_SECONDS = 5.0
"""How long it is looked for."""
LOOK_SECONDS = 0.1

EVENT_TYPES = {
    Event.KIND_OPENED: "open",
    Event.KIND_CLICKED: "click",
    Event.KIND_BOUNCED: "bounce",
    Event.KIND_EXPIRED: "bounce",
    Event.KIND_COMPLAINED: "complaint",
    Event.KIND_UNSUBSCRIBED: "unsubscribe",
}
"""Events that are told."""


async def status(call: Call) -> dict[str, Any]:
    """``GET /api/v1/mail/status/{message_id}``."""
    found = shapes.id_of(call.request.path_params["message_id"].strip())
    if found is None:
        raise Problem(404, errors.UNKNOWN_MESSAGE)
    spelled, host = found
    record = await _record(call, spelled)
    properties = shapes.properties_of(record.properties)
    return {
        "message": _message(record, properties, host or call.parts.hostname),
        "events": [_event(event) for event in record.events if event.kind in EVENT_TYPES],
    }


async def _record(call: Call, spelled: str) -> MessageRecord:
    request = history_service_pb2.GetMessageRecordRequest(name=f"{ME}/messages/{spelled}")
    started = time.time()
    while True:
        try:
            record: MessageRecord = await call.ask("history", "GetMessageRecord", request)
        except Refusal as refusal:
            if refusal.reason not in (Reason.NOT_FOUND, Reason.INVALID_ARGUMENT):
                raise
            waited = time.time() - started
            if waited > PATIENCE_SECONDS or not _is_recent(spelled, started):
                raise Problem(404, errors.UNKNOWN_MESSAGE) from None
            await asyncio.sleep(LOOK_SECONDS)
        else:
            return record


def _is_recent(spelled: str, now: float) -> bool:
    """Whether the message with this id was accepted just now."""
    id_ = messageids.from_decimal(spelled)
    made = int(spelled.partition(".")[2].partition("@")[0]) if id_ is None else messageids.unix_ms(id_) / 1000
    return abs(now - made) < RECENT_SECONDS


def _message(record: MessageRecord, properties: dict[str, Any], host: str) -> dict[str, Any]:
    known = properties.get("host")
    author = properties.get("from")
    state = record.state
    failed = state in (MessageRecord.STATE_BOUNCED, MessageRecord.STATE_DROPPED)
    queued = state == MessageRecord.STATE_QUEUED and bool(properties.get("batch"))
    return {
        "message_id": shapes.message_id(record.message_id, known if isinstance(known, str) and known else host),
        "from_email": (author.get("email") if isinstance(author, dict) else None) or record.sender,
        "to_email": record.recipient,
        "subject": record.subject,
        "status": "failed" if failed else "queued" if queued else "sent",
        "error_message": record.last_reply if failed else None,
        "sent_at": None if failed or queued else _sent_at(record, bool(properties.get("batch"))),
        "created_at": time_of(record.receive_time),
    }


def _sent_at(record: MessageRecord, batch: bool) -> str:
    """When it was sent: what came alone at once, what came in a batch when it was delivered."""
    return time_of(record.update_time if batch else record.receive_time)


def _event(event: Event) -> dict[str, Any]:
    told: dict[str, Any] = {
        "event_type": EVENT_TYPES[event.kind],
        "ip_address": event.ip_address or None,
        "user_agent": event.user_agent or None,
        "created_at": time_of(event.time),
    }
    if event.kind == Event.KIND_CLICKED:
        told["url"] = event.url
    return told


def time_of(stamp: Timestamp) -> str:
    """A time as this API writes it: UTC, whole seconds, no zone."""
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
