"""What a listener offers and permits, and the replies that say so. Values only."""

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mta.smtp.extensions import offer
from mta.smtp.reply import Reply
from mta.smtp.sasl import MECHANISMS

COMMAND_LINE_LIMIT: Final = 512
"""Octets of a command line with its CRLF (RFC 5321 §4.5.3.1.4)."""

MAIL_LINE_LIMIT: Final = COMMAND_LINE_LIMIT + 26 + 17 + 10 + 500
"""The same for MAIL, lengthened by SIZE, 8BITMIME, SMTPUTF8 and AUTH (RFC 1870 §3, 6152 §2, 6531 §3.4, 4954 §3)."""


class AuthenticationOffer(enum.Enum):
    """When AUTH is offered."""

    NEVER = "never"
    TLS_ONLY = "tls only"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What one listener offers and permits. Immutable; share it between sessions.

    ``hostname``                   our name in the banner and in answers to EHLO and HELO.
    ``size_limit``                 octets of a message; announced by SIZE. Over it: 552 5.3.4.
    ``recipients_limit``           accepted recipients of a transaction, at least 100 (RFC 5321 §4.5.3.1.8) outside of
                                   tests. Over it: 452 4.5.3.
    ``recipients_overshoot_limit`` so many RCPT beyond the limit are answered 452; the next ends the connection.
    ``errors_limit``               so many malformed, unknown or misplaced commands since the last accepted message are
                                   answered; the next gets 421 4.7.0 and the connection ends.
    ``junk_limit``                 the same for commands without progress: EHLO, HELO, NOOP, RSET, VRFY, HELP.
    ``starttls``                   offer STARTTLS while the connection is in clear text.
    ``authentication``             when to offer AUTH PLAIN LOGIN.
    ``require_auth``               answer MAIL with 530 5.7.0 until the session is authenticated.

    Raises ``ValueError`` for a host name that cannot stand in a reply and for limits that permit nothing.
    """

    hostname: str
    size_limit: int = 26_214_400
    recipients_limit: int = 1000
    recipients_overshoot_limit: int = 1000
    errors_limit: int = 20
    junk_limit: int = 100
    starttls: bool = False
    authentication: AuthenticationOffer = AuthenticationOffer.NEVER
    require_auth: bool = False

    def __post_init__(self) -> None:
        if not self.hostname.isascii() or not self.hostname.isprintable() or len(self.hostname.split()) != 1:
            raise ValueError(f"the host name must be one word of printable ASCII, not {self.hostname!r}")
        for name in ("size_limit", "recipients_limit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        for name in ("recipients_overshoot_limit", "errors_limit", "junk_limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@lru_cache(maxsize=64)
def banner(hostname: str) -> Reply:
    """The greeting (RFC 5321 §4.2)."""
    return Reply(220, None, f"{hostname} ESMTP ready")


@lru_cache(maxsize=64)
def helo_reply(hostname: str) -> Reply:
    """The answer to HELO, which carries no enhanced code."""
    return Reply(250, None, hostname)


@lru_cache(maxsize=256)
def ehlo_reply(hostname: str, size_limit: int, starttls: bool, auth: bool) -> Reply:
    """The answer to EHLO, made once per listener and state of the connection."""
    return offer(hostname, size_limit=size_limit, starttls=starttls, auth_mechanisms=MECHANISMS if auth else ())
