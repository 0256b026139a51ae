"""The newest events, read once for all who follow them in this process, and their waking.

Intake announces the number of the newest event over NOTIFY; a poll once a second stands in for a lost announcement.
``after`` gives the events that follow a number: near the newest from a window in memory, else from the database. Events
are those of the whole platform: who shows them to a tenant filters them.

When the order of events is another one, or shorter than it was, as after a restored backup, ``lineage`` or the number
changes and the window is dropped; who follows compares ``epoch`` with the one it began with.

Errors: ``Refusal`` with UNAVAILABLE when the database is away. One event loop. Limits: the window holds
``WINDOW_EVENTS``.
"""

import asyncio
from bisect import bisect_right
from operator import attrgetter

from prometheus_client import Gauge

from control.database import FAILURES, Database
from control.model.caller import acting_for_platform
from control.model.events import PastEvent
from control.store import events
from control.store.events import Head
from mta.runtime.log import get_logger

log = get_logger(__name__)

POLL_SECONDS = 1.0
"""Between looks at the newest number."""
BATCH = 2500
"""Events read at once."""
WINDOW_EVENTS = 20_000
"""Events kept in memory."""

_newest = Gauge("barua_control_event_number", "Number of the newest event.")
_number_of = attrgetter("event_number")


class Feed:
    """Where the order of events stands, and its newest part."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lineage = ""
        self._number = 0
        self._epoch = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        # Exactly the events after _start up to _end.
        self._window: list[PastEvent] = []
        self._start = self._end = 0

    @property
    def number(self) -> int:
        """Number of the newest event that is known of."""
        return self._number

    @property
    def epoch(self) -> int:
        """Rises when the order of events turns out to be another one."""
        return self._epoch

    @property
    def ended(self) -> bool:
        """The process is stopping."""
        return self._ended

    async def run(self) -> None:
        """Look for new events for ever."""
        while True:
            try:
                await self.look()
            except FAILURES as error:
                log.warning("event_poll_failed", error=type(error).__name__, text=str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> Head:
        """Read where the order stands."""
        known = self._number  # as of before: what is announced while we read may be newer than what we read
        with acting_for_platform():
            head = await self._database.transact(events.head)
        if head.number < known or self._lineage not in ("", head.lineage):
            log.warning("event_order_changed", lineage=head.lineage, number=head.number, known=known)
            self._number = 0
            self._epoch += 1
            self._forget(head.number)
            self._wake()
        if not self._lineage:
            self._forget(head.number)
        self._lineage = head.lineage
        self.heard(head.number)
        return head

    def heard(self, number: int) -> None:
        """There are events up to ``number``."""
        if number > self._number:
            self._number = number
            _newest.set(number)
            self._wake()

    def end(self) -> None:
        """The process is stopping: wake all who wait."""
        self._ended = True
        self._wake()

    async def beyond(self, number: int, timeout_seconds: float) -> None:
        """Wait for an event after ``number``, or for something else to be new, but not longer than this."""
        if self._number > number or self._ended:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def holds(self, number: int) -> bool:
        """Whether what follows ``number`` is in memory, or is the next to come there."""
        return number >= self._start

    async def after(self, number: int) -> list[PastEvent]:
        """The next events of the platform after ``number``, ``BATCH`` at most; none if there are none yet."""
        if number >= self._number:
            return []
        if number < self._start:
            return await self._read(number)
        if number >= self._end:
            await self._extend(number)
        first = bisect_right(self._window, number, key=_number_of)
        return self._window[first : first + BATCH]

    async def _extend(self, number: int) -> None:
        """Read on at the end of the window, or begin a new one if nobody read for a while."""
        async with self._reading:
            if number < self._end:
                return  # somebody else did while we waited
            epoch = self._epoch
            found = await self._read(number)
            if epoch != self._epoch or not found:
                return
            if number != self._end:
                self._forget(number)
            self._window += found
            self._end = found[-1].event_number
            if len(self._window) > WINDOW_EVENTS:
                surplus = len(self._window) - WINDOW_EVENTS // 2
                self._start = self._window[surplus - 1].event_number
                del self._window[:surplus]

    async def _read(self, number: int) -> list[PastEvent]:
        with acting_for_platform():
            return await self._database.transact(lambda connection: events.read(connection, number, BATCH))

    def _forget(self, number: int) -> None:
        self._window = []
        self._start = self._end = number

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
