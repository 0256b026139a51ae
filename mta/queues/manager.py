"""The queue manager: brings what is due from the spool to delivery, within the active window.

A message that was just accepted goes to delivery straight from memory if the window has room (``has_room``, ``add``);
everything else waits in the spool and is read in order of its due time. After a start, what the earlier run had in
memory is read first.

Limits: at most ``WINDOW_RECIPIENTS`` recipients and the option ``buffered_bytes`` of content are in memory; the rest of
a queue of any length stays on disk.
"""

import asyncio
import time
from collections.abc import Sequence

from mta.queues.jobs import jobs_of
from mta.queues.ports import Delivery
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.spool.records import QueuedRecipient, SpoolError, Store

log = get_logger(__name__)

WINDOW_RECIPIENTS = 20_000
"""Recipients in memory: enough to keep every connection of a worker busy for some seconds."""
PAGE = 1000
"""Recipients read from the spool at a time."""
POLL_SECONDS = 0.5
"""Pause between looks for what has become due."""
SETTLING_MS = 500
"""What is due is read so much later: a row becomes durable a little after the time it is due from, and the place in the
order of due times must not have moved past it by then. One that takes longer waits for the next rescan."""
RESCAN_SECONDS = 60.0
"""From time to time the whole due part is looked through, for rows a clock that went back has put before our place."""


class QueueManager:
    """Moves due recipients from one worker's spool to its delivery."""

    def __init__(self, store: Store, delivery: Delivery, buffered_bytes: int) -> None:
        self._store = store
        self._delivery = delivery
        self._buffered_bytes = buffered_bytes
        self._active: set[int] = set()
        self._released: set[int] = set()
        """Those released since the page that is being read was asked for: it may show them as they were."""
        self._resumed = False
        self._place = (0, 0)
        self._rescan_at = 0.0
        self._tasks = Tasks()
        self.paused = False

    @property
    def active(self) -> int:
        """Recipients in memory."""
        return len(self._active)

    def start(self) -> None:
        """Begin to read from the spool."""
        self._tasks.start(self._run(), "queue-manager")

    async def close(self) -> None:
        """Stop reading; what delivery holds stays with it."""
        self.paused = True
        await self._tasks.close()

    def has_room(self, size: int) -> bool:
        """Whether a message of this size may go to delivery straight from memory."""
        return (
            self._resumed
            and not self.paused
            and len(self._active) < WINDOW_RECIPIENTS
            and self._delivery.active_bytes + size <= self._buffered_bytes
        )

    def add(self, recipients: Sequence[QueuedRecipient], content: bytes) -> None:
        """Deliver a message that has just been stored. Its recipients must be stored as not parked."""
        for recipient in recipients:
            self._active.add(recipient.recipient_id)
        for job in jobs_of(recipients, content):
            self._delivery.submit(job)

    def release(self, recipient_id: int) -> None:
        """A recipient is settled, and that is durable: finished, or parked in the spool."""
        self._active.discard(recipient_id)
        self._released.add(recipient_id)

    async def _run(self) -> None:
        await self._resume()
        self._resumed = True
        while True:
            try:
                more = self._store.healthy and await self._load_due()
            except Exception as error:
                log.error("queue_read_failed", error=str(error), exc_info=not isinstance(error, SpoolError))
                more = False
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def _resume(self) -> None:
        """Bring back what the run before had in memory.

        Meanwhile nothing new goes straight to delivery (``has_room``), or it would be found here and delivered twice.
        """
        after = 0
        while True:
            await self._wait_for_room()
            self._released.clear()
            try:
                page = await self._store.fresh(after, PAGE)
            except Exception as error:
                log.error("queue_read_failed", error=str(error), exc_info=not isinstance(error, SpoolError))
                await asyncio.sleep(POLL_SECONDS)
                continue
            if not page:
                return
            after = page[-1].recipient_id
            self._submit(page)

    async def _load_due(self) -> bool:
        """Take one page of what is due; True if there may be more."""
        self._released.clear()
        if len(self._active) >= WINDOW_RECIPIENTS - PAGE:
            return False
        if time.monotonic() >= self._rescan_at:
            self._rescan_at = time.monotonic() + RESCAN_SECONDS
            self._place = (0, 0)
        page = await self._store.due(time.time_ns() // 1_000_000 - SETTLING_MS, self._place, PAGE)
        if page:
            self._place = (page[-1].due_ms, page[-1].recipient_id)
            self._submit(page)
        return len(page) == PAGE

    async def _wait_for_room(self) -> None:
        while len(self._active) >= WINDOW_RECIPIENTS - PAGE:  # noqa: ASYNC110 (room comes in thousands of small steps)
            await asyncio.sleep(POLL_SECONDS)

    def _submit(self, page: Sequence[QueuedRecipient]) -> None:
        active, released = self._active, self._released
        fresh = [
            recipient
            for recipient in page
            if recipient.recipient_id not in active and recipient.recipient_id not in released
        ]
        self._active.update(recipient.recipient_id for recipient in fresh)
        for job in jobs_of(fresh, None):
            self._delivery.submit(job)
