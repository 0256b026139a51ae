"""Validates addresses for a tenant: brings the facts together that ``control.model.validation`` judges.

Errors: ``Refusal`` with UNAVAILABLE when the database is away. Domains that the DNS does not tell within the time are
unknown. One event loop.
"""

import asyncio
from collections.abc import Iterable, Sequence

from control.database import Database
from control.maildomains import NO_ANSWER, MailDomains
from control.model.caller import acting_for_platform
from control.model.suppressions import scope_of
from control.model.validation import DomainFacts, Held, Judged, LastOutcome, Lists, judge, parse
from control.services.suppressionchecks import holding
from control.store import last_outcomes
from control.store.tenants import Tenant

DNS_SECONDS = 20.0
"""For all domains of one call."""


class Validator:
    """Validates addresses."""

    def __init__(self, database: Database, domains: MailDomains, lists: Lists) -> None:
        self._database = database
        self._domains = domains
        self._lists = lists

    async def validate(self, tenant: Tenant, addresses: Sequence[str], stream: str) -> list[Judged]:
        """One result per address, in order."""
        parsed = [parse(text) for text in addresses]
        keys = sorted({entry.canonical for entry in parsed if entry.canonical})
        facts = await self._facts({entry.domain for entry in parsed if entry.canonical})
        held = await self._held(tenant, keys, stream) if keys else {}
        last = await self._last(tenant.tenant_id, keys) if keys else {}
        return [
            judge(
                entry,
                facts.get(entry.domain) if entry.canonical else None,
                held.get(entry.canonical),
                last.get(entry.canonical),
                self._lists,
            )
            for entry in parsed
        ]

    async def close(self) -> None:
        """End what is still being looked up."""
        await self._domains.close()

    async def _facts(self, domains: Iterable[str]) -> dict[str, DomainFacts]:
        tasks = {domain: asyncio.ensure_future(self._domains.facts(domain)) for domain in domains}
        if tasks:
            _, late = await asyncio.wait(tasks.values(), timeout=DNS_SECONDS)
            for task in late:
                task.cancel()  # the look-up itself goes on, for whoever asks next
        return {
            domain: task.result() if task.done() and not task.cancelled() else NO_ANSWER
            for domain, task in tasks.items()
        }

    async def _held(self, tenant: Tenant, keys: Sequence[str], stream: str) -> dict[str, Held]:
        found = await holding(self._database, tenant, keys, stream)
        return {
            address: Held(scope_of(entries[0].tenant_id, tenant.tenant_id), entries[0].reason)
            for address, entries in found.items()
        }

    async def _last(self, tenant_id: str, keys: Sequence[str]) -> dict[str, LastOutcome]:
        # For the platform: the policies of the partitions would be asked for every row, and the tenant is a condition.
        with acting_for_platform():
            return await self._database.transact(lambda c: last_outcomes.find(c, tenant_id, keys))
