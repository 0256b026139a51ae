"""JournalService: takes in what nodes tell of messages and leases."""

import asyncio
import collections
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from prometheus_client import Counter, Histogram

from barua.journal.v1 import event_pb2, journal_service_pb2
from barua.journal.v1.journal_service_pb2_grpc import JournalServiceServicer

from control.database import Database
from control.model import fields
from control.model.events import ENGAGEMENTS
from control.services.timestamps import from_proto
from control.store import journal
from control.store.journal import Event, EventKind

_Context = grpc.aio.ServicerContext[Any, Any]

MAX_EVENTS = 10_000
"""Events of one call: bounds the length of its transaction."""
AT_ONCE = 4
"""Batches recorded side by side: batches get their numbers one after the other, so more would only wait for each other,
with connections and locks in their hands."""
MAX_ADDRESS = 500
"""Characters kept of an address: with four octets each they fit an index entry."""
MAX_TEXT = 1000
"""Characters kept of a reply or a name."""
MAX_SUBJECT = 500
MAX_STREAM = 100
"""Characters kept of the name of a stream or source."""
MAX_PROVIDER = 127
"""Characters kept of the key of an SMTP provider: that of a tenant, a slash, an id."""

MAX_TAGS, MAX_TAG = 20, 128
MAX_PROPERTIES = 32_768
"""Characters kept of a submitter's JSON object; intake refuses more octets."""
REFERENCE_OCTETS = 16

# Several times as fast as EventKind(number). What recipients do is not for nodes to tell.
_KINDS = {kind.value: kind for kind in EventKind if kind not in ENGAGEMENTS}

_events = Counter("barua_control_journal_events_total", "Events recorded.", ["kind"])
_seconds = Histogram("barua_control_journal_batch_seconds", "Time to record one batch of events.")


class JournalServicer(JournalServiceServicer):
    """See the proto."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._room = asyncio.Semaphore(AT_ONCE)

    async def PushEvents(
        self, request: journal_service_pb2.PushEventsRequest, context: _Context
    ) -> journal_service_pb2.PushEventsResponse:
        """See the proto."""
        started = time.monotonic()
        holder = fields.identifier(request.holder, "holder")
        node = fields.text(request.node, "node")
        if len(request.events) > MAX_EVENTS:
            raise fields.invalid("events", f"events must be at most {MAX_EVENTS}; there are {len(request.events)}")
        events = list(_checked(request.events))
        async with self._room:
            recorded, new = await self._database.transact(
                lambda c: journal.record(c, holder, node, events), repeatable=True
            )
        _seconds.observe(time.monotonic() - started)
        for kind, count in collections.Counter(event.kind for event in events[len(events) - new :]).items():
            _events.labels(kind.name.lower()).inc(count)
        return journal_service_pb2.PushEventsResponse(recorded_sequence=recorded)


def _checked(protos: Iterable[event_pb2.Event]) -> Iterator[Event]:
    last = 0
    for index, proto in enumerate(protos):
        if proto.sequence <= last:
            field = f"events[{index}].sequence"
            raise fields.invalid(field, f"{field} is {proto.sequence}, which is not above the one before, {last}")
        last = proto.sequence
        try:
            event = _event(proto)
        except (KeyError, ValueError, OverflowError):
            field = f"events[{index}]"
            raise fields.invalid(field, f"{field} has an unknown kind or an impossible time") from None
        if event.lease_id < 0 or event.credits < 0 or event.recipient_id < 0:
            field = f"events[{index}]"
            raise fields.invalid(field, f"{field} has a negative lease_id, recipient_id or negative credits")
        yield event


def _event(proto: event_pb2.Event) -> Event:
    return Event(
        sequence=proto.sequence,
        kind=_KINDS[proto.kind],
        time=from_proto(proto.time),
        tenant_id=_text(proto.tenant_id, MAX_TEXT),
        recipient_id=proto.recipient_id,
        message_id=proto.message_id,
        sender=_text(proto.sender, MAX_ADDRESS),
        recipient=_text(proto.recipient, MAX_ADDRESS),
        subject=_text(proto.subject, MAX_SUBJECT),
        source=_text(proto.source, MAX_TEXT),
        size_bytes=proto.size_bytes,
        attempt=proto.attempt,
        code=proto.code,
        enhanced_code=_text(proto.enhanced_code, MAX_TEXT),
        text=_text(proto.text, MAX_TEXT),
        remote_host=_text(proto.remote_host, MAX_TEXT),
        next_attempt_time=from_proto(proto.next_attempt_time) if proto.HasField("next_attempt_time") else None,
        lease_id=proto.lease_id,
        credits=proto.credits,
        stream=_text(proto.stream, MAX_STREAM),
        egress_source=_text(proto.egress_source, MAX_STREAM),
        provider=_text(proto.provider, MAX_PROVIDER),
        tags=tuple(filter(None, map(_tag, proto.tags[:MAX_TAGS]))),
        properties=_text(proto.properties, MAX_PROPERTIES),
        reference=proto.reference if len(proto.reference) == REFERENCE_OCTETS else b"",
    )


def _tag(tag: str) -> str:
    """A tag that can be kept in one line with others."""
    return _text("".join(character for character in tag if character.isprintable()), MAX_TAG)


def _text(text: str, limit: int) -> str:
    """A text that PostgreSQL can hold: it has no place for NUL."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text[:limit]
