"""Dates and times as SendPost's clients write and read them.

Answers have UNIX nanoseconds as integers, or days (UTC). Clients write days as ``2024-01-01`` and times in every form
their language makes: with or without a fraction of 1 to 9 digits, seconds, and a zone, which is ``Z``, ``+00:00``,
``+0000`` or ``+00``; the ``+`` may have become a space on the way, and without a zone it is UTC. A day is taken where a
time is wanted (its begin; for an end, its end) and a time where a day is wanted (its day in UTC). Pure.

Errors: ``ValueError`` with a text that goes behind the parameter's name.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone

from google.protobuf.timestamp_pb2 import Timestamp

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?[ ]?([Zz]|[+ -]\d\d:?\d\d|[+-]\d\d)?)?"
)
_FORMS = "must be a date such as 2024-01-31 or a time such as 2024-01-31T12:00:00Z"
DAY = timedelta(days=1)


def moment(text: str, end: bool = False) -> datetime:
    """A time in UTC; a day alone is its begin, or with ``end`` the begin of the next."""
    match = _TIME.fullmatch(text.strip())
    if match is None or not text.isascii():
        raise ValueError(_FORMS)
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        if hour is None:
            return datetime(int(year), int(month), int(day), tzinfo=UTC) + (DAY if end else timedelta())
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second or 0), 59))
        local += timedelta(microseconds=int((fraction or "0").ljust(9, "0")) // 1000)
        return local.replace(tzinfo=_zone(zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(_FORMS) from None


def day(text: str) -> date:
    """A day in UTC."""
    return moment(text).date()


def nanoseconds(stamp: Timestamp) -> int:
    """UNIX nanoseconds; 0 for no time."""
    return stamp.seconds * 1_000_000_000 + stamp.nanos


def stamp(time: datetime) -> Timestamp:
    """``time`` for control."""
    result = Timestamp()
    result.FromDatetime(time)
    return result


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)
