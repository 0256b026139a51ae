"""The rules of credentials: roles of logins, networks they hold for, when they end, and how long an old secret stays.

Pure: the time comes in as an argument. Errors: the INVALID_ARGUMENT Refusal, naming the field.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from control.model.fields import invalid
from mta.runtime import networks

MAX_NETWORKS = 100
"""Networks of one credential."""
MAX_GRACE = timedelta(days=7)
"""How long the secret before a rotation may stay valid."""


class LoginRole(StrEnum):
    """What a login may do."""

    ADMIN = "admin"
    """Everything that its tenant may do."""
    READ_ONLY = "read_only"
    """Looking."""
    SENDER = "sender"
    """Sending over SMTP, and nothing of control."""

    @property
    def sends(self) -> bool:
        """Whether nodes need to know the login."""
        return self is not LoginRole.READ_ONLY


def allowed_networks(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Networks in their one spelling, in the order given, each once."""
    if len(values) > MAX_NETWORKS:
        raise invalid(field, f"{field} must have at most {MAX_NETWORKS} entries; it has {len(values)}")
    found: dict[str, None] = {}
    for value in values:
        try:
            network = networks.parse(value)
        except ValueError as error:
            raise invalid(
                field, f'{field} has "{value[:64]}", which is no address or network such as 192.0.2.0/24: {error}'
            ) from None
        found[str(network)] = None
    return tuple(found)


def expiry(time: datetime | None, field: str, now: datetime) -> datetime | None:
    """When a credential ends; None: never."""
    if time is not None and time <= now:
        raise invalid(field, f"{field} must be in the future, or unset for no end; it is {time.isoformat()}")
    return time


def grace(period: timedelta, field: str) -> timedelta:
    """How long the secret before stays valid."""
    if not timedelta(0) <= period <= MAX_GRACE:
        raise invalid(field, f"{field} must be 0 to {MAX_GRACE.days} days; it is {period.total_seconds():g} seconds")
    return period


def ended(time: datetime | None, now: datetime) -> bool:
    """Whether a credential that ends at ``time`` has ended."""
    return time is not None and time <= now
