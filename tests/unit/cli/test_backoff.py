"""When a program that ended is started again."""

from control.supervisor.backoff import FIRST_SECONDS, MAX_SECONDS, STABLE_SECONDS, Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_after(0.1) for _ in range(10)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == MAX_SECONDS
    assert backoff.failures == 10


def test_first_restart_is_fast_enough_for_a_worker() -> None:
    assert FIRST_SECONDS <= 0.3


def test_a_good_run_is_forgiven() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.pause_after(0.0)
    assert backoff.pause_after(STABLE_SECONDS) == FIRST_SECONDS
    assert backoff.failures == 1


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff()
    assert {backoff.pause_after(0.0) for _ in range(5000)} <= {0.2, 0.4, 0.8, 1.6, 3.2, 6.4, MAX_SECONDS}
