"""Runs consumers: hands each the events in order, batch by batch, exactly once.

A batch and the advance of the consumer's cursor are one transaction. The cursor's row is locked for it, so of several
control programs on one database one at a time works for a consumer; the others look once a second whether it still
moves. When ``consume`` raises, nothing of the batch has happened and the cursor stays: it is logged and tried again,
later and later, up to ``MAX_PAUSE_SECONDS``. Nothing overtakes such a batch, so effects keep the order of the events.

Consumers act for the root: they see the rows of all tenants. Each runs as a task of its own and delays no other.
Limits: a batch has at most ``feed.BATCH`` events and ``CONSUME_SECONDS``.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge

from control.consumers.feed import Feed
from control.database import FAILURES, Connection, Database
from control.model.events import PastEvent
from control.store import events
from mta.runtime.log import get_logger

log = get_logger(__name__)

STANDBY_SECONDS = 1.0
"""Between looks at a cursor that another control program moves, or that nothing moves."""
CONSUME_SECONDS = 60.0
"""For one batch."""
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 60.0
"""After a batch that failed; doubles from the one to the other."""

_lag = Gauge("barua_control_consumer_lag_events", "Events that a consumer has not dealt with yet.", ["consumer"])
_consumed = Counter("barua_control_consumer_events_total", "Events that this program dealt with.", ["consumer"])
_failures = Counter("barua_control_consumer_failures_total", "Batches that failed and are tried again.", ["consumer"])


class Consumer(Protocol):
    """Something that is done for every event."""

    @property
    def name(self) -> str:
        """Its name, which its cursor is kept under: never changes. A new one begins with the oldest event on record."""

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Deal with a batch, within the transaction of ``connection`` and by nothing but the database.

        May run again with the same events if the transaction did not come to be. Locks rows in a fixed order.
        """


async def run(database: Database, feed: Feed, consumer: Consumer) -> None:
    """Work for a consumer until the feed ends."""
    position: int | None = None
    pause = MIN_PAUSE_SECONDS
    while not feed.ended:
        try:
            position = await _step(database, feed, consumer, position)
            pause = MIN_PAUSE_SECONDS
        except Exception as error:  # whatever a consumer raises must not end the others
            position = None
            _failures.labels(consumer.name).inc()
            if isinstance(error, (TimeoutError, *FAILURES)):
                log.warning("consumer_failed", consumer=consumer.name, error=type(error).__name__, text=str(error))
            else:
                log.exception("consumer_broke", consumer=consumer.name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


async def _step(database: Database, feed: Feed, consumer: Consumer, position: int | None) -> int | None:
    """Deal with the next batch; where the consumer stands now, None if that must be read anew."""
    if position is None:
        position = await database.transact(lambda connection: events.add_cursor(connection, consumer.name))
    _lag.labels(consumer.name).set(max(0, feed.number - position))
    batch = await feed.after(position)
    if not batch:
        if feed.number > position:  # all that came after it is gone
            await asyncio.sleep(STANDBY_SECONDS)
        await feed.beyond(position, STANDBY_SECONDS)
        return position if feed.number > position else None
    async with asyncio.timeout(CONSUME_SECONDS):
        done = await database.transact(
            lambda connection: _consume(connection, consumer, position, batch), repeatable=True
        )
    if not done:
        await asyncio.sleep(STANDBY_SECONDS)
        return None
    _consumed.labels(consumer.name).inc(len(batch))
    return batch[-1].event_number


async def _consume(connection: Connection, consumer: Consumer, position: int, batch: Sequence[PastEvent]) -> bool:
    """Deal with a batch in one transaction; False if somebody else works for the consumer."""
    if await events.lock_cursor(connection, consumer.name) != position:
        return False
    await consumer.consume(connection, batch)
    await events.move_cursor(connection, consumer.name, batch[-1].event_number)
    return True
