"""`barua domain`: add, list, show, verify. Adding and showing print the DNS records to publish."""

import uuid
from typing import Annotated

import typer

from barua.control.v1 import domain_pb2, domain_service_pb2
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub

from control.cli.output import as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="domain", help="Sender domains and their DKIM keys.", no_args_is_help=True)

TXT_PIECE = 255
"""Octets of one string of a TXT record (RFC 1035 §3.3.14)."""

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
    data = record.data
    if record.type == "TXT":
        quoted = data.replace("\\", "\\\\").replace('"', '\\"')
        data = " ".join(f'"{quoted[at : at + TXT_PIECE]}"' for at in range(0, len(quoted), TXT_PIECE)) or '""'
    return f"{record.owner}. 3600 IN {record.type} {data}"


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


def _name(tenant: str, domain: str) -> str:
    return f"{tenant_name(tenant)}/domains/{domain}"


def _state(domain: domain_pb2.Domain) -> str:
    return domain_pb2.Domain.State.Name(domain.state).removeprefix("STATE_").lower()


def _signing(domain: domain_pb2.Domain) -> str:
    return domain_pb2.Domain.Signing.Name(domain.signing).removeprefix("SIGNING_").lower()
