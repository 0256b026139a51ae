"""HistoryService: what happened to messages."""

from collections.abc import Sequence
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
from control.model.events import EventKind, RecordState, recipient_key
from control.services.listing import page_of
from control.services.timestamps import from_proto, to_proto
from control.store import history, tenants
from control.store.history import MessageRecord, RecordedEvent, Search

_Context = grpc.aio.ServicerContext[Any, Any]

_NEWEST = messageids.MAX_ID
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
        page = page_of(request, _NEWEST, *_conditions(request, tenant_id))
        wanted = _search(request, tenant_id, page.after)

        async def read(connection: Connection) -> tuple[list[MessageRecord], int]:
            await tenants.visible(connection, me, tenant_id)
            return await history.search(connection, wanted, page.size)

        found, further = await self._database.transact(read)
        return history_service_pb2.ListMessageRecordsResponse(
            message_records=[_record(record, []) for record in found],
            next_page_token=paging.encode(further, page.query) if further else "",
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


def _conditions(request: history_service_pb2.ListMessageRecordsRequest, tenant_id: str) -> list[str]:
    """Everything that decides what a search finds: its page tokens are good for it alone."""
    return [
        tenant_id, request.recipient, str(request.include_descendants), request.sender, request.recipient_domain,
        str(request.state), request.stream, _bound(request, "start_time"), _bound(request, "end_time"),
        request.message_id,
    ]  # fmt: skip


def _bound(request: history_service_pb2.ListMessageRecordsRequest, field: str) -> str:
    value = getattr(request, field)
    return f"{value.seconds}.{value.nanos}" if value.ByteSize() else ""


def _search(request: history_service_pb2.ListMessageRecordsRequest, tenant_id: str, below: int) -> Search:
    lowest = 0
    if request.HasField("start_time"):
        lowest = messageids.first_at(_time(request.start_time, "start_time"))
    if request.HasField("end_time"):
        below = min(below, messageids.first_at(_time(request.end_time, "end_time")))
    domain = request.recipient_domain and addresses.domain_name(request.recipient_domain, "recipient_domain", labels=1)
    if request.state and request.state not in _STATES:
        raise fields.invalid("state", f"state {request.state} is not known")
    return Search(
        tenant_id=tenant_id,
        below=below,
        lowest=lowest,
        descendants=request.include_descendants,
        id=_id(request.message_id) if request.message_id else None,
        recipient_key=recipient_key(request.recipient) if request.recipient else None,
        recipient_domain=domain or None,
        sender=_storable(request.sender) or None,
        state=_STATES.get(request.state),
        stream=_storable(request.stream) or None,
    )


def _id(text: str) -> int:
    id_ = messageids.parse(text)
    if id_ is None:
        raise fields.invalid("message_id", f'message_id must be {_SPELLINGS}; it is "{text[:100]}"')
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
    last = events[-1] if events else None
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
    )


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
    )
    if event.kind is EventKind.RECEIVED:
        proto.sender, proto.recipient, proto.subject = record.sender, record.recipient, record.subject
        proto.size_bytes, proto.source, proto.stream = record.size_bytes, record.source, record.stream
    return proto
