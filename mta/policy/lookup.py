"""Which rule applies: the questions that intake asks of the policy in force.

``Policy`` is implemented by the replica's reader; the functions here are the rules that need more than one record.
"""

from collections.abc import Sequence
from typing import Protocol

from mta.policy.records import ApiKey, Login, OAuthClient, SenderDomain, Suppression, Tenant

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

    def oauth_client(self, client_id: str) -> OAuthClient | None:
        """An OAuth client by its id."""

    def sender_domain(self, domain: str) -> SenderDomain | None:
        """A verified domain by its name: A-labels, lower case."""

    def first_domain(self, tenant_id: str) -> str | None:
        """A verified domain of exactly this tenant, the first by name."""

    def senders(self, address: str) -> list[str]:
        """The tenants that have verified a canonical address."""

    def signing_domain(self) -> SenderDomain | None:
        """The domain that signs for verified senders, if there is one."""

    def suppressions(self, address: str, tenant_ids: Sequence[str]) -> list[Suppression]:
        """Every suppression of a canonical address on one of these tenants."""


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


def is_verified_sender(policy: Policy, line: tuple[Tenant, ...], domain: str, address: str) -> bool:
    """Whether a tenant of this lineage has verified a canonical address.

    A domain that is here is its owner's: then single addresses of it count for nothing.
    """
    if policy.sender_domain(domain) is not None:
        return False
    return not {tenant.tenant_id for tenant in line}.isdisjoint(policy.senders(address))


def signer_for_senders(policy: Policy, line: tuple[Tenant, ...]) -> SenderDomain | None:
    """The domain that signs for verified senders: one of the top of the lineage, with keys."""
    found = policy.signing_domain()
    if found is None or found.signing_off or found.tenant_id != line[-1].tenant_id:
        return None
    return found


def default_sender(policy: Policy, line: tuple[Tenant, ...]) -> str | None:
    """The From address of a tenant for messages without one: its own, else that of the nearest tenant above."""
    for tenant in line:
        if tenant.default_sender:
            return tenant.default_sender
        domain = policy.first_domain(tenant.tenant_id)
        if domain is not None:
            return f"noreply@{domain}"
    return None


def suppressed(policy: Policy, line: tuple[Tenant, ...], address: str, stream: str, now: float) -> Suppression | None:
    """The suppression of a canonical address that holds for this lineage and stream at ``now``, in Unix seconds.

    The nearest to the tenant comes first, and of one tenant's the one for all streams. A message without a stream is
    held by suppressions for all streams alone.
    """
    found = policy.suppressions(address, [tenant.tenant_id for tenant in line])
    if not found:
        return None
    in_force = {
        (entry.tenant_id, entry.stream): entry for entry in found if not entry.expire_time or entry.expire_time > now
    }
    for tenant in line:
        entry = in_force.get((tenant.tenant_id, "")) or in_force.get((tenant.tenant_id, stream))
        if entry is not None:
            return entry
    return None
