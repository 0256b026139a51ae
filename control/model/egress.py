"""Checks of the fields of SMTP providers, sources, pools and egress rules. Pure.

Each returns the value in its kept form or raises the INVALID_ARGUMENT Refusal.
"""

import ipaddress
import json
import re
from collections.abc import Sequence
from typing import Any

from control.model import addresses
from control.model.fields import invalid
from mta.runtime.networks import is_public
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.streams import stream_name

MAX_LIMIT = 10**12
"""Of any number of recipients."""
MAX_WARM_UP_DAYS = 365
MAX_WEIGHT = 1000
MAX_MEMBERS = 1000
MAX_RULE_LIMIT = 1_000_000
MAX_POOL_NAME = 100
"""Characters of the name of a tenant's pool."""
MAX_METADATA = 10_000
"""Characters of what a routing strategy is told."""
MAX_ALLOCATED = 100
"""Addresses in one request of a tenant."""
AUTO_WARM_UP = (50, 100, 500, 1000, 5000, 10_000, 20_000, 40_000, 70_000, 100_000, 150_000, 250_000, 400_000, 600_000)
"""The platform's plan for a source that a tenant has warmed up: recipients on the first day, the second, and so on."""
MAX_CREDENTIAL = 512
"""Octets of a username or password of a provider."""
SUBMISSION_PORTS = frozenset({25, 465, 587, 2465, 2525, 2587})
"""Ports that tenants may name: a check of a provider must not be a way to knock at any port of any host."""

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def identifier(value: str, field: str) -> str:
    """The id of a provider, source, pool or rule."""
    if not _ID.fullmatch(value):
        raise invalid(field, f'{field} must be 1 to 63 of a-z, 0-9 and "-" and start with a letter or digit')
    return value


def resource(name: str, collection: str, field: str) -> str:
    """The id in ``{collection}/{id}``."""
    head, _, id_ = name.partition("/")
    if head != collection or not _ID.fullmatch(id_):
        shown = name[:200] if name else "nothing"
        message = f'{field} must have the form {collection}/{{id}}; it is "{shown}"'
        raise Refusal(Reason.INVALID_ARGUMENT, message, field=field, metadata={"name": shown})
    return id_


def host(value: str, field: str, *, allow_private: bool) -> str:
    """The host of a provider: a name, or an IP address that is public unless private ones are allowed."""
    try:
        address = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        return addresses.domain_name(value, field, labels=1 if allow_private else 2)
    if not allow_private and not is_public(address):
        raise invalid(field, f"{field} is a private or loopback address, which only the operator may allow")
    return str(address)


def is_loopback(host_: str) -> bool:
    """Whether a provider's host is on this machine, by its name or address alone."""
    try:
        return ipaddress.ip_address(host_).is_loopback
    except ValueError:
        return host_ == "localhost" or host_.endswith(".localhost")


def port(value: int, field: str, *, implicit_tls: bool, any_port: bool) -> int:
    """The port of a provider; 0: the usual one."""
    if value == 0:
        return 465 if implicit_tls else 587
    if not 1 <= value <= 65535:
        raise invalid(field, f"{field} must be 1 to 65535, or 0 for the usual one; it is {value}")
    if not any_port and value not in SUBMISSION_PORTS:
        usual = ", ".join(str(known) for known in sorted(SUBMISSION_PORTS))
        raise invalid(field, f"{field} {value} is not a mail port ({usual}); ask the operator to set it")
    return value


def credential(value: str, field: str) -> str:
    """A username or password for AUTH (RFC 4616: any UTF-8 without NUL); no line ends, which no server means."""
    if len(value.encode("utf-8", "surrogatepass")) > MAX_CREDENTIAL:
        raise invalid(field, f"{field} must have at most {MAX_CREDENTIAL} octets")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise invalid(field, f"{field} must not contain control characters")
    return value


def limit(value: int, field: str, maximum: int = MAX_LIMIT) -> int:
    """A number that limits something; 0: no limit."""
    if not 0 <= value <= maximum:
        raise invalid(field, f"{field} must be 0 (no limit) to {maximum}; it is {value}")
    return value


def address(value: str, field: str) -> str:
    """The address of a source: one of a machine, without zone or brackets."""
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        raise invalid(field, f"{field} must be an IPv4 or IPv6 address; it is {value[:64]!r}") from None
    if parsed.is_unspecified or parsed.is_multicast or "%" in value:
        raise invalid(field, f"{field} must be the address of a machine, without a zone; it is {parsed}")
    return str(parsed)


def warm_up(limits: list[int], field: str) -> list[int]:
    """Limits of the days of a warm-up."""
    if not 1 <= len(limits) <= MAX_WARM_UP_DAYS:
        raise invalid(field, f"{field} must have 1 to {MAX_WARM_UP_DAYS} days; it has {len(limits)}")
    for day, value in enumerate(limits, 1):
        if not 1 <= value <= MAX_LIMIT:
            raise invalid(field, f"{field}: day {day} must be 1 to {MAX_LIMIT}; it is {value}")
    return limits


def weight(value: int, field: str) -> int:
    """A source's share in a pool; 0: 1."""
    if not 0 <= value <= MAX_WEIGHT:
        raise invalid(field, f"{field} must be 1 to {MAX_WEIGHT}; it is {value}")
    return value or 1


def pool_name(value: str, field: str) -> str:
    """What a tenant calls a pool: messages name it so, which neither line ends nor spaces at an end survive."""
    if not 1 <= len(value) <= MAX_POOL_NAME or value != value.strip() or not value.isprintable():
        raise invalid(
            field, f"{field} must have 1 to {MAX_POOL_NAME} printable characters, and no space at its begin or end"
        )
    return value


def routing_metadata(value: str, field: str) -> str:
    """What a routing strategy is told: a JSON object; nothing: an empty one."""
    if not value:
        return "{}"
    if len(value) > MAX_METADATA or not isinstance(_json(value), dict):
        raise invalid(field, f"{field} must be a JSON object of at most {MAX_METADATA} characters")
    return value


def volume_shares(metadata: str, addresses: Sequence[str], field: str) -> dict[str, int]:
    """Weights of the addresses of a pool by the percentages in its metadata; 1 for an address without one."""
    given: dict[str, Any] = _json(metadata)
    weights: dict[str, int] = {}
    for wanted in addresses:
        percentage = given.get(wanted, 0)
        if isinstance(percentage, bool) or not isinstance(percentage, int | float) or not 0 <= percentage <= 100:
            raise invalid(field, f"{field}: the percentage of {wanted} must be a number from 0 to 100")
        weights[wanted] = max(1, round(percentage * MAX_WEIGHT / 100))
    return weights


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def stream(value: str, field: str) -> str:
    """A stream, or nothing."""
    try:
        return stream_name(value)
    except ValueError as error:
        raise invalid(field, f"{field}: {error}") from None


def domain_condition(value: str, field: str) -> str:
    """A domain, ".suffix", or nothing."""
    if not value:
        return ""
    dot = "." if value.startswith(".") else ""
    return dot + addresses.domain_name(value.removeprefix("."), field, labels=1)
