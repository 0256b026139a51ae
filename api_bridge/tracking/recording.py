"""Tells control what recipients did: at once where somebody waits for it, gathered where nobody does.

Who opens a message or follows a link is not kept waiting, nor sent away while control is down: ``note`` queues it and
``Recorder`` tells it, many at a time, again and again until control has it. What is queued is in memory alone: a bridge
that is killed forgets it. Each doing has an id of its own, so telling it twice counts once. ``record`` tells one thing
and waits for the answer: who unsubscribes is told that it is done only when it is.

Loop rules: made, used and closed on one running loop. Limits: ``MAX_WAITING`` are queued; further ones are dropped and
counted.
"""

import asyncio
from collections import deque

from prometheus_client import Counter, Gauge

from api_bridge.backend import Backend
from api_bridge.tracking import shapes
from api_bridge.tracking.shapes import Engagement
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

MAX_WAITING = 20_000
"""About 20 MB."""
AT_ONCE = 500
GATHER_SECONDS = 0.1
"""Something noted waits this long for more of the kind."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""After a failure."""
CLOSE_SECONDS = 3.0
"""For what is queued when the bridge stops."""

_waiting = Gauge("barua_bridge_engagements_waiting", "Doings of recipients that control was not told of yet.")
_lost = Counter("barua_bridge_engagements_lost_total", "Doings of recipients that were dropped.", ["why"])

_PASSING = frozenset({Reason.UNAVAILABLE, Reason.RATE_LIMITED, Reason.INTERNAL})


class Recorder:
    """Tells control."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._queue: deque[Engagement] = deque()
        self._task: asyncio.Task[None] | None = None

    def note(self, engagement: Engagement) -> None:
        """Tell control soon."""
        if len(self._queue) >= MAX_WAITING:
            _lost.labels("full").inc()
            return
        self._queue.append(engagement)
        _waiting.set(len(self._queue))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell_all())

    async def record(self, engagement: Engagement) -> bool:
        """Tell control now; False: it does not believe it. Raises Refusal."""
        return not await self._tell([engagement])

    async def close(self) -> None:
        """Tell what is queued, if control takes it soon."""
        if self._task is None or self._task.done():
            return
        await asyncio.wait((self._task,), timeout=CLOSE_SECONDS)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._queue:
            log.warning("engagements_lost", count=len(self._queue))

    async def _tell_all(self) -> None:
        """Empty the queue."""
        pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(GATHER_SECONDS)
        while self._queue:
            batch = [self._queue[index] for index in range(min(AT_ONCE, len(self._queue)))]
            try:
                refused = await self._tell(batch)
            except Refusal as refusal:
                if refusal.reason in _PASSING:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                    continue
                log.error("engagements_refused", count=len(batch), details=refusal.message)
                refused = len(batch)
            if refused:
                _lost.labels("refused").inc(refused)
            for _ in batch:
                self._queue.popleft()
            _waiting.set(len(self._queue))
            pause = FIRST_PAUSE_SECONDS

    async def _tell(self, engagements: list[Engagement]) -> int:
        """Tell control; how many it does not believe."""
        request = shapes.request(engagements)
        answer = await self._backend.ask("engagement", "RecordEngagements", request, authorization="", peer="")
        return shapes.refused(answer)
