"""Which rule applies: the questions that intake asks of the policy in force.

``Policy`` is implemented by the replica's reader; the functions here are the rules that need more than one record.
"""

from typing import Protocol

from mta.policy.records import ApiKey, Login, SenderDomain, Suppression, Tenant

MAX_DEPTH = 16
"""Levels of the tenant tree that are followed; control makes no deeper ones."""


class Policy(Protocol):
    """The records in force. Look-ups are synchronous and cheap enough for the path of a message."""

    def tenant(self, tenant_id: str) -> Tenant | None:
        """A tenant by its id."""

    def login(self, username: str) -> Login | None:
        """A login by its username."""

    def api_key(self, key_id: str) -> ApiKey | None:
        """An API key by its id."""

    def sender_domain(self, domain: str) -> SenderDomain | None:
        """A verified domain by its name: A-labels, lower case."""

    def first_domain(self, tenant_id: str) -> str | None:
        """A verified domain of exactly this tenant, the first by name."""

    def suppressions(self, address: str) -> list[Suppression]:
        """Every suppression of a canonical address."""


def lineage(policy: Policy, tenant_id: str) -> tuple[Tenant, ...]:
    """A tenant and those above it, nearest first; empty if there is no such tenant."""
    line: list[Tenant] = []
    current = policy.tenant(tenant_id)
    while current is not None and len(line) < MAX_DEPTH:
        line.append(current)
        current = policy.tenant(current.parent_id) if current.parent_id else None
    return tuple(line)


def may_send_from(policy: Policy, line: tuple[Tenant, ...], domain: str) -> SenderDomain | None:
    """The verified domain if a tenant of this lineage owns it."""
    found = policy.sender_domain(domain)
    if found is not None and any(tenant.tenant_id == found.tenant_id for tenant in line):
        return found
    return None


def default_sender(policy: Policy, line: tuple[Tenant, ...]) -> str | None:
    """The From address of a tenant for messages without one: its own, else that of the nearest tenant above."""
    for tenant in line:
        if tenant.default_sender:
            return tenant.default_sender
        domain = policy.first_domain(tenant.tenant_id)
        if domain is not None:
            return f"noreply@{domain}"
    return None


def suppressed(policy: Policy, line: tuple[Tenant, ...], address: str) -> Suppression | None:
    """The suppression of a canonical address that holds for this lineage, the nearest first."""
    found = policy.suppressions(address)
    if not found:
        return None
    by_tenant = {suppression.tenant_id: suppression for suppression in found}
    return next((by_tenant[tenant.tenant_id] for tenant in line if tenant.tenant_id in by_tenant), None)
