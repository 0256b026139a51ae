"""`barua suppression`: add, remove, show, list, check, import, export, policy.

Addresses that get no mail from a tenant and those below it. Lists come and go as CSV with a header line: ``address``
and, as far as they are known, ``stream``, ``reason``, ``note``, ``evidence``, ``expire_time`` and ``create_time``. A
file without a header has one address per line.
"""

import asyncio
import csv
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import suppression_pb2
from barua.control.v1 import suppression_service_pb2 as proto
from barua.control.v1.suppression_pb2 import Suppression

from control.cli.output import CliError, as_data, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb
from mta.runtime.refusals import Refusal

app = typer.Typer(name="suppression", help="Addresses that get no mail.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help='Tenant id; "operator" for the whole platform.')]
AddressArgument = Annotated[str, typer.Argument(help="The address.")]
StreamOption = Annotated[str, typer.Option(help="The stream it is about; none: all of them.")]
DaysOption = Annotated[float, typer.Option(min=0, help="Days after which it ends by itself; 0: never.")]

COLUMNS = ("address", "stream", "reason", "note", "evidence", "expire_time", "create_time")
PIECE = 5000
"""Lines of one message of an import."""
_TIMES = frozenset({"expire_time", "create_time"})


class Reason(StrEnum):
    """Why, as on the command line."""

    MANUAL = "manual"
    UNSUBSCRIBE = "unsubscribe"
    HARD_BOUNCE = "hard-bounce"
    COMPLAINT = "complaint"
    INVALID = "invalid"
    SOFT_BOUNCE = "soft-bounce"


class SwitchChoice(StrEnum):
    """On, off, or as the tenant above has it."""

    ON = "on"
    OFF = "off"
    INHERIT = "inherit"


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    address: AddressArgument,
    reason: Annotated[Reason, typer.Option(help="Why.")] = Reason.MANUAL,
    note: Annotated[str, typer.Option(help="A remark.")] = "",
    evidence: Annotated[str, typer.Option(help="What proves it.")] = "",
    stream: StreamOption = "",
    days: DaysOption = 0,
) -> None:
    """Suppress an address, or replace what is known of it."""
    entry = Suppression(reason=_reason(reason), note=note, evidence=evidence, stream=stream)
    if days:
        entry.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    request = proto.CreateSuppressionRequest(parent=tenant_name(tenant), address=address, suppression=entry)
    async with session.control() as client:
        made = await client.suppressions.CreateSuppression(request)
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"suppressed {_id(made)}")


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, address: AddressArgument, stream: StreamOption = "") -> None:
    """Take a suppression back."""
    id_ = f"{stream}:{address}" if stream else address
    async with session.control() as client:
        await client.suppressions.DeleteSuppression(
            proto.DeleteSuppressionRequest(name=f"{tenant_name(tenant)}/suppressions/{id_}")
        )
    if session.json:
        print_json({"done": f"removed {id_}"})
    else:
        print_line(f"removed {id_}")


@verb(app, "show")
async def show(session: Session, tenant: TenantArgument, address: AddressArgument, stream: StreamOption = "") -> None:
    """Show all about one suppression."""
    id_ = f"{stream}:{address}" if stream else address
    async with session.control() as client:
        found = await client.suppressions.GetSuppression(
            proto.GetSuppressionRequest(name=f"{tenant_name(tenant)}/suppressions/{id_}")
        )
    if session.json:
        print_json(as_data(found))
        return
    print_fields(
        {
            "address": found.address,
            "stream": found.stream or "all",
            "reason": _word(found.reason),
            "note": found.note,
            "evidence": found.evidence,
            "message": found.source_message_id or "",
            "made": moment(found.create_time),
            "by": found.created_by,
            "changed": moment(found.update_time),
            "ends": moment(found.expire_time) or "never",
        }
    )


@verb(app, "list")
async def list_(
    session: Session,
    tenant: TenantArgument,
    reason: Annotated[list[Reason] | None, typer.Option(help="Only with this reason; may be repeated.")] = None,
    stream: Annotated[str | None, typer.Option(help='Only for this stream; "": only those for all streams.')] = None,
    prefix: Annotated[str, typer.Option(help="Only addresses that begin so.")] = "",
    domain: Annotated[str, typer.Option(help="Only addresses of this domain.")] = "",
    newest: Annotated[bool, typer.Option("--newest", help="The newest first, instead of by address.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 1000,
) -> None:
    """List a tenant's own suppressions."""
    request = proto.ListSuppressionsRequest(
        parent=tenant_name(tenant),
        order_by="create_time desc" if newest else "",
        filter=_filter(reason, stream, prefix, domain),
    )
    async with session.control() as client:
        pages = client.pages(client.suppressions.ListSuppressions, request, "suppressions", limit)
        found = [item async for item in pages]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            item.address,
            item.stream,
            _word(item.reason),
            item.note or item.evidence,
            moment(item.create_time),
            moment(item.expire_time),
        )
        for item in found
    ]
    print_table(["address", "stream", "reason", "note", "made", "ends"], rows)


@verb(app, "check")
async def check(
    session: Session,
    tenant: TenantArgument,
    addresses: Annotated[list[str], typer.Argument(help="The addresses.")],
    stream: Annotated[str, typer.Option(help="The stream of the mail; none: mail without one.")] = "",
) -> None:
    """Tell whether a tenant's mail to addresses is held back now, and by what."""
    request = proto.CheckSuppressionsRequest(parent=tenant_name(tenant), addresses=addresses, stream=stream)
    async with session.control() as client:
        answer = await client.suppressions.CheckSuppressions(request)
    if session.json:
        print_json([as_data(result) for result in answer.results])
        return
    rows: list[tuple[object, ...]] = []
    for result in answer.results:
        if result.invalid_reason:
            rows.append((result.address, "no address", "", "", result.invalid_reason))
        elif not result.suppressed:
            rows.append((result.address, "clear", "", "", ""))
        for match in result.matches:
            entry = match.suppression
            rows.append(
                (result.address, _scope(match.scope), _word(match.reason), match.stream, entry.note or entry.evidence)
            )
    print_table(["address", "scope", "reason", "stream", "note"], rows)


@verb(app, "import")
async def import_(
    session: Session,
    tenant: TenantArgument,
    file: Annotated[Path, typer.Argument(help='CSV with a header, or one address per line; "-": standard input.')],
    reason: Annotated[Reason, typer.Option(help="Why, for lines that do not say.")] = Reason.MANUAL,
    stream: Annotated[str, typer.Option(help="The stream, for lines that do not say; none: all of them.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave what is suppressed already as it is.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
) -> None:
    """Take in a list. What is there already is not written again, so a broken import is simply repeated."""
    first = proto.ImportSuppressionsRequest(parent=tenant_name(tenant), keep_existing=keep, validate_only=dry_run)
    wrong: list[CliError] = []
    with _reading(file) as source:
        async with session.control() as client:
            pieces = _pieces(first, _lines(source, reason, stream), wrong)
            try:
                answer = await client.suppressions.ImportSuppressions(pieces)
            except (asyncio.CancelledError, Refusal):
                if wrong:  # the call ended because the list did
                    raise wrong[0] from None
                raise
    if session.json:
        print_json(as_data(answer))
        return
    if dry_run:
        print_line(f"{answer.line_count} lines: {answer.created_count} can be used, {answer.error_count} cannot")
    else:
        print_line(
            f"{answer.line_count} lines: {answer.created_count} made, {answer.updated_count} replaced,"
            f" {answer.unchanged_count} as before, {answer.error_count} of no use"
        )
    for error in answer.errors:
        print_line(f"line {error.line}: {error.address}: {error.message}")


@verb(app, "export")
async def export(
    session: Session,
    tenant: TenantArgument,
    file: Annotated[Path, typer.Argument(help='File to write; "-": standard output.')] = Path("-"),
    reason: Annotated[list[Reason] | None, typer.Option(help="Only with this reason; may be repeated.")] = None,
    stream: Annotated[str | None, typer.Option(help='Only for this stream; "": only those for all streams.')] = None,
    domain: Annotated[str, typer.Option(help="Only addresses of this domain.")] = "",
) -> None:
    """Write a tenant's own suppressions as CSV; with --json, one JSON object with all of them."""
    request = proto.ExportSuppressionsRequest(parent=tenant_name(tenant), filter=_filter(reason, stream, "", domain))
    async with session.control() as client:
        pages = client.suppressions.ExportSuppressions(request)
        if session.json:
            print_json([as_data(item) async for page in pages for item in page.suppressions])
            return
        with _writing(file) as target:
            writer = csv.writer(target)
            writer.writerow(COLUMNS)
            async for page in pages:
                writer.writerows(_row(item) for item in page.suppressions)


@verb(app, "policy")
async def policy(
    session: Session,
    tenant: TenantArgument,
    hard_bounces: Annotated[SwitchChoice | None, typer.Option(help="Suppress after hard bounces.")] = None,
    soft_bounces: Annotated[SwitchChoice | None, typer.Option(help="Suppress after many soft bounces.")] = None,
    soft_bounce_count: Annotated[int | None, typer.Option(help="So many soft bounces in a row ...")] = None,
    soft_bounce_days: Annotated[int | None, typer.Option(help="... on so many different days.")] = None,
    first_pause_days: Annotated[int | None, typer.Option(help="Days of the first temporary suppression.")] = None,
    pause_count: Annotated[int | None, typer.Option(help="Temporary suppressions before one for good.")] = None,
) -> None:
    """Show what becomes a suppression by itself, after changing what is given."""
    name = f"{tenant_name(tenant)}/suppressionPolicy"
    wanted = suppression_pb2.SuppressionPolicy(
        name=name,
        soft_bounce_count=soft_bounce_count,
        soft_bounce_days=soft_bounce_days,
        first_pause_days=first_pause_days,
        pause_count=pause_count,
    )
    request = proto.UpdateSuppressionPolicyRequest(policy=wanted)
    request.update_mask.paths.extend(field.name for field, _ in wanted.ListFields() if field.name != "name")
    for field, choice in (("hard_bounces", hard_bounces), ("soft_bounces", soft_bounces)):
        if choice is not None:
            setattr(request.policy, field, list(SwitchChoice).index(choice) + 1 if choice != "inherit" else 0)
            request.update_mask.paths.append(field)
    async with session.control() as client:
        if request.update_mask.paths:
            await client.suppressions.UpdateSuppressionPolicy(request)
        answer = await client.suppressions.GetSuppressionPolicy(proto.GetSuppressionPolicyRequest(name=name))
    if session.json:
        print_json(as_data(answer))
        return
    own, holds = answer.policy, answer.effective_policy
    print_table(
        ["setting", "own", "in force"],
        [
            (field.name.replace("_", "-"), _setting(own, field.name), _setting(holds, field.name))
            for field in holds.DESCRIPTOR.fields
            if field.name not in {"name", "etag"}
        ],
    )


def _reason(reason: Reason) -> Suppression.Reason.ValueType:
    return Suppression.Reason.Value("REASON_" + reason.name)


def _word(reason: Suppression.Reason.ValueType) -> str:
    return Suppression.Reason.Name(reason).removeprefix("REASON_").lower().replace("_", "-")


def _scope(scope: suppression_pb2.SuppressionScope.ValueType) -> str:
    return suppression_pb2.SuppressionScope.Name(scope).removeprefix("SUPPRESSION_SCOPE_").lower()


def _setting(policy_: Any, field: str) -> object:
    value = getattr(policy_, field)
    if field.endswith("_bounces"):
        return ["as above", "on", "off"][value]
    return value if policy_.HasField(field) else "as above"


def _id(entry: Suppression) -> str:
    return f"{entry.stream}:{entry.address}" if entry.stream else entry.address


def _filter(reasons: list[Reason] | None, stream: str | None, prefix: str, domain: str) -> proto.SuppressionFilter:
    return proto.SuppressionFilter(
        reasons=[_reason(reason) for reason in reasons or ()], stream=stream, address_prefix=prefix, domain=domain
    )


@contextmanager
def _reading(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    try:
        with file.open(encoding="utf-8-sig", newline="") as source:
            yield source
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from error


@contextmanager
def _writing(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdout
        return
    try:
        with file.open("w", encoding="utf-8", newline="") as target:
            yield target
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}") from error


def _lines(source: TextIO, reason: Reason, stream: str) -> Iterator[Suppression]:
    """The lines of a list. Raises CliError for one that is no CSV or has a value that cannot be."""
    columns: list[str] | None = None
    reader = csv.reader(source)
    try:
        for row in reader:
            if not any(row):
                continue
            if columns is None:
                columns = _columns(row)
                if "@" not in "".join(row):
                    continue
            yield _line(dict(zip(columns, row, strict=False)), reason, stream)
    except (csv.Error, ValueError) as error:
        raise CliError(f"line {reader.line_num}: {error}") from error


def _columns(row: list[str]) -> list[str]:
    """What the columns of a list are, by its first line."""
    if "@" in "".join(row):
        return ["address"]
    names = [cell.strip().lower().replace(" ", "_") for cell in row]
    if "address" not in names:
        names = ["address" if name in {"email", "e-mail", "recipient"} else name for name in names]
    if "address" not in names:
        raise ValueError(f'the header has no column "address"; it has: {", ".join(names)[:200]}')
    return names


def _line(cells: dict[str, str], reason: Reason, stream: str) -> Suppression:
    word = cells.get("reason", "").strip().lower().replace("_", "-")
    if word and word not in set(Reason):
        raise ValueError(f'the reason "{word[:50]}" is not known; known are: {", ".join(Reason)}')
    entry = Suppression(
        address=cells["address"].strip(),
        stream=cells.get("stream", "").strip() or stream,
        reason=_reason(Reason(word) if word else reason),
        note=cells.get("note", ""),
        evidence=cells.get("evidence", ""),
    )
    for name in _TIMES & cells.keys():
        if text := cells[name].strip():
            getattr(entry, name).CopyFrom(_time(text))
    return entry


def _time(text: str) -> Timestamp:
    moment_ = datetime.fromisoformat(text)
    stamp = Timestamp()
    stamp.FromDatetime(moment_ if moment_.tzinfo else moment_.replace(tzinfo=UTC))
    return stamp


def _row(entry: Suppression) -> list[str]:
    times = [
        getattr(entry, name).ToJsonString() if entry.HasField(name) else "" for name in ("expire_time", "create_time")
    ]
    return [entry.address, entry.stream, _word(entry.reason), entry.note, entry.evidence, *times]


async def _pieces(
    first: proto.ImportSuppressionsRequest, lines: Iterator[Suppression], wrong: list[CliError]
) -> AsyncIterator[proto.ImportSuppressionsRequest]:
    """The messages of an import; what is wrong with the list is put into ``wrong`` and ends the call."""
    yield first
    piece = proto.ImportSuppressionsRequest()
    try:
        for line in lines:
            piece.suppressions.append(line)
            if len(piece.suppressions) == PIECE:
                yield piece
                piece = proto.ImportSuppressionsRequest()
    except CliError as error:
        wrong.append(error)
        raise
    if piece.suppressions:
        yield piece
