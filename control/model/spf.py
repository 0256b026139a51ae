"""SPF records: reading, writing and merging them (RFC 7208 §4.6, §5, §6, §7).

``parse`` reads a record strictly, ``merged`` says what to publish so that more hosts may send, ``expand`` does the
macros. Whether an address passes needs the DNS and is in ``control.domaincheck.spf``. Pure.

Errors: ``SpfError`` with a text for the owner of the record.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_RECORD = 4096
"""Octets of a record: several times what fits into an answer over UDP (RFC 7208 §3.4), and quickly read."""
MAX_NAME = 253
"""Octets of a name that macros make (RFC 7208 §7.3)."""
LOCAL_PART = "postmaster"
"""Stands for the sender in macros: records for one mailbox are not what is checked."""

_VERSION = re.compile(r"v=spf1(?= |$)", re.IGNORECASE)
_TERM = re.compile(r"(?P<qualifier>[+?~-]?)(?P<name>[A-Za-z][A-Za-z0-9_.-]*)(?P<rest>.*)")
_MODIFIER = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_.-]*)=(?P<value>.*)")
_PREFIXES = re.compile(r"(?P<value>.*?)(?:/(?P<four>[0-9]{1,2}))?(?://(?P<six>[0-9]{1,3}))?")
_MACRO = re.compile(r"%(?:\{([slodiphcrtv])([0-9]{0,3})(r?)([.\-+,/_=]*)\}|([%_-]))", re.IGNORECASE)
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}
_PRINTABLE = re.compile(r"[!-~]+")


class SpfError(ValueError):
    """The record cannot be used: receivers treat it as a permanent error (RFC 7208 §4.6)."""


class Result(StrEnum):
    """What SPF says of an address (RFC 7208 §2.6)."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    NONE = "none"


_QUALIFIERS = {"": Result.PASS, "+": Result.PASS, "-": Result.FAIL, "~": Result.SOFTFAIL, "?": Result.NEUTRAL}


class Name(StrEnum):
    """Mechanisms."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism. ``target`` is a domain with macros, empty for the current one; ``network`` is for ip4 and ip6."""

    name: Name
    result: Result
    target: str = ""
    network: Network | None = None
    four: int = 32
    six: int = 128


@dataclass(frozen=True, slots=True)
class Record:
    """A record: its mechanisms in order, and where it redirects to (empty: nowhere)."""

    mechanisms: tuple[Mechanism, ...]
    redirect: str = ""


def is_spf(text: str) -> bool:
    """Whether a TXT record is one of SPF (RFC 7208 §4.5)."""
    return _VERSION.match(text) is not None


def parse(text: str) -> Record:
    """Read a record. Raises SpfError."""
    if not is_spf(text):
        raise SpfError("the record does not begin with v=spf1")
    if len(text) > MAX_RECORD:
        raise SpfError(f"the record has {len(text)} octets; receivers do not read so long ones")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in text.split(" ")[1:]:
        if not term:
            continue
        if not _PRINTABLE.fullmatch(term):
            raise SpfError(f'"{term[:60]}" has characters that are not allowed')
        modifier = _MODIFIER.fullmatch(term)
        if modifier is None:
            mechanisms.append(_mechanism(term))
            continue
        name = modifier["name"].lower()
        if name in modifiers and name in ("redirect", "exp"):
            raise SpfError(f"{name}= occurs twice")
        if name in ("redirect", "exp"):
            _check_target(modifier["value"], term)
        modifiers[name] = modifier["value"]
    return Record(tuple(mechanisms), modifiers.get("redirect", ""))


def merged(found: Sequence[str], wanted: Sequence[str]) -> str:
    """One record for what ``found`` allows (none, one or several records) and the mechanisms ``wanted``.

    New mechanisms come first: nothing before them can refuse what they allow. Raises SpfError for a record that cannot
    be read.
    """
    if not found:
        return f"v=spf1 {' '.join(wanted)} ~all"
    terms: dict[str, None] = {}  # a set that keeps the order
    closing = ""
    there = {item.lower() for item in wanted}
    for text in found:
        parse(text)
        for term in text.split(" ")[1:]:
            bare = term.lower().lstrip("+-~?")
            if bare == "all" or bare.startswith("redirect="):
                closing = term
            elif term and bare not in there:
                terms[term] = None
    return " ".join(["v=spf1", *wanted, *terms, *([closing] if closing else [])])


def expand(spec: str, address: Address, domain: str) -> str:
    """A domain with its macros put in (RFC 7208 §7); a result over 253 octets loses labels from the left (§7.3)."""
    values = {
        "s": f"{LOCAL_PART}@{domain}",
        "l": LOCAL_PART,
        "o": domain,
        "d": domain,
        "i": _dotted(address),
        "p": "unknown",
        "v": "in-addr" if address.version == 4 else "ip6",
        "h": domain,
    }

    def put_in(match: re.Match[str]) -> str:
        if match[5]:
            return _ESCAPES[match[5]]
        value = values.get(match[1].lower(), "")
        parts = re.split(f"[{re.escape(match[4] or '.')}]", value)
        if match[3]:
            parts.reverse()
        return ".".join(parts[-int(match[2]) :] if match[2] else parts)

    expanded = _MACRO.sub(put_in, spec)
    if len(expanded) > MAX_NAME:
        dot = expanded.find(".", len(expanded) - MAX_NAME - 1)
        expanded = expanded[(dot if dot >= 0 else expanded.rfind(".")) + 1 :]
    return expanded.removesuffix(".")


def _mechanism(term: str) -> Mechanism:
    match = _TERM.fullmatch(term)
    if match is None:
        raise SpfError(f'"{term[:60]}" is no mechanism')
    result, rest = _QUALIFIERS[match["qualifier"]], match["rest"]
    try:
        name = Name(match["name"].lower())
    except ValueError:
        raise SpfError(f'"{term[:60]}" is no mechanism of SPF') from None
    if name is Name.ALL:
        if rest:
            raise SpfError(f'"{term[:60]}": all takes no value')
        return Mechanism(name, result)
    if name in (Name.IP4, Name.IP6):
        return Mechanism(name, result, network=_network(name, rest, term))
    if name in (Name.INCLUDE, Name.EXISTS):
        if not rest.startswith(":"):
            raise SpfError(f'"{term[:60]}" needs a domain: {name}:example.com')
        return Mechanism(name, result, _check_target(rest[1:], term))
    return _with_prefixes(name, result, rest, term)


def _with_prefixes(name: Name, result: Result, rest: str, term: str) -> Mechanism:
    match = _PREFIXES.fullmatch(rest)
    assert match is not None, "every part is optional"
    value = match["value"]
    if value and not value.startswith(":"):
        raise SpfError(f'"{term[:60]}" is no mechanism of SPF')
    four, six = int(match["four"] or 32), int(match["six"] or 128)
    if four > 32 or six > 128 or (name is Name.PTR and (match["four"] or match["six"])):
        raise SpfError(f'"{term[:60]}" has a prefix length that cannot be')
    return Mechanism(name, result, _check_target(value[1:], term) if value else "", four=four, six=six)


def _network(name: Name, rest: str, term: str) -> Network:
    try:
        if not rest.startswith(":"):
            raise ValueError
        if name is Name.IP4:
            return ipaddress.IPv4Network(rest[1:], strict=False)
        return ipaddress.IPv6Network(rest[1:], strict=False)
    except ValueError:
        raise SpfError(f'"{term[:60]}" has no address or network such as {_EXAMPLES[name]}') from None


_EXAMPLES = {Name.IP4: "192.0.2.0/24", Name.IP6: "2001:db8::/32"}


def _check_target(value: str, term: str) -> str:
    if not value or "%" in _MACRO.sub("", value):
        raise SpfError(f'"{term[:60]}" has no domain, or a macro that is malformed')
    return value


def _dotted(address: Address) -> str:
    return str(address) if address.version == 4 else ".".join(address.exploded.replace(":", ""))
