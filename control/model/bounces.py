"""What a failed delivery says about its recipient, and when failures become a suppression.

``judge`` reads the codes and words of a final failure. ``climb`` counts failures that are not for good: so many in a
row, on so many different days, pause mail to the recipient for a while; each pause is twice as long as the one before,
and after the last one it is for good. Mail that gets through ends it all.

Pure. Codes as in RFC 3463 and its registry.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date, timedelta
from enum import Enum
from typing import NamedTuple

from control.model.events import EventKind


class Judgement(Enum):
    """What a final failure says about the recipient."""

    HARD = "hard"
    """There is no such mailbox, or its domain takes no mail."""
    SOFT = "soft"
    """Nothing got through this time."""
    NONE = "none"
    """It was about the sender, the message or the way, not about the recipient."""


# About the recipient, for good: bad mailbox, bad domain, bad syntax, moved away, null MX, disabled.
_HARD = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"})
# Not about the recipient: sender addresses, length of the message, mail loops, protocol, content, policy.
_OTHER_SUBJECTS = frozenset({"5", "6", "7"})
_OTHER = frozenset({"1.7", "1.8", "2.3", "3.4", "4.6"})
_UNKNOWN_MAILBOX = re.compile(
    r"user unknown|unknown (?:user|recipient|mailbox|local|address)|no such (?:user|recipient|mailbox|person|address)"
    r"|(?:user|recipient|mailbox|account|address)(?: \S+)? (?:not found|does not exist|doesn't exist|unknown)"
    r"|(?:mailbox|account|user|recipient)(?: \S+)? (?:is )?(?:unavailable and|disabled|inactive|deactivated)"
    r"|no mailbox here|invalid (?:recipient|mailbox)|not a valid (?:mailbox|recipient|user)"
    r"|recipient address rejected: access denied",
    re.IGNORECASE,
)
_ABOUT_SENDER = re.compile(
    r"spam|block(?:ed|list)|black ?list|deny ?list|reputation|\bdnsbl\b|\brbl\b|\bspf\b|\bdkim\b|\bdmarc\b|policy"
    r"|rate limit|too many|relay|authenticat|virus|content rejected",
    re.IGNORECASE,
)


def judge(kind: EventKind, enhanced_code: str, reply: str) -> Judgement:
    """What BOUNCED or EXPIRED says about the recipient; every other kind says nothing."""
    if kind not in {EventKind.BOUNCED, EventKind.EXPIRED}:
        return Judgement.NONE
    subject, _, detail = enhanced_code.partition(".")[2].partition(".")
    if kind is EventKind.BOUNCED and enhanced_code in _HARD:
        return Judgement.HARD
    if subject in _OTHER_SUBJECTS or f"{subject}.{detail}" in _OTHER:
        return Judgement.NONE
    # Without a telling code the words decide; "address rejected" and "access denied" come as 5.1.0 and 5.4.1.
    if kind is EventKind.BOUNCED and enhanced_code in {"", "5.0.0", "5.1.0", "5.2.0", "5.4.1"}:
        if _UNKNOWN_MAILBOX.search(reply):
            return Judgement.HARD
        if _ABOUT_SENDER.search(reply):
            return Judgement.NONE
    return Judgement.SOFT


@dataclass(frozen=True, slots=True)
class AutoPolicy:
    """What becomes a suppression by itself. None: as the tenant above has it."""

    hard_bounces: bool | None = None
    soft_bounces: bool | None = None
    soft_bounce_count: int | None = None
    soft_bounce_days: int | None = None
    first_pause_days: int | None = None
    pause_count: int | None = None


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """As ``AutoPolicy``, with everything said."""

    hard_bounces: bool
    soft_bounces: bool
    soft_bounce_count: int
    soft_bounce_days: int
    first_pause_days: int
    pause_count: int


LIMITS = {
    "soft_bounce_count": (1, 100),
    "soft_bounce_days": (1, 30),
    "first_pause_days": (1, 365),
    "pause_count": (0, 10),
}
"""Least and greatest values, as in the schema."""


def effective(line: Iterable[AutoPolicy], default: EffectivePolicy) -> EffectivePolicy:
    """What holds for a tenant. ``line``: what it and those above it say, the nearest first."""
    said = list(line)
    values = {}
    for field in fields(EffectivePolicy):
        given = (getattr(policy, field.name) for policy in said)
        values[field.name] = next((value for value in given if value is not None), getattr(default, field.name))
    return EffectivePolicy(**values)


class Ladder(NamedTuple):
    """Failures of a recipient since mail last got through."""

    bounces: int
    days: int
    last_day: date
    pauses: int


class Pause(NamedTuple):
    """Mail to a recipient is to be held back: for so long, or for good."""

    length: timedelta | None


MAX_PAUSE_DAYS = 3650


def climb(ladder: Ladder | None, day: date, policy: EffectivePolicy) -> tuple[Ladder, Pause | None]:
    """Count one more failure, on ``day``; the pause it leads to, if any."""
    before = ladder if ladder is not None else Ladder(0, 0, date.min, 0)
    bounces = before.bounces + 1
    # The first of a new count is on a new day, whatever the day of the last one before.
    days = before.days + (before.bounces == 0 or day > before.last_day)
    last_day = max(day, before.last_day)
    if bounces < policy.soft_bounce_count or days < policy.soft_bounce_days:
        return Ladder(bounces, days, last_day, before.pauses), None
    after = Ladder(0, 0, last_day, before.pauses + 1)
    if before.pauses >= policy.pause_count:
        return after, Pause(None)
    days_off = min(policy.first_pause_days << before.pauses, MAX_PAUSE_DAYS)
    return after, Pause(timedelta(days=days_off))
