"""Events reach control once each and in order, whoever is away meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from mta.node.outbox import BATCH, OutboxPusher
from mta.spool.records import Change, EventKind, OutboxRow
from mta.spool.sqlite import SqliteStore
from tests.unit.node.peers import TOKEN, Control, Worker, channel_to, served, until
from tests.unit.spool.rows import event, open_store, put, rows, settled


class Setup:
    """A pusher between a spool and its peers' sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = Control()
        self.worker = Worker()
        self.spool = folder / "spool" / "worker-0.db"

    @asynccontextmanager
    async def pushing(self) -> AsyncIterator[OutboxPusher]:
        """Run a node's pusher."""
        sockets = (self.folder / "control.sock", self.folder / "worker.sock")
        async with channel_to(sockets[0]) as control, channel_to(sockets[1]) as worker:
            pusher = OutboxPusher("node1", 0, self.spool, control, TOKEN, worker)
            task = asyncio.create_task(pusher.run())
            try:
                yield pusher
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @property
    def sequences(self) -> list[int]:
        """What control has recorded."""
        return [recorded.sequence for recorded in self.control.events]


async def test_events_arrive_and_the_worker_is_told(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    async with (
        served(setup.control, tmp_path / "control.sock"),
        served(setup.worker, tmp_path / "worker.sock"),
        setup.pushing(),
    ):
        await put(store, 10, recipients=2)
        await until(lambda: setup.sequences == [1, 2], "the first are recorded")
        await put(store, 20)
        await until(lambda: setup.sequences == [1, 2, 3], "the next is recorded")
        await until(lambda: setup.worker.acknowledged[-1:] == [3], "the worker knows")
    assert set(setup.control.recorded) == {str(rows(setup.spool, "SELECT value FROM meta WHERE key = 'holder'")[0][0])}


async def test_an_event_says_what_the_row_said(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    change = Change()
    change.outbox.append(
        OutboxRow(
            store.next_sequence(), EventKind.DEFERRED, 1_234_567, "acme", 11, 10, attempt=2, code=451, enhanced="4.7.0",
            text="später", remote_host="mx.example.net", next_ms=2_000_001,
        )
    )  # fmt: skip
    change.outbox.append(
        OutboxRow(store.next_sequence(), EventKind.LEASE_RELEASED, 5, "acme", lease_id=9, credits=4_000)
    )
    await settled(store, change)
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing():
        await until(lambda: len(setup.control.events) == 2, "both are recorded")
    deferred, released = setup.control.events
    assert (deferred.kind, deferred.recipient_id, deferred.message_id, deferred.attempt) == (3, 11, 10, 2)
    assert (deferred.code, deferred.enhanced_code, deferred.text) == (451, "4.7.0", "später")
    assert deferred.time.ToMilliseconds() == 1_234_567
    assert deferred.next_attempt_time.ToMilliseconds() == 2_000_001
    assert (released.kind, released.lease_id, released.credits) == (6, 9, 4_000)
    assert not released.HasField("next_attempt_time")


async def test_a_lost_answer_makes_no_event_twice(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.control.lose_answers = 2
    await put(store, 10, recipients=3)
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing():
        await until(lambda: setup.control.pushes >= 3, "it was pushed again")
        await put(store, 20)
        await until(lambda: len(setup.sequences) >= 4, "the next is recorded")
    assert setup.sequences == [1, 2, 3, 4]


async def test_while_control_is_away_events_wait(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    async with setup.pushing():
        await put(store, 10)
        await asyncio.sleep(0.2)
        await put(store, 20)
        async with served(setup.control, tmp_path / "control.sock"):
            await until(lambda: setup.sequences == [1, 2], "both are recorded")
        await put(store, 30)
        await asyncio.sleep(0.1)
        async with served(setup.control, tmp_path / "control.sock"):
            await until(lambda: setup.sequences == [1, 2, 3], "the third is recorded")


async def test_a_new_node_begins_at_the_beginning_and_repeats_nothing(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    async with served(setup.control, tmp_path / "control.sock"):
        await put(store, 10, recipients=2)
        async with setup.pushing():
            await until(lambda: setup.sequences == [1, 2], "recorded")
        await put(store, 20)
        async with setup.pushing():
            await until(lambda: setup.sequences == [1, 2, 3], "recorded")


async def test_events_of_a_worker_that_is_down_are_pushed_too(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    store = open_store(setup.spool)
    await put(store, 10)
    await store.close()
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing():
        await until(lambda: setup.sequences == [1], "recorded")


async def test_a_spool_that_comes_later_is_found(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing():
        await asyncio.sleep(0.1)
        setup.spool.parent.mkdir()
        setup.spool.touch()  # the worker is about to make it
        await asyncio.sleep(0.1)
        assert setup.spool.read_bytes() == b""
        store = open_store(setup.spool)
        await put(store, 10)
        await until(lambda: setup.sequences == [1], "recorded")
        await store.close()


async def test_a_spool_that_was_moved_aside_is_followed_by_its_successor(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing():
        for number in (1, 2):
            store = open_store(setup.spool)
            await put(store, 10 * number, recipients=3 - number)
            await until(partial(_has_recorded, setup, number), "its events are recorded")
            await store.close()
            for path in setup.spool.parent.glob("worker-0.db*"):
                path.rename(path.with_name(f"{number}-{path.name}"))
    assert setup.sequences == [1, 2, 1]


def _has_recorded(setup: Setup, holders: int) -> bool:
    return len(setup.control.recorded) == holders


async def test_a_long_outbox_goes_in_batches(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    change = Change()
    change.outbox += [event(store.next_sequence(), number) for number in range(2 * BATCH + 500)]
    await settled(store, change)
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing():
        await until(lambda: len(setup.control.events) == 2 * BATCH + 500, "all are recorded")
    assert setup.control.pushes == 3


async def test_at_the_end_everything_is_flushed_or_said_to_be_left(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    await put(store, 10)
    async with channel_to(tmp_path / "control.sock") as control, channel_to(tmp_path / "worker.sock") as worker:
        pusher = OutboxPusher("node1", 0, setup.spool, control, TOKEN, worker)
        assert not await pusher.drained()
        async with served(setup.control, tmp_path / "control.sock"):
            async with asyncio.timeout(60):
                while not await pusher.drained():  # noqa: ASYNC110 (once the channel has connected)
                    await asyncio.sleep(0.05)
    assert setup.sequences == [1]


async def test_a_row_of_a_later_version_stops_no_node(store: SqliteStore, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    change = Change()
    change.outbox.append(event(store.next_sequence())._replace(kind=99))
    await settled(store, change)
    async with served(setup.control, tmp_path / "control.sock"), setup.pushing() as pusher:
        await asyncio.sleep(0.2)
        assert pusher._cursor == 0
