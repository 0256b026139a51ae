"""The grammar of SMTP commands: one function per production of RFC 5321 §4.1, with RFC 6531 §3.3 for non-ASCII text.

Input is the text of one command line that :mod:`mta.smtp.server` has already found printable. Output is the raw path
between the angle brackets and the parameters; what an address *means* (which domain, which tenant, equal to which
other) is for ``mta.message.address``.

Two liberties are taken, both without effect on where anything begins or ends: spaces after ``FROM:`` and ``TO:``, which
widespread programs send although RFC 5321 §3.3 forbids them, and spaces at the end of a line (§4.1.1 asks for that).
Underscores in host names are let through for the same reason.

Errors: :class:`GrammarError` with the code and enhanced code of the reply to give. Pure.

Limits: ``PATH_LIMIT``, ``LOCAL_PART_LIMIT``, ``DOMAIN_LIMIT``, ``PARAMETERS_LIMIT``.
"""

import re
from typing import Final

PATH_LIMIT: Final = 256
"""Octets of a path with its angle brackets (RFC 5321 §4.5.3.1.3)."""

LOCAL_PART_LIMIT: Final = 64
"""Octets of a local part (RFC 5321 §4.5.3.1.1)."""

DOMAIN_LIMIT: Final = 255
"""Octets of a domain (RFC 5321 §4.5.3.1.2)."""

PARAMETERS_LIMIT: Final = 16
"""Parameters of one command: more than all registered ones together that could be used at once."""

_SENDER_SYNTAX: Final = "5.1.7"
_RECIPIENT_SYNTAX: Final = "5.1.3"
_ARGUMENT_SYNTAX: Final = "5.5.4"

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff"
_LABEL = r"A-Za-z0-9_\-\u0080-\U0010ffff"
_DOMAIN = rf"[{_LABEL}]+(?:\.[{_LABEL}]+)*"

_mailbox = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@({_DOMAIN})").fullmatch
_dot_string = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*").fullmatch
_quoted_string = re.compile(r'"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*"').match
_domain = re.compile(_DOMAIN).fullmatch
_address_literal = re.compile(r"\[[!-;=?-Z^-~]+\]").fullmatch
_source_route = re.compile(rf"@{_DOMAIN}(?:,@{_DOMAIN})*:").match
_keyword = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*").fullmatch
_value = re.compile(r"[!-<>-~\u0080-\U0010ffff]+").fullmatch
_xtext = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+").fullmatch


class GrammarError(ValueError):
    """A command is malformed. ``code`` and ``enhanced`` belong to the reply; the message is its text."""

    def __init__(self, enhanced: str, text: str, code: int = 501) -> None:
        super().__init__(text)
        self.code = code
        self.enhanced = enhanced
        self.text = text


def parse_mail(argument: str) -> tuple[str, dict[str, str | None]]:
    """``FROM:<reverse-path> [parameters]`` → path (``""`` for the null path) and parameters (RFC 5321 §4.1.1.2)."""
    if argument[:5].upper() != "FROM:":
        raise GrammarError(_ARGUMENT_SYNTAX, "Syntax: MAIL FROM:<address> [parameters]")
    if argument.startswith("<>", 5):
        return "", parse_parameters(argument[7:])
    return _parse_path_and_parameters(argument[5:], _SENDER_SYNTAX)


def parse_rcpt(argument: str) -> tuple[str, dict[str, str | None]]:
    """``TO:<forward-path> [parameters]`` → path and parameters (RFC 5321 §4.1.1.3).

    ``<Postmaster>`` needs no domain.
    """
    if argument[:3].upper() != "TO:":
        raise GrammarError(_ARGUMENT_SYNTAX, "Syntax: RCPT TO:<address> [parameters]")
    path, parameters = _parse_path_and_parameters(argument[3:], _RECIPIENT_SYNTAX)
    if not path:
        raise GrammarError(_RECIPIENT_SYNTAX, "The null path cannot be a recipient")
    return path, parameters


def _parse_path_and_parameters(text: str, syntax: str) -> tuple[str, dict[str, str | None]]:
    text = text.lstrip(" ")
    end = text.find(">")
    if not text.startswith("<") or end < 0:
        raise GrammarError(syntax, "Put the address in angle brackets")
    mailbox = text[1:end]
    match = _mailbox(mailbox)
    if match is None or len(mailbox) > LOCAL_PART_LIMIT or not mailbox.isascii():
        # Not the plain short address that nearly all are: everything else the grammar permits, and all the errors.
        # An empty path reaches this only as "FROM: <>", which is the null path after a tolerated space.
        mailbox, end = ("", end) if not mailbox else parse_path(text, syntax)
    rest = text[end + 1 :]
    return mailbox, parse_parameters(rest) if rest else {}


def parse_path(text: str, syntax: str = _RECIPIENT_SYNTAX) -> tuple[str, int]:
    """Path at the start of ``text`` → the mailbox in it without source route, and the index of its ``>``.

    RFC 5321 §4.1.2 ``Path = "<" [ A-d-l ":" ] Mailbox ">"``; the A-d-l is read and dropped (RFC 5321 appendix C).
    ``syntax`` is the enhanced code of the errors.
    """
    start = 1
    if text.startswith("@", start):
        route = _source_route(text, start)
        if route is None:
            raise GrammarError(syntax, "Malformed source route")
        start = route.end()
    quoted = _quoted_string(text, start)
    if text.startswith('"', start) and quoted is None:
        raise GrammarError(syntax, "Malformed quoted string in the address")
    end = text.find(">", quoted.end() if quoted else start)
    if end < 0:
        raise GrammarError(syntax, "Put the address in angle brackets")
    if len(text[: end + 1].encode()) > PATH_LIMIT:
        raise GrammarError(syntax, f"The address is longer than {PATH_LIMIT} octets")
    mailbox = text[start:end]
    _check_mailbox(mailbox, quoted[0] if quoted else None, syntax)
    return mailbox, end


def _check_mailbox(mailbox: str, quoted: str | None, syntax: str) -> None:
    """RFC 5321 §4.1.2 ``Mailbox = Local-part "@" ( Domain / address-literal )``, or ``Postmaster`` alone (§4.1.1.3)."""
    if mailbox.lower() == "postmaster" and syntax is _RECIPIENT_SYNTAX:
        return
    if quoted is not None:
        local_part, at, domain = quoted, mailbox[len(quoted) :][:1], mailbox[len(quoted) + 1 :]
    else:
        local_part, at, domain = mailbox.partition("@")
    if at != "@":
        raise GrammarError(syntax, "The address needs a domain: local-part@domain")
    check_local_part(local_part, quoted=quoted is not None, syntax=syntax)
    check_domain(domain, syntax=syntax)


def check_local_part(local_part: str, *, quoted: bool, syntax: str = _RECIPIENT_SYNTAX) -> None:
    """RFC 5321 §4.1.2 ``Local-part = Dot-string / Quoted-string``. Raises :class:`GrammarError`."""
    if len(local_part.encode()) > LOCAL_PART_LIMIT:
        raise GrammarError(syntax, f"The local part is longer than {LOCAL_PART_LIMIT} octets")
    if not quoted and _dot_string(local_part) is None:
        raise GrammarError(syntax, "Malformed local part in the address")


def check_domain(domain: str, *, syntax: str = _RECIPIENT_SYNTAX) -> None:
    """RFC 5321 §4.1.2 ``Domain``, or §4.1.3 ``address-literal`` (whose inside is not read). Raises GrammarError."""
    if len(domain.encode()) > DOMAIN_LIMIT:
        raise GrammarError(syntax, f"The domain is longer than {DOMAIN_LIMIT} octets")
    if _domain(domain) is None and _address_literal(domain) is None:
        raise GrammarError(syntax, "Malformed domain in the address")


def parse_parameters(text: str) -> dict[str, str | None]:
    """``*( SP esmtp-param )`` → keyword in upper case → value or ``None`` (RFC 5321 §4.1.2); no duplicates."""
    if not text:
        return {}
    if not text.startswith(" "):
        raise GrammarError(_ARGUMENT_SYNTAX, "Unexpected text after the address")
    words = text.split()
    if len(words) > PARAMETERS_LIMIT:
        raise GrammarError(_ARGUMENT_SYNTAX, f"More than {PARAMETERS_LIMIT} parameters")
    parameters: dict[str, str | None] = {}
    for word in words:
        keyword, equals, value = word.partition("=")
        keyword = keyword.upper()
        if not (keyword.isascii() and keyword.isalnum()) and _keyword(keyword) is None:
            raise GrammarError(_ARGUMENT_SYNTAX, "Malformed parameter")
        if equals and not value.isalnum() and _value(value) is None:
            raise GrammarError(_ARGUMENT_SYNTAX, "Malformed parameter")
        if keyword in parameters:
            raise GrammarError(_ARGUMENT_SYNTAX, "Duplicate parameter")
        parameters[keyword] = value if equals else None
    return parameters


def is_helo_name(name: str) -> bool:
    """RFC 5321 §4.1.1.1: a domain or an address literal, in ASCII (a U-label has no place before SMTPUTF8)."""
    if not name.isascii() or len(name) > DOMAIN_LIMIT:
        return False
    return _domain(name.removesuffix(".")) is not None or _address_literal(name) is not None


def is_size_value(value: str | None) -> bool:
    """RFC 1870 §3 ``size-value = 1*20DIGIT``."""
    return value is not None and value.isascii() and value.isdigit() and len(value) <= 20


def is_xtext(value: str) -> bool:
    """RFC 3461 §4 ``xtext`` whose escapes decode to no control character."""
    if _xtext(value) is None:
        return False
    return not re.search(r"\+(?:[01][0-9A-F]|7F)", value)


def sendable_path(path: str) -> str:
    """``path`` (``""`` for null) if it may stand between angle brackets in a command we write, else ``ValueError``.

    The quick test covers what could end the path or the line; anything suspicious goes through the whole grammar.
    """
    if path.isascii() and path.isprintable() and not (" " in path or "<" in path or ">" in path or '"' in path):
        if len(path) <= PATH_LIMIT - 2:
            return path
    elif is_printable(path):
        try:
            if parse_path(f"<{path}>") == (path, len(path) + 1):
                return path
        except GrammarError as error:
            raise ValueError(f"not an SMTP path: {path!r}: {error.text}") from error
    raise ValueError(f"not an SMTP path: {path!r}")


def is_printable(text: str) -> bool:
    """No control character of C0, DEL or C1, no line or paragraph separator, no lone surrogate.

    Unlike ``str.isprintable`` this does not refuse code points that this Python's Unicode tables do not know yet.
    """
    return text.isprintable() or _control(text) is None


_control = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]").search
