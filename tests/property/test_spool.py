"""The spool against a model that is a few dicts: whatever is done, in whatever order, with failures and restarts."""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mta.spool import sqlite
from mta.spool.records import AnswerRow, Change, EventKind, LeaseRow, Receipt, RecipientRow
from mta.spool.sqlite import SqliteStore
from tests.unit.spool.rows import Waiter, event, full_disk, message, open_store, rows, settled

# Nothing here is about power cuts, so a file system in memory will do, and is much faster.
MEMORY = Path("/dev/shm")


@dataclass
class Model:
    """What should be on file."""

    contents: dict[int, bytes] = field(default_factory=dict)
    recipients: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """id to (message id, attempts, due, parked)."""
    outbox: list[tuple[int, int]] = field(default_factory=list)
    leases: dict[int, tuple[int, int]] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """key to (expiry, answer)."""


class Spool(RuleBasedStateMachine):
    """Runs a real store on a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.path = self.folder / "worker-0.db"
        self.loop = asyncio.new_event_loop()
        self.quick = mock.patch.object(sqlite, "PROBE_SECONDS", 0.002)
        self.quick.start()
        self.logs = structlog.testing.capture_logs()
        self.logs.__enter__()
        self.model = Model()
        self.next_id = 1
        self.epoch = 0
        self.acknowledged = 0
        self.store: SqliteStore
        self._open()

    def _run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def _open(self) -> None:
        async def open_() -> SqliteStore:
            return open_store(self.path)

        self.store = self._run(open_())
        self.epoch += 1

    def _accept(self, count: int, parked: int, due: int, size: int = 20) -> Change:
        first = self.next_id
        self.next_id += count
        change = Change()
        content = b"%d" % first * size
        change.messages.append(message(first, first + count - 1, content))
        for id_ in range(first, first + count):
            row = RecipientRow(id_, first, "acme", f"r{id_}@x.test", "x.test", 0, due, parked, "received")
            change.recipients.append(row)
            change.outbox.append(event(self.store.next_sequence(), id_))
        return change

    def _accepted(self, change: Change) -> None:
        for row in change.messages:
            self.model.contents[row.message_id] = row.content
        for recipient in change.recipients:
            where = (recipient.message_id, 0, recipient.due_ms, recipient.parked)
            self.model.recipients[recipient.recipient_id] = where
        self._told(change)

    def _told(self, change: Change) -> None:
        self.model.outbox += [(row.sequence, row.kind) for row in change.outbox]

    def _outcome(self, ids: list[int], deferred: list[bool], due: int) -> Change:
        change = Change()
        for id_, later in zip(ids, deferred, strict=True):
            message_id, attempts, _, _ = self.model.recipients[id_]
            if later:
                change.parked.append((attempts + 1, due, "later", id_))
                self.model.recipients[id_] = (message_id, attempts + 1, due, 1)
            else:
                change.done_recipients.append((id_,))
                del self.model.recipients[id_]
            kind = EventKind.DEFERRED if later else EventKind.DELIVERED
            change.outbox.append(event(self.store.next_sequence(), id_, kind))
            change.done_messages.append((message_id,))
            if message_id not in {row[0] for row in self.model.recipients.values()}:
                self.model.contents.pop(message_id, None)
        self._told(change)
        return change

    @rule(count=st.integers(1, 4), parked=st.integers(0, 1), due=st.integers(1, 50))
    def accept(self, count: int, parked: int, due: int) -> None:
        change = self._accept(count, parked, due)

        async def write() -> object:
            change.on_done = waiter = Waiter()
            self.store.write(change)
            return await waiter.result()

        assert isinstance(self._run(write()), Receipt)
        self._accepted(change)

    @precondition(lambda self: self.model.recipients)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.recipients)), min_size=1, max_size=4, unique=True))
        deferred = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        change = self._outcome(ids, deferred, data.draw(st.integers(1, 50)))
        if data.draw(st.booleans()):
            self._run(settled(self.store, change))
        self._run(settled(self.store, change))

    @rule(lease_id=st.integers(1, 3), used=st.integers(0, 100), done=st.booleans())
    def lease(self, lease_id: int, used: int, done: bool) -> None:
        change = Change()
        if done:
            change.done_leases.append((lease_id,))
            self.model.leases.pop(lease_id, None)
        else:
            change.leases.append(LeaseRow(lease_id, "acme", 100, used))
            self.model.leases[lease_id] = (100, used)
        self._run(settled(self.store, change))

    @rule(key=st.sampled_from("abc"), expires=st.integers(1, 20), fails=st.booleans())
    def remember(self, key: str, expires: int, fails: bool) -> None:
        """A message with a key: both are there, or neither."""
        change = self._accept(1, 1, 1, size=100_000 if fails else 20)
        change.answers.append(AnswerRow("acme", key, b"f", expires, b"%d" % self.next_id))

        async def write() -> object:
            change.on_done = waiter = Waiter()
            self.store.write(change)
            return await waiter.result()

        async def write_and_fail() -> object:
            with full_disk():
                result = await write()
            await settled(self.store)
            return result

        if fails:
            assert not isinstance(self._run(write_and_fail()), Receipt)
            self.model.answers.pop(key, None)
        else:
            assert isinstance(self._run(write()), Receipt)
            self._accepted(change)
            self.model.answers[key] = (expires, b"%d" % self.next_id)

    @rule(now=st.integers(1, 20))
    def forget(self, now: int) -> None:
        async def forget() -> None:
            self.store.forget_answers(now)
            await settled(self.store)

        self._run(forget())
        self.model.answers = {key: one for key, one in self.model.answers.items() if one[0] > now}
        assert self.store.answers_kept >= len(self.model.answers)

    @rule(now=st.integers(0, 20))
    def ask(self, now: int) -> None:
        found = self._run(self.store.answers([("acme", "a"), ("acme", "b"), ("rival", "c")], now))
        wanted = {key: one[1] for key, one in self.model.answers.items() if key in "ab" and one[0] > now}
        assert {row.key: row.answer for row in found} == wanted

    @precondition(lambda self: self.model.outbox)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from([sequence for sequence, _ in self.model.outbox]))

        async def tell() -> None:
            self.store.acknowledge(sequence)
            await settled(self.store)

        self._run(tell())
        self.acknowledged = max(self.acknowledged, sequence)

    @rule(data=st.data(), count=st.integers(1, 3))
    def fail(self, data: st.DataObject, count: int) -> None:
        """The disk is full: who waits is refused, what has happened is kept."""
        refused = self._accept(count, 0, 1, size=100_000)
        ids: list[int] = []
        if self.model.recipients:
            ids = data.draw(st.lists(st.sampled_from(sorted(self.model.recipients)), max_size=3, unique=True))
        outcome = self._outcome(ids, [False] * len(ids), 1)

        async def write() -> object:
            with full_disk():
                refused.on_done = waiter = Waiter()
                self.store.write(refused)
                self.store.write(outcome)
                result = await waiter.result()
                assert waiter.told == 1
            await settled(self.store)
            return result

        assert not isinstance(self._run(write()), Receipt)
        assert self.store.healthy

    @rule()
    def restart(self) -> None:
        self._run(self.store.close())
        self._open()
        self.model.recipients = {
            id_: (message_id, attempts, due, 1) for id_, (message_id, attempts, due, _) in self.model.recipients.items()
        }
        if self.model.outbox:
            assert self.store.next_sequence() > self.model.outbox[-1][0]
            assert self.store.last_recipient_id >= max(self.model.recipients, default=0)

    @invariant()
    def the_file_is_as_it_should_be(self) -> None:
        found = rows(self.path, "SELECT recipient_id, message_id, attempts, due_ms, parked FROM recipient")
        assert {row[0]: row[1:] for row in found} == self.model.recipients
        assert dict(rows(self.path, "SELECT message_id, content FROM message")) == self.model.contents  # type: ignore[arg-type]
        outbox = rows(self.path, "SELECT sequence, kind FROM outbox ORDER BY sequence")
        assert outbox[-1:] == self.model.outbox[-1:]  # the newest stays, so that numbers go on from it
        assert set(outbox) <= set(self.model.outbox)
        unheard = [row for row in self.model.outbox if row[0] > self.acknowledged]
        assert [row for row in outbox if int(str(row[0])) > self.acknowledged] == unheard
        answers = {row[0]: row[1:] for row in rows(self.path, "SELECT key, expires_ms, answer FROM answer")}
        assert answers == self.model.answers
        leases = {lease.lease_id: (lease.amount, lease.used) for lease in self.store.leases()}
        assert leases == self.model.leases
        assert rows(self.path, "SELECT value FROM meta WHERE key = 'epoch'") == [(str(self.epoch),)]

    @invariant()
    def reading_gives_the_same(self) -> None:
        async def read() -> None:
            for message_id, content in self.model.contents.items():
                assert await self.store.content(message_id) == content
            due = sorted((row[2], id_) for id_, row in self.model.recipients.items() if row[3] and row[2] <= 30)
            place, seen = (0, 0), []
            while page := await self.store.due(30, place, 2):
                seen += [(queued.due_ms, queued.recipient_id) for queued in page]
                place = seen[-1]
            assert seen == due

        self._run(read())

    def teardown(self) -> None:
        self._run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.quick.stop()
        self.logs.__exit__(None, None, None)
        shutil.rmtree(self.folder)


TestSpool = Spool.TestCase
TestSpool.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
