"""Alert rules: what can be measured, the bounds of a rule, and when it begins and ceases to fire.

Pure. Bad input is the INVALID_ARGUMENT Refusal that names the field.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum, auto

from control.model import addresses
from control.model.events import EventKind
from control.model.fields import invalid

MAX_RULES = 100
"""Rules of one tenant."""
MAX_EMAILS = 10
MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS, DEFAULT_WINDOW_SECONDS = 60, 86_400, 3600
MAX_COOLDOWN_SECONDS, DEFAULT_COOLDOWN_SECONDS = 7 * 86_400, 600
DEFAULT_VOLUME, MAX_VOLUME = 100, 10**12
MAX_COUNT = 10.0**15


class Metric(IntEnum):
    """What is measured; the numbers of ``AlertRule.Metric``. Names in lower case are those in payloads."""

    BOUNCE_RATE = 1
    DEFERRAL_RATE = 2
    COMPLAINT_RATE = 3
    DELIVERED_RATE = 4
    BALANCE = 5
    DAILY_CAP_USED = 6
    WEBHOOKS_FAILING = 7
    DOMAINS_FAILING = 8


RATES: dict[Metric, tuple[frozenset[EventKind], frozenset[EventKind]]] = {
    Metric.BOUNCE_RATE: (
        frozenset({EventKind.BOUNCED, EventKind.EXPIRED}),
        frozenset({EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED}),
    ),
    Metric.DEFERRAL_RATE: (
        frozenset({EventKind.DEFERRED}),
        frozenset({EventKind.DELIVERED, EventKind.DEFERRED, EventKind.BOUNCED}),
    ),
    Metric.COMPLAINT_RATE: (frozenset({EventKind.COMPLAINED}), frozenset({EventKind.DELIVERED})),
    Metric.DELIVERED_RATE: (
        frozenset({EventKind.DELIVERED}),
        frozenset({EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED}),
    ),
}
"""Rates of events: which count, of which."""

_SHARES = frozenset({*RATES, Metric.DAILY_CAP_USED})
_BELOW = frozenset({Metric.DELIVERED_RATE, Metric.BALANCE})
"""Metrics that are bad when low."""
_INCLUSIVE = frozenset({Metric.DAILY_CAP_USED, Metric.WEBHOOKS_FAILING, Metric.DOMAINS_FAILING})
"""Metrics that are bad at the threshold already."""


class Step(Enum):
    """What an evaluation does to a rule."""

    NONE = auto()
    BEGIN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Condition:
    """What a rule compares."""

    metric: Metric
    threshold: float
    hysteresis: float
    cooldown_seconds: int

    def step(self, value: float | None, firing: bool, since: datetime | None, now: datetime) -> Step:
        """What to do at ``value``; None: there is too little to judge, which ends a firing.

        ``since`` is when the last firing began or ended; None: there never was one.
        """
        if firing:
            return Step.END if value is None or self._is_well(value) else Step.NONE
        if value is None or not self._is_bad(value):
            return Step.NONE
        resting = since is not None and now - since < timedelta(seconds=self.cooldown_seconds)
        return Step.NONE if resting else Step.BEGIN

    def _is_bad(self, value: float) -> bool:
        if self.metric in _BELOW:
            return value < self.threshold
        return value > self.threshold or (self.metric in _INCLUSIVE and value == self.threshold)

    def _is_well(self, value: float) -> bool:
        if self.metric in _BELOW:
            return value >= self.threshold + self.hysteresis
        return value <= self.threshold - self.hysteresis and not self._is_bad(value)


def rate(metric: Metric, counts: dict[EventKind, int], minimum_volume: int) -> float | None:
    """The value of a rate; None: there is too little to judge."""
    part, whole = RATES[metric]
    volume = sum(counts.get(kind, 0) for kind in whole)
    if volume < max(minimum_volume, 1):
        return None
    return sum(counts.get(kind, 0) for kind in part) / volume


def metric(value: int, field: str) -> Metric:
    """What a rule measures."""
    try:
        return Metric(value)
    except ValueError:
        raise invalid(field, f"{field} {value} is not known; name what to measure") from None


def threshold(value: float, measured: Metric, field: str) -> float:
    """The threshold of a rule."""
    limit = 1.0 if measured in _SHARES else MAX_COUNT
    if not (math.isfinite(value) and 0 <= value <= limit):
        bounds = (
            "a share from 0 to 1, such as 0.05 for 5 %" if measured in _SHARES else f"a number from 0 to {limit:.0f}"
        )
        raise invalid(field, f"{field} must be {bounds}; it is {value}")
    if measured in _INCLUSIVE and value == 0:
        raise invalid(field, f"{field} must be above 0, or it would always fire")
    return value


def hysteresis(value: float, measured: Metric, limit: float, field: str) -> float:
    """How far on the good side of the threshold ``limit`` a firing ends. Must be reachable."""
    if not math.isfinite(value) or value < 0:
        raise invalid(field, f"{field} must be a number from 0; it is {value}")
    unreachable = limit + value > 1 if measured is Metric.DELIVERED_RATE else measured not in _BELOW and value > limit
    if unreachable or value > MAX_COUNT:
        raise invalid(
            field, f"{field} is {value}: no value could be that far from the threshold, so no firing would end"
        )
    return value


def seconds(value: float | None, minimum: int, maximum: int, default: int, field: str) -> int:
    """A span in whole seconds; None: ``default``."""
    if value is None:
        return default
    if not minimum <= value <= maximum:
        raise invalid(field, f"{field} must be {minimum} to {maximum} seconds; it is {value:g}")
    return round(value)


def volume(value: int, field: str) -> int:
    """What a rate needs to be judged; 0: the default."""
    if not 0 <= value <= MAX_VOLUME:
        raise invalid(field, f"{field} must be 0 to {MAX_VOLUME}; it is {value}")
    return value or DEFAULT_VOLUME


def emails(values: Sequence[str], field: str) -> list[str]:
    """Addresses to mail to."""
    if len(values) > MAX_EMAILS:
        raise invalid(field, f"{field} has {len(values)} addresses; at most {MAX_EMAILS} are possible")
    return sorted({addresses.canonical_address(value, field) for value in values})
