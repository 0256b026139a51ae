"""What other control programs and transactions announce, over PostgreSQL's LISTEN and NOTIFY.

One connection per process listens for new policy revisions, recalls of leases and leases that came back, and hands them
to those who wait in this process. Announcements are hints: a poll of the revision once a second stands in for lost
ones, and who waits for leases looks again by itself. So a broken connection delays and loses nothing; it is made anew.

The poll also notices that the history of revisions is another one, as after a restored backup: then every subscription
ends, and the nodes come again and learn where they stand.

Thread and loop rules: one event loop. Limits: a subscriber keeps ``MAX_RECALLS`` recalls; more drop the oldest, whose
asker asks again.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from prometheus_client import Gauge

from control.database import FAILURES, Database
from control.store import policy_log
from control.store.leases import RECALL_CHANNEL, RETURNED_CHANNEL
from control.store.policy_log import Head
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger

log = get_logger(__name__)

POLL_SECONDS = 1.0
"""Between looks at the newest revision, and between attempts to listen."""
MAX_RECALLS = 1000
"""Recalls kept for one subscriber."""

_revision = Gauge("barua_control_policy_revision", "Newest policy revision.")
_subscribers = Gauge("barua_control_policy_streams", "Nodes that watch the policy.")


class Subscriber:
    """What one policy stream has to react to."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        """Newest revision known."""
        self.ended = False
        """The process is stopping, or the history of revisions is another one now."""
        self._recalls: dict[str, None] = {}
        self._changed = asyncio.Event()

    def tell(self, *, revision: int = 0, recall: str = "", ended: bool = False) -> None:
        """Something is new."""
        if revision > self.revision:
            self.revision = revision
        elif recall:
            self._recalls[recall] = None
            if len(self._recalls) > MAX_RECALLS:
                del self._recalls[next(iter(self._recalls))]
        elif ended:
            self.ended = True
        else:
            return
        self._changed.set()

    def take_recalls(self) -> list[str]:
        """The tenants whose leases are asked for, once."""
        recalls = list(self._recalls)
        self._recalls.clear()
        return recalls

    async def changed(self, timeout_seconds: float) -> None:
        """Wait until something is new, but not longer than this."""
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        except TimeoutError:
            return
        self._changed.clear()


class Announcements:
    """Listens, and tells those in this process who wait."""

    def __init__(self, database: Database, on_failure: Callable[[], None]) -> None:
        self._database = database
        self._tasks = Tasks(on_failure)
        # The newest revision heard of, and the log it belongs to.
        self._revision = 0
        self._lineage = ""
        self._subscribers: set[Subscriber] = set()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._more: list[tuple[str, Callable[[str], None]]] = []

    def tell(self, channel: str, react: Callable[[str], None]) -> None:
        """Have ``react`` called with every payload of one more channel. Before ``start``."""
        self._more.append((channel, react))

    def start(self) -> None:
        """Begin to listen and to poll."""
        self._tasks.start(self._listen(), "announcements-listen")
        self._tasks.start(self._poll(), "announcements-poll")

    async def close(self) -> None:
        """Stop; every subscriber learns that it is over."""
        self._end_subscriptions()
        await self._tasks.close()

    @contextmanager
    def subscription(self) -> Iterator[Subscriber]:
        """Be told of revisions and recalls for the length of a block."""
        subscriber = Subscriber(self._revision)
        self._subscribers.add(subscriber)
        _subscribers.inc()
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)
            _subscribers.dec()

    @contextmanager
    def returns(self, tenant_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever leases of a tenant come back, for the length of a block."""
        event = asyncio.Event()
        self._waiting.setdefault(tenant_id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[tenant_id].discard(event)
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id]

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (OSError, asyncpg.InternalClientError, *FAILURES) as error:
                log.warning("listen_failed", error=type(error).__name__, text=str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def _listen_once(self) -> None:
        connection = await self._database.connect()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            for channel, react in self._reactions():
                await connection.add_listener(channel, react)
            await self._look()  # what was announced before went past us
            await lost.wait()
        finally:
            connection.terminate()

    def _reactions(self) -> list[tuple[str, Callable[[Any, int, str, str], None]]]:
        return [
            (policy_log.CHANNEL, lambda _, __, ___, payload: self._on_revision(int(payload))),
            (RECALL_CHANNEL, lambda _, __, ___, payload: self._on_recall(payload)),
            (RETURNED_CHANNEL, lambda _, __, ___, payload: self._on_returned(payload)),
            *((channel, lambda _, __, ___, payload, react=react: react(payload)) for channel, react in self._more),
        ]

    async def _poll(self) -> None:
        while True:
            try:
                await self._look()
            except FAILURES as error:
                log.warning("poll_failed", error=type(error).__name__, text=str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        """Read where the log stands, and tell."""
        known = self._revision  # as of before: what is announced while we read may be newer than what we read
        head = await self._database.transact(policy_log.head)
        if head.revision < known or self._lineage not in ("", head.lineage):
            self._start_over(head)
        self._lineage = head.lineage
        self._on_revision(head.revision)

    def _start_over(self, head: Head) -> None:
        log.warning("policy_history_changed", lineage=head.lineage, revision=head.revision, known=self._revision)
        self._revision = 0
        self._end_subscriptions()

    def _end_subscriptions(self) -> None:
        for subscriber in self._subscribers:
            subscriber.tell(ended=True)

    def _on_revision(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        _revision.set(self._revision)
        for subscriber in self._subscribers:
            subscriber.tell(revision=revision)

    def _on_recall(self, tenant_id: str) -> None:
        for subscriber in self._subscribers:
            subscriber.tell(recall=tenant_id)

    def _on_returned(self, tenant_id: str) -> None:
        for event in self._waiting.get(tenant_id, ()):
            event.set()
