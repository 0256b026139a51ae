"""What holds for tenants, to and from protos: limits, prices, refund policies, suspensions; whole tenants as answers.

A caller is not told which tenants above its own there are, beyond its parent: where something comes from such a tenant
it sees what holds, and no name.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from barua.control.v1 import tenant_pb2
from barua.control.v1.tenant_pb2 import RefundPolicy, TenantLimits

from control.database import Connection
from control.model import fields, limits, prices
from control.model.limits import NAMES, Counted, Limits
from control.model.prices import Price
from control.services.timestamps import to_proto
from control.store import tenants, windows
from control.store.tenants import Tenant, TenantKind

MAX_COUNTED = 100_000
"""Tenants below one are counted up to here for an answer."""

_KINDS = {
    TenantKind.OPERATOR: tenant_pb2.Tenant.KIND_OPERATOR,
    TenantKind.RESELLER: tenant_pb2.Tenant.KIND_RESELLER,
    TenantKind.ACCOUNT: tenant_pb2.Tenant.KIND_ACCOUNT,
}
_GIVEN_KINDS = {proto: kind for kind, proto in _KINDS.items() if kind is not TenantKind.OPERATOR}
_OUTCOMES = {RefundPolicy.OUTCOME_BOUNCED: "bounced", RefundPolicy.OUTCOME_EXPIRED: "expired"}
_OUTCOME_PROTOS = {text: proto for proto, text in _OUTCOMES.items()}


def kind_of(proto: tenant_pb2.Tenant.Kind.ValueType, parent: Tenant, field: str) -> TenantKind:
    """The kind of a tenant below ``parent`` as a request gives it; none given: by the place in the tree."""
    if proto == tenant_pb2.Tenant.KIND_UNSPECIFIED:
        return TenantKind.RESELLER if parent.parent_id is None else TenantKind.ACCOUNT
    if proto not in _GIVEN_KINDS:
        raise fields.invalid(field, f"{field} must be KIND_RESELLER or KIND_ACCOUNT")
    return _GIVEN_KINDS[proto]


def listed_kind(proto: tenant_pb2.Tenant.Kind.ValueType, field: str) -> TenantKind | None:
    """The kind that a list is limited to; None: any."""
    if proto == tenant_pb2.Tenant.KIND_UNSPECIFIED:
        return None
    if proto not in _GIVEN_KINDS:
        raise fields.invalid(field, f"{field} must be KIND_RESELLER, KIND_ACCOUNT or left out")
    return _GIVEN_KINDS[proto]


def paying_tenant(me: str, line: Sequence[Tenant]) -> str:
    """The name of whose credits pay for the first tenant of a line; empty if the caller ``me`` does not see it."""
    return _Eyes(me, line).name(tenants.payer(line).tenant_id)


def limits_of(proto: TenantLimits, field: str) -> Limits:
    """The limits that a request gives."""
    given = {name: getattr(proto, name) for name in NAMES if proto.HasField(name)}  # type: ignore[arg-type]
    return Limits(**{name: limits.checked(name, value, f"{field}.{name}") for name, value in given.items()})


def with_limits(had: Limits, given: Limits, names: Collection[str]) -> Limits:
    """Limits with some of them as given."""
    return replace(had, **{name: getattr(given, name) for name in names})


def price_of(proto: tenant_pb2.Price, field: str) -> Price:
    """The price that a request gives."""
    return prices.checked(proto.currency_code, proto.micros_per_thousand, field)


def refunds_of(proto: RefundPolicy, field: str) -> frozenset[str]:
    """The outcomes that a request names."""
    for outcome in proto.outcomes:
        if outcome not in _OUTCOMES:
            raise fields.invalid(f"{field}.outcomes", f"{field}.outcomes has the unknown outcome {outcome}")
    return frozenset(_OUTCOMES[outcome] for outcome in proto.outcomes)


async def answers(connection: Connection, me: str, found: Sequence[Tenant]) -> list[tenant_pb2.Tenant]:
    """Tenants as the caller ``me`` sees them. Reads rows above the caller's own: run it for the platform."""
    lines = await tenants.lines(connection, found)
    sources = {tenant_id for line in lines.values() for tenant_id in _limiting(line) if me in _path(line, tenant_id)}
    counted = await windows.counted(connection, sources)
    below = {
        tenant.tenant_id: await tenants.count_below(connection, tenant.tenant_id, at_most=MAX_COUNTED)
        for line in lines.values()
        for tenant in line
        if tenant.tenant_id in sources and tenant.limits.max_tenants is not None
    }
    return [_answer(me, lines[tenant.tenant_id], counted, below) for tenant in found]


def _limiting(line: Sequence[Tenant]) -> set[str]:
    found = limits.effective([(tenant.tenant_id, tenant.limits) for tenant in line])
    return {source for _, source in found.values()}


def _path(line: Sequence[Tenant], tenant_id: str) -> tuple[str, ...]:
    return next(tenant.path for tenant in line if tenant.tenant_id == tenant_id)


class _Eyes:
    """What a caller may be told of the tenants of a line."""

    def __init__(self, me: str, line: Sequence[Tenant]) -> None:
        self._paths = {tenant.tenant_id: tenant.path for tenant in line}
        self._me = me

    def sees(self, tenant_id: str) -> bool:
        """Whether it is the caller's own tenant or below it."""
        return self._me in self._paths.get(tenant_id, ())

    def name(self, tenant_id: str) -> str:
        """Its name, or nothing."""
        return f"tenants/{tenant_id}" if self.sees(tenant_id) else ""


def _answer(
    me: str, line: Sequence[Tenant], counted: Mapping[str, Counted], below: Mapping[str, int]
) -> tenant_pb2.Tenant:
    tenant, eyes = line[0], _Eyes(me, line)
    suspended = next((above for above in line if above.suspended), None)
    contact = tenant.settings.contact
    refunds = tenant.settings.refunds
    return tenant_pb2.Tenant(
        name=f"tenants/{tenant.tenant_id}",
        parent=f"tenants/{tenant.parent_id}" if tenant.parent_id else "",
        display_name=tenant.settings.display_name,
        contact=tenant_pb2.Contact(
            first_name=contact.first_name,
            surname=contact.surname,
            organization=contact.organization,
            phone=contact.phone,
        ),
        state=tenant_pb2.Tenant.STATE_SUSPENDED if suspended else tenant_pb2.Tenant.STATE_ACTIVE,
        default_sender=tenant.default_sender,
        create_time=to_proto(tenant.created_at),
        update_time=to_proto(tenant.updated_at),
        etag=str(tenant.version),
        kind=_KINDS[tenant.kind],
        suspension=_suspension(eyes, suspended) if suspended else None,
        limits=TenantLimits(**{name: getattr(tenant.limits, name) for name in NAMES}),
        price=_price(tenant.price),
        refund_policy=None if refunds is None else _refunds(refunds),
        effective_terms=_effective(eyes, line, counted, below),
        shares_balance=tenant.settings.shares_balance,
        paying_tenant=eyes.name(tenants.payer(line).tenant_id),
        number=tenant.number,
    )


def _suspension(eyes: _Eyes, suspended: Tenant) -> tenant_pb2.Suspension:
    suspension = suspended.suspension
    assert suspension is not None, "the caller picked a suspended one"
    told = eyes.sees(suspended.tenant_id)
    by_told = told and (eyes.sees(suspension.by) or suspension.by == suspended.parent_id)
    return tenant_pb2.Suspension(
        tenant=eyes.name(suspended.tenant_id),
        reason=suspension.reason if told else "",
        start_time=to_proto(suspension.since),
        suspended_by=f"tenants/{suspension.by}" if by_told else "",
    )


def _price(price: Price | None) -> tenant_pb2.Price | None:
    if price is None:
        return None
    return tenant_pb2.Price(currency_code=price.currency, micros_per_thousand=price.micros_per_thousand)


def _refunds(refunds: Collection[str]) -> RefundPolicy:
    return RefundPolicy(outcomes=[_OUTCOME_PROTOS[text] for text in sorted(refunds)])


def _effective(
    eyes: _Eyes, line: Sequence[Tenant], counted: Mapping[str, Counted], below: Mapping[str, int]
) -> tenant_pb2.EffectiveTerms:
    held = limits.effective([(tenant.tenant_id, tenant.limits) for tenant in line])
    price = prices.nearest((tenant.tenant_id, tenant.price) for tenant in line)
    refunding = next((tenant for tenant in line if tenant.settings.refunds is not None), None)
    return tenant_pb2.EffectiveTerms(
        limits=[
            tenant_pb2.EffectiveLimit(
                limit=name,
                value=value,
                source=eyes.name(source),
                used=_used(name, source, line, counted, below) if eyes.sees(source) else 0,
            )
            for name, (value, source) in held.items()
        ],
        price=_price(price[1]) if price else None,
        price_source=eyes.name(price[0]) if price else "",
        refund_policy=_refunds(refunding.settings.refunds or ()) if refunding else RefundPolicy(),
        refund_policy_source=eyes.name(refunding.tenant_id) if refunding else "",
    )


def _used(
    name: str, source: str, line: Sequence[Tenant], counted: Mapping[str, Counted], below: Mapping[str, int]
) -> int:
    leased = counted.get(source, Counted())
    match name:
        case "hourly_recipients":
            return leased.hour
        case "daily_recipients":
            return leased.day
        case "monthly_recipients":
            return leased.month
        case "monthly_spend_micros":
            start = next(index for index, tenant in enumerate(line) if tenant.tenant_id == source)
            price = prices.nearest((tenant.tenant_id, tenant.price) for tenant in line[start:])
            return price[1].cost(leased.month) if price else 0
        case "max_tenants":
            return below.get(source, 0)
        case _:
            return 0
