"""Consumers: every event once and in order, whatever crashes and however many programs work."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import pytest

from barua.control.v1 import lease_service_pb2
from barua.journal.v1.event_pb2 import Event

from control.consumers import feed as feeds
from control.consumers import runner
from control.consumers.feed import Feed
from control.database import Connection, Database
from control.model.events import EventKind, PastEvent
from control.store import events as store
from tests.integration.control.harness import Control, opened
from tests.integration.control.test_leases import Spool


class Recorder:
    """A consumer that writes what it sees into a table, and fails when told to."""

    name = "recorder"

    def __init__(self, failures: int = 0, crashes: int = 0) -> None:
        self.failures = failures
        self.crashes = crashes
        self.batches: list[int] = []

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Write the numbers down."""
        await connection.execute(
            "INSERT INTO seen (number) SELECT unnest($1::bigint[])", [event.event_number for event in events]
        )
        if self.failures:
            self.failures -= 1
            raise ValueError("not this time")
        if self.crashes:
            self.crashes -= 1
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        self.batches.append(len(events))


@pytest.fixture
async def spool(control: Control, database: Database) -> Spool:
    await control.tenant("tenant")
    await database.transact(
        lambda c: c.execute("CREATE TABLE seen (place bigint GENERATED ALWAYS AS IDENTITY, number bigint NOT NULL)")
    )
    return Spool(control)


@contextmanager
def quick() -> Iterator[None]:
    """Small batches and pauses."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (feeds, runner):
            if hasattr(module, "BATCH"):
                patch.setattr(module, "BATCH", 7)
        patch.setattr(feeds, "WINDOW_EVENTS", 30)
        patch.setattr(feeds, "POLL_SECONDS", 0.05)
        patch.setattr(runner, "STANDBY_SECONDS", 0.05)
        patch.setattr(runner, "MIN_PAUSE_SECONDS", 0.02)
        yield


@asynccontextmanager
async def working(database: Database, *recorders: Recorder) -> AsyncIterator[Feed]:
    """A feed with consumers on it, as a control program has them."""
    feed = Feed(database)
    tasks = [asyncio.create_task(feed.run())]
    tasks += [asyncio.create_task(runner.run(database, feed, recorder)) for recorder in recorders]
    try:
        yield feed
    finally:
        feed.end()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def received(spool: Spool, count: int) -> list[Event]:
    """So many recipients were accepted."""
    lease = lease_service_pb2.Lease(tenant_id="tenant")
    return [spool.received(lease, spool.sequence + 1, 0) for _ in range(count)]


async def seen(database: Database, count: int) -> list[int]:
    """What the recorder wrote, once it is so many."""
    async with asyncio.timeout(60):
        while True:
            rows = await database.transact(lambda c: c.fetch("SELECT number FROM seen ORDER BY place"))
            if len(rows) >= count:
                return [row["number"] for row in rows]
            await asyncio.sleep(0.02)


async def test_every_event_comes_once_and_in_order(spool: Spool, database: Database) -> None:
    await spool.tell(*received(spool, 50))
    with quick():
        async with working(database, Recorder()):
            await asyncio.gather(*(telling(Spool(spool.control), 5) for _ in range(4)))
            assert await seen(database, 90) == list(range(1, 91))


async def telling(spool: Spool, batches: int) -> None:
    """A holder that tells of two recipients at a time."""
    for _ in range(batches):
        events = received(spool, 2)
        for event in events:
            event.recipient_id += hash(spool.holder) & 0xFFFFFF00
        await spool.tell(*events)


@pytest.mark.each_postgres
async def test_a_batch_that_fails_or_crashes_happens_once_in_the_end(spool: Spool, database: Database) -> None:
    await spool.tell(*received(spool, 20))
    with quick():
        recorder = Recorder(failures=2, crashes=2)
        async with working(database, recorder):
            assert await seen(database, 20) == list(range(1, 21))
        assert (recorder.failures, recorder.crashes) == (0, 0)


async def test_two_programs_share_the_work_without_repeats(spool: Spool, database: Database, database_url: str) -> None:
    with quick():
        async with opened(database_url) as other:
            first, second = Recorder(), Recorder()
            async with working(other, second):
                async with working(database, first):
                    await asyncio.gather(*(telling(Spool(spool.control), 10) for _ in range(3)))
                    await seen(database, 60)
                # The first is gone, perhaps in the middle: the second goes on.
                await spool.tell(*received(spool, 10))
                assert await seen(database, 70) == list(range(1, 71))


async def test_a_slow_consumer_delays_no_other(spool: Spool, database: Database) -> None:
    class Stuck(Recorder):
        name = "stuck"

        async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
            await asyncio.sleep(60)

    with quick():
        async with working(database, Stuck(), Recorder()):
            await spool.tell(*received(spool, 30))
            assert await seen(database, 30) == list(range(1, 31))


async def test_events_tell_what_the_record_of_their_recipient_knows(spool: Spool, database: Database) -> None:
    (first,) = received(spool, 1)
    first.sender, first.stream, first.recipient = "me@acme.test", "news", "Ann@Example.net"
    await spool.tell(first, spool.outcome(Event.KIND_DELIVERED, "tenant", first.recipient_id, 250, "Ok"))
    await spool.tell(spool.outcome(Event.KIND_BOUNCED, "tenant", 10**15, 550, "No"))
    found = await database.transact(lambda c: store.read(c, 0, 10))
    assert [event.kind for event in found] == [EventKind.RECEIVED, EventKind.DELIVERED, EventKind.BOUNCED]
    known = [(event.sender, event.recipient, event.recipient_key, event.stream) for event in found]
    assert known == [("me@acme.test", "Ann@Example.net", "ann@example.net", "news")] * 2 + [("", "", "", "")]
    assert (found[1].code, found[1].reply, found[1].remote_host) == (250, "Ok", "mx.example.net")


async def test_the_feed_notices_another_order_of_events(spool: Spool, database: Database) -> None:
    await spool.tell(*received(spool, 5))
    feed = Feed(database)
    await feed.look()
    assert [event.event_number for event in await feed.after(2)] == [3, 4, 5]
    await database.transact(lambda c: c.execute("UPDATE event_head SET lineage = gen_random_uuid(), number = 3"))
    await feed.look()
    assert (feed.epoch, feed.number, await feed.after(3)) == (1, 3, [])


async def test_numbers_rise_with_commits_whoever_commits_last(spool: Spool, database: Database) -> None:
    """A reader that is at n has seen everything before n, at any time, while batches commit side by side."""
    done = asyncio.Event()

    async def follow() -> list[int]:
        found = [0]
        while not done.is_set() or len(found) <= 120:
            batch = await database.transact(partial(store.read, after=found[-1], limit=1000))
            found += [event.event_number for event in batch]
        return found[1:]

    following = asyncio.create_task(follow())
    await asyncio.gather(*(telling(Spool(spool.control), 10) for _ in range(6)))
    done.set()
    assert await following == list(range(1, 121))
