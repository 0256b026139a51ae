"""Makes tenants with their domains, credits and logins, if they are not there yet.

``ensure`` is idempotent step by step: tenant, domains, credits, login, each only if missing, so that a crash between
two of them is mended by the next start. What exists is never changed; a password that was changed since stays changed.

Errors: ``Refusal`` and ``Unreachable`` from the calls, ``OptionsError`` when a password file cannot be used.
"""

import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

from barua.control.v1 import (
    credential_service_pb2,
    credit_service_pb2,
    domain_pb2,
    domain_service_pb2,
    tenant_pb2,
    tenant_service_pb2,
)
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from barua_client import Connection
from mta.runtime.options import BootstrapTenant, OptionsError
from mta.runtime.refusals import Reason, Refusal


@dataclass(frozen=True, slots=True)
class DomainPlan:
    """A sender domain taken on trust."""

    name: str
    signing: bool = True
    signs_for_senders: bool = False
    """Sign the mail of verified senders that have no domain; for one domain of the operator."""


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """What should be there. No username: no login."""

    id: str
    parent: str
    credits: int
    default_sender: str
    username: str
    password: str
    domains: Sequence[DomainPlan]
    display_name: str = ""
    has_children: bool = False
    """Tenants below it are planned, so it is a reseller wherever it is in the tree."""

    @property
    def name(self) -> str:
        """Resource name."""
        return f"tenants/{self.id}"


def plan_of(tenant: BootstrapTenant, has_children: bool = False) -> TenantPlan:
    """The plan for an entry of the configuration; reads its password file. Raises OptionsError."""
    password = ""
    if tenant.username:
        try:
            password = Path(tenant.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionsError(f"bootstrap.tenants: cannot read the password of {tenant.id}: {error}") from error
    return TenantPlan(
        id=tenant.id,
        parent=tenant.parent,
        credits=tenant.credits,
        default_sender=tenant.default_sender,
        username=tenant.username,
        password=password,
        domains=[DomainPlan(domain.name, domain.signing) for domain in tenant.domains],
        has_children=has_children,
    )


async def ensure(operator: Connection, plan: TenantPlan) -> None:
    """Make what is missing of a plan."""
    await _ensure_tenant(operator, plan)
    for domain in plan.domains:
        await _ensure_domain(operator, plan.name, domain)
    if plan.credits:
        await _ensure_credits(operator, plan)
    if plan.username:
        await ensure_login(operator, plan.name, plan.username, plan.password)


async def ensure_platform(operator: Connection, domain: DomainPlan, credits: int) -> None:
    """Make what the platform itself sends codes and alerts with: a domain of the operator's, and credits."""
    name = "tenants/operator"
    await _ensure_domain(operator, name, domain)
    stub = CreditServiceStub(operator.channel)
    balance = await operator.call(stub.GetBalance, credit_service_pb2.GetBalanceRequest(tenant=name))
    if balance.balance < credits // 2:
        request = credit_service_pb2.GrantCreditsRequest(
            tenant=name, amount=credits, note="mail of the platform", request_id=str(uuid.uuid4())
        )
        await operator.call(stub.GrantCredits, request)


async def ensure_login(operator: Connection, tenant: str, username: str, password: str) -> bool:
    """Make a login; False if one of that name exists already."""
    stub = CredentialServiceStub(operator.channel)
    request = credential_service_pb2.CreateLoginRequest(
        parent=tenant, username=username, password=password, request_id=str(uuid.uuid4())
    )
    return await _created(operator.call(stub.CreateLogin, request))


async def _ensure_tenant(operator: Connection, plan: TenantPlan) -> None:
    stub = TenantServiceStub(operator.channel)
    kind = tenant_pb2.Tenant.KIND_RESELLER if plan.has_children else tenant_pb2.Tenant.KIND_UNSPECIFIED
    tenant = tenant_pb2.Tenant(display_name=plan.display_name, default_sender=plan.default_sender, kind=kind)
    request = tenant_service_pb2.CreateTenantRequest(
        parent=f"tenants/{plan.parent}", tenant_id=plan.id, tenant=tenant, request_id=str(uuid.uuid4())
    )
    await _created(operator.call(stub.CreateTenant, request))


async def _ensure_domain(operator: Connection, tenant: str, domain: DomainPlan) -> None:
    stub = DomainServiceStub(operator.channel)
    signing = domain_pb2.Domain.SIGNING_REQUIRED if domain.signing else domain_pb2.Domain.SIGNING_OFF
    request = domain_service_pb2.CreateDomainRequest(
        parent=tenant,
        domain=domain.name,
        settings=domain_pb2.Domain(signing=signing, signs_for_senders=domain.signs_for_senders),
        trusted=True,
        request_id=str(uuid.uuid4()),
    )
    await _created(operator.call(stub.CreateDomain, request))


async def _ensure_credits(operator: Connection, plan: TenantPlan) -> None:
    # Not "if the balance is 0": a tenant that has spent everything must not get a present at each start.
    stub = CreditServiceStub(operator.channel)
    entries = credit_service_pb2.ListLedgerEntriesRequest(tenant=plan.name, page_size=1)
    if (await operator.call(stub.ListLedgerEntries, entries)).entries:
        return
    # The same id for everybody who gets here: two first starts at once grant once.
    request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"barua:{plan.name}:first start"))
    request = credit_service_pb2.GrantCreditsRequest(
        tenant=plan.name, amount=plan.credits, note="first start", request_id=request_id
    )
    await operator.call(stub.GrantCredits, request)


async def _created(call: Awaitable[object]) -> bool:
    try:
        await call
    except Refusal as refusal:
        if refusal.reason is Reason.ALREADY_EXISTS:
            return False
        raise
    return True
