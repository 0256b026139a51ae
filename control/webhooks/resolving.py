"""The addresses of an endpoint's host, checked: only what the rules permit comes out.

Asks the nameservers of the options, or those of the system, without threads; "localhost" is this machine. A name that
has any address that is not permitted is refused as a whole: somebody who mixes them is trying something.

Errors: ``Unreachable`` with a text for the webhook's owner. Limits: ``DEADLINE_SECONDS`` for a look-up; answers are
kept for their time to live.
"""

import ipaddress
import time
from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from control.webhooks.destinations import Address, Rules, Target
from mta.runtime.options import split_address

DEADLINE_SECONDS = 5.0
CACHED_NAMES = 10_000
_REREAD_SECONDS = 300.0
"""Between looks at the system's configuration, which may change."""
_LOCALHOST = "localhost"


class Unreachable(Exception):
    """An endpoint cannot be posted to; the text says why."""


class Addresses:
    """Looks hosts up."""

    def __init__(self, rules: Rules, nameservers: Sequence[str]) -> None:
        self._rules = rules
        self._nameservers = [split_address(text) for text in nameservers]
        self._cache = dns.resolver.LRUCache(CACHED_NAMES)
        self._made: dns.asyncresolver.Resolver | None = None
        self._made_at = 0.0

    async def of(self, target: Target) -> list[Address]:
        """The permitted addresses of a target's host, IPv4 first. Raises Unreachable."""
        literal = target.literal()
        if literal is not None:
            found: list[Address] = [literal]
        elif target.host == _LOCALHOST:
            found = [ipaddress.IPv4Address("127.0.0.1")]
        else:
            found = await self._look_up(target.host)
        for address in found:
            if not self._rules.permitted(address):
                raise Unreachable(f"{target.host} has the address {address}, which is not public")
        return found

    async def _look_up(self, host: str) -> list[Address]:
        try:
            answers = await self._resolver().resolve_name(f"{host}.", lifetime=DEADLINE_SECONDS, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            raise Unreachable(f"{host} has no address in the DNS") from None
        except (dns.exception.DNSException, OSError) as error:
            raise Unreachable(f"the DNS did not answer for {host}: {type(error).__name__}") from error
        found = sorted((ipaddress.ip_address(text) for text in answers.addresses()), key=lambda one: one.version)
        if not found:
            raise Unreachable(f"{host} has no address in the DNS")
        return found

    def _resolver(self) -> dns.asyncresolver.Resolver:
        now = time.monotonic()
        if self._made is None or now - self._made_at > _REREAD_SECONDS:
            self._made = dns.asyncresolver.Resolver(configure=not self._nameservers)
            if self._nameservers:
                self._made.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._nameservers]
            self._made.cache = self._cache
            self._made_at = now
        return self._made
