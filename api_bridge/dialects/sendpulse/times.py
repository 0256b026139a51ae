"""Times as SendPulse writes them: ``YYYY-MM-DD HH:MM:SS`` without a zone, which is UTC here. Pure."""

import re
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from api_bridge.dialects.sendpulse import errors

DATE_CODE = 799
"""The original's code for a date in a wrong format."""
DAY = timedelta(days=1)

_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]([0-9]{2}:[0-9]{2}:[0-9]{2}))?")
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def shown(time: Timestamp) -> str:
    """A time in an answer."""
    return time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S")


def moment(name: str, text: str) -> Timestamp:
    """A time in a request; a date alone is its first moment. Raises Problem 422."""
    return stamp(_read(name, text)[0])


def end(name: str, text: str) -> Timestamp:
    """A time up to which, with it: the next second, or for a date alone the next day. Raises Problem 422."""
    time, whole_day = _read(name, text)
    return stamp(time + (DAY if whole_day else timedelta(seconds=1)))


def day(name: str, text: str) -> tuple[datetime, datetime]:
    """The first moment of a day and of the next. Raises Problem 422."""
    time, whole_day = _read(name, text)
    if not whole_day:
        time = time.replace(hour=0, minute=0, second=0)
    return time, time + DAY


def stamp(time: datetime) -> Timestamp:
    """For a request to control."""
    made = Timestamp()
    made.FromDatetime(time)
    return made


def _read(name: str, text: str) -> tuple[datetime, bool]:
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        time = datetime.strptime(f"{match[1]} {match[2] or '00:00:00'} +0000", "%Y-%m-%d %H:%M:%S %z")
        if not _EARLIEST <= time <= _LATEST:
            raise ValueError(text)
    except ValueError:
        raise errors.invalid(name, DATE_CODE) from None
    return time, match[2] is None
