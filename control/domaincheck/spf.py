"""Whether an address may send for a domain: ``check_host`` of RFC 7208 §4.

The limits of RFC 7208 §4.6.4 hold: ten terms that ask the DNS, two of them without an answer, ten hosts of an MX.
``exp`` is not followed: nobody reads it here.

Errors: ``SpfError`` for a permanent error, ``DnsAway`` for a temporary one.
"""

import ipaddress

from control.domaincheck.lookup import Lookup
from control.model import spf
from control.model.spf import Address, Mechanism, Name, Record, Result, SpfError

MAX_LOOKUPS = 10
MAX_VOID_LOOKUPS = 2
MAX_EXCHANGERS = 10


class Evaluation:
    """One evaluation for one address. ``lookups`` is how many terms asked the DNS."""

    def __init__(self, lookup: Lookup, address: Address) -> None:
        self._lookup = lookup
        self._address = address
        self._voids = 0
        self.lookups = 0

    async def check(self, domain: str) -> Result:
        """The result for a domain, whatever its record is."""
        found = [text for text in await self._lookup.texts(domain) if spf.is_spf(text)]
        if not found:
            return Result.NONE
        if len(found) > 1:
            raise SpfError(f"{domain} has {len(found)} SPF records; RFC 7208 §4.5 allows one")
        return await self.evaluate(_parsed(domain, found[0]), domain)

    async def evaluate(self, record: Record, domain: str) -> Result:
        """The result of a record found at a domain."""
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain):
                return mechanism.result
        if not record.redirect:
            return Result.NEUTRAL
        self._count()
        target = spf.expand(record.redirect, self._address, domain)
        result = await self.check(target)
        if result is Result.NONE:
            raise SpfError(f"redirect={target[:100]} leads to a name without an SPF record")
        return result

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        match mechanism.name:
            case Name.ALL:
                return True
            case Name.IP4 | Name.IP6:
                network = mechanism.network
                return network is not None and network.version == self._address.version and self._address in network
            case Name.INCLUDE:
                return await self._included(mechanism, domain)
            case Name.A:
                self._count()
                return await self._has_address(self._target(mechanism, domain), mechanism)
            case Name.MX:
                return await self._is_exchanger(mechanism, domain)
            case Name.EXISTS:
                self._count()
                found = await self._lookup.addresses_like(self._target(mechanism, domain), ipaddress.IPv4Address(0))
                self._count_void(not found)
                return bool(found)
            case Name.PTR:
                self._count()  # discouraged by RFC 7208 §5.5, and never true here
                return False

    async def _included(self, mechanism: Mechanism, domain: str) -> bool:
        self._count()
        target = self._target(mechanism, domain)
        result = await self.check(target)
        if result is Result.NONE:
            raise SpfError(f"include:{target[:100]} names a domain without an SPF record")
        return result is Result.PASS

    async def _is_exchanger(self, mechanism: Mechanism, domain: str) -> bool:
        self._count()
        hosts = await self._lookup.exchangers(self._target(mechanism, domain))
        self._count_void(not hosts)
        if len(hosts) > MAX_EXCHANGERS:
            raise SpfError(f"an mx mechanism finds more than {MAX_EXCHANGERS} hosts")
        for host in hosts:
            if self._within(await self._lookup.addresses_like(host, self._address), mechanism):
                return True
        return False

    async def _has_address(self, host: str, mechanism: Mechanism) -> bool:
        found = await self._lookup.addresses_like(host, self._address)
        self._count_void(not found)
        return self._within(found, mechanism)

    def _within(self, found: list[Address], mechanism: Mechanism) -> bool:
        wanted = self._address
        different = wanted.max_prefixlen - (mechanism.four if wanted.version == 4 else mechanism.six)
        return any(
            address.version == wanted.version and (int(address) ^ int(wanted)) >> different == 0 for address in found
        )

    def _target(self, mechanism: Mechanism, domain: str) -> str:
        return spf.expand(mechanism.target, self._address, domain) if mechanism.target else domain

    def _count(self) -> None:
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            raise SpfError(f"the record needs more than {MAX_LOOKUPS} DNS look-ups (RFC 7208 §4.6.4)")

    def _count_void(self, void: bool) -> None:
        self._voids += void
        if self._voids > MAX_VOID_LOOKUPS:
            raise SpfError(f"more than {MAX_VOID_LOOKUPS} terms name something that does not exist (RFC 7208 §4.6.4)")


def _parsed(domain: str, text: str) -> Record:
    try:
        return spf.parse(text)
    except SpfError as error:
        raise SpfError(f"the SPF record of {domain}: {error}") from error
