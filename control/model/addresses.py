"""Mail addresses and domain names in their canonical form, the keys of suppressions and domains.

The canonical form of an address: local part without needless quotes and without case, domain in A-labels and lower
case. Workers look suppressions up by the same form with a parser of their own; a test holds both to the same answers.

Bad input is the INVALID_ARGUMENT Refusal.
"""

import ipaddress
import re
import unicodedata

import idna

from control.model.fields import invalid

MAX_LOCAL = 64
MAX_DOMAIN = 253
"""Octets of a domain name in presentation form (RFC 1035 §2.3.4)."""
MAX_ADDRESS = 254
"""Octets, RFC 5321 §4.5.3.1.3 less the angle brackets."""

# Most addresses: nothing about them has to be changed but the case.
_PLAIN = re.compile(
    r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++)*+)"
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)"
)
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])+)"@(.*)', re.DOTALL)
_ENCODED_WORD = re.compile(r"=\?[^?]*\?[^?]*\?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_UNFIT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})


def canonical_address(value: str, field: str) -> str:
    """The canonical form of an address; an address literal in brackets counts as a domain."""
    plain = _PLAIN.fullmatch(value) if len(value) <= MAX_ADDRESS and "=?" not in value else None
    if plain is not None and len(plain[1]) <= MAX_LOCAL and len(plain[2]) <= MAX_DOMAIN:
        return value.lower()
    if any(unicodedata.category(char) in _UNFIT and char != " " for char in value):
        raise invalid(field, f"{field} contains a control or invisible character")
    content, domain = _split(value, field)
    if _ENCODED_WORD.search(content):
        raise invalid(field, f"{field} contains an encoded-word (=?...?=) before the @")
    domain = _literal(domain, field) if domain.startswith("[") else domain_name(domain, field, labels=1)
    written = _written(content)
    if len(written.encode()) > MAX_LOCAL:
        raise invalid(field, f"{field} has more than {MAX_LOCAL} octets before the @")
    if len(written.encode()) + 1 + len(domain) > MAX_ADDRESS:
        raise invalid(field, f"{field} is longer than {MAX_ADDRESS} octets")
    return f"{_written(_without_case(content))}@{domain}"


def domain_name(value: str, field: str, labels: int = 2) -> str:
    """A domain name in A-labels and lower case, of at least so many labels. IP addresses are none."""
    if not 1 <= len(value) <= MAX_DOMAIN:
        raise invalid(field, f"{field} must be a domain name of 1 to {MAX_DOMAIN} octets")
    if value.endswith("."):
        raise invalid(field, f"{field} ends with a dot; leave it off")
    parts = [_a_label(label, field) for label in value.split(".")]
    if len(parts) < labels:
        raise invalid(field, f'{field} has only one label ("{value[:63]}"); write the full domain name')
    if parts[-1].isdigit():
        raise invalid(field, f"{field} ends with a number; an IP address is no domain name")
    domain = ".".join(parts)
    if len(domain) > MAX_DOMAIN:
        raise invalid(field, f"{field} is longer than {MAX_DOMAIN} octets")
    return domain


def _split(value: str, field: str) -> tuple[str, str]:
    """What the local part means, without quotes and backslashes, and the domain."""
    if value.startswith('"'):
        match = _QUOTED.fullmatch(value)
        if match is None or not match[2]:
            raise invalid(field, f'{field} must have the form local@domain or "quoted local"@domain')
        return re.sub(r"\\(.)", r"\1", match[1]), match[2]
    local, at, domain = value.partition("@")
    if not at or not domain or "@" in domain or not all(_ATOM.fullmatch(atom) for atom in local.split(".")):
        raise invalid(field, f"{field} must be a mail address of the form local@domain, without spaces")
    return local, domain


def _written(content: str) -> str:
    if all(_ATOM.fullmatch(atom) for atom in content.split(".")):
        return content
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_case(content: str) -> str:
    if content.isascii():
        return content.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", content).casefold())


def _a_label(label: str, field: str) -> str:
    if label.isascii():
        if not _LABEL.fullmatch(label):
            raise invalid(field, f'{field} has the label "{label[:63]}": write 1 to 63 letters, digits, inner hyphens')
        return label.lower()
    lower = unicodedata.normalize("NFC", label.lower())
    # Letters such as the Kelvin sign become ASCII in lower case: another domain than the one that was written.
    if sum(map(str.isascii, lower)) > sum(map(str.isascii, label)):
        raise invalid(field, f"{field} must be written in lower case")
    try:
        return idna.alabel(lower).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise invalid(field, f'{field} has the label "{label[:63]}", which IDNA 2008 does not allow') from None


def _literal(domain: str, field: str) -> str:
    inner = domain[1:-1] if domain.endswith("]") else ""
    try:
        if inner[:5].lower() == "ipv6:" and "%" not in inner:
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise invalid(field, f"{field} has no address literal such as [192.0.2.1] or [IPv6:2001:db8::1]") from None
