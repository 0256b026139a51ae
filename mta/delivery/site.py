"""One site: its ready queue and its connections, and the moves between them.

Every decision is made in a plain function: which job goes to which connection, whether to open another. A connection
takes the next job in the same turn of the loop in which the last one ended. When no connection can be made and none is
left, everything that waits is deferred with the reason, each recipient on its own schedule.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mta.delivery import classify
from mta.delivery.connection import OutgoingConnection
from mta.delivery.dial import Dialer, NotConnected
from mta.message.outcome import Outcome
from mta.queues.jobs import Job, JobRecipient
from mta.queues.ready import ReadyQueue
from mta.routing.router import Route
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.smtp.events import TransactionDone
from mta.spool.records import SpoolError, Store

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SiteRules:
    """Limits of a site."""

    connections: int
    messages_per_connection: int
    idle_seconds: float


class SiteOwner(Protocol):
    """What a site needs from the agent."""

    @property
    def paused(self) -> bool:
        """Nothing may be sent now: the spool could not record what becomes of it, or the worker stops."""

    def may_connect(self) -> bool:
        """Whether the worker has room for another connection."""

    def settle(self, job: Job, outcomes: Sequence[tuple[JobRecipient, Outcome]]) -> None:
        """Record what became of a job."""


class Site:
    """Deliveries to one set of hosts."""

    def __init__(
        self, route: Route, rules: SiteRules, owner: SiteOwner, dialer: Dialer, store: Store, tasks: Tasks
    ) -> None:
        self.route = route
        self.last_used = time.monotonic()
        self._rules = rules
        self._owner = owner
        self._dialer = dialer
        self._store = store
        self._tasks = tasks
        self._ready = ReadyQueue()
        self._connections: set[OutgoingConnection] = set()
        self._idle: list[tuple[OutgoingConnection, float]] = []
        self._dialing = 0
        self._loading = 0

    @property
    def connections(self) -> int:
        """Connections open or being opened."""
        return len(self._connections) + self._dialing

    @property
    def unused(self) -> bool:
        """Nothing waits, nothing is open."""
        return not (self._ready or self._connections or self._dialing or self._loading)

    def submit(self, job: Job) -> None:
        """A job for this site."""
        self.last_used = time.monotonic()
        self._ready.put(job)
        self.dispatch()

    def dispatch(self) -> None:
        """Give waiting jobs to idle connections, and open connections for the rest."""
        while self._ready and self._idle and not self._owner.paused:
            connection, _ = self._idle.pop()
            if connection.idle:
                self._next(connection)
            else:
                connection.close()
        waiting = len(self._ready) - self._dialing
        while waiting > 0 and self._may_open():
            waiting -= 1
            self._dialing += 1
            self._tasks.start(self._open(), f"dial-{self.route.site}")

    def sweep(self, now: float) -> None:
        """Once a second: end connections that are late, close those nobody needs."""
        for connection in list(self._connections):
            if connection.job is not None:
                connection.expire(now)
        keep = []
        for connection, since in self._idle:
            if now - since > self._rules.idle_seconds or not connection.idle:
                connection.close()
            else:
                keep.append((connection, since))
        self._idle = keep
        if self._ready:
            self.dispatch()

    def close_idle(self) -> None:
        """Close the connections that carry nothing."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def abandon(self) -> list[Job]:
        """Close everything at once; the jobs that only waited, which stay queued in the spool."""
        self.close_idle()
        for connection in list(self._connections):
            connection.close()
        return self._ready.take_all()

    def take_waiting(self) -> list[Job]:
        """The jobs that wait for a connection."""
        return self._ready.take_all()

    # -- told by connections -----------------------------------------------------------------------------------------

    def finished(self, connection: OutgoingConnection, job: Job, done: TransactionDone) -> None:
        """A transaction has ended: settle it and go on with the next job."""
        outcomes = [
            (recipient, classify.of_result(result, connection.host))
            for recipient, result in zip(job.recipients, done.results, strict=True)
        ]
        self._owner.settle(job, outcomes)
        if connection.idle:
            if connection.jobs_done >= self._rules.messages_per_connection:
                connection.close()
            else:
                self._next(connection)

    def lost(self, connection: OutgoingConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._idle = [entry for entry in self._idle if entry[0] is not connection]
        if self._ready:
            self.dispatch()

    # -- jobs and connections ----------------------------------------------------------------------------------------

    def _next(self, connection: OutgoingConnection) -> None:
        job = None if self._owner.paused else self._ready.take()
        if job is None:
            self._idle.append((connection, time.monotonic()))
        elif job.content is None:
            self._loading += 1
            self._tasks.start(self._load(connection, job), "load-content")
        else:
            self._assign(connection, job)

    def _assign(self, connection: OutgoingConnection, job: Job) -> None:
        try:
            connection.assign(job)
        except ValueError as error:
            log.error("message_cannot_be_sent", id=job.message_id, error=str(error))
            outcome = classify.of_unsendable(f"the message cannot be sent: {error}")
            self._owner.settle(job, [(recipient, outcome) for recipient in job.recipients])
            self._next(connection)

    async def _load(self, connection: OutgoingConnection, job: Job) -> None:
        """Read the content that memory does not have, then go on."""
        try:
            job.content = await self._store.content(job.message_id)
        except SpoolError as error:
            log.error("content_unreadable", id=job.message_id, error=str(error))
        finally:
            self._loading -= 1
        if job.content is None:
            self._defer([job], classify.of_local("the message could not be read from storage", "4.3.0"))
            if connection.idle:
                self._next(connection)
        elif connection.idle:
            self._assign(connection, job)
        else:
            self._ready.put_back(job)
            self.dispatch()

    def _may_open(self) -> bool:
        return not self._owner.paused and self.connections < self._rules.connections and self._owner.may_connect()

    async def _open(self) -> None:
        try:
            connection = await self._dialer.dial(self.route)
        except NotConnected as error:
            self._dialing -= 1
            if not self.connections:
                self._defer(self._ready.take_all(), error.outcome)
            return
        except BaseException:
            self._dialing -= 1
            raise
        self._dialing -= 1
        self._connections.add(connection)
        connection.owner = self
        if connection.idle:
            self._next(connection)
        else:
            connection.close()  # the server has said goodbye already

    def _defer(self, jobs: Sequence[Job], outcome: Outcome) -> None:
        for job in jobs:
            self._owner.settle(job, [(recipient, outcome) for recipient in job.recipients])
