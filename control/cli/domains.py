"""`barua domain`: add, list, show, records, set, check, verify, remove; ``dkimkeys`` has the verbs for keys.

Adding and showing print the DNS records to publish, and ``records`` writes them as a zone file; checking says what the
DNS has instead.
"""

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import domain_pb2, domain_service_pb2
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub

from control.cli.output import CliError, as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb
from control.model.dnsrecords import zone_line

app = typer.Typer(name="domain", help="Sender domains and their DKIM keys.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
DomainArgument = Annotated[str, typer.Argument(help="Domain name.")]


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    domain: DomainArgument,
    trusted: Annotated[bool, typer.Option("--trusted", help="Take it on trust, without a DNS check.")] = False,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Messages go out without DKIM signatures.")] = False,
) -> None:
    """Claim a domain for a tenant and print the records to publish."""
    signing = domain_pb2.Domain.SIGNING_OFF if unsigned else domain_pb2.Domain.SIGNING_REQUIRED
    request = domain_service_pb2.CreateDomainRequest(
        parent=tenant_name(tenant),
        domain=domain,
        settings=domain_pb2.Domain(signing=signing),
        trusted=trusted,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(DomainServiceStub(operator.channel).CreateDomain, request))


@verb(app, "show")
async def show(session: Session, tenant: TenantArgument, domain: DomainArgument) -> None:
    """Show a domain and the records to publish."""
    request = domain_service_pb2.GetDomainRequest(name=_name(tenant, domain))
    async with session.control() as operator:
        _print(session, await operator.call(DomainServiceStub(operator.channel).GetDomain, request))


@verb(app, "records")
async def records(
    session: Session,
    tenant: TenantArgument,
    domain: DomainArgument,
    file: Annotated[Path, typer.Argument(help='File to write; "-": standard output.')] = Path("-"),
) -> None:
    """Write the records to publish as lines of a zone file."""
    request = domain_service_pb2.GetDomainRequest(name=_name(tenant, domain))
    async with session.control() as operator:
        found = await operator.call(DomainServiceStub(operator.channel).GetDomain, request)
    if session.json:
        print_json([as_data(record) for record in found.dns_records])
        return
    lines = [line for record in found.dns_records for line in (f"; {record.purpose}", record_line(record))]
    if str(file) == "-":
        for line in lines:
            print_line(line)
        return
    try:
        file.write_text("\n".join(lines) + "\n", encoding="ascii")
    except OSError as error:
        raise CliError(f"cannot write {file}: {error.strerror}") from error
    print_line(f"wrote {len(found.dns_records)} records to {file}")


@verb(app, "verify")
async def verify(session: Session, tenant: TenantArgument, domain: DomainArgument) -> None:
    """Look the records up in the DNS; if they are there, the tenant may send from the domain."""
    request = domain_service_pb2.VerifyDomainRequest(name=_name(tenant, domain), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        verified = await operator.call(DomainServiceStub(operator.channel).VerifyDomain, request)
    if session.json:
        print_json(as_data(verified))
    else:
        print_line(f"{last(verified.name)} is {_state(verified)}")


@verb(app, "check")
async def check(session: Session, tenant: TenantArgument, domain: DomainArgument) -> None:
    """Look at the DNS of a domain now, and say what to change."""
    request = domain_service_pb2.CheckDomainRequest(name=_name(tenant, domain), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        checked = await operator.call(DomainServiceStub(operator.channel).CheckDomain, request)
    if session.json:
        print_json(as_data(checked))
        return
    for found in checked.checks:
        which = f" {found.selector}" if found.selector else ""
        print_line(f"{_check_kind(found)}{which}: {_check_state(found)}")
        if found.explanation:
            print_line(f"    {found.explanation}")
        if found.state != domain_pb2.DomainCheck.STATE_OK:
            print_line(f"    {record_line(found.record)}")


@verb(app, "set")
async def set_(
    session: Session,
    tenant: TenantArgument,
    domain: DomainArgument,
    signing: Annotated[bool | None, typer.Option("--signing/--no-signing", help="Sign messages with DKIM.")] = None,
    return_path: Annotated[str | None, typer.Option(help='Host that takes bounces; "" for none.')] = None,
    tracking: Annotated[str | None, typer.Option(help='Host of links and open pixels; "" for none.')] = None,
    rotate_days: Annotated[int | None, typer.Option(min=0, help="New keys so often; 0: by hand.")] = None,
    signs_for_senders: Annotated[
        bool | None,
        typer.Option("--signs-for-senders/--no-signs-for-senders", help="Sign for verified senders; operator only."),
    ] = None,
) -> None:
    """Change the settings of a domain; what is not given stays."""
    kinds = domain_pb2.Domain
    given = {
        "signing": None if signing is None else kinds.SIGNING_REQUIRED if signing else kinds.SIGNING_OFF,
        "return_path_host": return_path,
        "tracking_host": tracking,
        "key_rotation_period": None if rotate_days is None else Duration(seconds=rotate_days * 86_400),
        "signs_for_senders": signs_for_senders,
    }
    values: dict[str, Any] = {path: value for path, value in given.items() if value is not None}
    request = domain_service_pb2.UpdateDomainRequest(
        domain=kinds(name=_name(tenant, domain), **values),
        update_mask=FieldMask(paths=values),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(DomainServiceStub(operator.channel).UpdateDomain, request))


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, domain: DomainArgument) -> None:
    """Give a domain up and destroy its keys."""
    request = domain_service_pb2.DeleteDomainRequest(name=_name(tenant, domain), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(DomainServiceStub(operator.channel).DeleteDomain, request)
    if session.json:
        print_json({"done": f"removed {domain}"})
    else:
        print_line(f"removed {domain}")


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's domains."""
    async with session.control() as operator:
        stub = DomainServiceStub(operator.channel)
        request = domain_service_pb2.ListDomainsRequest(parent=tenant_name(tenant))
        found = [domain async for domain in operator.pages(stub.ListDomains, request, "domains")]
    if session.json:
        print_json([as_data(domain) for domain in found])
    else:
        rows = [(last(domain.name), _state(domain), _signing(domain), moment(domain.create_time)) for domain in found]
        print_table(["domain", "state", "signing", "made"], rows)


def record_line(record: domain_pb2.DnsRecord) -> str:
    """A record as a line of a zone file; long TXT data in pieces."""
    return zone_line(record.type, record.owner, record.data)


def _print(session: Session, domain: domain_pb2.Domain) -> None:
    if session.json:
        print_json(as_data(domain))
        return
    print_line(f"{last(domain.name)} of {domain.name.split('/')[1]}: {_state(domain)}, signing {_signing(domain)}")
    print_line("Records to publish in the DNS:")
    for record in domain.dns_records:
        print_line("")
        print_line(f"; {record.purpose}")
        print_line(record_line(record))


def _check_kind(found: domain_pb2.DomainCheck) -> str:
    return domain_pb2.DomainCheck.Kind.Name(found.kind).removeprefix("KIND_").lower().replace("_", "-")


def _check_state(found: domain_pb2.DomainCheck) -> str:
    return domain_pb2.DomainCheck.State.Name(found.state).removeprefix("STATE_").lower()


def _name(tenant: str, domain: str) -> str:
    return f"{tenant_name(tenant)}/domains/{domain}"


def _state(domain: domain_pb2.Domain) -> str:
    return domain_pb2.Domain.State.Name(domain.state).removeprefix("STATE_").lower()


def _signing(domain: domain_pb2.Domain) -> str:
    return domain_pb2.Domain.Signing.Name(domain.signing).removeprefix("SIGNING_").lower()
