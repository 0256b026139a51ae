"""The retry schedule at its edges; its laws are in tests/property/test_queues.py."""

import pytest

from mta.queues.retry import RetrySchedule

SCHEDULE = RetrySchedule(300_000, 2.0, 14_400_000, 0.15, 432_000_000, 3)


def test_pauses_double_up_to_the_longest() -> None:
    minutes = [SCHEDULE.pause_ms(attempts, 0.5) / 60_000 for attempts in range(1, 9)]
    assert minutes == [5, 10, 20, 40, 80, 160, 240, 240]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.85), (0.5, 1.0), (0.999_999, 1.15)])
def test_a_pause_varies_either_way(chance: float, share: float) -> None:
    assert SCHEDULE.pause_ms(1, chance) == pytest.approx(300_000 * share, rel=1e-5)


@pytest.mark.parametrize("attempts", [65, 1000, 10**9])
def test_a_large_count_is_no_trouble(attempts: int) -> None:
    assert RetrySchedule(300_000, 10.0, 14_400_000, 0.0, 1, 1).pause_ms(attempts, 0.5) == 14_400_000


def test_the_shortest_pause_is_not_none() -> None:
    assert RetrySchedule(1, 1.0, 1, 0.5, 1, 1).pause_ms(1, 0.0) >= 1


@pytest.mark.parametrize(
    ("attempts", "age_ms", "given_up"),
    [
        (3, 432_000_000, True),
        (2, 10**12, False),
        (10**6, 431_999_999, False),
        (10**6, -5, False),
    ],
)
def test_it_takes_age_and_attempts_to_give_up(attempts: int, age_ms: int, given_up: bool) -> None:
    assert SCHEDULE.given_up(attempts, age_ms) is given_up
