"""Which SMTP provider a message goes through, settled when it is submitted, and that provider's limits.

A provider whose limits refuse is counted here, before the message is stored; one whose limits make mail wait is counted
when the message is sent. Nothing of this costs anything while no tenant has a provider.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mta.custody import quotas
from mta.custody.quotas import Quotas
from mta.policy.egress import BUILT_IN, EgressPolicy, SmtpProvider, pool_named, provider_by_default, provider_named
from mta.policy.records import Tenant
from mta.runtime.refusals import Reason, Refusal


class Choice(NamedTuple):
    """The provider of a message. ``key`` empty: the built-in MTA; ``subject`` empty: nothing to count now."""

    key: str
    subject: str


NOTHING = Choice("", "")


class Providers:
    """Chooses providers for one worker."""

    def __init__(self, policy: EgressPolicy, quotas_: Quotas) -> None:
        self._policy = policy
        self._quotas = quotas_

    def choose(self, line: tuple[Tenant, ...], wanted: str) -> Choice:
        """The provider of a message: the one that it names, or the default of its tenant. Raises Refusal."""
        if not self._policy.has_providers:
            if wanted in ("", BUILT_IN):
                return NOTHING
            raise _unknown(wanted)
        tenants = [tenant.tenant_id for tenant in line]
        found = self._find(tenants, wanted)
        if found is None:
            return NOTHING
        # What goes through the MTA itself needs its name only where it waits for a limit.
        key = "" if found.built_in and not (found.limited and found.waits) else found.key
        subject = quotas.of_provider(found.key) if found.limited and not found.waits else ""
        return Choice(key, subject)

    def pool(self, line: tuple[Tenant, ...], wanted: str) -> str:
        """Id of the pool that a message asks for. Raises Refusal: none that its tenant may use is called so."""
        found = pool_named(self._policy, [tenant.tenant_id for tenant in line], wanted)
        if not found:
            shown = wanted[:100]
            raise Refusal(
                Reason.INVALID_ARGUMENT,
                f'there is no pool "{shown}" that this account may use; leave it out to send as usual',
                field="pool",
                metadata={"pool": shown},
            )
        return found

    def take(self, choice: Choice, count: int) -> bool:
        """Count recipients; False if ``wait`` has to be asked first."""
        return not choice.subject or self._quotas.take(choice.subject, count)

    def give_back(self, choice: Choice, count: int) -> None:
        """The message was not stored."""
        if choice.subject:
            self._quotas.give_back(choice.subject, count)

    async def wait(self, choice: Choice, count: int) -> None:
        """Return once so many may be taken. Raises Refusal: RATE_LIMITED when the limit is used up."""
        if choice.subject:
            await self._quotas.wait(choice.subject, count)

    async def wait_for_most(self, choice: Choice, count: int) -> None:
        """As ``wait``, for a batch; where a limit has room for a part of it, that part is here when this raises."""
        try:
            await self.wait(choice, count)
        except Refusal as refusal:
            left = refusal.metadata.get("left", "")
            if left.isdecimal() and 0 < int(left) < count:
                await self.wait(choice, int(left))
            raise

    def _find(self, tenants: Sequence[str], wanted: str) -> SmtpProvider | None:
        if wanted == BUILT_IN:
            return self._policy.provider(tenants[0], BUILT_IN)
        if wanted:
            found = provider_named(self._policy, tenants, wanted)
            if found is None:
                raise _unknown(wanted)
            return found
        return provider_by_default(self._policy, tenants) or self._policy.provider(tenants[0], BUILT_IN)


def _unknown(wanted: str) -> Refusal:
    return Refusal(
        Reason.NOT_FOUND,
        f'there is no SMTP provider "{wanted[:63]}" for this account; leave it out to use the default one',
        field="smtp_provider",
        metadata={"smtp_provider": wanted[:63]},
    )
