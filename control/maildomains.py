"""What the DNS says about mail for domains: mail servers, none, or no such domain (RFC 5321 §5.1, RFC 7505).

Answers are kept for as long as the DNS allows, within bounds; a domain that many ask for at once is looked up once.
Nothing raises: a DNS that gives no answer in time is a fact like the others, kept for a short time only.

Limits: ``MAX_KEPT`` domains in memory, ``MAX_AT_ONCE`` look-ups at once, ``MAX_WAITING`` waiting. One event loop.
"""

import asyncio
import time
from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver

from control.model.validation import DomainFacts, Mail
from mta.runtime.options import split_address

MAX_KEPT = 100_000
MAX_AT_ONCE = 50
MAX_WAITING = 5_000
"""Look-ups under way or waiting for their turn; beyond that there is no answer at once."""
MIN_KEPT_SECONDS, MAX_KEPT_SECONDS = 60.0, 3600.0
"""Bounds on how long an answer is kept, whatever its TTL."""
FAILURE_KEPT_SECONDS = 30.0
_SHOWN_HOSTS = 3

NO_ANSWER = DomainFacts(Mail.NO_ANSWER)


class MailDomains:
    """Asks the nameservers of the options (host:port each), or those of the system."""

    def __init__(self, nameservers: Sequence[str], timeout_seconds: float) -> None:
        self._nameservers = [split_address(text) for text in nameservers]
        self._timeout = timeout_seconds
        self._kept: dict[str, tuple[float, DomainFacts]] = {}
        self._running: dict[str, asyncio.Task[DomainFacts]] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def facts(self, domain: str) -> DomainFacts:
        """What is known of a domain, in A-labels and lower case."""
        kept = self._kept.get(domain)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        task = self._running.get(domain)
        if task is None:
            if len(self._running) >= MAX_WAITING:
                return NO_ANSWER
            task = self._running[domain] = asyncio.create_task(self._look_up(domain), name=f"mail-domain-{domain}")
            task.add_done_callback(lambda _: self._running.pop(domain, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is still being looked up."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, domain: str) -> DomainFacts:
        async with self._slots:
            try:
                facts, seconds = await self._ask(domain)
            except (dns.exception.DNSException, OSError):
                facts, seconds = NO_ANSWER, FAILURE_KEPT_SECONDS
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[domain] = (time.monotonic() + seconds, facts)
        return facts

    async def _ask(self, domain: str) -> tuple[DomainFacts, float]:
        """The facts, and how long they hold."""
        resolver, deadline = self._resolver(), time.monotonic() + self._timeout
        name = dns.name.from_text(domain, dns.name.root)
        try:
            answer = await resolver.resolve(name, "MX", lifetime=self._timeout, search=False)
        except dns.resolver.NXDOMAIN:
            return DomainFacts(Mail.NO_DOMAIN), MIN_KEPT_SECONDS * 5
        except dns.resolver.NoAnswer:
            return await self._implicit(resolver, name, deadline)
        records = sorted(answer, key=lambda record: record.preference)
        hosts = [record.exchange.to_text(omit_final_dot=True).lower() for record in records]
        held = min(max(float(answer.rrset.ttl if answer.rrset else 0), MIN_KEPT_SECONDS), MAX_KEPT_SECONDS)
        if hosts in ([""], ["."]):
            return DomainFacts(Mail.NULL_MX), held
        return DomainFacts(Mail.EXCHANGERS, tuple(hosts[:_SHOWN_HOSTS])), held

    async def _implicit(
        self, resolver: dns.asyncresolver.Resolver, name: dns.name.Name, deadline: float
    ) -> tuple[DomainFacts, float]:
        for kind in ("A", "AAAA"):
            try:
                await resolver.resolve(name, kind, lifetime=max(0.1, deadline - time.monotonic()), search=False)
            except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
                continue
            host = name.to_text(omit_final_dot=True).lower()
            return DomainFacts(Mail.IMPLICIT, (host,)), MIN_KEPT_SECONDS * 5
        return DomainFacts(Mail.NOTHING), MIN_KEPT_SECONDS * 5

    def _resolver(self) -> dns.asyncresolver.Resolver:
        if not self._nameservers:
            return dns.asyncresolver.Resolver()  # each time anew: the system's configuration may change
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._nameservers]
        return resolver
