"""`barua queue`: list, show. What waits on a node."""

from typing import Annotated

import typer

from barua.mta.v1 import queue_service_pb2
from barua.mta.v1.queue_service_pb2_grpc import QueueServiceStub

from control.cli.output import as_data, moment, print_json, print_table
from control.cli.session import Session, verb

app = typer.Typer(name="queue", help="What waits on a node.", no_args_is_help=True)


@verb(app, "list")
async def list_(
    session: Session, limit: Annotated[int, typer.Option(min=1, max=1000, help="So many domains at most.")] = 50
) -> None:
    """Count queued recipients per destination domain, most first."""
    async with session.mta() as node:
        stub = QueueServiceStub(node.channel)
        answer = await node.call(stub.ListQueues, queue_service_pb2.ListQueuesRequest(page_size=limit))
    if session.json:
        print_json([as_data(queue) for queue in answer.queues])
        return
    rows = [
        (queue.domain, queue.recipient_count, moment(queue.oldest_receive_time), moment(queue.next_attempt_time))
        for queue in answer.queues
    ]
    print_table(["domain", "recipients", "oldest", "next attempt"], rows)


@verb(app, "show")
async def show(
    session: Session,
    domain: Annotated[str, typer.Argument(help="Only this destination domain.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    number: Annotated[int, typer.Option("--id", help="Only this message or recipient id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 100,
) -> None:
    """List queued recipients with the reason why each waits."""
    request = queue_service_pb2.ListQueuedRecipientsRequest(
        domain=domain, tenant_id=tenant.removeprefix("tenants/"), id=number
    )
    async with session.mta() as node:
        stub = QueueServiceStub(node.channel)
        pages = node.pages(stub.ListQueuedRecipients, request, "queued_recipients", limit=limit)
        found = [item async for item in pages]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            item.recipient_id,
            item.tenant_id,
            item.sender or "<>",
            item.recipient,
            item.attempt_count,
            moment(item.next_attempt_time),
            item.reason,
        )
        for item in found
    ]
    print_table(["id", "tenant", "sender", "recipient", "attempts", "next attempt", "reason"], rows)
