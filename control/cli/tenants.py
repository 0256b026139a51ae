"""`barua tenant`: create, show, list, update, usage, suspend, resume, delete."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_pb2 import RefundPolicy

from control.cli.output import CliError, as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="tenant", help="Tenants: resellers and accounts.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
NONE, INHERIT = "none", "inherit"
_MICROS = 1_000_000


class Kind(StrEnum):
    """What a tenant may have below it, as on the command line."""

    RESELLER = "reseller"
    ACCOUNT = "account"


class State(StrEnum):
    """Whether a tenant may send, as on the command line."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@verb(app, "create")
async def create(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="Id of the new tenant: a-z, 0-9 and -.")],
    parent: Annotated[str, typer.Option(help="Tenant above it.")] = "operator",
    kind: Annotated[
        Kind | None, typer.Option(help="Directly below the operator a reseller, else an account.", show_default=False)
    ] = None,
    display_name: Annotated[str, typer.Option(help="Name for people.")] = "",
    default_sender: Annotated[str, typer.Option(help="From address for messages without one.")] = "",
    credits_from_parent: Annotated[int, typer.Option("--credits", min=0, help="Credits moved from the parent.")] = 0,
    shares_balance: Annotated[bool, typer.Option("--shares-balance", help="A tenant above pays for its mail.")] = False,
) -> None:
    """Make a tenant."""
    request = tenant_service_pb2.CreateTenantRequest(
        parent=tenant_name(parent),
        tenant_id=tenant,
        tenant=tenant_pb2.Tenant(
            display_name=display_name, default_sender=default_sender, kind=_kind(kind), shares_balance=shares_balance
        ),
        initial_credits=credits_from_parent,
    )
    async with session.control() as control:
        made = await control.tenants.CreateTenant(request)
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"made {made.name} below {made.parent}")


@verb(app, "show")
async def show(session: Session, tenant: TenantArgument) -> None:
    """Show a tenant: its state, and the limits, the price and the refunds that hold for it."""
    async with session.control() as control:
        request = tenant_service_pb2.GetTenantRequest(name=tenant_name(tenant))
        found = await control.tenants.GetTenant(request)
    _print(session, found)


@verb(app, "list")
async def list_(
    session: Session,
    parent: Annotated[str, typer.Option(help="Tenant whose children are listed.")] = "operator",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Those below them too.")] = False,
    state: Annotated[State | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    search: Annotated[str, typer.Option(help="Only those with this in their id or name.")] = "",
) -> None:
    """List the tenants below one."""
    request = tenant_service_pb2.ListTenantsRequest(
        parent=tenant_name(parent),
        recursive=recursive,
        search=search,
        state=tenant_pb2.Tenant.State.Value(f"STATE_{state.name}") if state else tenant_pb2.Tenant.STATE_UNSPECIFIED,
    )
    async with session.control() as control:
        found = [tenant async for tenant in control.pages(control.tenants.ListTenants, request)]
    if session.json:
        print_json([as_data(tenant) for tenant in found])
        return
    print_table(
        ["tenant", "below", "kind", "name", "state", "default sender", "made"],
        [
            (
                last(tenant.name),
                last(tenant.parent),
                _word(tenant_pb2.Tenant.Kind.Name(tenant.kind)),
                tenant.display_name,
                _word(tenant_pb2.Tenant.State.Name(tenant.state)),
                tenant.default_sender,
                moment(tenant.create_time),
            )
            for tenant in found
        ],
    )


def _limit(text: str) -> Any:
    return typer.Option(help=text, metavar="NUMBER|none", show_default=False)


@verb(app, "update")
async def update(
    session: Session,
    tenant: TenantArgument,
    display_name: Annotated[str | None, typer.Option(help="Name for people.", show_default=False)] = None,
    default_sender: Annotated[
        str | None, typer.Option(help="From address for messages without one.", show_default=False)
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="What it may have below it.", show_default=False)] = None,
    hourly: Annotated[str | None, _limit("Recipients per hour (UTC).")] = None,
    daily: Annotated[str | None, _limit("Recipients per day.")] = None,
    monthly: Annotated[str | None, _limit("Recipients per calendar month.")] = None,
    spend: Annotated[
        str | None, typer.Option(help="Money per month, in the currency of the price.", metavar="SUM|none")
    ] = None,
    max_tenants: Annotated[str | None, _limit("Tenants below it.")] = None,
    max_bytes: Annotated[str | None, _limit("Size of a message.")] = None,
    max_recipients: Annotated[str | None, _limit("Recipients of a message.")] = None,
    price: Annotated[
        str | None, typer.Option(help='For 1,000 credits, such as "EUR 0.50".', metavar="PRICE|inherit")
    ] = None,
    refund: Annotated[
        str | None,
        typer.Option(help="Outcomes whose credit comes back: bounced,expired.", metavar="OUTCOMES|none|inherit"),
    ] = None,
    shares_balance: Annotated[
        bool | None,
        typer.Option("--shares-balance/--own-balance", help="Who pays for its mail: a tenant above, or itself."),
    ] = None,
) -> None:
    """Change a tenant. Only what is given changes."""
    numbers = {
        "hourly_recipients": hourly,
        "daily_recipients": daily,
        "monthly_recipients": monthly,
        "max_tenants": max_tenants,
        "max_message_bytes": max_bytes,
        "max_message_recipients": max_recipients,
    }
    changed = tenant_pb2.Tenant(name=tenant_name(tenant))
    paths = _set_limits(changed.limits, numbers, spend)
    given = {
        "display_name": display_name,
        "default_sender": default_sender,
        "kind": None if kind is None else _kind(kind),
        "shares_balance": shares_balance,
    }
    for name, value in given.items():
        if value is not None:
            setattr(changed, name, value)
            paths.append(name)
    paths += _set_terms(changed, price, refund)
    if not paths:
        raise CliError("nothing to change; see `barua tenant update --help`")
    request = tenant_service_pb2.UpdateTenantRequest(tenant=changed, update_mask=FieldMask(paths=paths))
    async with session.control() as control:
        answer = await control.tenants.UpdateTenant(request)
    _print(session, answer)


def _set_terms(changed: tenant_pb2.Tenant, price: str | None, refund: str | None) -> list[str]:
    """Price and refunds as given, and the paths of what was given. Raises CliError."""
    paths = []
    if price is not None:
        paths.append("price")
        if price != INHERIT:
            changed.price.CopyFrom(_price(price))
    if refund is not None:
        paths.append("refund_policy")
        if refund != INHERIT:
            changed.refund_policy.CopyFrom(_refunds(refund))
    return paths


@verb(app, "usage")
async def usage(session: Session, tenant: TenantArgument) -> None:
    """Show what a tenant uses this month (UTC), together with everything below it."""
    async with session.control() as control:
        request = tenant_service_pb2.GetTenantUsageRequest(name=f"{tenant_name(tenant)}/usage")
        found = await control.tenants.GetTenantUsage(request)
    if session.json:
        print_json(as_data(found))
        return
    left = str(found.available_credits) if found.HasField("available_credits") else ""
    lines: dict[str, object] = {
        "recipients this month": found.month_recipients,
        "recipients today": found.day_recipients,
        "credits taken this month": found.month_credits,
        "credits left": left,
        "paid by": last(found.paying_tenant) if found.paying_tenant else "a tenant above",
        "tenants below": found.tenant_count,
        "domains": f"{found.domain_count}, {found.verified_domain_count} verified",
        "API keys": found.api_key_count,
        "webhooks": found.webhook_count,
        "suppressions": found.suppression_count,
        "validated this month": found.month_validations,
    }
    print_fields(lines)


@verb(app, "suspend")
async def suspend(
    session: Session,
    tenant: TenantArgument,
    reason: Annotated[str, typer.Option(help="Why; the tenant sees it.")],
) -> None:
    """Keep a tenant and all below it from sending and changing anything."""
    request = tenant_service_pb2.SuspendTenantRequest(name=tenant_name(tenant), reason=reason)
    async with session.control() as control:
        answer = await control.tenants.SuspendTenant(request)
    _print(session, answer)


@verb(app, "resume")
async def resume(session: Session, tenant: TenantArgument) -> None:
    """Let a suspended tenant send again."""
    request = tenant_service_pb2.ResumeTenantRequest(name=tenant_name(tenant))
    async with session.control() as control:
        answer = await control.tenants.ResumeTenant(request)
    _print(session, answer)


@verb(app, "delete")
async def delete(session: Session, tenant: TenantArgument) -> None:
    """Delete a tenant that has no tenants below it and no credits."""
    request = tenant_service_pb2.DeleteTenantRequest(name=tenant_name(tenant))
    async with session.control() as control:
        await control.tenants.DeleteTenant(request)
    if session.json:
        print_json({})
    else:
        print_line(f"deleted {tenant_name(tenant)}")


def _kind(kind: Kind | None) -> tenant_pb2.Tenant.Kind.ValueType:
    if kind is None:
        return tenant_pb2.Tenant.KIND_UNSPECIFIED
    return tenant_pb2.Tenant.Kind.Value(f"KIND_{kind.name}")


def _set_limits(limits: tenant_pb2.TenantLimits, numbers: Mapping[str, str | None], spend: str | None) -> list[str]:
    """Set the limits that are given; the paths of all that change."""
    paths: list[str] = []
    for name, text in numbers.items():
        if text is None:
            continue
        paths.append(f"limits.{name}")
        if text != NONE:
            setattr(limits, name, _number(text))
    if spend is not None:
        paths.append("limits.monthly_spend_micros")
        if spend != NONE:
            limits.monthly_spend_micros = _micros(spend)
    return paths


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise CliError(f'"{text}" must be a number or "none"')
    return int(text)


def _micros(text: str) -> int:
    try:
        micros = Decimal(text) * _MICROS
    except InvalidOperation:
        raise CliError(f'"{text}" must be a sum such as 12.50') from None
    if not micros.is_finite() or micros != micros.to_integral_value() or not 0 <= micros < 2**63:
        raise CliError(f'"{text}" must be a sum of at most six decimal places')
    return int(micros)


def _price(text: str) -> tenant_pb2.Price:
    currency, space, amount = text.partition(" ")
    if not space:
        raise CliError(f'"{text}" must be a currency and a sum, such as "EUR 0.50", or "inherit"')
    return tenant_pb2.Price(currency_code=currency.upper(), micros_per_thousand=_micros(amount.strip()))


def _refunds(text: str) -> RefundPolicy:
    names = [] if text == NONE else [name.strip().upper() for name in text.split(",")]
    known = set(RefundPolicy.Outcome.keys())
    for name in names:
        if f"OUTCOME_{name}" not in known:
            raise CliError(f'"{text}" must be bounced, expired, both with a comma, "none" or "inherit"')
    return RefundPolicy(outcomes=[RefundPolicy.Outcome.Value(f"OUTCOME_{name}") for name in names])


def _print(session: Session, tenant: tenant_pb2.Tenant) -> None:
    if session.json:
        print_json(as_data(tenant))
        return
    terms = tenant.effective_terms
    lines: dict[str, object] = {
        "tenant": last(tenant.name),
        "below": last(tenant.parent),
        "kind": _word(tenant_pb2.Tenant.Kind.Name(tenant.kind)),
        "name": tenant.display_name,
        "state": _word(tenant_pb2.Tenant.State.Name(tenant.state)),
    }
    if tenant.shares_balance:
        lines["paid by"] = last(tenant.paying_tenant) if tenant.paying_tenant else "a tenant above"
    if tenant.HasField("suspension"):
        suspension = tenant.suspension
        which = "" if suspension.tenant == tenant.name else " (above it)"
        lines["suspended"] = f"{moment(suspension.start_time)}{which}: {suspension.reason}"
    for limit in terms.limits:
        lines[limit.limit] = f"{limit.value} ({_from(limit.source)}, {limit.used} used)"
    if terms.HasField("price"):
        money = f"{terms.price.currency_code} {Decimal(terms.price.micros_per_thousand) / _MICROS}"
        lines["price"] = f"{money} for 1,000 credits ({_from(terms.price_source)})"
    outcomes = [_word(RefundPolicy.Outcome.Name(outcome)) for outcome in terms.refund_policy.outcomes]
    lines["refunds"] = ", ".join(outcomes) or "none"
    lines |= {"default sender": tenant.default_sender, "made": moment(tenant.create_time), "etag": tenant.etag}
    print_fields(lines)


def _from(source: str) -> str:
    return f"from {last(source)}" if source else "from above"


def _word(value: str) -> str:
    """The name of an enumeration's value for people."""
    return value.partition("_")[2].lower().replace("_", "-")
