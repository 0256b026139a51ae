"""`barua message`: show, list. What happened to messages, as far as nodes have told control."""

from typing import Annotated

import typer

from barua.control.v1 import history_service_pb2
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.journal.v1 import event_pb2

from control.cli.output import as_data, last, moment, print_fields, print_json, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="message", help="What happened to messages.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]


@verb(app, "show")
async def show(
    session: Session,
    tenant: TenantArgument,
    number: Annotated[str, typer.Argument(help="Recipient id, with or without msg_ before it.")],
) -> None:
    """Show one recipient of one message, with everything that happened to it."""
    request = history_service_pb2.GetMessageRecordRequest(
        name=f"{tenant_name(tenant)}/messages/{number.removeprefix('msg_')}"
    )
    async with session.control() as operator:
        record = await operator.call(HistoryServiceStub(operator.channel).GetMessageRecord, request)
    if session.json:
        print_json(as_data(record))
        return
    print_fields(
        {
            "id": last(record.name),
            "message": record.message_id,
            "from": record.sender or "<>",
            "to": record.recipient,
            "subject": record.subject,
            "size": f"{record.size_bytes} bytes",
            "state": _state(record),
            "last reply": record.last_reply,
        }
    )
    kinds = event_pb2.Event.Kind
    rows = [
        (
            moment(event.time),
            kinds.Name(event.kind).removeprefix("KIND_").lower(),
            event.remote_host,
            " ".join(part for part in (str(event.code or ""), event.enhanced_code, event.text) if part),
        )
        for event in record.events
    ]
    print_table(["when", "what", "host", "reply"], rows)


@verb(app, "list")
async def list_(
    session: Session,
    tenant: TenantArgument,
    recipient: Annotated[str, typer.Option("--to", help="Only this recipient.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 50,
) -> None:
    """List a tenant's messages, newest first."""
    request = history_service_pb2.ListMessageRecordsRequest(parent=tenant_name(tenant), recipient=recipient)
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


def _state(record: history_service_pb2.MessageRecord) -> str:
    return history_service_pb2.MessageRecord.State.Name(record.state).removeprefix("STATE_").lower()
