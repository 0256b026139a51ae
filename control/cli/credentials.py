"""`barua key` and `barua login`: credentials of a tenant. An API key is printed once, unless it is recoverable."""

import sys
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import credential_pb2, credential_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub

from control.cli.credential_options import (
    DaysOption,
    DisplayNameOption,
    GraceOption,
    NetworksOption,
    ScopesOption,
    TenantArgument,
    done,
    end_of,
    grace_of,
    print_secrets,
)
from control.cli.output import CliError, as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

keys = typer.Typer(name="key", help="API keys.", no_args_is_help=True)
logins = typer.Typer(name="login", help="Logins for SMTP, HTTP and gRPC.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(help="Id of the key.")]
UsernameArgument = Annotated[str, typer.Argument(help="The login.")]
PasswordFileOption = Annotated[Path | None, typer.Option(help='File with the password, "-" for standard input.')]


class Role(StrEnum):
    """What a login may do, as on the command line."""

    ADMIN = "admin"
    READ_ONLY = "read-only"
    SENDER = "sender"


@verb(keys, "create")
async def create_key(
    session: Session,
    tenant: TenantArgument,
    display_name: DisplayNameOption = "",
    scopes: ScopesOption = None,
    networks: NetworksOption = None,
    days: DaysOption = None,
    recoverable: Annotated[bool, typer.Option("--recoverable", help="`barua key show` can print it again.")] = False,
) -> None:
    """Make an API key and print it: unless it is recoverable, this once. Without --scope it may send mail."""
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=tenant_name(tenant),
        api_key=credential_pb2.ApiKey(
            display_name=display_name,
            scopes=scopes,
            allowed_networks=networks,
            expire_time=end_of(days),
            recoverable=recoverable,
        ),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        key = await operator.call(CredentialServiceStub(operator.channel).CreateApiKey, request)
    _print_key(session, key)


@verb(keys, "show")
async def show_key(session: Session, tenant: TenantArgument, key: KeyArgument) -> None:
    """Print a recoverable API key again."""
    request = credential_service_pb2.GetApiKeyRequest(
        name=f"{tenant_name(tenant)}/apiKeys/{key}", view=credential_pb2.API_KEY_VIEW_WITH_SECRET
    )
    async with session.control() as operator:
        found = await operator.call(CredentialServiceStub(operator.channel).GetApiKey, request)
    if not found.recoverable:
        raise CliError(f"the key {key} is not recoverable: only a hash of it is kept; `barua key rotate` makes another")
    _print_key(session, found)


@verb(keys, "list")
async def list_keys(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's API keys, without their secrets."""
    async with session.control() as operator:
        stub = CredentialServiceStub(operator.channel)
        request = credential_service_pb2.ListApiKeysRequest(parent=tenant_name(tenant))
        found = [key async for key in operator.pages(stub.ListApiKeys, request, "api_keys")]
    print_secrets(session, "id", found)


@verb(keys, "rotate")
async def rotate_key(
    session: Session, tenant: TenantArgument, key: KeyArgument, grace_hours: GraceOption = 0.0
) -> None:
    """Give an API key another secret and print the key: it is told this once."""
    request = credential_service_pb2.RotateApiKeyRequest(
        name=f"{tenant_name(tenant)}/apiKeys/{key}", grace_period=grace_of(grace_hours), request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        _print_key(session, await operator.call(CredentialServiceStub(operator.channel).RotateApiKey, request))


@verb(keys, "delete")
async def delete_key(session: Session, tenant: TenantArgument, key: KeyArgument) -> None:
    """Revoke an API key."""
    request = credential_service_pb2.DeleteApiKeyRequest(
        name=f"{tenant_name(tenant)}/apiKeys/{key}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(CredentialServiceStub(operator.channel).DeleteApiKey, request)
    done(session, f"revoked {key}")


@verb(logins, "create")
async def create_login(
    session: Session,
    tenant: TenantArgument,
    username: Annotated[str, typer.Argument(help="Unique on the whole platform.")],
    password_file: PasswordFileOption = None,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.ADMIN,
    networks: NetworksOption = None,
    days: DaysOption = None,
) -> None:
    """Make a login. Without --password-file the password is asked for."""
    login = credential_pb2.Login(role=_role(role), allowed_networks=networks, expire_time=end_of(days))
    request = credential_service_pb2.CreateLoginRequest(
        parent=tenant_name(tenant),
        username=username,
        password=password(password_file),
        login=login,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        made = await operator.call(CredentialServiceStub(operator.channel).CreateLogin, request)
    done(session, f"made {made.name}")


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
        rows = [
            (
                last(login.name),
                "disabled" if login.disabled else _spoken(login.role),
                " ".join(login.allowed_networks),
                moment(login.create_time),
                moment(login.expire_time),
                moment(login.last_used_time),
            )
            for login in found
        ]
        print_table(["username", "role", "networks", "made", "expires", "last used"], rows)


@verb(logins, "update")
async def update_login(
    session: Session,
    tenant: TenantArgument,
    username: UsernameArgument,
    role: Annotated[Role | None, typer.Option(help="What it may do.")] = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Refuse it everywhere, or not.")] = None,
    new_password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    password_file: PasswordFileOption = None,
    networks: NetworksOption = None,
    any_network: Annotated[bool, typer.Option("--any-network", help="It may be used from anywhere.")] = False,
    days: DaysOption = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="It does not expire.")] = False,
) -> None:
    """Change what is given of a login: role, password, networks, end, or whether it is disabled."""
    login = credential_pb2.Login(
        name=f"{tenant_name(tenant)}/logins/{username}",
        disabled=bool(disabled),
        allowed_networks=networks,
        expire_time=end_of(days),
    )
    if role is not None:
        login.role = _role(role)
    if new_password or password_file is not None:
        login.password = password(password_file)
    given = {
        "role": role is not None,
        "disabled": disabled is not None,
        "password": bool(login.password),
        "allowed_networks": bool(networks) or any_network,
        "expire_time": days is not None or never_expires,
    }
    if not any(given.values()):
        raise CliError("nothing to change: give an option; --help lists them")
    mask = FieldMask(paths=[path for path, wanted in given.items() if wanted])
    request = credential_service_pb2.UpdateLoginRequest(login=login, update_mask=mask, request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(CredentialServiceStub(operator.channel).UpdateLogin, request)
    done(session, f"changed {username}")


@verb(logins, "delete")
async def delete_login(session: Session, tenant: TenantArgument, username: UsernameArgument) -> None:
    """Remove a login."""
    request = credential_service_pb2.DeleteLoginRequest(
        name=f"{tenant_name(tenant)}/logins/{username}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(CredentialServiceStub(operator.channel).DeleteLogin, request)
    done(session, f"removed {username}")


def password(file: Path | None) -> str:
    """A password from a file, standard input or the keyboard. Raises CliError."""
    if file is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read the password from {file}: {error}") from error
    return text.rstrip("\r\n")


def _print_key(session: Session, key: credential_pb2.ApiKey) -> None:
    if session.json:
        print_json(as_data(key))
    else:
        print_line(key.secret_key)


def _role(role: Role) -> credential_pb2.Login.Role.ValueType:
    return credential_pb2.Login.Role.Value(f"ROLE_{role.name}")


def _spoken(role: credential_pb2.Login.Role.ValueType) -> str:
    return credential_pb2.Login.Role.Name(role).removeprefix("ROLE_").lower().replace("_", "-")
