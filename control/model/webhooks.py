"""Webhooks, the rules: what can be told, which header fields somebody may add, how large things get.

Pure. Bad input is the INVALID_ARGUMENT Refusal that names the field.
"""

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum

from control.model import addresses, fields
from control.model.fields import invalid
from mta.runtime.refusals import Refusal

MAX_WEBHOOKS = 50
"""Webhooks of one tenant."""
MAX_STREAMS, MAX_SENDER_DOMAINS = 50, 100
MAX_HEADERS, MAX_HEADER_NAME, MAX_HEADER_VALUE = 20, 64, 1000
DEFAULT_BATCH, MAX_BATCH = 50, 500
MAX_GRACE_SECONDS, DEFAULT_GRACE_SECONDS = 30 * 86_400, 86_400
"""How long the secret before stays good after a rotation."""
MAX_REPLAYED = 50_000
"""Events of one replay."""
MAX_LOOKED_AT = 200_000
"""Events that one replay looks at: filters by stream and sender leave out the others."""
MAX_NAMED = 1000
"""Deliveries named in one replay."""
JUDGED = 200
"""Newest events that the success rate is of."""


class Kind(IntEnum):
    """What a webhook can be told; the numbers of ``Webhook.EventKind``. Names in lower case are those in payloads."""

    ACCEPTED = 1
    DELIVERED = 2
    DEFERRED = 3
    BOUNCED = 4
    EXPIRED = 5
    UNSUBSCRIBED = 6
    COMPLAINED = 7
    OPENED = 8
    CLICKED = 9
    ALERT = 10
    TEST = 11
    DROPPED = 12
    SENT = 13
    SMTP_DROPPED = 14
    UNIQUE_OPENED = 15
    """Asks for the first of several; told as OPENED."""
    UNIQUE_CLICKED = 16
    """Asks for the first of several; told as CLICKED."""


class Format(IntEnum):
    """The form of a payload; the numbers of ``Webhook.PayloadFormat``."""

    NATIVE = 1
    SENDPOST = 2
    SENDPULSE = 3
    MAILPASS = 4
    SENDPOST_LEGACY = 5


SENDPOST_FORMATS = (Format.SENDPOST, Format.SENDPOST_LEGACY)
"""The forms that an endpoint of a message's own takes the place of."""
MIN_SECRET, MAX_SECRET = 16, 200


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A header field's name (RFC 9110 §5.6.2)."""
_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_SECRET = re.compile(r"[!-~]+")
_OURS = ("barua-", "x-sendpost-", "x-webhook-")
_RESERVED = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect",
        "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding",
        "upgrade", "user-agent",
    }
)  # fmt: skip


def kinds(values: Sequence[int], format_: Format, field: str) -> list[Kind]:
    """What a webhook asks for, in order and once. In forms of other services it may be nothing."""
    known = {kind.value for kind in Kind if kind is not Kind.TEST}
    for value in values:
        if value not in known:
            raise invalid(field, f"{field} has {value}, which is no event kind that a webhook can ask for")
    if not values and format_ is Format.NATIVE:
        raise invalid(field, f"{field} is empty; name at least one event kind")
    return [Kind(value) for value in sorted(set(values))]


def streams(values: Sequence[str], field: str) -> list[str]:
    """Names of streams to filter by."""
    _bounded(values, MAX_STREAMS, field)
    for value in values:
        if not _STREAM.fullmatch(value):
            raise invalid(
                field,
                f'{field} has "{value[:64]}"; a stream is 1 to 63 letters, digits, ".", "_" and "-", no sign first',
            )
    return sorted(set(values))


def sender_domains(values: Sequence[str], field: str) -> list[str]:
    """Sender domains to filter by, as A-labels in lower case."""
    _bounded(values, MAX_SENDER_DOMAINS, field)
    return sorted({addresses.domain_name(value, field) for value in values})


def headers(values: Mapping[str, str], kept: Mapping[str, str], field: str) -> dict[str, str]:
    """Header fields to add. An empty value means the one in ``kept`` of the same name."""
    if len(values) > MAX_HEADERS:
        raise invalid(field, f"{field} has {len(values)} header fields; at most {MAX_HEADERS} are possible")
    result: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in sorted(values.items()):
        lower = name.lower()
        if not _TOKEN.fullmatch(name) or len(name) > MAX_HEADER_NAME:
            raise invalid(field, f'{field}: "{name[:64]}" is not the name of a header field')
        if lower in _RESERVED or lower.startswith(_OURS):
            raise invalid(field, f"{field}: {name} is set by the sender itself; leave it out")
        if lower in seen:
            raise invalid(field, f"{field}: {name} is there twice; names have no case")
        seen.add(lower)
        content = value or kept.get(name, "")
        if not _VALUE.fullmatch(content) or len(content) > MAX_HEADER_VALUE:
            raise invalid(
                field,
                f"{field}: {name} must have 1 to {MAX_HEADER_VALUE} printable ASCII characters, no space at the ends",
            )
        result[name] = content
    return result


def batch_size(value: int, format_: Format, field: str) -> int:
    """Events in one request at most."""
    default = MAX_BATCH if format_ is Format.SENDPULSE else DEFAULT_BATCH
    if not 0 <= value <= MAX_BATCH:
        raise invalid(field, f"{field} must be 1 to {MAX_BATCH}, or 0 for {default}; it is {value}")
    return value or default


def secret(value: str, field: str) -> str:
    """A secret that somebody chose, which is not told in errors."""
    if not (MIN_SECRET <= len(value) <= MAX_SECRET and _SECRET.fullmatch(value)):
        raise invalid(
            field, f"{field} must have {MIN_SECRET} to {MAX_SECRET} printable ASCII characters without spaces"
        )
    return value


def grace_seconds(value: float, field: str) -> float:
    """How long the secret before stays good."""
    if not 0 <= value <= MAX_GRACE_SECONDS:
        raise invalid(field, f"{field} must be between 0 and 30 days")
    return value


def display_name(value: str, field: str) -> str:
    """A name for people."""
    return fields.text(value, field)


def sender_domain(sender: str) -> str:
    """The domain of an envelope sender as it is compared with filters; empty for the null sender."""
    domain = sender.rpartition("@")[2].lower()
    if domain.isascii():
        return domain
    try:
        return addresses.domain_name(domain, "sender")
    except Refusal:
        return domain


def _bounded(values: Sequence[str], limit: int, field: str) -> None:
    if len(values) > limit:
        raise invalid(field, f"{field} has {len(values)} entries; at most {limit} are possible")
