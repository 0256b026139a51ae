"""`barua oauth`: client ids and secrets that get tokens. A secret is printed once and never again."""

import uuid
from typing import Annotated

import typer

from barua.control.v1 import oauth_client_pb2, oauth_service_pb2
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub

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
from control.cli.output import as_data, print_fields, print_json
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="oauth", help="OAuth 2.0 clients (client credentials).", no_args_is_help=True)

ClientArgument = Annotated[str, typer.Argument(help="Client id.")]


@verb(app, "create")
async def create(
    session: Session,
    tenant: TenantArgument,
    display_name: DisplayNameOption = "",
    scopes: ScopesOption = None,
    networks: NetworksOption = None,
    days: DaysOption = None,
) -> None:
    """Make a client and print its id and secret: the secret is told this once. Without --scope it may send mail."""
    request = oauth_service_pb2.CreateOAuthClientRequest(
        parent=tenant_name(tenant),
        oauth_client=oauth_client_pb2.OAuthClient(
            display_name=display_name, scopes=scopes, allowed_networks=networks, expire_time=end_of(days)
        ),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(OAuthServiceStub(operator.channel).CreateOAuthClient, request))


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's clients, without their secrets."""
    async with session.control() as operator:
        stub = OAuthServiceStub(operator.channel)
        request = oauth_service_pb2.ListOAuthClientsRequest(parent=tenant_name(tenant))
        found = [client async for client in operator.pages(stub.ListOAuthClients, request, "oauth_clients")]
    print_secrets(session, "client id", found)


@verb(app, "rotate")
async def rotate(
    session: Session, tenant: TenantArgument, client: ClientArgument, grace_hours: GraceOption = 0.0
) -> None:
    """Give a client another secret and print it: it is told this once. Without --grace-hours its tokens end, too."""
    request = oauth_service_pb2.RotateOAuthClientRequest(
        name=f"{tenant_name(tenant)}/oauthClients/{client}",
        grace_period=grace_of(grace_hours),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(OAuthServiceStub(operator.channel).RotateOAuthClient, request))


@verb(app, "delete")
async def delete(session: Session, tenant: TenantArgument, client: ClientArgument) -> None:
    """Revoke a client and all its tokens."""
    request = oauth_service_pb2.DeleteOAuthClientRequest(
        name=f"{tenant_name(tenant)}/oauthClients/{client}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(OAuthServiceStub(operator.channel).DeleteOAuthClient, request)
    done(session, f"revoked {client}")


def _print(session: Session, client: oauth_client_pb2.OAuthClient) -> None:
    if session.json:
        print_json(as_data(client))
    else:
        print_fields({"client id": client.client_id, "secret": client.client_secret})
