"""`barua provider`: add, list, update, default, check, remove. SMTP providers: which way a tenant's mail goes out.

A password comes from a file or from standard input, never from the command line, which other users of a machine see.
"""

import sys
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from barua.control.v1 import smtp_provider_pb2, smtp_provider_service_pb2
from barua.control.v1.smtp_provider_pb2 import SmtpProvider
from barua.control.v1.smtp_provider_service_pb2_grpc import SmtpProviderServiceStub

from control.cli.output import CliError, as_data, last, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="provider", help="SMTP providers: smart hosts of tenants.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
ProviderArgument = Annotated[str, typer.Argument(help='Id of the provider; "builtin" is the MTA itself.')]
PasswordOption = Annotated[
    Path | None, typer.Option(help='File with the password; "-" reads it from standard input.', allow_dash=True)
]
HourlyOption = Annotated[int | None, typer.Option(min=0, help="Recipients per clock hour; 0: no limit.")]
DailyOption = Annotated[int | None, typer.Option(min=0, help="Recipients per calendar day; 0: no limit.")]


class Tls(StrEnum):
    """How TLS is spoken, as on the command line."""

    IMPLICIT = "implicit"
    STARTTLS_REQUIRED = "starttls"
    STARTTLS_IF_OFFERED = "starttls-if-offered"
    NONE = "none"


class OverLimit(StrEnum):
    """What becomes of mail over a limit, as on the command line."""

    REFUSE = "refuse"
    WAIT = "wait"


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    provider: ProviderArgument,
    host: Annotated[str, typer.Argument(help="Host name or address.")],
    port: Annotated[int, typer.Option(help="Port; 0: 465 with implicit TLS, else 587.")] = 0,
    tls: Annotated[Tls, typer.Option(help="How TLS is spoken.")] = Tls.STARTTLS_REQUIRED,
    username: Annotated[str, typer.Option(help="Username; empty: no login.")] = "",
    password_file: PasswordOption = None,
    hourly_limit: HourlyOption = None,
    daily_limit: DailyOption = None,
    over_limit: Annotated[OverLimit, typer.Option(help="What becomes of mail over a limit.")] = OverLimit.REFUSE,
    shared: Annotated[bool, typer.Option("--shared", help="Tenants below may use it too.")] = False,
    default: Annotated[bool, typer.Option("--default", help="Make it the default.")] = False,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="It is on a private address.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not verify its certificate.")] = False,
) -> None:
    """Make a provider."""
    request = smtp_provider_service_pb2.CreateSmtpProviderRequest(
        parent=tenant_name(tenant),
        smtp_provider_id=provider,
        smtp_provider=SmtpProvider(
            host=host,
            port=port,
            tls=SmtpProvider.Tls.Value(f"TLS_{tls.name}"),
            username=username,
            password=_password(password_file),
            hourly_limit=hourly_limit or 0,
            daily_limit=daily_limit or 0,
            over_limit=SmtpProvider.OverLimit.Value(f"OVER_LIMIT_{over_limit.name}"),
            shared=shared,
            allow_private_addresses=allow_private,
            allow_invalid_certificate=insecure,
        ),
        make_default=default,
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _print(session, await operator.call(SmtpProviderServiceStub(operator.channel).CreateSmtpProvider, request))


@verb(app, "update")
async def update(
    session: Session,
    tenant: TenantArgument,
    provider: ProviderArgument,
    host: Annotated[str | None, typer.Option(help="Host name or address; needs the password again.")] = None,
    username: Annotated[str | None, typer.Option(help="Username.")] = None,
    password_file: PasswordOption = None,
    hourly_limit: HourlyOption = None,
    daily_limit: DailyOption = None,
    over_limit: Annotated[OverLimit | None, typer.Option(help="What becomes of mail over a limit.")] = None,
) -> None:
    """Change what is given, and nothing else."""
    wanted = SmtpProvider(name=_name(tenant, provider))
    request = smtp_provider_service_pb2.UpdateSmtpProviderRequest(smtp_provider=wanted, request_id=str(uuid.uuid4()))
    values = {
        "host": host,
        "username": username,
        "password": _password(password_file) or None,
        "hourly_limit": hourly_limit,
        "daily_limit": daily_limit,
        "over_limit": None if over_limit is None else SmtpProvider.OverLimit.Value(f"OVER_LIMIT_{over_limit.name}"),
    }
    for field, value in values.items():
        if value is not None:
            setattr(request.smtp_provider, field, value)
            request.update_mask.paths.append(field)
    if not request.update_mask.paths:
        raise CliError("nothing to change: give at least one option, such as --daily-limit")
    async with session.control() as operator:
        _print(session, await operator.call(SmtpProviderServiceStub(operator.channel).UpdateSmtpProvider, request))


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's own providers."""
    async with session.control() as operator:
        stub = SmtpProviderServiceStub(operator.channel)
        request = smtp_provider_service_pb2.ListSmtpProvidersRequest(parent=tenant_name(tenant))
        found = [provider async for provider in operator.pages(stub.ListSmtpProviders, request, "smtp_providers")]
    if session.json:
        print_json([as_data(provider) for provider in found])
        return
    rows = [
        (
            last(provider.name),
            f"{provider.host}:{provider.port}" if provider.host else "-",
            _tls(provider),
            provider.username,
            _use(provider.used_this_hour, provider.hourly_limit),
            _use(provider.used_today, provider.daily_limit),
            "yes" if provider.is_default else "",
        )
        for provider in found
    ]
    print_table(["provider", "server", "tls", "username", "this hour", "today", "default"], rows)


@verb(app, "default")
async def default(
    session: Session,
    tenant: TenantArgument,
    provider: Annotated[str, typer.Argument(help='Id; "builtin": the MTA itself; empty: that of the tenants above.')],
) -> None:
    """Choose the way out of mail that names none."""
    request = smtp_provider_service_pb2.SetDefaultSmtpProviderRequest(
        parent=tenant_name(tenant), smtp_provider_id=provider, request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        chosen = await operator.call(SmtpProviderServiceStub(operator.channel).SetDefaultSmtpProvider, request)
    if session.json:
        print_json(as_data(chosen))
    else:
        print_line(f"the default of {tenant} is {last(chosen.name)} of {chosen.name.split('/')[1]}")


@verb(app, "check")
async def check(session: Session, tenant: TenantArgument, provider: ProviderArgument) -> None:
    """Connect, do TLS and log in, without sending anything."""
    request = smtp_provider_service_pb2.CheckSmtpProviderRequest(name=_name(tenant, provider))
    async with session.control() as operator:
        found = await operator.call(SmtpProviderServiceStub(operator.channel).CheckSmtpProvider, request)
    if session.json:
        print_json(as_data(found))
    elif found.ok:
        tls = found.tls_version or "no TLS"
        print_line(f"{provider} works: {found.remote_address}, {tls}, AUTH {' '.join(found.auth_mechanisms) or '-'}")
    if not found.ok:
        stages = smtp_provider_service_pb2.CheckSmtpProviderResponse.Stage
        stage = stages.Name(found.stage).removeprefix("STAGE_").lower()
        code = f"{found.code} " if found.code else ""
        raise CliError(f"{provider} does not work, it failed at {stage}: {code}{found.text}")


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, provider: ProviderArgument) -> None:
    """Remove a provider."""
    request = smtp_provider_service_pb2.DeleteSmtpProviderRequest(
        name=_name(tenant, provider), request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(SmtpProviderServiceStub(operator.channel).DeleteSmtpProvider, request)
    if session.json:
        print_json({"done": f"removed {provider}"})
    else:
        print_line(f"removed {provider}")


def _password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read the password from {file}: {error}") from error
    return text.rstrip("\r\n")


def _print(session: Session, provider: smtp_provider_pb2.SmtpProvider) -> None:
    if session.json:
        print_json(as_data(provider))
        return
    fields = {
        "provider": f"{last(provider.name)} of {provider.name.split('/')[1]}",
        "server": f"{provider.host}:{provider.port}" if provider.host else "the MTA itself",
        "tls": _tls(provider),
        "username": provider.username or "-",
        "this hour": _use(provider.used_this_hour, provider.hourly_limit),
        "today": _use(provider.used_today, provider.daily_limit),
        "default": "yes" if provider.is_default else "no",
    }
    print_fields(fields)


def _tls(provider: smtp_provider_pb2.SmtpProvider) -> str:
    name = SmtpProvider.Tls.Name(provider.tls).removeprefix("TLS_")
    return Tls[name].value if name in Tls.__members__ else "-"


def _use(used: int, limit: int) -> str:
    return f"{used} of {limit}" if limit else str(used)


def _name(tenant: str, provider: str) -> str:
    return f"{tenant_name(tenant)}/smtpProviders/{provider}"
