"""`barua validate`: addresses, upload, list, show, results, cancel, remove. Whether mail to addresses would arrive."""

import csv
import sys
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from barua.control.v1 import list_validation_pb2
from barua.control.v1 import list_validation_service_pb2 as pb
from barua.control.v1.list_validation_pb2 import AddressValidation, ListValidation

from control.cli.output import CliError, as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="validate", help="Whether mail to addresses would arrive.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id: who wants to send.")]
ListArgument = Annotated[str, typer.Argument(help="Id of the list.")]
StreamOption = Annotated[str, typer.Option(help="The stream of the mail; none: mail without one.")]
PIECE = 10_000


class VerdictChoice(StrEnum):
    """Verdicts, as on the command line."""

    DELIVERABLE = "deliverable"
    RISKY = "risky"
    UNDELIVERABLE = "undeliverable"
    UNKNOWN = "unknown"


@verb(app, "addresses")
async def addresses(
    session: Session,
    tenant: TenantArgument,
    given: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="The addresses.")],
    stream: StreamOption = "",
) -> None:
    """Validate a few addresses at once."""
    request = pb.ValidateAddressesRequest(parent=tenant_name(tenant), addresses=given, stream=stream)
    async with session.control() as client:
        answer = await client.list_validation.ValidateAddresses(request, timeout=60.0)
    _print_results(session, list(answer.results))


@verb(app, "upload")
async def upload(
    session: Session,
    tenant: TenantArgument,
    file: Annotated[Path, typer.Argument(help='One address per line, or CSV whose first column it is; "-": stdin.')],
    title: Annotated[str, typer.Option(help="For people.")] = "",
    stream: StreamOption = "",
) -> None:
    """Have a list validated; `show` tells how far it is."""
    first = pb.UploadListValidationRequest(
        parent=tenant_name(tenant), list_validation=ListValidation(display_name=title, stream=stream)
    )
    try:
        with sys.stdin if str(file) == "-" else file.open(encoding="utf-8-sig", newline="") as source:
            async with session.control() as client:
                made = await client.list_validation.UploadListValidation(_pieces(first, _column(source)))
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from error
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"list {last(made.name)} with {made.address_count} addresses")


@verb(app, "list")
async def list_(
    session: Session,
    tenant: TenantArgument,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 100,
) -> None:
    """List a tenant's lists, the newest first."""
    async with session.control() as client:
        request = pb.ListListValidationsRequest(parent=tenant_name(tenant))
        pages = client.pages(client.list_validation.ListListValidations, request, "list_validations", limit)
        found = [item async for item in pages]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            last(item.name),
            item.display_name,
            _state(item),
            item.address_count,
            item.checked_count,
            item.undeliverable_count,
            moment(item.create_time),
        )
        for item in found
    ]
    print_table(["list", "title", "state", "addresses", "checked", "undeliverable", "made"], rows)


@verb(app, "show")
async def show(session: Session, tenant: TenantArgument, list_id: ListArgument) -> None:
    """Show how far a list is, and its counts."""
    async with session.control() as client:
        request = pb.GetListValidationRequest(name=_name(tenant, list_id))
        _print_list(session, await client.list_validation.GetListValidation(request))


@verb(app, "results")
async def results(
    session: Session,
    tenant: TenantArgument,
    list_id: ListArgument,
    verdict: Annotated[VerdictChoice | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many at most; all if not given.")] = None,
) -> None:
    """Print the results of a list, in its order."""
    request = pb.ListAddressValidationsRequest(parent=_name(tenant, list_id))
    if verdict is not None:
        request.verdict = list_validation_pb2.Verdict.Value(f"VERDICT_{verdict.name}")
    async with session.control() as client:
        pages = client.pages(client.list_validation.ListAddressValidations, request, "address_validations", limit)
        _print_results(session, [item async for item in pages])


@verb(app, "cancel")
async def cancel(session: Session, tenant: TenantArgument, list_id: ListArgument) -> None:
    """Stop the validation of a list."""
    async with session.control() as client:
        request = pb.CancelListValidationRequest(name=_name(tenant, list_id))
        _print_list(session, await client.list_validation.CancelListValidation(request))


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, list_id: ListArgument) -> None:
    """Remove a list and its results."""
    async with session.control() as client:
        await client.list_validation.DeleteListValidation(pb.DeleteListValidationRequest(name=_name(tenant, list_id)))
    if session.json:
        print_json({"done": f"removed {list_id}"})
    else:
        print_line(f"removed {list_id}")


def _name(tenant: str, list_id: str) -> str:
    return f"{tenant_name(tenant)}/listValidations/{list_id}"


def _state(found: ListValidation) -> str:
    return ListValidation.State.Name(found.state).removeprefix("STATE_").lower()


def _print_list(session: Session, found: ListValidation) -> None:
    if session.json:
        print_json(as_data(found))
        return
    print_fields(
        {
            "list": last(found.name),
            "title": found.display_name,
            "state": _state(found),
            "addresses": found.address_count,
            "checked": found.checked_count,
            "deliverable": found.deliverable_count,
            "risky": found.risky_count,
            "undeliverable": found.undeliverable_count,
            "unknown": found.unknown_count,
            "made": moment(found.create_time),
            "finished": moment(found.finish_time),
        }
    )


def _print_results(session: Session, found: list[AddressValidation]) -> None:
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            item.address,
            list_validation_pb2.Verdict.Name(item.verdict).removeprefix("VERDICT_").lower(),
            item.explanation,
        )
        for item in found
    ]
    print_table(["address", "verdict", "why"], rows)


def _column(source: TextIO) -> Iterator[str]:
    """The first cell of each line; a header is passed over."""
    for number, row in enumerate(csv.reader(source)):
        if row and row[0].strip() and (number or "@" in row[0]):
            yield row[0].strip()


async def _pieces(
    first: pb.UploadListValidationRequest, given: Iterator[str]
) -> AsyncIterator[pb.UploadListValidationRequest]:
    yield first
    piece: list[str] = []
    for address in given:
        piece.append(address)
        if len(piece) == PIECE:
            yield pb.UploadListValidationRequest(addresses=piece)
            piece = []
    if piece:
        yield pb.UploadListValidationRequest(addresses=piece)
