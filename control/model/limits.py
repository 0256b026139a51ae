"""Limits: how much a tenant and those below it may send in an hour, a day and a month (UTC), and what else is bounded.

Each tenant may have limits of its own. A limit holds for the tenant together with everything below it, so what a tenant
may do is bounded by its own limits and by those of every tenant above. The limits on recipients and on spending are
*caps*: they bound the credits that are leased to workers (less those given back) within a window.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum

from control.model.credits import SMALL_LEASE, lease_amount
from control.model.fields import invalid
from control.model.prices import MAX_MICROS, Price

MAX_RECIPIENTS = 10**15
"""Bound of the caps."""
MAX_TENANTS = 10**9
MAX_MESSAGE_BYTES = 10**9
MAX_MESSAGE_RECIPIENTS = 10**6
CAP_SHARE = 20
"""A lease is at most this part of the smallest cap: what is out at the end of a window may be spent in the next."""


class Window(StrEnum):
    """The time a cap is counted over."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def end(self, now: datetime) -> datetime:
        """When the window that ``now`` (UTC) is in ends."""
        start = now.replace(minute=0, second=0, microsecond=0)
        if self is Window.HOUR:
            return start + timedelta(hours=1)
        start = start.replace(hour=0)
        if self is Window.DAY:
            return start + timedelta(days=1)
        return (start.replace(day=1) + timedelta(days=32)).replace(day=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """A tenant's own limits; None: no such limit. ``monthly_spend_micros`` counts at the price that holds for it."""

    hourly_recipients: int | None = None
    daily_recipients: int | None = None
    monthly_recipients: int | None = None
    monthly_spend_micros: int | None = None
    max_tenants: int | None = None
    max_message_bytes: int | None = None
    max_message_recipients: int | None = None


NAMES = tuple(field.name for field in fields(Limits))
"""Names of the limits, as in the proto."""
_BOUNDS = {
    "hourly_recipients": (0, MAX_RECIPIENTS),
    "daily_recipients": (0, MAX_RECIPIENTS),
    "monthly_recipients": (0, MAX_RECIPIENTS),
    "monthly_spend_micros": (0, MAX_MICROS),
    "max_tenants": (0, MAX_TENANTS),
    "max_message_bytes": (1, MAX_MESSAGE_BYTES),
    "max_message_recipients": (1, MAX_MESSAGE_RECIPIENTS),
}
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Counted:
    """Credits leased, less those given back, in the running windows."""

    hour: int = 0
    day: int = 0
    month: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """A tenant on the way to the root: its limits, the price that holds for it, what it and those below leased."""

    tenant_id: str
    limits: Limits
    price: Price | None
    counted: Counted


@dataclass(frozen=True, slots=True)
class Cap:
    """A cap in credits and what is left of it. ``name`` is that of the limit it comes from."""

    tenant_id: str
    name: str
    window: Window
    credits: int
    left: int


def checked(name: str, value: int, field: str) -> int:
    """The value of a limit as a request gives it. Raises the INVALID_ARGUMENT Refusal."""
    least, most = _BOUNDS[name]
    if not least <= value <= most:
        raise invalid(field, f"{field} must be {least} to {most}; it is {value}. For no limit, leave it out")
    return value


def effective(line: Sequence[tuple[str, Limits]]) -> dict[str, tuple[int, str]]:
    """What holds for the first of a tenant and those above it: each limit's smallest value, and the nearest owner."""
    found: dict[str, tuple[int, str]] = {}
    for name in NAMES:
        for tenant_id, limits in line:
            value = getattr(limits, name)
            if value is not None and (name not in found or value < found[name][0]):
                found[name] = (value, tenant_id)
    return found


def caps(levels: Iterable[Level]) -> list[Cap]:
    """All caps that hold for a tenant whose way to the root is ``levels``."""
    return [cap for level in levels for cap in _own_caps(level)]


def _own_caps(level: Level) -> Iterable[Cap]:
    limits, counted = level.limits, level.counted
    affordable = None
    if limits.monthly_spend_micros is not None and level.price is not None:
        affordable = level.price.affordable(limits.monthly_spend_micros)
    for name, window, credits, leased in (
        ("hourly_recipients", Window.HOUR, limits.hourly_recipients, counted.hour),
        ("daily_recipients", Window.DAY, limits.daily_recipients, counted.day),
        ("monthly_recipients", Window.MONTH, limits.monthly_recipients, counted.month),
        ("monthly_spend_micros", Window.MONTH, affordable, counted.month),
    ):
        if credits is not None:
            yield Cap(level.tenant_id, name, window, credits, max(0, credits - leased))


def reached(held: Sequence[Cap]) -> Cap | None:
    """The cap with nothing left whose window ends last; None: none is reached."""
    empty = [cap for cap in held if not cap.left]
    order = list(Window)
    return max(empty, key=lambda cap: order.index(cap.window), default=None)


def lease_size(wanted: int, available: int, held: Sequence[Cap]) -> int:
    """Credits to lease under these caps: near a cap half of what is left of it, and never a large part of one."""
    if not held:
        return lease_amount(wanted, available)
    within = lease_amount(wanted, min(available, min(cap.left for cap in held)))
    return min(within, max(SMALL_LEASE, min(cap.credits for cap in held) // CAP_SHARE))
