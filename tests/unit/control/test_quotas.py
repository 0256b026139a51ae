"""Limits by the hour and day, and the warm-up of sources."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from control.model import quotas
from control.model.quotas import Limits, Taken, Use, UsedUp

NOW = datetime(2026, 11, 22, 14, 40, 30, tzinfo=UTC)
TIMES = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
LIMIT = st.integers(0, 20_000)
PLAN = st.lists(st.integers(1, 10_000), min_size=1, max_size=60)


@given(LIMIT, LIMIT, st.lists(st.integers(1, 500), max_size=60), TIMES)
def test_no_limit_is_ever_exceeded_and_what_is_refused_was_really_not_left(
    hourly: int, daily: int, wants: list[int], now: datetime
) -> None:
    used = 0
    for want in wants:
        answer = quotas.take(Limits(hourly, daily), Use(used, used), want, now)
        if isinstance(answer, Taken):
            assert answer.count >= want
            assert 0 < answer.seconds <= (3600 if hourly else 86_400)
            used += answer.count
            assert (not hourly or used <= hourly) and (not daily or used <= daily)
        else:
            assert answer.left < want
            assert answer.left == min(limit - used for limit in (hourly, daily) if limit == answer.limit)
            assert 0 < answer.seconds <= (3600 if answer.window == "hour" else 86_400)


def test_windows_are_clock_hours_and_calendar_days() -> None:
    assert quotas.take(Limits(5, 0), Use(5, 0), 1, NOW) == UsedUp("hour", 5, 0, 1170.0)
    assert quotas.take(Limits(5, 9), Use(5, 9), 1, NOW) == UsedUp("day", 9, 0, 33_570.0)
    assert quotas.take(Limits(5, 0), Use(4, 0), 1, NOW) == Taken(1, 1170.0)
    assert quotas.take(Limits(0, 1000), Use(0, 0), 1, NOW) == Taken(10, 33_570.0)
    assert quotas.take(Limits(0, 0), Use(0, 0), 1, NOW) == Taken(1 + quotas.UNLIMITED_SURPLUS, 33_570.0)


@given(PLAN, st.integers(-30, 400), LIMIT)
def test_the_day_of_a_plan(plan: list[int], offset: int, after: int) -> None:
    start = date(2026, 11, 1)
    today = start + timedelta(days=offset)
    day, limit = quotas.warm_up_day(start, plan, today), quotas.limit_today(start, plan, after, today)
    if offset < 0:
        assert (day, limit) == (0, plan[0])
    elif offset < len(plan):
        assert (day, limit) == (offset + 1, plan[offset])
    else:
        assert (day, limit) == (0, after)


def test_without_a_plan_the_daily_limit_holds() -> None:
    assert quotas.limit_today(None, (), 7, NOW.date()) == 7
    assert quotas.warm_up_day(None, (), NOW.date()) == 0
