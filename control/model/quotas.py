"""Hourly and daily limits: how much of a window may be taken, and the warm-up plan of a source. Pure.

Windows are clock hours and calendar days in UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

SURPLUS_SHARE = 100
"""A worker gets one part in so many of what is left on top of what it asks for: it then asks less often, and what it
cannot use is no more than that."""
UNLIMITED_SURPLUS = 100_000
"""On top where there is no limit any more, as after a warm-up."""


class Use(NamedTuple):
    """Recipients that count for the current hour and day."""

    hour: int
    day: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Recipients per hour and day; 0: no limit."""

    hourly: int
    daily: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A part of a window, void after ``seconds``."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class UsedUp:
    """So many are not left. ``seconds``: until the next window of this kind."""

    window: str
    limit: int
    left: int
    seconds: float


def hour_of(now: datetime) -> datetime:
    """Start of the clock hour."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(now: datetime) -> date:
    """The calendar day."""
    return now.astimezone(UTC).date()


def take(limits: Limits, use: Use, count: int, now: datetime) -> Taken | UsedUp:
    """Take at least ``count`` recipients out of what is left now."""
    to_hour = (hour_of(now) + timedelta(hours=1) - now).total_seconds()
    to_day = (datetime.combine(day_of(now), datetime.min.time(), UTC) + timedelta(days=1) - now).total_seconds()
    left: list[int] = []
    # The day first: when both are used up, the hour's end does not help.
    for window, limit, used, seconds in (
        ("day", limits.daily, use.day, to_day),
        ("hour", limits.hourly, use.hour, to_hour),
    ):
        if not limit:
            continue
        rest = max(0, limit - used)
        if rest < count:
            return UsedUp(window, limit, rest, seconds)
        left.append(rest)
    surplus = (min(left) - count) // SURPLUS_SHARE if left else UNLIMITED_SURPLUS
    return Taken(count + surplus, to_hour if limits.hourly else to_day)


def warm_up_day(start: date | None, plan: Sequence[int], today: date) -> int:
    """Day of the plan, from 1; 0: before its start, after its end, or no plan."""
    if start is None:
        return 0
    day = (today - start).days + 1
    return day if 1 <= day <= len(plan) else 0


def limit_today(start: date | None, plan: Sequence[int], daily_limit: int, today: date) -> int:
    """The limit in force today; 0: none. Before its first day a source has that day's limit."""
    if start is None or not plan:
        return daily_limit
    if today < start:
        return plan[0]
    day = warm_up_day(start, plan, today)
    return plan[day - 1] if day else daily_limit
