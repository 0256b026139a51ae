"""Tag lists as DKIM and DMARC records have them, and what they mean (RFC 6376 §3.2 and §3.6.1, RFC 7489 §6.3).

Errors: ``TagListError`` with a text that says what is wrong, for the owner of the record.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class TagListError(ValueError):
    """The record cannot be read."""


class DmarcPolicy(StrEnum):
    """What receivers are asked to do with mail that fails."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Dmarc:
    """A DMARC record. ``subdomain_policy`` is in force for names below the one it was found at."""

    policy: DmarcPolicy
    subdomain_policy: DmarcPolicy
    strict_dkim: bool
    strict_spf: bool
    reports: bool
    """Somebody gets aggregate reports."""


def parse(text: str) -> dict[str, str]:
    """The tags of a list, names in lower case. Raises TagListError."""
    tags: dict[str, str] = {}
    for part in text.strip().removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals or not _NAME.fullmatch(name):
            raise TagListError(f'it has "{part.strip()[:60]}" where tag=value is expected')
        if name in tags:
            raise TagListError(f"it has the tag {name}= twice")
        tags[name] = value.strip()
    return tags


def dkim_difference(text: str, algorithm: str, public_key: bytes) -> str:
    """Why a record does not verify signatures made with a key; empty: it does (RFC 6376 §3.6.1)."""
    try:
        tags = parse(text)
    except TagListError as error:
        return f"the record is no DKIM key: {error}"
    if tags.get("v", "DKIM1") != "DKIM1":
        return 'the record is no DKIM key: its v= is not "DKIM1"'
    if "p" not in tags:
        return "the record is no DKIM key: it has no p="
    if not tags["p"]:
        return "the key is revoked: p= is empty"
    if tags.get("k", "rsa").lower() != algorithm:
        return f"the key is of another kind: k= is {tags.get('k', 'rsa')[:20]}, not {algorithm}"
    if "h" in tags and "sha256" not in _words(tags["h"]):
        return "h= does not name sha256"
    if "s" in tags and not {"*", "email"} & _words(tags["s"]):
        return 's= names neither "*" nor "email"'
    try:
        published = base64.b64decode("".join(tags["p"].split()), validate=True)
    except (binascii.Error, ValueError):
        return "p= is not Base64: a part is missing or was added"
    return "" if published == public_key else "p= is another key"


def dmarc(text: str) -> Dmarc:
    """The meaning of a DMARC record. Raises TagListError."""
    tags = parse(text)
    if tags.get("v") != "DMARC1":
        raise TagListError("it must begin with v=DMARC1")
    if "p" not in tags:
        raise TagListError("it has no p=")
    policy = _policy("p", tags["p"])
    return Dmarc(
        policy,
        _policy("sp", tags["sp"]) if "sp" in tags else policy,
        tags.get("adkim", "r").lower() == "s",
        tags.get("aspf", "r").lower() == "s",
        bool(tags.get("rua")),
    )


def is_dmarc(text: str) -> bool:
    """Whether a TXT record is meant for DMARC (RFC 7489 §6.6.3)."""
    return re.match(r"v\s*=\s*DMARC1\s*(;|$)", text) is not None


def _policy(tag: str, value: str) -> DmarcPolicy:
    try:
        return DmarcPolicy(value.lower())
    except ValueError:
        raise TagListError(f'{tag}= is "{value[:30]}", not none, quarantine or reject') from None


def _words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(":")}
