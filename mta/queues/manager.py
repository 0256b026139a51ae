"""The queue manager: brings what is due from the spool to delivery, within the active window.

A message that was just accepted goes to delivery straight from memory if the window has room (``has_room``, ``add``);
everything else waits in the spool and is read in order of its due time, and so is, after a start, what the earlier run
had in memory.

Limits: at most ``WINDOW_RECIPIENTS`` recipients, ``DOMAIN_RECIPIENTS`` of one domain, and the option ``buffered_bytes``
of content are in memory; the rest of a queue of any length stays on disk. The share of one domain is what keeps a dead
one from holding up all others.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from mta.queues.jobs import jobs_of
from mta.queues.ports import Delivery
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.spool.records import QueuedRecipient, SpoolError, Store

log = get_logger(__name__)

WINDOW_RECIPIENTS = 20_000
"""Recipients in memory: enough to keep every connection of a worker busy for some seconds."""
DOMAIN_RECIPIENTS = 5_000
"""Of one domain: enough to keep its connections busy until the next look."""
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
        self._active: dict[int, str] = {}
        """Recipients in memory, with their domains."""
        self._by_domain: Counter[str] = Counter()
        self._passed_over: set[str] = set()
        """Domains with due recipients that were not taken because the domain had its share."""
        self._released: set[int] = set()
        """Those released since the page that is being read was asked for: it may show them as they were."""
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

    def has_room(self, size: int, domains: Sequence[str]) -> bool:
        """Whether a message of this size to these domains may go to delivery straight from memory."""
        return (
            not self.paused
            and len(self._active) < WINDOW_RECIPIENTS
            and self._delivery.active_bytes + size <= self._buffered_bytes
            and all(self._by_domain[domain] < DOMAIN_RECIPIENTS for domain in domains)
        )

    def add(self, recipients: Sequence[QueuedRecipient], content: bytes) -> None:
        """Deliver a message that has just been stored. Its recipients must be stored as not parked."""
        self._enter(recipients)
        for job in jobs_of(recipients, content):
            self._delivery.submit(job)

    def release(self, recipient_id: int) -> None:
        """A recipient is settled, and that is durable: finished, or parked in the spool."""
        self._released.add(recipient_id)
        domain = self._active.pop(recipient_id, None)
        if domain is not None:
            self._by_domain[domain] -= 1
            if not self._by_domain[domain]:
                del self._by_domain[domain]

    async def _run(self) -> None:
        while True:
            try:
                more = self._store.healthy and await self._load_due()
            except Exception as error:
                log.error("queue_read_failed", error=str(error), exc_info=not isinstance(error, SpoolError))
                more = False
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def _load_due(self) -> bool:
        """Take one page of what is due; True if there may be more."""
        self._released.clear()
        if len(self._active) >= WINDOW_RECIPIENTS - PAGE:
            return False
        if time.monotonic() >= self._rescan_at or self._share_is_free():
            self._rescan_at = time.monotonic() + RESCAN_SECONDS
            self._passed_over.clear()
            self._place = (0, 0)
        page = await self._store.due(time.time_ns() // 1_000_000 - SETTLING_MS, self._place, PAGE)
        if page:
            self._place = (page[-1].due_ms, page[-1].recipient_id)
            self._submit(page)
        return len(page) == PAGE

    def _share_is_free(self) -> bool:
        """Whether a domain that was passed over has worked off half of its share."""
        return any(self._by_domain[domain] <= DOMAIN_RECIPIENTS // 2 for domain in self._passed_over)

    def _submit(self, page: Sequence[QueuedRecipient]) -> None:
        taken: list[QueuedRecipient] = []
        for recipient in page:
            if self._wanted(recipient):
                self._enter((recipient,))
                taken.append(recipient)
        for job in jobs_of(taken, None):
            self._delivery.submit(job)

    def _wanted(self, recipient: QueuedRecipient) -> bool:
        if recipient.recipient_id in self._active or recipient.recipient_id in self._released:
            return False
        if self._by_domain[recipient.domain] < DOMAIN_RECIPIENTS:
            return True
        self._passed_over.add(recipient.domain)
        return False

    def _enter(self, recipients: Sequence[QueuedRecipient]) -> None:
        for recipient in recipients:
            self._active[recipient.recipient_id] = recipient.domain
            self._by_domain[recipient.domain] += 1
