"""`barua key` and `barua login`: credentials of a tenant. An API key's secret is printed once and never again."""

import sys
import uuid
from pathlib import Path
from typing import Annotated

import typer

from barua.control.v1 import credential_pb2, credential_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub

from control.cli.output import CliError, as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

keys = typer.Typer(name="key", help="API keys.", no_args_is_help=True)
logins = typer.Typer(name="login", help="Logins for SMTP and HTTP.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]


@verb(keys, "create")
async def create_key(
    session: Session,
    tenant: TenantArgument,
    display_name: Annotated[str, typer.Option(help="Name for people.")] = "",
) -> None:
    """Make an API key and print it: it is told this once."""
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=tenant_name(tenant),
        api_key=credential_pb2.ApiKey(display_name=display_name, scopes=["mail"]),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        key = await operator.call(CredentialServiceStub(operator.channel).CreateApiKey, request)
    if session.json:
        print_json(as_data(key))
    else:
        print_line(key.secret_key)


@verb(keys, "list")
async def list_keys(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's API keys, without their secrets."""
    async with session.control() as operator:
        stub = CredentialServiceStub(operator.channel)
        request = credential_service_pb2.ListApiKeysRequest(parent=tenant_name(tenant))
        found = [key async for key in operator.pages(stub.ListApiKeys, request, "api_keys")]
    if session.json:
        print_json([as_data(key) for key in found])
    else:
        rows = [(last(key.name), "…" + key.last_four, key.display_name, moment(key.create_time)) for key in found]
        print_table(["id", "ends in", "name", "made"], rows)


@verb(keys, "delete")
async def delete_key(
    session: Session, tenant: TenantArgument, key: Annotated[str, typer.Argument(help="Id of the key.")]
) -> None:
    """Revoke an API key."""
    request = credential_service_pb2.DeleteApiKeyRequest(
        name=f"{tenant_name(tenant)}/apiKeys/{key}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(CredentialServiceStub(operator.channel).DeleteApiKey, request)
    _done(session, f"revoked {key}")


@verb(logins, "create")
async def create_login(
    session: Session,
    tenant: TenantArgument,
    username: Annotated[str, typer.Argument(help="Unique on the whole platform.")],
    password_file: Annotated[
        Path | None, typer.Option(help='File with the password, "-" for standard input; else it is asked for.')
    ] = None,
) -> None:
    """Make a login."""
    request = credential_service_pb2.CreateLoginRequest(
        parent=tenant_name(tenant), username=username, password=password(password_file), request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        login = await operator.call(CredentialServiceStub(operator.channel).CreateLogin, request)
    _done(session, f"made {login.name}")


@verb(logins, "list")
async def list_logins(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's logins."""
    async with session.control() as operator:
        stub = CredentialServiceStub(operator.channel)
        request = credential_service_pb2.ListLoginsRequest(parent=tenant_name(tenant))
        found = [login async for login in operator.pages(stub.ListLogins, request, "logins")]
    if session.json:
        print_json([as_data(login) for login in found])
    else:
        print_table(["username", "made"], [(last(login.name), moment(login.create_time)) for login in found])


@verb(logins, "delete")
async def delete_login(
    session: Session, tenant: TenantArgument, username: Annotated[str, typer.Argument(help="The login.")]
) -> None:
    """Remove a login."""
    request = credential_service_pb2.DeleteLoginRequest(
        name=f"{tenant_name(tenant)}/logins/{username}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(CredentialServiceStub(operator.channel).DeleteLogin, request)
    _done(session, f"removed {username}")


def password(file: Path | None) -> str:
    """A password from a file, standard input or the keyboard. Raises CliError."""
    if file is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read the password from {file}: {error}") from error
    return text.rstrip("\r\n")


def _done(session: Session, text: str) -> None:
    if session.json:
        print_json({"done": text})
    else:
        print_line(text)
