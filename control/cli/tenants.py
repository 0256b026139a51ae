"""`barua tenant`: create, list."""

import uuid
from typing import Annotated

import typer

from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from control.cli.output import as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="tenant", help="Tenants: resellers and accounts.", no_args_is_help=True)


@verb(app, "create")
async def create(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="Id of the new tenant: a-z, 0-9 and -.")],
    parent: Annotated[str, typer.Option(help="Tenant above it.")] = "operator",
    display_name: Annotated[str, typer.Option(help="Name for people.")] = "",
    default_sender: Annotated[str, typer.Option(help="From address for messages without one.")] = "",
    credits_from_parent: Annotated[int, typer.Option("--credits", min=0, help="Credits moved from the parent.")] = 0,
) -> None:
    """Make a tenant."""
    request = tenant_service_pb2.CreateTenantRequest(
        parent=tenant_name(parent),
        tenant_id=tenant,
        tenant=tenant_pb2.Tenant(display_name=display_name, default_sender=default_sender),
        initial_credits=credits_from_parent,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        made = await operator.call(TenantServiceStub(operator.channel).CreateTenant, request)
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"made {made.name} below {made.parent}")


@verb(app, "list")
async def list_(
    session: Session,
    parent: Annotated[str, typer.Option(help="Tenant whose children are listed.")] = "operator",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Those below them too.")] = False,
) -> None:
    """List the tenants below one."""
    found: list[tenant_pb2.Tenant] = []
    waiting = [tenant_name(parent)]
    async with session.control() as operator:
        stub = TenantServiceStub(operator.channel)
        while waiting:
            request = tenant_service_pb2.ListTenantsRequest(parent=waiting.pop(0))
            page = [tenant async for tenant in operator.pages(stub.ListTenants, request, "tenants")]
            found += page
            waiting += [tenant.name for tenant in page] if recursive else []
    if session.json:
        print_json([as_data(tenant) for tenant in found])
        return
    print_table(
        ["tenant", "below", "name", "state", "default sender", "made"],
        [
            (
                last(tenant.name),
                last(tenant.parent),
                tenant.display_name,
                tenant_pb2.Tenant.State.Name(tenant.state).removeprefix("STATE_").lower(),
                tenant.default_sender,
                moment(tenant.create_time),
            )
            for tenant in found
        ],
    )
