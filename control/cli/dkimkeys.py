"""`barua domain` verbs for DKIM keys: keys, rotate, key-make, key-import, key-activate, key-retire, key-remove."""

import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from barua.control.v1 import dkim_key_pb2
from barua.control.v1 import dkim_key_service_pb2 as proto
from barua.control.v1.dkim_key_service_pb2_grpc import DkimKeyServiceStub

from control.cli.domains import DomainArgument, TenantArgument, app, record_line
from control.cli.output import CliError, as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

domain_verbs = app
"""All verbs of `barua domain`: those of ``domains``, and those below."""

SelectorArgument = Annotated[str, typer.Argument(help="Selector of the key.")]


class Algorithm(StrEnum):
    """Kinds of keys, as on the command line."""

    RSA = "rsa"
    ED25519 = "ed25519"


@verb(app, "keys")
async def keys(session: Session, tenant: TenantArgument, domain: DomainArgument) -> None:
    """List the DKIM keys of a domain."""
    async with session.control() as operator:
        stub = DkimKeyServiceStub(operator.channel)
        request = proto.ListDkimKeysRequest(parent=_domain(tenant, domain))
        found = [key async for key in operator.pages(stub.ListDkimKeys, request, "dkim_keys")]
    if session.json:
        print_json([as_data(key) for key in found])
        return
    rows = [
        (last(key.name), _state(key), _algorithm(key), moment(key.create_time), moment(key.activate_time))
        for key in found
    ]
    print_table(["selector", "state", "kind", "made", "active since"], rows)


@verb(app, "rotate")
async def rotate(session: Session, tenant: TenantArgument, domain: DomainArgument) -> None:
    """Rotate the DKIM keys: make new ones; or, when they are published, switch to them."""
    request = proto.RotateDkimKeysRequest(name=_domain(tenant, domain), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        answer = await operator.call(DkimKeyServiceStub(operator.channel).RotateDkimKeys, request)
    if session.json:
        print_json(as_data(answer))
    elif answer.phase == proto.RotateDkimKeysResponse.PHASE_PUBLISH:
        print_line("New keys are made. Publish their records, then run the same command again:")
        for key in answer.dkim_keys:
            print_line(record_line(key.dns_record))
    else:
        print_line(f"signing with {', '.join(last(key.name) for key in answer.dkim_keys)}; the old keys are retired")


@verb(app, "key-make")
async def key_make(
    session: Session,
    tenant: TenantArgument,
    domain: DomainArgument,
    algorithm: Annotated[Algorithm, typer.Option(help="Kind of key.")] = Algorithm.RSA,
    bits: Annotated[int, typer.Option(help="Length of an RSA key: 2048, 3072 or 4096.")] = 0,
    selector: Annotated[str, typer.Option(help="Selector; one is made up without.")] = "",
) -> None:
    """Make a DKIM key and print the record to publish."""
    request = proto.GenerateDkimKeyRequest(
        parent=_domain(tenant, domain),
        algorithm=dkim_key_pb2.DkimKey.Algorithm.Value(f"ALGORITHM_{algorithm.name}"),
        bits=bits,
        selector=selector,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(DkimKeyServiceStub(operator.channel).GenerateDkimKey, request))


@verb(app, "key-import")
async def key_import(
    session: Session,
    tenant: TenantArgument,
    domain: DomainArgument,
    selector: SelectorArgument,
    file: Annotated[Path, typer.Argument(help="File with the private key in PEM.")],
    weak: Annotated[bool, typer.Option("--weak", help="Take a key of less than 2048 bits.")] = False,
) -> None:
    """Bring a DKIM key along and print the record to publish."""
    try:
        pem = file.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from error
    request = proto.ImportDkimKeyRequest(
        parent=_domain(tenant, domain),
        selector=selector,
        private_key_pem=pem,
        allow_weak=weak,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(DkimKeyServiceStub(operator.channel).ImportDkimKey, request))


@verb(app, "key-activate")
async def key_activate(
    session: Session,
    tenant: TenantArgument,
    domain: DomainArgument,
    selector: SelectorArgument,
    trusted: Annotated[bool, typer.Option("--trusted", help="Do not look at the DNS.")] = False,
) -> None:
    """Sign with this key from now on, if its record is in the DNS."""
    request = proto.ActivateDkimKeyRequest(
        name=_key(tenant, domain, selector), trusted=trusted, request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        _print(session, await operator.call(DkimKeyServiceStub(operator.channel).ActivateDkimKey, request))


@verb(app, "key-retire")
async def key_retire(
    session: Session, tenant: TenantArgument, domain: DomainArgument, selector: SelectorArgument
) -> None:
    """Stop signing with a key."""
    request = proto.RetireDkimKeyRequest(name=_key(tenant, domain, selector), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        _print(session, await operator.call(DkimKeyServiceStub(operator.channel).RetireDkimKey, request))


@verb(app, "key-remove")
async def key_remove(
    session: Session, tenant: TenantArgument, domain: DomainArgument, selector: SelectorArgument
) -> None:
    """Destroy a key."""
    request = proto.DeleteDkimKeyRequest(name=_key(tenant, domain, selector), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(DkimKeyServiceStub(operator.channel).DeleteDkimKey, request)
    if session.json:
        print_json({"done": f"removed {selector}"})
    else:
        print_line(f"removed {selector}")


def _print(session: Session, key: dkim_key_pb2.DkimKey) -> None:
    if session.json:
        print_json(as_data(key))
        return
    print_line(f"{last(key.name)}: {_state(key)}, {_algorithm(key)}")
    print_line(record_line(key.dns_record))


def _domain(tenant: str, domain: str) -> str:
    return f"{tenant_name(tenant)}/domains/{domain}"


def _key(tenant: str, domain: str, selector: str) -> str:
    return f"{_domain(tenant, domain)}/dkimKeys/{selector}"


def _state(key: dkim_key_pb2.DkimKey) -> str:
    return dkim_key_pb2.DkimKey.State.Name(key.state).removeprefix("STATE_").lower()


def _algorithm(key: dkim_key_pb2.DkimKey) -> str:
    name = dkim_key_pb2.DkimKey.Algorithm.Name(key.algorithm).removeprefix("ALGORITHM_").lower()
    return f"{name}-{key.bits}" if key.bits else name
