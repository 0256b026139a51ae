"""Suppressions as values: reasons, ids, what is kept of one, which ones a list asks for, and where one is as seen from
below.

Pure. Errors: the INVALID_ARGUMENT Refusal.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from control.model import addresses
from control.model.caller import ROOT_TENANT
from control.model.fields import invalid
from mta.runtime.streams import MAX_STREAM, stream_name

MAX_NOTE = 500
MAX_EVIDENCE = 1000
MAX_BATCH = 1000
"""Suppressions of one batch, and addresses of one check."""
LAST_TIME = datetime(9999, 1, 1, tzinfo=UTC)
"""Times of suppressions are before it, so that every part of the program can hold them."""

# An address whose local part is not quoted has no colon before its @, so the two forms of an id cannot be confused.
_WITH_STREAM = re.compile(rf"([a-z0-9][a-z0-9._-]{{0,{MAX_STREAM - 1}}}):(.+)", re.DOTALL)


class Reason(StrEnum):
    """Why an address gets no mail; the words of the schema and of refusals."""

    MANUAL = "manual"
    UNSUBSCRIBE = "unsubscribe"
    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    INVALID = "invalid"
    SOFT_BOUNCE = "soft_bounce"


class Scope(StrEnum):
    """Where a suppression is, as seen from the tenant that wants to send."""

    ACCOUNT = "account"
    RESELLER = "reseller"
    PLATFORM = "platform"


class Place(NamedTuple):
    """What a suppression of a tenant is about: the key, in the order of lists."""

    address: str
    """Canonical."""
    stream: str

    @property
    def id(self) -> str:
        """As in the resource name."""
        return f"{self.stream}:{self.address}" if self.stream else self.address


class Draft(NamedTuple):
    """A suppression as somebody wants it, all checked. A NamedTuple: imports make millions."""

    address: str
    stream: str
    reason: Reason
    note: str = ""
    evidence: str = ""
    source_message_id: int = 0
    expires_at: datetime | None = None
    created_at: datetime | None = None
    """When it was made elsewhere; None: now."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which suppressions of a tenant; None and empty say nothing."""

    reasons: tuple[Reason, ...] = ()
    stream: str | None = None
    address_prefix: str = ""
    domain: str = ""
    start: datetime | None = None
    end: datetime | None = None
    search: str = ""
    number: int = 0

    def conditions(self) -> tuple[str, ...]:
        """What page tokens are bound to."""
        return (
            ",".join(self.reasons),
            "*" if self.stream is None else f"={self.stream}",
            self.address_prefix,
            self.domain,
            str(self.start),
            str(self.end),
            self.search,
            str(self.number),
        )


def parse_id(text: str, field: str = "name") -> Place:
    """The key in an id as people may write it. A text that is no address is INVALID_ARGUMENT."""
    match = _WITH_STREAM.fullmatch(text)
    stream, address = (match[1], match[2]) if match else ("", text)
    return Place(addresses.canonical_address(address, field), stream)


def kept_id(text: str) -> Place:
    """The key in an id of ours, which is canonical."""
    if ":" not in text:  # most of them, and there are millions
        return Place(text, "")
    match = _WITH_STREAM.fullmatch(text)
    return Place(match[2], match[1]) if match else Place(text, "")


def stream(text: str, field: str) -> str:
    """A stream in its kept form; empty: none."""
    try:
        return stream_name(text)
    except ValueError as error:
        raise invalid(field, f"{field}: {error}") from None


def scope_of(tenant_id: str, sending_tenant: str) -> Scope:
    """Where a suppression on ``tenant_id`` is, as seen from a tenant at or below it."""
    if tenant_id == sending_tenant:
        return Scope.ACCOUNT
    return Scope.PLATFORM if tenant_id == ROOT_TENANT else Scope.RESELLER


def prefix_end(prefix: str) -> str:
    """The text before which everything that begins with ``prefix`` comes, in the order of code points; "": none."""
    if not prefix:
        return ""
    last = ord(prefix[-1]) + 1
    if 0xD800 <= last <= 0xDFFF:
        last = 0xE000
    return prefix[:-1] + chr(last) if last <= 0x10FFFF else prefix_end(prefix[:-1])
