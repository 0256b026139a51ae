"""The DNS records that a domain's owner publishes: proof of the claim, DKIM keys, and advice for SPF and DMARC."""

import base64
from dataclasses import dataclass

CHALLENGE_LABEL = "_barua-challenge"
CHALLENGE_PREFIX = "barua-verify="


@dataclass(frozen=True, slots=True)
class TxtRecord:
    """A TXT record to publish; ``purpose`` is for people."""

    owner: str
    data: str
    purpose: str


def challenge(domain: str, token: str) -> TxtRecord:
    """The record that proves the claim of a domain."""
    return TxtRecord(f"{CHALLENGE_LABEL}.{domain}", CHALLENGE_PREFIX + token, "proves that the domain is yours")


def dkim(domain: str, selector: str, algorithm: str, public_key: bytes) -> TxtRecord:
    """A DKIM key (RFC 6376 §3.6.1, RFC 8463 §4)."""
    encoded = base64.b64encode(public_key).decode()
    data = f"v=DKIM1; k={algorithm}; p={encoded}"
    return TxtRecord(f"{selector}._domainkey.{domain}", data, f"verifies signatures with the {algorithm} key")


def advice(domain: str, sending_host: str) -> list[TxtRecord]:
    """Records that receivers like to see; a domain may need more than these if it also sends from elsewhere."""
    return [
        TxtRecord(domain, f"v=spf1 a:{sending_host} ~all", "SPF: names the sending host; merge it with what is there"),
        TxtRecord(f"_dmarc.{domain}", "v=DMARC1; p=none", "DMARC: start with this, then tighten the policy"),
    ]
