"""Domains to send from: ``/v2/email-service/smtp/sender_domains``.

Adding one claims it and looks at its DNS at once; control looks again every hour, and the domain is active when what is
there proves the claim. Adding one that is there already has the DNS looked at anew. Failures are answers with
``result: false`` and status 200, in the shape of success, as the original has them.
"""

from typing import Any

from barua.control.v1 import domain_service_pb2, tenant_service_pb2
from barua.control.v1.domain_pb2 import Domain, DomainCheck

from api_bridge.dialects.sendpulse.calls import ME, Call, Paths
from mta.runtime.refusals import Reason, Refusal

SERVICE_TYPE = 3
"""Of sender domains; the original has no other here."""
INVALID = "The domain name is invalid"
EXISTS = "The domain already exists"
TOO_MANY = "Too many domains are not verified yet"

_PASSING = frozenset({Reason.FAILED_PRECONDITION, Reason.UNAVAILABLE, Reason.RATE_LIMITED, Reason.NOT_FOUND})
"""Why a look at the DNS may fail without the domain being any the worse for it."""


async def listed(call: Call) -> Any:
    """GET /v2/email-service/smtp/sender_domains."""
    request = domain_service_pb2.ListDomainsRequest(parent=ME, page_size=1000, order_by="number")
    domains = [domain async for domain in call.ask_pages("domains", "ListDomains", request)]
    user_id = await _user_id(call) if domains else 0
    rows = [_row(domain, user_id, is_default=domain is domains[0]) for domain in domains]
    return {"data": {"result": True, "data": rows}}


async def add(call: Call) -> Any:
    """POST /v2/email-service/smtp/sender_domains/{domain}."""
    name = call.in_path("domain").strip("{}").strip().lower()
    request = domain_service_pb2.CreateDomainRequest(parent=ME, domain=name, request_id=call.request_id)
    try:
        made = await call.ask("domains", "CreateDomain", request)
    except Refusal as refusal:
        if refusal.reason is Reason.INVALID_ARGUMENT:
            return _added(INVALID)
        if refusal.reason is Reason.FAILED_PRECONDITION:
            return _added(TOO_MANY)
        if refusal.reason is not Reason.ALREADY_EXISTS:
            raise
        await _look(call, f"{ME}/domains/{name}")
        return _added(EXISTS)
    await _look(call, made.name)
    return _added(None)


async def _look(call: Call, name: str) -> None:
    """Have the DNS looked at, and the domain made active if what is there proves the claim."""
    for method, request in (
        ("CheckDomain", domain_service_pb2.CheckDomainRequest(name=name)),
        ("VerifyDomain", domain_service_pb2.VerifyDomainRequest(name=name)),
    ):
        try:
            await call.ask("domains", method, request)
        except Refusal as refusal:
            if refusal.reason not in _PASSING:
                raise


def _added(error: str | None) -> dict[str, Any]:
    return {"data": {"result": error is None, "error": error}}


async def _user_id(call: Call) -> int:
    """A number for the account; 0 if its credentials may not read it."""
    try:
        tenant = await call.ask("tenants", "GetTenant", tenant_service_pb2.GetTenantRequest(name=ME))
    except Refusal as refusal:
        if refusal.reason is Reason.PERMISSION_DENIED:
            return 0
        raise
    return int(tenant.number)


def _row(domain: Domain, user_id: int, *, is_default: bool) -> dict[str, Any]:
    return {
        "id": domain.number,
        "user_id": user_id,
        "service_type": SERVICE_TYPE,
        "service_value": domain.name.rpartition("/")[2],
        "status": int(domain.state == Domain.STATE_VERIFIED),
        "expire_date": None,
        "auto_free_prolong": 0,
        "currency": "",
        "is_default": is_default,
        "ssl_type": 0,
        "ssl_expired": None,
        "ssl_generated": None,
        "checks": _checks(domain),
    }


def _checks(domain: Domain) -> dict[str, Any]:
    dkim, spf, dmarc = (
        _passed(domain, kind) for kind in (DomainCheck.KIND_DKIM, DomainCheck.KIND_SPF, DomainCheck.KIND_DMARC)
    )
    records = (record.data for record in domain.dns_records if record.type == "TXT")
    return {
        "check_dkim": dkim,
        "check_spf": spf,
        "check_dmarc": dmarc,
        "all_checks": dkim and spf and dmarc,
        "spf_txt_needed": next((data for data in records if data.startswith("v=spf1")), ""),
    }


def _passed(domain: Domain, kind: DomainCheck.Kind.ValueType) -> bool:
    """Whether all checks of this kind passed, of which there is at least one."""
    states = [check.state for check in domain.checks if check.kind == kind]
    return bool(states) and all(state == DomainCheck.STATE_OK for state in states)


PATHS: Paths = [
    ("/v2/email-service/smtp/sender_domains", {"GET": listed}),
    ("/v2/email-service/smtp/sender_domains/{domain}", {"POST": add}),
]
