"""Looks up in the DNS whether a domain's owner has published its challenge.

Errors: FAILED_PRECONDITION if the record is not there, saying what was found instead; UNAVAILABLE if the DNS did not
answer within ``DEADLINE_SECONDS``.
"""

import dns.asyncresolver
import dns.exception
import dns.resolver

from control.model.dnsrecords import TxtRecord
from mta.runtime.options import split_address
from mta.runtime.refusals import Reason, Refusal

DEADLINE_SECONDS = 5.0
"""For all nameservers and retries."""
_SHOWN = 5


class ChallengeChecker:
    """Asks the nameservers of the options, or those of the system."""

    def __init__(self, nameservers: list[str]) -> None:
        self._nameservers = nameservers

    async def check(self, wanted: TxtRecord) -> None:
        """Return if the record is published; raise the Refusal that says why not."""
        found = await self._look_up(wanted.owner)
        if wanted.data in found:
            return
        seen = "; ".join(text[:100] for text in found[:_SHOWN])
        said = f"it has instead: {seen}" if found else "there is none yet"
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'the TXT record at {wanted.owner} must be "{wanted.data}"; {said}. DNS changes take a while to be seen',
            metadata={"owner": wanted.owner, "wanted": wanted.data, "found": seen},
        )

    async def _look_up(self, owner: str) -> list[str]:
        try:
            answer = await self._resolver().resolve(f"{owner}.", "TXT", lifetime=DEADLINE_SECONDS, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise Refusal(
                Reason.UNAVAILABLE,
                f"the DNS did not answer for {owner}; try again",
                retry_after=DEADLINE_SECONDS,
                metadata={"owner": owner},
            ) from error
        return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]

    def _resolver(self) -> dns.asyncresolver.Resolver:
        # A new one each time: the system's configuration may change, and a cache would hide a new record.
        if not self._nameservers:
            return dns.asyncresolver.Resolver()
        resolver = dns.asyncresolver.Resolver(configure=False)
        addresses = [split_address(text) for text in self._nameservers]
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in addresses]
        return resolver
