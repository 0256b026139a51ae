"""The DNS records that a domain's owner publishes: proof of the claim, DKIM keys, SPF, DMARC, hosts of ours."""

import base64
from dataclasses import dataclass
from enum import StrEnum

CHALLENGE_LABEL = "_barua-challenge"
CHALLENGE_PREFIX = "barua-verify="
STRING_OCTETS = 255
"""Of one string of a TXT record (RFC 1035 §3.3); longer data is published in several (RFC 7208 §3.3)."""


class RecordType(StrEnum):
    """Types of records that are asked for."""

    TXT = "TXT"
    CNAME = "CNAME"


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """A record to publish. Names are absolute, without the final dot; ``purpose`` is for people."""

    owner: str
    data: str
    purpose: str
    type: RecordType = RecordType.TXT

    @property
    def strings(self) -> tuple[str, ...]:
        """The data of a TXT record in the strings it is published as; none for other types."""
        return split_text(self.data) if self.type is RecordType.TXT else ()


@dataclass(frozen=True, slots=True)
class SendingPlan:
    """How mail of this installation leaves, as other domains have to name it in their DNS.

    ``hosts``: names whose addresses send; ``sources``: single addresses that do. ``spf_include``: a name with an SPF
    record of ours; empty: none.
    """

    hosts: tuple[str, ...]
    spf_include: str
    return_path_target: str
    tracking_target: str
    sources: tuple[str, ...] = ()

    @property
    def spf_mechanisms(self) -> tuple[str, ...]:
        """What has to be in a domain's SPF record (RFC 7208 §5)."""
        if self.spf_include:
            return (f"include:{self.spf_include}",)
        sources = (f"ip6:{address}" if ":" in address else f"ip4:{address}" for address in self.sources)
        return (*(f"a:{host}" for host in self.hosts), *sources)


def split_text(text: str) -> tuple[str, ...]:
    """ASCII text in strings of at most 255 octets; empty text is one empty string."""
    return tuple(text[at : at + STRING_OCTETS] for at in range(0, len(text), STRING_OCTETS)) or ("",)


def zone_line(record_type: str, owner: str, data: str, ttl: int = 3600) -> str:
    """A record as a line of a zone file (RFC 1035 §5.1)."""
    if record_type == RecordType.TXT:
        quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in split_text(data))
        shown = " ".join(f'"{text}"' for text in quoted)
    else:
        shown = f"{data}."
    return f"{owner}. {ttl} IN {record_type} {shown}"


def challenge(domain: str, token: str) -> DnsRecord:
    """The record that proves the claim of a domain."""
    return DnsRecord(f"{CHALLENGE_LABEL}.{domain}", CHALLENGE_PREFIX + token, "proves that the domain is yours")


def dkim(domain: str, selector: str, algorithm: str, public_key: bytes, purpose: str = "") -> DnsRecord:
    """A DKIM key (RFC 6376 §3.6.1, RFC 8463 §4)."""
    encoded = base64.b64encode(public_key).decode()
    data = f"v=DKIM1; k={algorithm}; p={encoded}"
    said = purpose or f"verifies signatures with the {algorithm} key"
    return DnsRecord(f"{selector}._domainkey.{domain}", data, said)


def spf(domain: str, plan: SendingPlan, data: str = "") -> DnsRecord:
    """The SPF record; without ``data`` the one for a domain that sends from here alone."""
    alone = f"v=spf1 {' '.join(plan.spf_mechanisms)} ~all"
    return DnsRecord(domain, data or alone, "SPF: names the sending hosts; merge it with what is there")


def dmarc(domain: str, data: str = "v=DMARC1; p=none") -> DnsRecord:
    """The DMARC record; without ``data`` the one to start with."""
    return DnsRecord(f"_dmarc.{domain}", data, "DMARC: start with this, then tighten the policy")


def return_path(host: str, plan: SendingPlan) -> DnsRecord:
    """The alias that brings bounces here."""
    return DnsRecord(host, plan.return_path_target, "takes bounce messages", RecordType.CNAME)


def tracking(host: str, plan: SendingPlan) -> DnsRecord:
    """The alias that brings clicks and opens here."""
    return DnsRecord(host, plan.tracking_target, "serves links and open pixels", RecordType.CNAME)
