"""A caching resolver on dnspython's asynchronous one.

Every look-up has a deadline; equal look-ups under way are one; answers are kept for their time to live, clamped both
ways, and absence is kept for ``NEGATIVE_SECONDS``. Failures are not kept here (routing remembers them).
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from mta.routing.ports import DnsFailure, MxRecord, NameMissing

MIN_TTL = 5
"""A time to live of zero would turn every message into a query."""
NEGATIVE_SECONDS = 60
"""How long "there is none" is believed."""
MAX_CONCURRENT = 200
"""Look-ups at once: more wait."""

Answer = tuple[tuple[MxRecord, ...] | tuple[str, ...], float]


class DnsResolver:
    """``mta.routing.ports.Resolver`` over the network."""

    def __init__(
        self, nameservers: Sequence[tuple[str, int]], timeout_seconds: float, cache_size: int, max_ttl: int
    ) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=not nameservers)
        if nameservers:
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in nameservers]
        self._resolver.timeout = min(3.0, timeout_seconds / 3)  # so that a lost packet or a dead server leaves time
        self._resolver.lifetime = timeout_seconds
        self._resolver.cache = None
        self._cache_size = cache_size
        self._max_ttl = max_ttl
        self._cache: dict[tuple[str, str], tuple[object, float]] = {}
        self._under_way: dict[tuple[str, str], asyncio.Task[object]] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def mx(self, domain: str) -> tuple[MxRecord, ...]:
        """MX records of a domain."""
        found = await self._cached("MX", domain, self._mx)
        assert isinstance(found, tuple)
        return found

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Addresses of a host, IPv4 before IPv6; an address literal is its own answer."""
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            pass
        found = await self._cached("A", host, self._addresses)
        assert isinstance(found, tuple)
        return found

    async def _cached(self, kind: str, name: str, look_up: Callable[[str], Awaitable[tuple[object, float]]]) -> object:
        key = (kind, name)
        kept = self._cache.get(key)
        if kept is not None and kept[1] > time.monotonic():
            if isinstance(kept[0], NameMissing):
                raise NameMissing(name)
            return kept[0]
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(key, name, look_up))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(
        self, key: tuple[str, str], name: str, look_up: Callable[[str], Awaitable[tuple[object, float]]]
    ) -> object:
        async with self._slots:
            try:
                value, ttl = await look_up(name)
            except dns.resolver.NXDOMAIN:
                self._keep(key, NameMissing(name), NEGATIVE_SECONDS)
                raise NameMissing(name) from None
            except (dns.exception.DNSException, OSError, ValueError) as error:
                raise DnsFailure(type(error).__name__) from error
        self._keep(key, value, ttl)
        return value

    def _keep(self, key: tuple[str, str], value: object, ttl: float) -> None:
        if len(self._cache) >= self._cache_size:
            self._cache.clear()
        self._cache[key] = (value, time.monotonic() + max(MIN_TTL, min(ttl, self._max_ttl)))

    async def _mx(self, domain: str) -> tuple[object, float]:
        answer = await self._resolver.resolve(_absolute(domain), "MX", raise_on_no_answer=False, search=False)
        if answer.rrset is None:
            return (), NEGATIVE_SECONDS
        records = tuple(MxRecord(record.preference, _host(record.exchange)) for record in answer.rrset)
        return records, answer.rrset.ttl

    async def _addresses(self, host: str) -> tuple[object, float]:
        four, six = await asyncio.gather(self._address(host, "A"), self._address(host, "AAAA"), return_exceptions=True)
        found = [result for result in (four, six) if not isinstance(result, BaseException)]
        addresses = tuple(address for result in found for address in result[0])
        if not addresses:
            # One family failed and the other has nothing: that is not knowledge that there is nothing.
            for result in (four, six):
                if isinstance(result, BaseException):
                    raise result
        return addresses, min((result[1] for result in found), default=NEGATIVE_SECONDS)

    async def _address(self, host: str, family: str) -> tuple[tuple[str, ...], float]:
        answer = await self._resolver.resolve(_absolute(host), family, raise_on_no_answer=False, search=False)
        if answer.rrset is None:
            return (), NEGATIVE_SECONDS
        return tuple(record.address for record in answer.rrset), answer.rrset.ttl


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name + ".")


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
