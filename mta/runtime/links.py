"""Signed tokens: the proof in links that stand in messages, made by the bridge and believed by control.

A token says "the recipient of the message with this reference did that": opened it, followed this link, unsubscribed.
It is the id of a key, the reference (16 octets), an HMAC-SHA-256 cut to 128 bits (RFC 2104 §5) over purpose, reference
and what else it carries, and that: the address of a link for CLICK, nothing for the others. All in URL-safe Base64
without padding, of which only the one canonical spelling is taken. The keys are those of ``secrets/tracking.key``, a
file as ``keyring`` describes: the first signs, all of them verify. A key that is taken out of the file ends the links
that it signed.

References are UUIDs of version 7 (RFC 9562 §5.7), so that the time in them tells where to look for the message.

Pure but for ``new_reference``. Errors: ``InvalidToken``, which does not say what is wrong with it.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import urlsplit

from mta.runtime.keyring import ID_OCTETS, KeyRing, key_id

REFERENCE_OCTETS = 16
MAC_OCTETS = 16
"""128 bits."""
MAX_URL = 4096
"""Octets of an address that is put into a token: programs and proxies cut what is much longer."""
MAX_TOKEN = 6144
"""Characters of a token, more than one with the longest address has."""

_HEAD_OCTETS = ID_OCTETS + REFERENCE_OCTETS + MAC_OCTETS
_DOMAIN = b"barua tracking link\0"
# What may stand in a URL (RFC 3986 §2), the percent sign included; square brackets are for IPv6 hosts.
_URL_OCTETS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&'()*+,;=%|{}^`")


class Purpose(IntEnum):
    """What a token is good for, and for nothing else."""

    OPEN = 1
    CLICK = 2
    UNSUBSCRIBE = 3
    RESUBSCRIBE = 4


class InvalidToken(ValueError):
    """It is none of ours, not for this purpose, or its key is gone."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a token says."""

    purpose: Purpose
    reference: bytes
    url: str = ""
    """Where it leads: an absolute address with http or https, in ASCII; only of CLICK."""


def new_reference() -> bytes:
    """A new reference: 48 bits of time, 74 random ones."""
    value = int(time.time() * 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return value.to_bytes(REFERENCE_OCTETS, "big")


def made_at(reference: bytes) -> float | None:
    """When a reference was made, in seconds since 1970; None if it is no UUID of version 7."""
    if len(reference) != REFERENCE_OCTETS or reference[6] >> 4 != 7 or reference[8] >> 6 != 2:
        return None
    return int.from_bytes(reference[:6], "big") / 1000


def sign(ring: KeyRing, link: Link) -> str:
    """The token that says ``link``. ValueError: its reference or address is none that a token can carry."""
    if len(link.reference) != REFERENCE_OCTETS or (link.purpose is Purpose.CLICK) != is_target(link.url):
        raise ValueError("a token carries 16 octets and, for a click alone, an address with http or https")
    return Signer(ring, link.reference).token(link.purpose, link.url)


class Signer:
    """Makes the tokens of one message, which may have many links."""

    __slots__ = ("_id", "_key", "_reference")

    def __init__(self, ring: KeyRing, reference: bytes) -> None:
        self._key = ring.sealing
        self._id = key_id(ring.sealing)
        self._reference = reference

    def token(self, purpose: Purpose, url: str = "") -> str:
        """The token; ``url`` must be one that ``is_target`` takes, or empty, as the purpose has it."""
        octets = url.encode("ascii")
        content = self._id + self._reference + _mac(self._key, purpose, self._reference, octets) + octets
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def verify(ring: KeyRing, token: str, purpose: Purpose | None = None) -> Link:
    """What a token says; of any purpose if none is given. Raises InvalidToken."""
    content = _decoded(token)
    reference, mac = (
        content[ID_OCTETS : ID_OCTETS + REFERENCE_OCTETS],
        content[_HEAD_OCTETS - MAC_OCTETS : _HEAD_OCTETS],
    )
    url = content[_HEAD_OCTETS:]
    key = ring.by_id.get(content[:ID_OCTETS])
    if key is None:
        raise InvalidToken
    # All of them, whichever is wanted: the time must not tell for what else a token would be good.
    meant = [one for one in Purpose if hmac.compare_digest(_mac(key, one, reference, url), mac)]
    if len(meant) != 1 or purpose not in {None, meant[0]}:
        raise InvalidToken
    # Signed by us, so it was fit once; the rules may have become stricter since.
    text = url.decode("ascii", "replace")
    if (meant[0] is Purpose.CLICK) != is_target(text):
        raise InvalidToken
    return Link(meant[0], reference, text)


def is_target(url: str) -> bool:
    """Whether a link may lead there: http or https, a host, and only what may stand in a URL and in a header field."""
    octets = url.encode("utf-8", "surrogatepass")
    if not 0 < len(octets) <= MAX_URL or not _URL_OCTETS.issuperset(octets):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and url[len(parts.scheme) :][:3] == "://"
    except ValueError:
        return False


def _mac(key: bytes, purpose: Purpose, reference: bytes, url: bytes) -> bytes:
    # Everything before the address has a fixed length, so no two messages read the same.
    return hmac.digest(key, _DOMAIN + bytes((purpose,)) + reference + url, hashlib.sha256)[:MAC_OCTETS]


def _decoded(token: str) -> bytes:
    if len(token) > MAX_TOKEN:
        raise InvalidToken
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidToken from None
    # The last character has bits to spare: a token has one spelling.
    if len(content) < _HEAD_OCTETS or base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii") != token:
        raise InvalidToken
    return content
