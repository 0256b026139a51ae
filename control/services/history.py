"""HistoryService: what happened to messages."""

from collections.abc import Sequence
from typing import Any

import grpc

from barua.control.v1 import history_service_pb2
from barua.control.v1.history_service_pb2 import MessageRecord as RecordProto
from barua.control.v1.history_service_pb2_grpc import HistoryServiceServicer
from barua.journal.v1 import event_pb2

from control.authentication import caller
from control.database import Connection, Database
from control.model import addresses, names
from control.services.listing import page_of
from control.services.timestamps import to_proto
from control.store import history, tenants
from control.store.history import MessageRecord, RecordedEvent
from control.store.journal import EventKind
from mta.runtime.refusals import Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

_NEWEST = 2**63 - 1


class HistoryServicer(HistoryServiceServicer):
    """See the proto."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetMessageRecord(
        self, request: history_service_pb2.GetMessageRecordRequest, context: _Context
    ) -> RecordProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "messages", me)
        if not (name.id.isascii() and name.id.isdecimal() and int(name.id[:20]) <= _NEWEST):
            raise tenants.not_found("message", name.id)

        async def read(connection: Connection) -> tuple[MessageRecord, Sequence[RecordedEvent]]:
            await tenants.visible(connection, me, name.tenant_id)
            return await history.get(connection, name.tenant_id, int(name.id))

        record, events = await self._database.transact(read)
        return _record(record, [_event(event, record) for event in events])

    async def ListMessageRecords(
        self, request: history_service_pb2.ListMessageRecordsRequest, context: _Context
    ) -> history_service_pb2.ListMessageRecordsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, _NEWEST, tenant_id, request.recipient)
        recipient = _canonical(request.recipient)

        async def read(connection: Connection) -> list[MessageRecord]:
            await tenants.visible(connection, me, tenant_id)
            if recipient:
                return await history.page_of_recipient(connection, tenant_id, recipient, page.after, page.limit)
            return await history.page(connection, tenant_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda record: record.recipient_id)
        return history_service_pb2.ListMessageRecordsResponse(
            message_records=[_record(record, []) for record in found], next_page_token=token
        )


def _canonical(recipient: str) -> str:
    """The recipient to look for; what is no address finds nothing, which is an answer and no error."""
    if not recipient:
        return ""
    try:
        return addresses.canonical_address(recipient, "recipient")
    except Refusal:
        return recipient.replace("\0", "")


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
    )
    if event.kind is EventKind.RECEIVED:
        proto.sender, proto.recipient, proto.subject = record.sender, record.recipient, record.subject
        proto.size_bytes, proto.source = record.size_bytes, record.source
    return proto
