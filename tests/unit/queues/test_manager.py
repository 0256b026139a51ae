"""The queue manager on a real spool: what is due comes, once, within the window and each domain's share of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mta.queues import manager as module
from mta.queues.jobs import Job
from mta.queues.manager import QueueManager
from mta.spool.records import Change, MessageRow, RecipientRow
from mta.spool.schema import open_file
from mta.spool.sqlite import SqliteStore
from tests.unit.queues.recipients import queued
from tests.unit.spool.rows import settled


class Taker:
    """Takes jobs and keeps them."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.active_bytes = 0

    def submit(self, job: Job) -> None:
        """Keep a job."""
        self.jobs.append(job)

    @property
    def recipients(self) -> list[int]:
        """Recipients taken, in order."""
        return [recipient.recipient_id for job in self.jobs for recipient in job.recipients]

    async def taken(self, count: int) -> None:
        """Wait until so many recipients were taken."""
        async with asyncio.timeout(60):
            while len(self.recipients) < count:  # noqa: ASYNC110 (it is told by a plain call)
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, and at rows that were just written."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "SETTLING_MS", 0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A spool, open."""
    opened = SqliteStore(open_file(tmp_path / "worker-0.db"))
    yield opened
    await opened.close()


@pytest.fixture
async def taker() -> Taker:
    """What the manager delivers to."""
    return Taker()


@pytest.fixture
async def manager(store: SqliteStore, taker: Taker) -> AsyncIterator[QueueManager]:
    """A manager, not started."""
    made = QueueManager(store, taker, 1_000_000)
    yield made
    await made.close()


async def put(store: SqliteStore, *numbers: int, domain: str = "example.net", due_ms: int = 0) -> None:
    """Messages with one parked recipient each."""
    change = Change()
    for number in numbers:
        change.messages.append(MessageRow(number, number, "acme", "a@acme.test", 0, 1, 0, b"x"))
        address = f"r{number}@{domain}"
        change.recipients.append(RecipientRow(number, number, "acme", address, domain, 1, due_ms, 1, "x"))
    await settled(store, change)


async def test_what_is_due_comes_once(store: SqliteStore, taker: Taker, manager: QueueManager) -> None:
    await put(store, 3, due_ms=10)
    await put(store, 1, 2, due_ms=20)
    await put(store, 4, due_ms=2**60)
    manager.start()
    await taker.taken(3)
    await asyncio.sleep(0.2)
    assert sorted(taker.recipients) == [1, 2, 3]
    assert manager.active == 3


async def test_what_becomes_due_later_comes_then(store: SqliteStore, taker: Taker, manager: QueueManager) -> None:
    manager.start()
    due_ms = time.time_ns() // 1_000_000 + 300
    await put(store, 1, due_ms=due_ms)
    await taker.taken(1)
    assert time.time_ns() // 1_000_000 >= due_ms


async def test_a_released_recipient_that_is_parked_again_comes_again(
    store: SqliteStore, taker: Taker, manager: QueueManager
) -> None:
    await put(store, 1)
    manager.start()
    await taker.taken(1)
    again = Change()
    again.parked.append((2, time.time_ns() // 1_000_000 + 50, "again", 1))
    await settled(store, again)
    manager.release(1)
    await taker.taken(2)
    assert taker.recipients == [1, 1]


async def test_one_domain_has_its_share_and_the_others_pass(
    store: SqliteStore, taker: Taker, manager: QueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOMAIN_RECIPIENTS", 10)
    await put(store, *range(1, 101), domain="dead.test", due_ms=1)
    await put(store, 200, domain="alive.test", due_ms=2)
    manager.start()
    await taker.taken(11)
    await asyncio.sleep(0.1)
    assert taker.recipients == [*range(1, 11), 200]
    assert not manager.has_room(1, ["dead.test"])
    assert manager.has_room(1, ["alive.test"])


async def test_a_share_that_is_worked_off_is_filled_again(
    store: SqliteStore, taker: Taker, manager: QueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOMAIN_RECIPIENTS", 10)
    await put(store, *range(1, 31))
    manager.start()
    for expected in (10, 20, 30):
        await taker.taken(expected)
        done = Change()
        numbers = taker.recipients[expected - 10 : expected]
        done.done_recipients += [(number,) for number in numbers]
        await settled(store, done)
        for number in numbers:
            manager.release(number)
    assert sorted(taker.recipients) == list(range(1, 31))


async def test_a_new_message_goes_straight_to_delivery(taker: Taker, manager: QueueManager) -> None:
    manager.add([queued(1), queued(2, message_id=1, domain="other.test")], b"content")
    assert [(job.domain, job.content) for job in taker.jobs] == [
        ("example.net", b"content"),
        ("other.test", b"content"),
    ]
    assert manager.active == 2


async def test_no_room_while_stopping_or_when_memory_is_used_up(taker: Taker, manager: QueueManager) -> None:
    assert manager.has_room(1_000_000, ["example.net"])
    taker.active_bytes = 1
    assert not manager.has_room(1_000_000, ["example.net"])
    await manager.close()
    assert not manager.has_room(1, ["example.net"])
