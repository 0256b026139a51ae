"""The ready queue: tenants in turn, each tenant's jobs in order."""

from mta.queues.ready import ReadyQueue
from tests.unit.queues.recipients import job


def taken(queue: ReadyQueue) -> list[int]:
    """The message ids in the order of service."""
    ids = []
    while (next_job := queue.take()) is not None:
        ids.append(next_job.message_id)
    return ids


def test_an_empty_queue_has_nothing() -> None:
    queue = ReadyQueue()
    assert queue.take() is None
    assert len(queue) == 0
    assert not queue
    assert queue.take_all() == []


def test_one_tenant_is_served_in_order() -> None:
    queue = ReadyQueue()
    for number in range(5):
        queue.put(job(number))
    assert len(queue) == 5
    assert taken(queue) == [0, 1, 2, 3, 4]
    assert len(queue) == 0


def test_tenants_take_turns() -> None:
    queue = ReadyQueue()
    for number in range(3):
        queue.put(job(number, "a"))
    for number in range(10, 12):
        queue.put(job(number, "b"))
    queue.put(job(20, "c"))
    assert taken(queue) == [0, 10, 20, 1, 11, 2]


def test_a_single_message_does_not_wait_for_a_flood() -> None:
    queue = ReadyQueue()
    for number in range(10_000):
        queue.put(job(number, "flood"))
    queue.take()
    queue.put(job(99_999, "single"))
    assert [next_job.message_id for _ in range(2) if (next_job := queue.take())] == [1, 99_999]


def test_what_is_put_back_is_the_tenants_next() -> None:
    queue = ReadyQueue()
    for number in range(3):
        queue.put(job(number, "a"))
    queue.put(job(10, "b"))
    first = queue.take()
    assert first is not None
    queue.put_back(first)
    assert len(queue) == 4
    assert taken(queue) == [10, 0, 1, 2]


def test_the_last_job_can_be_put_back() -> None:
    queue = ReadyQueue()
    queue.put(job(1))
    only = queue.take()
    assert only is not None
    queue.put_back(only)
    assert taken(queue) == [1]


def test_all_can_be_taken_at_once() -> None:
    queue = ReadyQueue()
    for number in range(4):
        queue.put(job(number, "ab"[number % 2]))
    assert sorted(taken_job.message_id for taken_job in queue.take_all()) == [0, 1, 2, 3]
    assert len(queue) == 0
    queue.put(job(9))
    assert taken(queue) == [9]
