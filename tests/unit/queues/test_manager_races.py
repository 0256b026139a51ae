"""The queue manager beside settlement on one spool: nobody is tried twice at once, and nobody is forgotten."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mta.custody.settlement import Settlement
from mta.message.outcome import Outcome, OutcomeKind, SaidBy, Stage
from mta.queues import manager as module
from mta.queues.jobs import Job
from mta.queues.retry import RetrySchedule
from mta.spool.records import Change, MessageRow, RecipientRow
from mta.spool.sqlite import SqliteStore
from tests.unit.custody.parts import MESSAGE, Parts, open_parts
from tests.unit.spool.rows import full_disk, rows, settled

BOUNCED = Outcome(OutcomeKind.BOUNCED, 550, "5.1.1", "no", SaidBy.REMOTE, Stage.RCPT, "mx")
DEFERRED = Outcome(OutcomeKind.DEFERRED, 450, "4.2.1", "later", SaidBy.REMOTE, Stage.RCPT, "mx")
DELIVERED = Outcome(OutcomeKind.DELIVERED, 250, "2.0.0", "ok", SaidBy.REMOTE, Stage.MESSAGE, "mx")


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager reads everything that is due again and again."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(module, "RESCAN_SECONDS", 0.0)
    monkeypatch.setattr(module, "SETTLING_MS", 0)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    """A worker without sockets."""
    async with open_parts(tmp_path) as opened:
        yield opened


async def waiting(store: SqliteStore, count: int, due_ms: int = 0) -> None:
    """So many messages that are due."""
    change = Change()
    for number in range(1, count + 1):
        change.messages.append(MessageRow(number, number, "acme", "", 0, 1, 0, b"x"))
        address = f"r{number}@d{number % 7}.test"
        domain = address.partition("@")[2]
        change.recipients.append(RecipientRow(number, number, "acme", address, domain, 0, due_ms, 1, "x"))
    await settled(store, change)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (what it waits for has no events)
            await asyncio.sleep(0.005)


class Remote:
    """Stands for delivery: settles each job a little later, and sees whether it gets one twice."""

    def __init__(self, settlement: Settlement) -> None:
        self.active_bytes = 0
        self.trying: set[int] = set()
        self.finished: set[int] = set()
        self.tries = 0
        self.wrong: list[int] = []
        self._settlement = settlement
        self._random = random.Random(7)

    def submit(self, job: Job) -> None:
        """Take a job."""
        for recipient in job.recipients:
            if recipient.recipient_id in self.trying or recipient.recipient_id in self.finished:
                self.wrong.append(recipient.recipient_id)
            self.trying.add(recipient.recipient_id)
        self.tries += 1
        asyncio.get_running_loop().call_later(self._random.random() * 0.01, self._settle, job)

    def _settle(self, job: Job) -> None:
        outcomes = []
        for recipient in job.recipients:
            outcome = self._random.choice((DELIVERED, BOUNCED, DEFERRED))
            self.trying.discard(recipient.recipient_id)
            if outcome is not DEFERRED:
                self.finished.add(recipient.recipient_id)
            outcomes.append((recipient, outcome))
        self._settlement.settle(job, outcomes)


async def test_nobody_is_tried_twice_at_once_or_after_the_end(parts: Parts) -> None:
    schedule = RetrySchedule(5, 1.0, 5, 0.0, 10**15, 1)
    settlement = Settlement(parts.store, schedule, parts.bounces, parts.queue.release)
    remote = Remote(settlement)
    parts.queue._delivery = remote
    await waiting(parts.store, 400)
    async with asyncio.timeout(60):
        while len(remote.finished) < 400:  # noqa: ASYNC110 (many small steps)
            await asyncio.sleep(0.01)
    await settled(parts.store)
    await until(lambda: parts.queue.active == 0)
    await asyncio.sleep(0.05)
    assert remote.wrong == []
    assert remote.tries > 450
    assert parts.queue.active == 0
    assert rows(parts.path, "SELECT count(*) FROM recipient") == [(0,)]


async def test_new_messages_are_not_found_a_second_time_on_file(parts: Parts) -> None:
    for _ in range(50):
        await parts.accepted(parts.submission(MESSAGE, "a@example.net", "b@example.net"))
    await until(lambda: len(parts.delivery.recipient_ids) >= 100)
    await asyncio.sleep(0.1)
    ids = parts.delivery.recipient_ids
    assert len(ids) == len(set(ids)) == 100


async def test_what_is_being_settled_while_the_disk_is_full_is_not_tried_again(parts: Parts) -> None:
    await waiting(parts.store, 3)
    await until(lambda: len(parts.delivery.recipient_ids) >= 3)
    with full_disk():
        for job in list(parts.delivery.jobs):
            parts.settlement.settle(job, [(recipient, DELIVERED) for recipient in job.recipients])
        await asyncio.sleep(0.2)
    await settled(parts.store)
    await asyncio.sleep(0.1)
    assert len(parts.delivery.recipient_ids) == 3
    assert rows(parts.path, "SELECT count(*) FROM recipient") == [(0,)]


async def test_a_clock_that_went_back_hides_nobody(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESCAN_SECONDS", 0.2)
    now = time.time_ns() // 1_000_000
    await waiting(parts.store, 1, due_ms=now)
    await until(lambda: parts.delivery.jobs)
    change = Change()  # parked by a clock that is an hour behind the one before
    change.messages.append(MessageRow(50, 50, "acme", "", 0, 1, 0, b"x"))
    change.recipients.append(RecipientRow(50, 50, "acme", "late@x.test", "x.test", 0, now - 3_600_000, 1, "x"))
    await settled(parts.store, change)
    await until(lambda: 50 in parts.delivery.recipient_ids)


async def test_the_window_is_not_exceeded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_RECIPIENTS", 100)
    monkeypatch.setattr(module, "RESCAN_SECONDS", 60.0)
    monkeypatch.setattr(module, "PAGE", 10)
    await waiting(parts.store, 300)
    await until(lambda: len(parts.delivery.recipient_ids) >= 80)
    await asyncio.sleep(0.2)
    assert 80 <= len(parts.delivery.recipient_ids) <= 100
    for job in list(parts.delivery.jobs)[:50]:
        parts.settlement.settle(job, [(recipient, DELIVERED) for recipient in job.recipients])
    await until(lambda: len(parts.delivery.recipient_ids) >= 130)
    assert parts.queue.active <= 100


async def test_a_spool_that_cannot_be_read_is_read_later(parts: Parts) -> None:
    await waiting(parts.store, 2, due_ms=2**50)
    reader, parts.store._reader = parts.store._reader, None  # type: ignore[assignment]
    await asyncio.sleep(0.05)
    parts.store._reader = reader
    await waiting(parts.store, 5)
    await until(lambda: len(parts.delivery.recipient_ids) >= 3)
