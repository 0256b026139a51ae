"""Laws of the queues: fairness of the ready queue, and the retry schedule."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mta.queues.ready import ReadyQueue
from mta.queues.retry import RetrySchedule
from tests.unit.queues.recipients import job

TENANTS = st.sampled_from("abcdef")


class ReadyQueueLaws(RuleBasedStateMachine):
    """Each tenant's jobs come in order, none is lost, and nobody is served twice while somebody else waits."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ReadyQueue()
        self.model: dict[str, deque[int]] = {}
        self.passed: dict[str, set[str]] = {}  # who was served since this tenant began to wait
        self.number = 0
        self.last: tuple[str, int] | None = None

    @rule(tenant=TENANTS)
    def put(self, tenant: str) -> None:
        self.number += 1
        self.queue.put(job(self.number, tenant))
        self.model.setdefault(tenant, deque()).append(self.number)
        self.passed.setdefault(tenant, set())
        self.last = None

    @rule()
    def take(self) -> None:
        taken = self.queue.take()
        if taken is None:
            assert not self.model
            return
        line = self.model[taken.tenant]
        assert taken.message_id == line.popleft()
        del self.passed[taken.tenant]
        for tenant, passed in self.passed.items():
            assert taken.tenant not in passed, f"{taken.tenant} was served twice while {tenant} waited"
            passed.add(taken.tenant)
        if line:
            self.passed[taken.tenant] = set()
        else:
            del self.model[taken.tenant]
        self.last = taken.tenant, taken.message_id

    @precondition(lambda self: self.last is not None)
    @rule()
    def put_back(self) -> None:
        assert self.last is not None
        tenant, number = self.last
        self.queue.put_back(job(number, tenant))
        self.model.setdefault(tenant, deque()).appendleft(number)
        self.passed.setdefault(tenant, set())
        self.last = None

    @rule()
    def take_all(self) -> None:
        found: dict[str, deque[int]] = {}
        for taken in self.queue.take_all():
            found.setdefault(taken.tenant, deque()).append(taken.message_id)
        assert found == self.model
        self.model.clear()
        self.passed.clear()
        self.last = None

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == sum(map(len, self.model.values()))


TestReadyQueueLaws = ReadyQueueLaws.TestCase
TestReadyQueueLaws.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


@given(st.lists(TENANTS, min_size=1, max_size=200), TENANTS)
def test_a_newcomer_is_served_within_one_round(waiting: list[str], newcomer: str) -> None:
    queue = ReadyQueue()
    for number, tenant in enumerate(waiting):
        queue.put(job(number, tenant))
    others = len(set(waiting) - {newcomer})
    ahead = waiting.count(newcomer)
    queue.put(job(10_000, newcomer))
    served = 0
    while (taken := queue.take()) is not None:
        served += 1
        if taken.message_id == 10_000:
            break
    assert served <= (ahead + 1) * (others + 1)


SCHEDULES = st.builds(
    RetrySchedule,
    first_ms=st.integers(1, 3_600_000),
    factor=st.floats(1, 10),
    max_ms=st.integers(1, 86_400_000),
    jitter=st.floats(0, 0.5),
    lifetime_ms=st.integers(1, 10**10),
    min_attempts=st.integers(1, 20),
)
CHANCES = st.floats(0, 1, exclude_max=True)


@given(SCHEDULES, st.integers(1, 10_000), CHANCES)
def test_a_pause_is_within_bounds(schedule: RetrySchedule, attempts: int, chance: float) -> None:
    pause = schedule.pause_ms(attempts, chance)
    shortest = min(schedule.first_ms, schedule.max_ms) * (1 - schedule.jitter)
    assert max(1, shortest - 1) <= pause <= schedule.max_ms * (1 + schedule.jitter) + 1


@given(SCHEDULES, st.integers(1, 1000), CHANCES)
def test_pauses_do_not_shrink(schedule: RetrySchedule, attempts: int, chance: float) -> None:
    assert schedule.pause_ms(attempts, chance) <= schedule.pause_ms(attempts + 1, chance)


@given(SCHEDULES, st.integers(1, 1000), CHANCES, CHANCES)
def test_later_chance_is_longer_pause(schedule: RetrySchedule, attempts: int, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert schedule.pause_ms(attempts, low) <= schedule.pause_ms(attempts, high)


@given(SCHEDULES, st.integers(1, 1000), st.integers(-(10**12), 10**12))
def test_nobody_is_given_up_before_enough_attempts(schedule: RetrySchedule, attempts: int, age_ms: int) -> None:
    given_up = schedule.given_up(attempts, age_ms)
    assert given_up is (attempts >= schedule.min_attempts and age_ms >= schedule.lifetime_ms)
    if given_up:
        assert schedule.given_up(attempts + 1, age_ms + 1)
