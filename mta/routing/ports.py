"""The resolver that routing needs: the consumer owns the interface."""

from typing import NamedTuple, Protocol


class DnsFailure(Exception):
    """The DNS gave no usable answer now: SERVFAIL, REFUSED, a timeout, no server. Never a reason to bounce."""


class NameMissing(Exception):
    """The DNS says that the name does not exist (NXDOMAIN)."""


class MxRecord(NamedTuple):
    """One MX record; the host in lower case without the final dot, empty for a null MX."""

    preference: int
    host: str


class Resolver(Protocol):
    """Cached look-ups with a deadline."""

    async def mx(self, domain: str) -> tuple[MxRecord, ...]:
        """MX records, empty when the name exists and has none. Raises NameMissing, DnsFailure."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        """IPv4 and IPv6 addresses, empty when there are none. Raises NameMissing, DnsFailure."""
