"""Requests per second and key."""

import pytest

from api_bridge import rates
from api_bridge.problems import Problem
from api_bridge.rates import Rates
from mta.runtime.options import DialectsOptions, MSpaceOptions


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(clock: Clock, rate: float, burst: int = 0) -> Rates:
    return Rates(DialectsOptions(mspace=MSpaceOptions(requests_per_second=rate, burst=burst)), clock)


def refused(rates: Rates, key: str) -> int:
    """Seconds to wait; 0 if the request is admitted."""
    try:
        rates.admit("mspace", key)
    except Problem as problem:
        assert problem.status == 429
        return int(problem.headers["retry-after"])
    return 0


def test_off_by_default() -> None:
    limiter = Rates(DialectsOptions(), Clock())
    for _ in range(1000):
        limiter.admit("mspace", "key")


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limiter = limited(clock, 10)
    assert [refused(limiter, "a") for _ in range(11)] == [0] * 10 + [1]
    assert refused(limiter, "b") == 0
    clock.now += 0.25
    assert [refused(limiter, "a") for _ in range(3)] == [0, 0, 1]
    clock.now += 3600
    assert [refused(limiter, "a") for _ in range(11)] == [0] * 10 + [1]


@pytest.mark.parametrize(("rate", "burst", "admitted", "wait"), [(0.1, 0, 1, 10), (0.5, 3, 3, 2), (2.5, 0, 3, 1)])
def test_slow_rates(rate: float, burst: int, admitted: int, wait: int) -> None:
    clock = Clock()
    limiter = limited(clock, rate, burst)
    assert [refused(limiter, "a") for _ in range(admitted + 1)] == [0] * admitted + [wait]
    clock.now += wait
    assert refused(limiter, "a") == 0


def test_refused_requests_cost_nothing() -> None:
    clock = Clock()
    limiter = limited(clock, 1)
    assert refused(limiter, "a") == 0
    for _ in range(9):
        clock.now += 0.1
        assert refused(limiter, "a") == 1
    clock.now += 0.2
    assert refused(limiter, "a") == 0


def test_other_dialects_have_their_own() -> None:
    limiter = limited(Clock(), 1)
    for _ in range(5):
        limiter.admit("sendpulse", "a")


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_KEYS", 3)
    limiter = limited(Clock(), 1)
    assert [refused(limiter, key) for key in "abcd"] == [0, 0, 0, 0]
    assert [refused(limiter, key) for key in "dcb"] == [1, 1, 1]
    assert refused(limiter, "a") == 0
