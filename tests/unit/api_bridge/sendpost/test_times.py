"""SendPost: dates and times in the spellings of its clients."""

from datetime import UTC, date, datetime

import pytest

from api_bridge.dialects.sendpost import times

NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-31T12:00:00Z",
        "2024-01-31T12:00:00.000000",
        "2024-01-31T12:00:00.000000+0000",
        "2024-01-31T12:00:00.000000 0000",
        "2024-01-31T12:00:00+00:00",
        "2024-01-31T12:00:00 00:00",
        "2024-01-31T15:00:00+03",
        "2024-01-31T15:00:00+03:00",
        "2024-01-31T07:00:00-0500",
        "2024-01-31T12:00Z",
        "2024-01-31 12:00:00",
        "2024-01-31t12:00:00z",
        "2024-01-31T12:00:00.0000000Z",
        "2024-01-31T12:00:00.000000000Z",
        " 2024-01-31T12:00:00Z ",
    ],
)
def test_a_time_is_read(text: str) -> None:
    assert times.moment(text) == NOON
    assert times.day(text) == NOON.date()


def test_a_day_is_its_begin_or_its_end() -> None:
    assert times.moment("2024-01-31") == datetime(2024, 1, 31, tzinfo=UTC)
    assert times.moment("2024-01-31", end=True) == datetime(2024, 2, 1, tzinfo=UTC)
    assert times.day("2024-02-29") == date(2024, 2, 29)
    assert times.day("2024-01-31T23:00:00-05:00") == date(2024, 2, 1)


def test_fractions_and_leap_seconds_are_taken() -> None:
    assert times.moment("2024-01-31T12:00:00.123456789Z") == NOON.replace(microsecond=123456)
    assert times.moment("2024-01-31T12:00:60Z") == NOON.replace(second=59)


@pytest.mark.parametrize(
    "text",
    ["", "today", "2024-13-01", "2024-02-30", "2024-1-1", "20240131", "1706702400", "2024-01-31T25:00:00Z",
     "2024-01-31T12:00:00+25:00", "2024-01-31T", "2024-01-31T12", "0000-01-01", "9999-12-31T23:59:59-12:00",
     "\u0662024-01-31", "2024-01-31T12:00:00Zx"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a date such as"):
        times.moment(text)


def test_the_last_day_there_is_has_no_end() -> None:
    with pytest.raises(ValueError, match=r"^must be a date"):
        times.moment("9999-12-31", end=True)


def test_times_are_told_in_nanoseconds() -> None:
    assert times.nanoseconds(times.stamp(NOON.replace(microsecond=5))) == 1706702400000005000
