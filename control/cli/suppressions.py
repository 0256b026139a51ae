"""`barua suppression`: add, remove, list. Addresses that get no mail from a tenant and those below it."""

import uuid
from enum import StrEnum
from typing import Annotated

import typer

from barua.control.v1 import suppression_service_pb2 as proto
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub

from control.cli.output import as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="suppression", help="Addresses that get no mail.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help='Tenant id; "operator" for the whole platform.')]
AddressArgument = Annotated[str, typer.Argument(help="The address.")]


class Reason(StrEnum):
    """Why, as on the command line."""

    MANUAL = "manual"
    UNSUBSCRIBE = "unsubscribe"
    HARD_BOUNCE = "hard-bounce"
    COMPLAINT = "complaint"


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    address: AddressArgument,
    reason: Annotated[Reason, typer.Option(help="Why.")] = Reason.MANUAL,
    note: Annotated[str, typer.Option(help="Evidence or remark.")] = "",
) -> None:
    """Suppress an address."""
    kind = proto.Suppression.Reason.Value("REASON_" + reason.name)
    request = proto.CreateSuppressionRequest(
        parent=tenant_name(tenant),
        address=address,
        suppression=proto.Suppression(reason=kind, note=note),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        made = await operator.call(SuppressionServiceStub(operator.channel).CreateSuppression, request)
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"suppressed {last(made.name)}")


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, address: AddressArgument) -> None:
    """Take a suppression back."""
    request = proto.DeleteSuppressionRequest(
        name=f"{tenant_name(tenant)}/suppressions/{address}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(SuppressionServiceStub(operator.channel).DeleteSuppression, request)
    if session.json:
        print_json({"done": f"removed {address}"})
    else:
        print_line(f"removed {address}")


@verb(app, "list")
async def list_(
    session: Session,
    tenant: TenantArgument,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 1000,
) -> None:
    """List a tenant's own suppressions."""
    async with session.control() as operator:
        stub = SuppressionServiceStub(operator.channel)
        request = proto.ListSuppressionsRequest(parent=tenant_name(tenant))
        found = [item async for item in operator.pages(stub.ListSuppressions, request, "suppressions", limit=limit)]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            last(item.name),
            proto.Suppression.Reason.Name(item.reason).removeprefix("REASON_").lower().replace("_", "-"),
            item.note,
            moment(item.create_time),
        )
        for item in found
    ]
    print_table(["address", "reason", "note", "made"], rows)
