"""`barua sender`: add, list, code, verify, remove. Single addresses to send from, proved by a code."""

import uuid
from typing import Annotated

import typer

from barua.control.v1 import sender_pb2
from barua.control.v1 import sender_service_pb2 as proto
from barua.control.v1.sender_service_pb2_grpc import SenderServiceStub

from control.cli.output import as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="sender", help="Verified sender addresses.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
AddressArgument = Annotated[str, typer.Argument(help="The address.")]


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    address: AddressArgument,
    display_name: Annotated[str, typer.Option("--name", help="Name of a person or company.")] = "",
    trusted: Annotated[bool, typer.Option("--trusted", help="Take it on trust, without a code.")] = False,
) -> None:
    """Add a sender; a code is mailed to it."""
    request = proto.CreateSenderRequest(
        parent=tenant_name(tenant),
        address=address,
        sender=sender_pb2.Sender(display_name=display_name),
        trusted=trusted,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(SenderServiceStub(operator.channel).CreateSender, request))


@verb(app, "code")
async def code_(session: Session, tenant: TenantArgument, address: AddressArgument) -> None:
    """Have a new code mailed."""
    request = proto.SendSenderCodeRequest(name=_name(tenant, address), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        _print(session, await operator.call(SenderServiceStub(operator.channel).SendSenderCode, request))


@verb(app, "verify")
async def verify(
    session: Session,
    tenant: TenantArgument,
    address: AddressArgument,
    code: Annotated[str, typer.Argument(help="The code that was mailed.")],
) -> None:
    """Prove a sender with the code that was mailed to it."""
    request = proto.VerifySenderRequest(name=_name(tenant, address), code=code, request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        _print(session, await operator.call(SenderServiceStub(operator.channel).VerifySender, request))


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's senders."""
    async with session.control() as operator:
        stub = SenderServiceStub(operator.channel)
        request = proto.ListSendersRequest(parent=tenant_name(tenant))
        found = [sender async for sender in operator.pages(stub.ListSenders, request, "senders")]
    if session.json:
        print_json([as_data(sender) for sender in found])
        return
    rows = [
        (last(sender.name), sender.display_name, _state(sender), _proof(sender), moment(sender.create_time))
        for sender in found
    ]
    print_table(["address", "name", "state", "proof", "made"], rows)


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, address: AddressArgument) -> None:
    """Give a sender up."""
    request = proto.DeleteSenderRequest(name=_name(tenant, address), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(SenderServiceStub(operator.channel).DeleteSender, request)
    if session.json:
        print_json({"done": f"removed {address}"})
    else:
        print_line(f"removed {address}")


def _print(session: Session, sender: sender_pb2.Sender) -> None:
    if session.json:
        print_json(as_data(sender))
        return
    print_line(f"{last(sender.name)} is {_state(sender)}")
    if sender.mail_trouble:
        print_line(f"no code could be mailed: {sender.mail_trouble}")
    elif sender.state == sender_pb2.Sender.STATE_PENDING:
        print_line(
            f"a code is mailed to it; prove it with: barua sender verify {_tenant(sender)} {last(sender.name)} CODE"
        )


def _name(tenant: str, address: str) -> str:
    return f"{tenant_name(tenant)}/senders/{address}"


def _tenant(sender: sender_pb2.Sender) -> str:
    return sender.name.split("/")[1]


def _state(sender: sender_pb2.Sender) -> str:
    return sender_pb2.Sender.State.Name(sender.state).removeprefix("STATE_").lower()


def _proof(sender: sender_pb2.Sender) -> str:
    name = sender_pb2.Sender.Proof.Name(sender.proof).removeprefix("PROOF_").lower()
    return "" if name == "unspecified" else name
