"""What failures say about a recipient, and the ladder from soft bounces to a suppression."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.model.bounces import AutoPolicy, EffectivePolicy, Judgement, Ladder, climb, effective, judge
from control.model.events import EventKind

POLICY = EffectivePolicy(True, True, 3, 3, 7, 2)
DAY = date(2026, 3, 1)
HARD, SOFT, NONE = Judgement.HARD, Judgement.SOFT, Judgement.NONE


@pytest.mark.parametrize(
    ("code", "reply", "expected"),
    [
        ("5.1.1", "anything", HARD),
        ("5.1.2", "the domain x.test does not exist", HARD),
        ("5.1.10", "null MX", HARD),
        ("5.1.6", "moved", HARD),
        ("5.2.1", "disabled", HARD),
        ("5.0.0", "User unknown in virtual mailbox table", HARD),
        ("5.0.0", "no such user here", HARD),
        ("5.4.1", "Recipient address rejected: Access denied. AS(201806281)", HARD),
        ("5.1.0", "Mailbox <a@x.test> not found", HARD),
        ("5.0.0", "blocked using spamhaus", NONE),
        ("5.7.1", "user unknown", NONE),
        ("5.6.0", "bad content", NONE),
        ("5.5.2", "syntax", NONE),
        ("5.1.8", "sender domain does not exist", NONE),
        ("5.3.4", "message too big", NONE),
        ("5.2.2", "mailbox full", SOFT),
        ("5.3.0", "out of order", SOFT),
        ("5.0.0", "no", SOFT),
        ("", "", SOFT),
        ("nonsense", "", SOFT),
    ],
)
def test_bounces_are_judged_by_code_and_words(code: str, reply: str, expected: Judgement) -> None:
    assert judge(EventKind.BOUNCED, code, reply) is expected


@pytest.mark.parametrize(
    ("code", "expected"), [("4.4.1", SOFT), ("4.2.2", SOFT), ("4.7.1", NONE), ("5.1.1", SOFT), ("", SOFT)]
)
def test_what_was_given_up_is_never_hard(code: str, expected: Judgement) -> None:
    assert judge(EventKind.EXPIRED, code, "no such user") is expected


@pytest.mark.parametrize("kind", sorted(set(EventKind) - {EventKind.BOUNCED, EventKind.EXPIRED}))
def test_other_events_say_nothing(kind: EventKind) -> None:
    assert judge(kind, "5.1.1", "no such user") is NONE


def climbed(days: list[int], policy: EffectivePolicy = POLICY) -> list[timedelta | str | None]:
    """What each failure leads to; "for good" for a pause without end."""
    ladder: Ladder | None = None
    told: list[timedelta | str | None] = []
    for number in days:
        ladder, pause = climb(ladder, DAY + timedelta(days=number), policy)
        told.append(None if pause is None else pause.length or "for good")
    return told


def test_pauses_double_and_then_it_is_for_good() -> None:
    week = timedelta(days=7)
    assert climbed([0, 1, 2]) == [None, None, week]
    assert climbed([0, 1, 2, 10, 11, 12]) == [None, None, week, None, None, 2 * week]
    assert climbed([0, 1, 2, 10, 11, 12, 30, 31, 32])[-1] == "for good"


def test_many_failures_on_one_day_are_not_enough() -> None:
    assert climbed([0] * 50) == [None] * 50
    assert climbed([0, 0, 0, 1, 1]) == [None] * 5
    assert climbed([0, 0, 0, 1, 2])[-1] == timedelta(days=7)


def test_without_pauses_it_is_for_good_at_once() -> None:
    assert climbed([0, 1, 2], EffectivePolicy(True, True, 3, 3, 7, 0))[-1] == "for good"
    assert climbed([0], EffectivePolicy(True, True, 1, 1, 7, 0)) == ["for good"]


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.builds(
        EffectivePolicy,
        st.just(True),
        st.just(True),
        st.integers(1, 5),
        st.integers(1, 5),
        st.integers(1, 365),
        st.integers(0, 10),
    ),
)
def test_each_pause_is_earned_and_longer_than_the_one_before(days: list[int], policy: EffectivePolicy) -> None:
    told = climbed(sorted(days), policy)
    since: list[int] = []
    last = timedelta()
    for day, pause in zip(sorted(days), told, strict=True):
        since.append(day)
        earned = len(since) >= policy.soft_bounce_count and len(set(since)) >= policy.soft_bounce_days
        assert (pause is not None) == earned
        if isinstance(pause, timedelta):
            assert last < pause or pause == timedelta(days=3650)
            last = pause
        if pause is not None:
            since = []


def test_the_nearest_word_counts() -> None:
    line = [AutoPolicy(soft_bounce_count=9), AutoPolicy(hard_bounces=False, soft_bounce_count=1)]
    assert effective(line, POLICY) == EffectivePolicy(False, True, 9, 3, 7, 2)
    assert effective([], POLICY) == POLICY
