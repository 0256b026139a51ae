"""SMTP service extensions: the keywords, what a server offers, what a client understood.

:func:`offer` builds the EHLO answer of our server. :func:`parse_ehlo` reads the EHLO answer of a remote server into
:class:`Extensions`. Keywords that nobody here acts on are kept in ``Extensions.keywords``, upper-cased.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mta.smtp.reply import Reply

_NO_KEYWORDS: Mapping[str, str] = MappingProxyType({})


class Extension(enum.Enum):
    """EHLO keywords this package acts on."""

    PIPELINING = "PIPELINING"  # RFC 2920
    SIZE = "SIZE"  # RFC 1870
    EIGHT_BIT_MIME = "8BITMIME"  # RFC 6152
    SMTPUTF8 = "SMTPUTF8"  # RFC 6531
    ENHANCED_STATUS_CODES = "ENHANCEDSTATUSCODES"  # RFC 2034
    STARTTLS = "STARTTLS"  # RFC 3207
    AUTH = "AUTH"  # RFC 4954


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a remote server offers.

    ``size_limit`` is the announced maximum in octets, ``None`` when it announced none (or 0, which means the same).
    """

    pipelining: bool = False
    size: bool = False
    size_limit: int | None = None
    eight_bit_mime: bool = False
    smtputf8: bool = False
    enhanced_status_codes: bool = False
    starttls: bool = False
    auth_mechanisms: frozenset[str] = frozenset()
    keywords: Mapping[str, str] = field(default_factory=lambda: _NO_KEYWORDS)


NO_EXTENSIONS = Extensions()
"""A server that only understands HELO, or one that has not been asked yet."""


def parse_ehlo(reply: Reply) -> Extensions:
    """The extensions named by a positive EHLO reply; its first line is the server's name (RFC 5321 §4.1.1.1).

    The old form ``AUTH=PLAIN LOGIN`` is read like ``AUTH PLAIN LOGIN``. A malformed SIZE value counts as no limit.
    """
    keywords: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, arguments = line.strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):
            arguments = f"{keyword[5:]} {arguments}"
            keyword = "AUTH"
        if keyword:
            keywords[keyword] = f"{keywords[keyword]} {arguments}" if keyword in keywords else arguments
    size = keywords.get("SIZE", "").strip()
    limit = int(size) if size.isascii() and size.isdigit() and len(size) <= 20 else 0
    return Extensions(
        pipelining=Extension.PIPELINING.value in keywords,
        size=Extension.SIZE.value in keywords,
        size_limit=limit or None,
        eight_bit_mime=Extension.EIGHT_BIT_MIME.value in keywords,
        smtputf8=Extension.SMTPUTF8.value in keywords,
        enhanced_status_codes=Extension.ENHANCED_STATUS_CODES.value in keywords,
        starttls=Extension.STARTTLS.value in keywords,
        auth_mechanisms=frozenset(keywords.get(Extension.AUTH.value, "").upper().split()),
        keywords=MappingProxyType(keywords),
    )


def offer(hostname: str, *, size_limit: int, starttls: bool, auth_mechanisms: tuple[str, ...]) -> Reply:
    """The EHLO answer of a server that can do what the arguments say and all that needs no permission."""
    lines = [hostname, "PIPELINING", f"SIZE {size_limit}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
    if starttls:
        lines.append("STARTTLS")
    if auth_mechanisms:
        lines.append("AUTH " + " ".join(auth_mechanisms))
    return Reply(250, None, *lines)
