"""`barua credits`: add, show. One credit is one accepted recipient."""

import uuid
from typing import Annotated

import typer

from barua.control.v1 import credit_service_pb2
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub

from control.cli.output import as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="credits", help="Credits: one is one accepted recipient.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    amount: Annotated[int, typer.Argument(min=1, help="How many.")],
    source: Annotated[str, typer.Option("--from", help="Tenant above or below that gives them; empty: new ones.")] = "",
    note: Annotated[str, typer.Option(help="Why, for the statement.")] = "",
) -> None:
    """Issue credits to a tenant, or move them from another."""
    request_id = str(uuid.uuid4())
    async with session.control() as operator:
        stub = CreditServiceStub(operator.channel)
        if source:
            move = credit_service_pb2.TransferCreditsRequest(
                source=tenant_name(source),
                destination=tenant_name(tenant),
                amount=amount,
                note=note,
                request_id=request_id,
            )
            balance = (await operator.call(stub.TransferCredits, move)).destination
        else:
            grant = credit_service_pb2.GrantCreditsRequest(
                tenant=tenant_name(tenant), amount=amount, note=note, request_id=request_id
            )
            balance = await operator.call(stub.GrantCredits, grant)
    if session.json:
        print_json(as_data(balance))
    else:
        print_line(f"{last(balance.tenant)} has {balance.balance} credits")


@verb(app, "show")
async def show(
    session: Session,
    tenant: TenantArgument,
    entries: Annotated[int, typer.Option(min=0, help="So many of the last postings too.")] = 0,
) -> None:
    """Show a tenant's balance."""
    async with session.control() as operator:
        stub = CreditServiceStub(operator.channel)
        wanted = credit_service_pb2.GetBalanceRequest(tenant=tenant_name(tenant))
        balance = await operator.call(stub.GetBalance, wanted)
        ledger = credit_service_pb2.ListLedgerEntriesRequest(tenant=tenant_name(tenant))
        posted = [entry async for entry in operator.pages(stub.ListLedgerEntries, ledger, "entries", limit=entries)]
    if session.json:
        print_json(as_data(balance) | ({"entries": [as_data(entry) for entry in posted]} if entries else {}))
        return
    fields = {name: getattr(balance, name) for name in ("balance", "available", "reserved", "consumed")}
    print_fields({"tenant": last(balance.tenant), **fields})
    if entries:
        kinds = credit_service_pb2.LedgerEntry.Kind
        rows = [
            (
                moment(entry.create_time),
                kinds.Name(entry.kind).removeprefix("KIND_").lower(),
                entry.account,
                entry.amount,
                entry.note,
            )
            for entry in posted
        ]
        print_table(["when", "kind", "account", "amount", "note"], rows)
