"""Questions to the DNS, a round at a time: each question is asked once, and the round ends at its deadline.

Answers are not kept between rounds, so that a record that was just published is seen. Names that do not exist and names
without such records are empty answers; so are names that cannot be. ``DnsAway`` is everything else: no answer in time,
SERVFAIL, no nameserver.

Limits: one event loop; a round asks ``MAX_QUESTIONS`` at most and looks at ``MAX_RECORDS`` of an answer.
"""

import asyncio
import ipaddress
import itertools
import time
from collections.abc import Sequence
from typing import Any, Self

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver

from control.model.spf import Address
from mta.runtime.options import split_address

ROUND_SECONDS = 8.0
"""For all questions of a round."""
QUESTION_SECONDS = 4.0
"""For one question: all nameservers and retries."""
MAX_QUESTIONS = 200
"""Of a round: foreign records decide what is asked, so it has to end."""
MAX_RECORDS = 300
"""Of an answer that are looked at: more are nobody's who sends mail, and each costs time at every term of SPF."""


class DnsAway(Exception):
    """The DNS gave no answer; the text names the question."""


class Nameservers:
    """Those of the options (host:port each), or those of the system."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = [split_address(text) for text in servers]

    def begin(self, seconds: float = ROUND_SECONDS) -> "Lookup":
        """A new round, to be used as a context manager."""
        return Lookup(self._resolver(), time.monotonic() + seconds)

    def _resolver(self) -> dns.asyncresolver.Resolver:
        if not self._servers:
            try:
                return dns.asyncresolver.Resolver()  # each time anew: the system's configuration may change
            except dns.resolver.NoResolverConfiguration:
                pass  # then every question goes without an answer
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._servers]
        return resolver


class Lookup:
    """One round of questions; its end cancels those that are open. Names are absolute, without the final dot."""

    def __init__(self, resolver: dns.asyncresolver.Resolver, deadline: float) -> None:
        self._resolver = resolver
        self._deadline = deadline
        self._asked: dict[tuple[str, str], asyncio.Task[list[Any]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def texts(self, owner: str) -> list[str]:
        """TXT records in ASCII, the strings of each put together. Sorted: servers give them in any order."""
        found = await self._ask(owner, "TXT")
        return sorted(b"".join(record.strings).decode("ascii", "backslashreplace") for record in found)

    async def addresses(self, host: str) -> list[Address]:
        """IPv4 and IPv6 addresses."""
        four, six = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"))
        return [ipaddress.ip_address(record.address) for record in (*four, *six)]

    async def addresses_like(self, host: str, address: Address) -> list[Address]:
        """Addresses of the same version as ``address``."""
        found = await self._ask(host, "A" if address.version == 4 else "AAAA")
        return [ipaddress.ip_address(record.address) for record in found]

    async def alias(self, owner: str) -> str:
        """What the name is an alias of, in lower case; empty: it is none."""
        found = await self._ask(owner, "CNAME")
        return _text(found[0].target) if found else ""

    async def exchangers(self, owner: str) -> list[str]:
        """Hosts of MX records, in lower case, the most preferred first."""
        found = sorted(await self._ask(owner, "MX"), key=lambda record: record.preference)
        return [_text(record.exchange) for record in found]

    async def _ask(self, owner: str, kind: str) -> list[Any]:
        key = owner.lower(), kind
        task = self._asked.get(key)
        if task is None:
            if len(self._asked) >= MAX_QUESTIONS:
                raise DnsAway(f"{owner}: too many questions")
            task = self._asked[key] = asyncio.create_task(self._resolve(owner, kind))
        return await asyncio.shield(task)  # others may wait for the same answer

    async def _resolve(self, owner: str, kind: str) -> list[Any]:
        try:
            name = dns.name.from_text(owner, dns.name.root)
        except (dns.exception.SyntaxError, dns.exception.FormError, UnicodeError):
            return []
        seconds = min(QUESTION_SECONDS, self._deadline - time.monotonic())
        if seconds <= 0:
            raise DnsAway(f"{owner}: no time left")
        try:
            answer = await self._resolver.resolve(name, kind, lifetime=seconds, search=False)
            return list(itertools.islice(answer, MAX_RECORDS))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.resolver.YXDOMAIN):
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise DnsAway(f"{owner}: {type(error).__name__}") from error


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
