"""`barua message`: list (or search), show, watch. What happened to messages, as far as nodes have told control."""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import event_service_pb2, history_service_pb2
from barua.control.v1.event_service_pb2_grpc import EventServiceStub
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.journal.v1 import event_pb2

from control.cli.output import as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb
from mta.runtime.refusals import Reason, Refusal

app = typer.Typer(name="message", help="What happened to messages.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]


class State(StrEnum):
    """Where a message stands, as on the command line."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    DROPPED = "dropped"


class Kind(StrEnum):
    """What happens to a message, as on the command line."""

    RECEIVED = "received"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    DROPPED = "dropped"
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    COMPLAINED = "complained"


@verb(app, "show")
async def show(
    session: Session,
    tenant: TenantArgument,
    number: Annotated[str, typer.Argument(help="Id in any spelling: number, msg_number, Message-ID, UUID.")],
) -> None:
    """Show one recipient of one message, with everything that happened to it and when."""
    request = history_service_pb2.GetMessageTimelineRequest(name=f"{tenant_name(tenant)}/messages/{number}")
    async with session.control() as operator:
        timeline = await operator.call(HistoryServiceStub(operator.channel).GetMessageTimeline, request)
    if session.json:
        print_json(as_data(timeline))
        return
    record = timeline.record
    print_fields(
        {
            "id": last(record.name),
            "message": record.message_id,
            "from": record.sender or "<>",
            "to": record.recipient,
            "subject": record.subject,
            "size": f"{record.size_bytes} bytes",
            "stream": record.stream or "-",
            "tags": ", ".join(record.tags) or "-",
            "state": _state(record),
            "attempts": timeline.attempt_count,
            "next attempt": moment(timeline.next_attempt_time) or "-",
            "took": _span(timeline.duration),
            "last reply": record.last_reply,
            "opened": _times(record.open_count, record.first_open_time),
            "clicked": _times(record.click_count, record.first_click_time),
        }
    )
    print_table(["when", "after", "what", "by", "host", "reply"], [_row(entry) for entry in timeline.entries])


@verb(app, "list")
@verb(app, "search")
async def list_(
    session: Session,
    tenant: TenantArgument,
    recipient: Annotated[str, typer.Option("--to", help="Only this recipient.")] = "",
    domain: Annotated[str, typer.Option("--domain", help="Only recipients in this domain.")] = "",
    sender: Annotated[str, typer.Option("--from", help="Only this envelope sender.")] = "",
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    stream: Annotated[str, typer.Option(help="Only this stream.")] = "",
    tag: Annotated[str, typer.Option(help="Only with this tag.")] = "",
    id_: Annotated[str, typer.Option("--id", help="Only this message, by its id in any spelling.")] = "",
    since: Annotated[datetime | None, typer.Option(help="Accepted at or after (UTC).", formats=TIME_FORMATS)] = None,
    until: Annotated[datetime | None, typer.Option(help="Accepted before (UTC).", formats=TIME_FORMATS)] = None,
    below: Annotated[bool, typer.Option("--below", help="Those of the tenants below, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 50,
) -> None:
    """List a tenant's messages that meet all the conditions, newest first."""
    request = history_service_pb2.ListMessageRecordsRequest(
        parent=tenant_name(tenant),
        recipient=recipient,
        recipient_domain=domain,
        sender=sender,
        stream=stream,
        message_id=id_,
        start_time=_stamp(since),
        end_time=_stamp(until),
        include_descendants=below,
        filter=history_service_pb2.MessageRecordFilter(tag=tag),
    )
    if state is not None:
        request.state = history_service_pb2.MessageRecord.State.Value("STATE_" + state.name)
    async with session.control() as operator:
        stub = HistoryServiceStub(operator.channel)
        pages = operator.pages(stub.ListMessageRecords, request, "message_records", limit=limit)
        found = [record async for record in pages]
    if session.json:
        print_json([as_data(record) for record in found])
        return
    rows = [
        (last(record.name), moment(record.receive_time), record.recipient, _state(record), record.subject)
        for record in found
    ]
    print_table(["id", "accepted", "to", "state", "subject"], rows)


@verb(app, "watch")
async def watch(
    session: Session,
    tenant: TenantArgument,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only events of this kind; may be repeated.")] = None,
    resume: Annotated[str, typer.Option(help="Token after which to go on.")] = "",
) -> None:
    """Print what happens to messages of a tenant and those below it, as it happens, until interrupted."""
    request = event_service_pb2.WatchEventsRequest(
        parent=tenant_name(tenant),
        kinds=[event_pb2.Event.Kind.Value("KIND_" + wanted.name) for wanted in kind or []],
        resume_token=resume,
    )
    async with session.control() as operator:
        while True:
            try:
                async for answer in operator.stream(EventServiceStub(operator.channel).WatchEvents, request):
                    for item in answer.events:
                        _print_event(session, item, answer.resume_token)
                    request.resume_token = answer.resume_token
            except Refusal as refusal:
                # A stream ends from time to time; whoever has a token can go on.
                if refusal.reason is not Reason.UNAVAILABLE or not request.resume_token:
                    raise
                await asyncio.sleep(refusal.retry_after or 1.0)


def _print_event(session: Session, item: event_service_pb2.WatchedEvent, token: str) -> None:
    if session.json:
        print_json(as_data(item) | {"resume_token": token})
        return
    event = item.event
    kind = event_pb2.Event.Kind.Name(event.kind).removeprefix("KIND_").lower()
    print_line("  ".join([moment(event.time), f"{kind:<9}", event.recipient, last(item.message_record), _reply(event)]))


def _row(entry: history_service_pb2.TimelineEntry) -> tuple[str, ...]:
    event = entry.event
    return (
        moment(event.time),
        _span(entry.since_received),
        event_pb2.Event.Kind.Name(event.kind).removeprefix("KIND_").lower(),
        event.provider or event.egress_source or event.source,
        event.remote_host or event.ip_address,
        _reply(event) or event.url or event.user_agent,
    )


def _reply(event: event_pb2.Event) -> str:
    return " ".join(part for part in (str(event.code or ""), event.enhanced_code, event.text) if part)


def _stamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time.replace(tzinfo=UTC))
    return stamp


def _times(count: int, first: Timestamp) -> str:
    return f"{count} times, first {moment(first)}" if count else "-"


def _span(duration: Duration) -> str:
    return f"{duration.ToMilliseconds() / 1000:.3f} s"


def _state(record: history_service_pb2.MessageRecord) -> str:
    return history_service_pb2.MessageRecord.State.Name(record.state).removeprefix("STATE_").lower()
