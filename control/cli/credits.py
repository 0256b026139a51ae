"""`barua credits`: grant, transfer, add, show, statement, expiry, audit, holders, write-off.

One credit is one accepted recipient. Times on the command line are UTC.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import credit_service_pb2 as pb

from control.cli.output import CliError, as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="credits", help="Credits: one is one accepted recipient.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
AmountArgument = Annotated[int, typer.Argument(min=1, help="How many.")]
NoteOption = Annotated[str, typer.Option(help="Why, for the statement.")]
AUDIT_SECONDS = 600.0
"""Deadline of an audit, which reads every entry."""
_FORMATS = ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"]
_FIGURES = (
    "opening", "granted", "transferred_in", "transferred_out", "consumed", "refunded", "expired", "written_off",
    "closing",
)  # fmt: skip


class Kind(StrEnum):
    """Kinds of entries, as on the command line."""

    GRANT = "grant"
    TRANSFER = "transfer"
    LEASE = "lease"
    USAGE = "usage"
    RELEASE = "release"
    EXPIRE = "expire"
    REFUND = "refund"
    WRITE_OFF = "write-off"


class Fate(StrEnum):
    """What becomes of the credits of a lost spool, as on the command line."""

    RETURN = "return"
    CONSUME = "consume"


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    amount: AmountArgument,
    source: Annotated[str, typer.Option("--from", help="Tenant above or below that gives them; empty: new ones.")] = "",
    note: NoteOption = "",
) -> None:
    """Issue credits to a tenant, or move them from another."""
    async with session.control() as control:
        if source:
            move = pb.TransferCreditsRequest(
                source=tenant_name(source), destination=tenant_name(tenant), amount=amount, note=note
            )
            balance = (await control.credits.TransferCredits(move)).destination
        else:
            grant_ = pb.GrantCreditsRequest(tenant=tenant_name(tenant), amount=amount, note=note)
            balance = await control.credits.GrantCredits(grant_)
    _print_balance(session, balance)


@verb(app, "grant")
async def grant(
    session: Session,
    tenant: TenantArgument,
    amount: AmountArgument,
    expires: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="When what is unspent expires.", show_default=False)
    ] = None,
    note: NoteOption = "",
) -> None:
    """Issue new credits to a tenant."""
    request = pb.GrantCreditsRequest(tenant=tenant_name(tenant), amount=amount, note=note, expire_time=_time(expires))
    async with session.control() as control:
        balance = await control.credits.GrantCredits(request)
    _print_balance(session, balance)


@verb(app, "transfer")
async def transfer(
    session: Session,
    source: Annotated[str, typer.Argument(help="Tenant that gives.")],
    destination: Annotated[str, typer.Argument(help="Tenant that gets, above or below it.")],
    amount: AmountArgument,
    note: NoteOption = "",
) -> None:
    """Move credits between a tenant and one below it, either way."""
    request = pb.TransferCreditsRequest(
        source=tenant_name(source), destination=tenant_name(destination), amount=amount, note=note
    )
    async with session.control() as control:
        answer = await control.credits.TransferCredits(request)
    if session.json:
        print_json(as_data(answer))
        return
    for balance in (answer.source, answer.destination):
        _print_balance(session, balance)


@verb(app, "show")
async def show(
    session: Session,
    tenant: TenantArgument,
    entries: Annotated[int, typer.Option(min=0, help="So many of the last postings too.")] = 0,
) -> None:
    """Show a tenant's balance."""
    async with session.control() as control:
        balance = await control.credits.GetBalance(pb.GetBalanceRequest(tenant=tenant_name(tenant)))
        ledger = pb.ListLedgerEntriesRequest(tenant=tenant_name(tenant))
        posted = [entry async for entry in control.pages(control.credits.ListLedgerEntries, ledger, limit=entries)]
    if session.json:
        print_json(as_data(balance) | ({"entries": [as_data(entry) for entry in posted]} if entries else {}))
        return
    fields = {name: getattr(balance, name) for name in ("balance", "available", "reserved", "consumed")}
    print_fields({"tenant": last(balance.tenant), **fields})
    if entries:
        _print_entries(posted)


@verb(app, "expiry")
async def expiry(session: Session, tenant: TenantArgument) -> None:
    """List when a tenant's credits expire."""
    async with session.control() as control:
        balance = await control.credits.GetBalance(pb.GetBalanceRequest(tenant=tenant_name(tenant)))
    if session.json:
        print_json([as_data(lot) for lot in balance.expiring])
    else:
        print_table(["expires", "credits"], [(moment(lot.expire_time), lot.amount) for lot in balance.expiring])


@verb(app, "statement")
async def statement(
    session: Session,
    tenant: TenantArgument,
    since: Annotated[
        datetime | None, typer.Option("--from", formats=_FORMATS, help="From the beginning.", show_default=False)
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=_FORMATS, help="Up to now.", show_default=False)
    ] = None,
    entries: Annotated[int, typer.Option(min=0, help="So many of the period's last postings too.")] = 0,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only postings of this kind; may be repeated.")] = None,
) -> None:
    """Sum up what moved on a tenant's account in a period."""
    start, end = _time(since), _time(until)
    async with session.control() as control:
        summed = await control.credits.GetStatement(
            pb.GetStatementRequest(tenant=tenant_name(tenant), start_time=start, end_time=end)
        )
        request = pb.ListLedgerEntriesRequest(
            tenant=tenant_name(tenant),
            start_time=start,
            end_time=end,
            kinds=[pb.LedgerEntry.Kind.Value(f"KIND_{one.name}") for one in kind or ()],
        )
        posted = [entry async for entry in control.pages(control.credits.ListLedgerEntries, request, limit=entries)]
    if session.json:
        print_json(as_data(summed) | ({"entries": [as_data(entry) for entry in posted]} if entries else {}))
        return
    period = {"from": moment(summed.start_time) or "the beginning", "to": moment(summed.end_time)}
    print_fields({"tenant": last(summed.tenant), **period} | {name: getattr(summed, name) for name in _FIGURES})
    if entries:
        _print_entries(posted)


@verb(app, "audit")
async def audit(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="It and all below it are audited.")] = "operator",
) -> None:
    """Prove from the raw entries that all balances are right. Exit status 1 if one is not."""
    async with session.control() as control:
        answer = await control.credits.AuditCredits(
            pb.AuditCreditsRequest(tenant=tenant_name(tenant)), timeout=AUDIT_SECONDS
        )
    if session.json:
        print_json(as_data(answer))
    else:
        names = ("tenant_count", "entry_count", *_FIGURES[1:-1], "available", "reserved")
        print_fields({name: getattr(answer, name) for name in names})
        rows = [(last(wrong.tenant), wrong.subject, wrong.expected, wrong.found) for wrong in answer.discrepancies]
        if rows:
            print_table(["tenant", "figure", "should be", "is"], rows)
    if answer.discrepancies:
        raise CliError(f"the ledger has {len(answer.discrepancies)} discrepancies")


@verb(app, "holders")
async def holders(session: Session) -> None:
    """List the spools that have credits on lease, or were written off."""
    async with session.control() as control:
        found = [holder async for holder in control.pages(control.credits.ListHolders, pb.ListHoldersRequest())]
    if session.json:
        print_json([as_data(holder) for holder in found])
        return
    print_table(
        ["holder", "node", "run", "leases", "reserved", "last lease", "written off"],
        [
            (
                holder.holder,
                holder.node,
                holder.epoch,
                holder.lease_count,
                holder.reserved,
                moment(holder.last_lease_time),
                moment(holder.write_off_time),
            )
            for holder in found
        ],
    )


@verb(app, "write-off")
async def write_off(
    session: Session,
    holder: Annotated[str, typer.Argument(help="UUID of the spool; see `barua credits holders`.")],
    fate: Annotated[Fate, typer.Option("--credits", help="Give them back to the tenants, or count them as spent.")],
    note: Annotated[str, typer.Option(help="Why, for the tenants' statements.")],
) -> None:
    """Close the leases of a spool that is lost for good. It cannot be undone."""
    request = pb.WriteOffHolderRequest(
        holder=holder,
        disposition=pb.WriteOffHolderRequest.Disposition.Value(f"DISPOSITION_{fate.name}"),
        note=note,
    )
    async with session.control() as control:
        answer = await control.credits.WriteOffHolder(request)
    if session.json:
        print_json(as_data(answer))
    else:
        print_line(f"closed {answer.lease_count} leases with {answer.amount} credits")


def _time(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    proto = Timestamp()
    proto.FromDatetime(value.replace(tzinfo=UTC))
    return proto


def _print_balance(session: Session, balance: pb.Balance) -> None:
    if session.json:
        print_json(as_data(balance))
    else:
        print_line(f"{last(balance.tenant)} has {balance.balance} credits")


def _print_entries(posted: list[pb.LedgerEntry]) -> None:
    rows = [
        (
            moment(entry.create_time),
            pb.LedgerEntry.Kind.Name(entry.kind).removeprefix("KIND_").lower().replace("_", "-"),
            entry.account,
            entry.amount,
            entry.balance,
            last(entry.counterparty),
            entry.note,
            entry.actor.removeprefix("tenants/"),
        )
        for entry in posted
    ]
    print_table(["when", "kind", "account", "amount", "balance", "other", "note", "by"], rows)
