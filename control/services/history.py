"""HistoryService: what happened to messages."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import history_service_pb2
from barua.control.v1.history_service_pb2 import MessageRecord as RecordProto
from barua.control.v1.history_service_pb2_grpc import HistoryServiceServicer
from barua.journal.v1 import event_pb2

from control.authentication import caller
from control.database import Connection, Database
from control.model import addresses, fields, messageids, names, paging
from control.model.events import ENGAGEMENTS, EventKind, RecordState, recipient_key
from control.services.listing import page_of
from control.services.timestamps import from_proto, to_proto
from control.store import history, tenants
from control.store.history import Found, MessageRecord, RecordedEvent, Search
from mta.runtime.links import REFERENCE_OCTETS

_Context = grpc.aio.ServicerContext[Any, Any]

_Filter = history_service_pb2.MessageRecordFilter
_View = history_service_pb2.RecordView
_Events = Mapping[int, Sequence[RecordedEvent]]

MAX_NAMES = 500
"""Of one batch."""
MAX_SKIP = 10_000
MAX_PAGE = {_View.RECORD_VIEW_BASIC: 1000, _View.RECORD_VIEW_FULL: 500, _View.RECORD_VIEW_EVENTS: 100}
"""Records of a page: properties and events may be large."""

_START = f"{messageids.MAX_ID}/0"
"""The place before the newest record: what comes next is below the id, and so much of it is passed over."""
_OWN_FIELDS = (
    "recipient", "include_descendants", "sender", "recipient_domain", "stream", "message_id",
)  # fmt: skip
_STATES = {state.value: state for state in RecordState}
_SPELLINGS = "a number, msg_<number>, <Message-ID@host>, a UUID or xxxxxx-xxxxxx-xx"


class HistoryServicer(HistoryServiceServicer):
    """See the proto."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetMessageRecord(
        self, request: history_service_pb2.GetMessageRecordRequest, context: _Context
    ) -> RecordProto:
        """See the proto."""
        record, events = await self._find(request.name)
        return _record(record, [_event(event, record) for event in events])

    async def BatchGetMessageRecords(
        self, request: history_service_pb2.BatchGetMessageRecordsRequest, context: _Context
    ) -> history_service_pb2.BatchGetMessageRecordsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        view = _view(request.view, _View.RECORD_VIEW_FULL)
        ids = _ids(request.names, tenant_id, me)
        known = [id_ for id_ in ids if id_ is not None]

        async def read(connection: Connection) -> tuple[Mapping[int, MessageRecord], _Events]:
            await tenants.visible(connection, me, tenant_id)
            if not known:
                return {}, {}
            records = await history.get_several(
                connection,
                tenant_id,
                known,
                descendants=request.include_descendants,
                full=view is not _View.RECORD_VIEW_BASIC,
            )
            return records, await _events_for(connection, view, list(records.values()))

        records, events = await self._database.transact(read)
        return history_service_pb2.BatchGetMessageRecordsResponse(
            message_records=[_with_events(records[id_], events) for id_ in ids if id_ is not None and id_ in records]
        )

    async def CountMessageRecords(
        self, request: history_service_pb2.CountMessageRecordsRequest, context: _Context
    ) -> history_service_pb2.CountMessageRecordsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        wanted = _search(request.filter, "filter.", tenant_id, messageids.MAX_ID)

        async def read(connection: Connection) -> tuple[int, bool]:
            await tenants.visible(connection, me, tenant_id)
            return await history.count(connection, wanted)

        counted, complete = await self._database.transact(read)
        return history_service_pb2.CountMessageRecordsResponse(count=counted, incomplete=not complete)

    async def GetMessageTimeline(
        self, request: history_service_pb2.GetMessageTimelineRequest, context: _Context
    ) -> history_service_pb2.MessageTimeline:
        """See the proto."""
        record, events = await self._find(request.name)
        return _timeline(record, events)

    async def ListMessageRecords(
        self, request: history_service_pb2.ListMessageRecordsRequest, context: _Context
    ) -> history_service_pb2.ListMessageRecordsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        view = _view(request.view, _View.RECORD_VIEW_BASIC)
        conditions = _merged(request)
        if not 0 <= request.skip <= MAX_SKIP:
            raise fields.invalid("skip", f"skip must be 0 to {MAX_SKIP:,}; it is {request.skip}")
        page = page_of(request, _START, tenant_id, conditions.SerializeToString(deterministic=True).hex())
        below, skip = _place(page.after)
        wanted = _search(conditions, "", tenant_id, below, full=view is not _View.RECORD_VIEW_BASIC)
        size = min(page.size, MAX_PAGE[view])

        async def read(connection: Connection) -> tuple[Found, _Events]:
            await tenants.visible(connection, me, tenant_id)
            found = await history.search(connection, wanted, size, skip + request.skip)
            return found, await _events_for(connection, view, found.records)

        found, events = await self._database.transact(read)
        return history_service_pb2.ListMessageRecordsResponse(
            message_records=[_with_events(record, events) for record in found.records],
            next_page_token=paging.encode(f"{found.below}/{found.skip}", page.query) if found.below else "",
        )

    async def _find(self, resource: str) -> tuple[MessageRecord, Sequence[RecordedEvent]]:
        me = caller().tenant_id
        name = names.child(resource, "messages", me)
        recipient_id = messageids.parse(name.id)

        async def read(connection: Connection) -> tuple[MessageRecord, Sequence[RecordedEvent]]:
            await tenants.visible(connection, me, name.tenant_id)
            if recipient_id is None:
                raise tenants.not_found("message", name.id[:200])
            return await history.get(connection, name.tenant_id, recipient_id)

        return await self._database.transact(read)


def _ids(resources: Sequence[str], tenant_id: str, me: str) -> list[int | None]:
    """The ids in names of one tenant's records; None for what can be nobody's."""
    if not 1 <= len(resources) <= MAX_NAMES:
        raise fields.invalid("names", f"names must be 1 to {MAX_NAMES}; there are {len(resources)}")
    ids = []
    for index, resource in enumerate(resources):
        name = names.child(resource, "messages", me)
        if name.tenant_id != tenant_id:
            raise fields.invalid(f"names[{index}]", f"names[{index}] must be below parent, tenants/{tenant_id}")
        ids.append(messageids.parse(name.id))
    return ids


def _view(asked: int, default: _View.ValueType) -> _View.ValueType:
    if asked not in _View.values():
        raise fields.invalid("view", f"view {asked} is not known")
    return _View.ValueType(asked) or default


async def _events_for(connection: Connection, view: _View.ValueType, records: Sequence[MessageRecord]) -> _Events:
    if view != _View.RECORD_VIEW_EVENTS:
        return {}
    return await history.events_of(connection, [record.recipient_id for record in records])


def _merged(request: Any) -> _Filter:
    """All conditions of a ListMessageRecordsRequest in one filter; those of its own fields are the older form."""
    merged: Any = _Filter()
    merged.CopyFrom(request.filter)
    for field in _OWN_FIELDS:
        own, inner = getattr(request, field), getattr(merged, field)
        if own and inner and own != inner:
            raise fields.invalid(f"filter.{field}", f"filter.{field} and {field} are different; give one of them")
        if own:
            setattr(merged, field, own)
    for field in ("start_time", "end_time"):
        if request.HasField(field):
            if merged.HasField(field) and getattr(merged, field) != getattr(request, field):
                raise fields.invalid(f"filter.{field}", f"filter.{field} and {field} are different; give one of them")
            getattr(merged, field).CopyFrom(getattr(request, field))
    if request.state:
        if merged.states and list(merged.states) != [request.state]:
            raise fields.invalid("filter.states", "filter.states and state are different; give one of them")
        merged.states[:] = [request.state]
    result: _Filter = merged
    return result


def _place(token: str) -> tuple[int, int]:
    """Where a page goes on and what it has still to pass over; a forged one goes on where it says."""
    below, _, skip = token.partition("/")
    if not (below.isascii() and below.isdigit() and skip.isascii() and skip.isdigit() and len(skip) < 8):
        raise fields.invalid("page_token", "page_token must be the next_page_token of the same list")
    return min(int(below[:20]), messageids.MAX_ID), int(skip)


def _search(wanted: _Filter, prefix: str, tenant_id: str, below: int, *, full: bool = False) -> Search:
    """``prefix`` is put before the names of fields in refusals."""
    lowest = 0
    if wanted.HasField("start_time"):
        lowest = messageids.first_at(_time(wanted.start_time, f"{prefix}start_time"))
    if wanted.HasField("end_time"):
        below = min(below, messageids.first_at(_time(wanted.end_time, f"{prefix}end_time")))
    field = f"{prefix}recipient_domain"
    domain = wanted.recipient_domain and addresses.domain_name(wanted.recipient_domain, field, labels=1)
    for state in wanted.states:
        if state not in _STATES:
            raise fields.invalid(f"{prefix}states", f"state {state} is not known")
    if wanted.reference and len(wanted.reference) != REFERENCE_OCTETS:
        raise fields.invalid(f"{prefix}reference", f"{prefix}reference must have {REFERENCE_OCTETS} octets")
    return Search(
        tenant_id=tenant_id,
        below=below,
        lowest=lowest,
        descendants=wanted.include_descendants,
        id=_id(wanted.message_id, f"{prefix}message_id") if wanted.message_id else None,
        recipient_key=recipient_key(wanted.recipient) if wanted.recipient else None,
        recipient_domain=domain or None,
        sender=_storable(wanted.sender) or None,
        states=sorted({_STATES[state] for state in wanted.states}) or None,
        stream=_storable(wanted.stream) or None,
        tag=_storable(wanted.tag) or None,
        reference=wanted.reference or None,
        outcome_start=_optional_time(wanted, "outcome_start_time", prefix),
        outcome_end=_optional_time(wanted, "outcome_end_time", prefix),
        submitted=wanted.without_notifications,
        full=full,
    )


def _optional_time(wanted: Any, field: str, prefix: str) -> datetime | None:
    return _time(getattr(wanted, field), f"{prefix}{field}") if wanted.HasField(field) else None


def _id(text: str, field: str) -> int:
    id_ = messageids.parse(text)
    if id_ is None:
        raise fields.invalid(field, f'{field} must be {_SPELLINGS}; it is "{text[:100]}"')
    return id_


def _time(proto: Timestamp, field: str) -> datetime:
    try:
        return from_proto(proto)
    except OverflowError:
        raise fields.invalid(field, f"{field} is beyond what a time can be") from None


def _storable(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _timeline(record: MessageRecord, events: Sequence[RecordedEvent]) -> history_service_pb2.MessageTimeline:
    finished = record.state is not RecordState.QUEUED
    last = next((event for event in reversed(events) if event.kind not in ENGAGEMENTS), None)
    end = record.updated_at if finished else datetime.now(UTC)
    return history_service_pb2.MessageTimeline(
        record=_record(record, []),
        entries=[
            history_service_pb2.TimelineEntry(
                event=_event(event, record), since_received=_since(record.received_at, event.time)
            )
            for event in events
        ],
        attempt_count=max((event.attempt for event in events), default=0),
        next_attempt_time=to_proto(last.next_attempt_time) if last and not finished else None,
        duration=_since(record.received_at, end),
    )


def _since(start: datetime, end: datetime) -> Duration:
    """From the one to the other; clocks of two machines may disagree, so never less than nothing."""
    duration = Duration()
    duration.FromTimedelta(max(end - start, end - end))
    return duration


def _with_events(record: MessageRecord, events: _Events) -> RecordProto:
    return _record(record, [_event(event, record) for event in events.get(record.recipient_id, ())])


def _record(record: MessageRecord, events: list[event_pb2.Event]) -> RecordProto:
    return RecordProto(
        name=f"tenants/{record.tenant_id}/messages/{record.recipient_id}",
        message_id=record.message_id,
        sender=record.sender,
        recipient=record.recipient,
        subject=record.subject,
        size_bytes=record.size_bytes,
        state=RecordProto.State.ValueType(record.state),
        last_reply=record.last_reply,
        receive_time=to_proto(record.received_at),
        update_time=to_proto(record.updated_at),
        events=events,
        source=record.source,
        stream=record.stream,
        egress_source=record.egress_source,
        provider=record.provider,
        tags=record.tags,
        properties=record.properties,
        reference=record.reference,
        open_count=record.open_count,
        click_count=record.click_count,
        first_open_time=to_proto(record.first_open_at),
        last_code=record.last_code,
        last_enhanced_code=record.last_enhanced_code,
        last_text=_words(record),
        remote_host=record.remote_host,
        first_click_time=to_proto(record.first_click_at),
        unsubscribe_time=to_proto(record.unsubscribed_at),
        complaint_time=to_proto(record.complained_at),
    )


def _words(record: MessageRecord) -> str:
    """The last reply without its codes."""
    words = record.last_reply
    for code in (str(record.last_code or ""), record.last_enhanced_code):
        if code and (words == code or words.startswith(f"{code} ")):
            words = words[len(code) + 1 :]
    return words


def _event(event: RecordedEvent, record: MessageRecord) -> event_pb2.Event:
    proto = event_pb2.Event(
        sequence=event.sequence,
        kind=event_pb2.Event.Kind.ValueType(event.kind),
        time=to_proto(event.time),
        tenant_id=record.tenant_id,
        recipient_id=record.recipient_id,
        message_id=record.message_id,
        attempt=event.attempt,
        code=event.code,
        enhanced_code=event.enhanced_code,
        text=event.text,
        remote_host=event.remote_host,
        next_attempt_time=to_proto(event.next_attempt_time),
        lease_id=event.lease_id,
        credits=event.credits,
        egress_source=event.egress_source,
        provider=event.provider,
        ip_address=event.ip_address,
        user_agent=event.user_agent,
        url=event.url,
        first=event.first,
    )
    if event.kind in {EventKind.RECEIVED, EventKind.DROPPED}:
        proto.sender, proto.recipient, proto.subject = record.sender, record.recipient, record.subject
        proto.size_bytes, proto.source, proto.stream = record.size_bytes, record.source, record.stream
        proto.tags.extend(record.tags)
        proto.properties, proto.reference = record.properties, record.reference
    return proto
