"""The DNS records of all sender domains, as control would have them published.

``txt_records`` walks the tree of tenants. Errors: ``Refusal`` and ``Unreachable``.

Limits: one call per tenant; meant for demo installations, where there is no DNS to ask.
"""

from barua.control.v1 import domain_service_pb2, tenant_service_pb2
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from barua_client import Connection

ROOT = "tenants/operator"


async def txt_records(operator: Connection) -> dict[str, str]:
    """TXT data by owner name, in lower case, without the final dot."""
    tenants, domains = TenantServiceStub(operator.channel), DomainServiceStub(operator.channel)
    found: dict[str, str] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        wanted = domain_service_pb2.ListDomainsRequest(parent=name)
        async for domain in operator.pages(domains.ListDomains, wanted, "domains"):
            found.update({record.owner.lower(): record.data for record in domain.dns_records if record.type == "TXT"})
        children = tenant_service_pb2.ListTenantsRequest(parent=name)
        waiting += [tenant.name async for tenant in operator.pages(tenants.ListTenants, children, "tenants")]
    return found
