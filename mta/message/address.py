"""Mail addresses: the one parser used for authorisation, suppression, routing and signing.

`parse_path` reads an RFC 5321 mailbox (§4.1.2, without angle brackets and source route). `mta.message.mailboxes` reads
header fields and hands every addr-spec it finds to `parse_path`, so that no two parts of the program can differ about
what an address is.

Accepted: dot-string and quoted-string local parts, with UTF-8 (RFC 6531); domains of at least two LDH labels or
U-labels (RFC 5890, strict IDNA 2008, after lower-casing and NFC). By option: single labels, address literals.
`%` and `!` are ordinary characters of a local part and mean nothing.
Refused: empty or over-long parts (64 octets local, 255 domain, 254 together, RFC 5321 §4.5.3.1 and erratum 1690 of
RFC 3696), a trailing dot or empty label, bare IP addresses, control, invisible and unassigned characters, spaces
outside quotes, local parts that contain an RFC 2047 encoded-word (other programs decode it into another address).

The canonical form is the key for suppression: local part without needless quotes, compared without case (for
non-ASCII: NFD, Unicode case folding, NFC), and domain in A-labels, lower case. Dots and `+tag` are kept: whether they
matter is the receiving domain's affair.

Errors: AddressError, whose text is fit to be shown to whoever gave the address. Pure, any thread; results are cached.
"""

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import idna

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_MAILBOX = 254

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
# The last label starts with a letter, so that no IP address gets through here.
_TOP_LABEL = r"[A-Za-z](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_PLAIN = re.compile(rf"([{_ATEXT}]++(?:\.[{_ATEXT}]++)*+)@((?:{_LABEL}\.)+{_TOP_LABEL})")
_LDH_LABEL = re.compile(_LABEL)
_ATOM = re.compile(rf"[{_ATEXT}\u0080-\U0010ffff]++")
_QUOTED_CONTENT = re.compile(r"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*+")
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ENCODED_WORD = re.compile(r"=\?[^?]*+\?[^?]*+\?")
_DOMAIN_DOTS = frozenset("\u3002\uff0e\uff61")
# Control, format (invisible), surrogate, private, unassigned; line, paragraph and non-ASCII space separators.
_UNFIT_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})


class AddressError(ValueError):
    """The text is not an address we accept. The message says what is wrong with it and may be shown to the peer."""


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox. Make it with `parse_path`; two addresses are the same mailbox when `canonical` is equal."""

    local: str
    """The local part as written on the wire: case kept, quoted only where it has to be."""
    domain: str
    """A-labels in lower case, or an address literal in brackets."""
    text: str
    """The address as it was given. For people; decide with `canonical` and `domain`."""
    canonical: str
    """Key for suppression and for comparison."""
    needs_smtputf8: bool
    """The local part is not ASCII."""
    is_literal: bool
    """The domain is an address literal such as `[192.0.2.1]`."""

    @property
    def mailbox(self) -> str:
        """`local@domain` as written between the angle brackets of MAIL FROM and RCPT TO."""
        return f"{self.local}@{self.domain}"

    def __str__(self) -> str:
        return self.mailbox


@lru_cache(maxsize=8192)
def parse_path(text: str, *, allow_literal: bool = False, allow_single_label: bool = False) -> Address:
    """The mailbox in `text`: `local@domain`, without angle brackets.

    `allow_literal` accepts address literals, `allow_single_label` accepts domains such as `localhost`.
    Raises AddressError.
    """
    match = _PLAIN.fullmatch(text) if len(text) <= MAX_MAILBOX else None
    if match is not None:
        local, domain = match.groups()
        if len(local) <= MAX_LOCAL and "=?" not in local:
            domain = domain.lower()
            return Address(local, domain, text, f"{local.lower()}@{domain}", False, False)
    return _parse_any(text, allow_literal, allow_single_label)


def parse_domain(text: str, *, allow_single_label: bool = False) -> str:
    """A domain name in A-labels and lower case, by the rules for the domain of an address. Raises AddressError."""
    if len(text) > MAX_DOMAIN:
        raise AddressError(f"the domain is longer than {MAX_DOMAIN} octets")
    if not text:
        raise AddressError("the domain is missing")
    if text.endswith("."):
        raise AddressError("the domain ends with a dot; leave the dot off")
    labels = [_label(label) for label in text.split(".")]
    if len(labels) == 1 and not allow_single_label:
        raise AddressError(f"the domain '{_shown(text)}' has only one label; write the full domain name")
    if labels[-1].isdigit():
        raise AddressError("the domain ends with a number; an IP address is not a domain")
    domain = ".".join(labels)
    if len(domain) > MAX_DOMAIN:
        raise AddressError(f"the domain is longer than {MAX_DOMAIN} octets")
    return domain


def _parse_any(text: str, allow_literal: bool, allow_single_label: bool) -> Address:
    """The general case, also the one that says what is wrong."""
    _check_whole(text)
    local_text, domain_text = _split_at(text)
    content = _local_content(local_text)
    if domain_text.startswith("["):
        domain, is_literal = _literal(domain_text, allow_literal), True
    else:
        domain, is_literal = parse_domain(domain_text, allow_single_label=allow_single_label), False
    local = _written_local(content)
    if _octets(local) > MAX_LOCAL:
        raise AddressError(f"the part before the @ is longer than {MAX_LOCAL} octets")
    if _octets(local) + 1 + len(domain) > MAX_MAILBOX:
        raise AddressError(f"the address is longer than {MAX_MAILBOX} octets")
    canonical = f"{_written_local(_without_case(content))}@{domain}"
    return Address(local, domain, text, canonical, not local.isascii(), is_literal)


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _shown(text: str) -> str:
    """Part of an address for an error text: printable, short."""
    return "".join(char if char.isprintable() else "?" for char in text[:60])


def _check_whole(text: str) -> None:
    if not text:
        raise AddressError("the address is empty")
    if len(text) > 2 * MAX_MAILBOX:
        raise AddressError(f"the address is longer than {MAX_MAILBOX} octets")
    for char in text:
        if (char < " " or char == "\x7f") if char.isascii() else unicodedata.category(char) in _UNFIT_CATEGORIES:
            raise AddressError(f"the address contains the character U+{ord(char):04X}, which is not allowed")
    if text[0] == "<" or text[-1] == ">":
        raise AddressError("the address has angle brackets around it; leave them off")


def _split_at(text: str) -> tuple[str, str]:
    """Local part and domain. The @ inside a quoted string is part of the local part; no other may occur twice."""
    if text[0] == '"':
        match = _QUOTED_LOCAL.match(text)
        if match is None:
            raise AddressError("the quoted part before the @ has no closing quote")
        local, rest = match[0], text[match.end() :]
        if not rest.startswith("@"):
            raise AddressError("after the closing quote comes no @")
        domain = rest[1:]
    else:
        local, at, domain = text.partition("@")
        if not at:
            raise AddressError(f"the address '{_shown(text)}' has no @")
    if not domain:
        raise AddressError("there is nothing after the @")
    if "@" in domain:
        raise AddressError("the address has more than one @")
    return local, domain


def _local_content(local: str) -> str:
    """What the local part means: without quotes and backslashes."""
    if not local:
        raise AddressError("there is nothing before the @")
    if local[0] == '"':
        content = local[1:-1]
        if not _QUOTED_CONTENT.fullmatch(content):
            raise AddressError("the quoted part before the @ contains a character that is not allowed there")
        content = re.sub(r"\\(.)", r"\1", content)
        if not content:
            raise AddressError("there is nothing between the quotes before the @")
    else:
        content = local
        for atom in local.split("."):
            if not atom:
                raise AddressError("the part before the @ has a dot at its start or end, or two dots in a row")
            match = _ATOM.match(atom)
            bad = match.end() if match else 0
            if bad < len(atom):
                raise AddressError(f"the part before the @ contains '{atom[bad]}', which is not allowed without quotes")
    if _ENCODED_WORD.search(content):
        raise AddressError("the part before the @ contains an encoded-word (=?...?=), which is not allowed")
    return content


def _written_local(content: str) -> str:
    """The shortest way of writing a local part: dot-string if it can be, else a quoted string."""
    if all(_ATOM.fullmatch(atom) for atom in content.split(".")):
        return content
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_case(content: str) -> str:
    if content.isascii():
        return content.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", content).casefold())


def _label(label: str) -> str:
    if not label:
        raise AddressError("the domain has an empty label: a dot at its start, or two dots in a row")
    if label.isascii():
        if not _LDH_LABEL.fullmatch(label):
            raise AddressError(
                f"'{_shown(label)}' is no label of a domain: 1 to 63 letters, digits and inner hyphens are"
            )
        return label.lower()
    if not _DOMAIN_DOTS.isdisjoint(label):
        raise AddressError("the domain contains a dot that is not the ASCII dot")
    lower = unicodedata.normalize("NFC", label.lower())
    # Letters such as the Kelvin sign turn into ASCII when lower-cased: another domain than the one that was written.
    if _ascii_count(lower) > _ascii_count(label):
        raise AddressError(f"'{_shown(label)}' is no label of a domain: write it in lower case")
    try:
        return idna.alabel(lower).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise AddressError(f"'{_shown(label)}' is no label of an internationalised domain name (IDNA 2008)") from None


def _ascii_count(text: str) -> int:
    return sum(map(str.isascii, text))


def _literal(domain: str, allowed: bool) -> str:
    """An address literal (RFC 5321 §4.1.3), normalised."""
    if not allowed:
        raise AddressError("the domain is an IP address in brackets; write a domain name")
    inner = domain[1:-1] if domain.endswith("]") else ""
    try:
        if inner[:5].lower() == "ipv6:":
            if "%" in inner:
                raise ValueError
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        example = "[192.0.2.1] or [IPv6:2001:db8::1]"
        raise AddressError(f"'{_shown(domain)}' is no address literal such as {example}") from None
