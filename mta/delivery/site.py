"""One site: its ready queue and its connections, and the moves between them.

Every decision is made in a plain function: which job goes to which connection, whether to open another. A connection
takes the next job in the same turn of the loop in which the last one ended. When no connection can be made and none is
left, everything that waits is deferred with the reason, each recipient on its own schedule.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mta.delivery import classify
from mta.delivery.connection import LOST, OutgoingConnection
from mta.delivery.dial import Dialer, NotConnected, SourceUnfit
from mta.message.outcome import Outcome
from mta.queues.jobs import Job, JobRecipient
from mta.queues.ready import ReadyQueue
from mta.routing.router import Route
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.smtp.events import TransactionDone
from mta.spool.records import Store

log = get_logger(__name__)

DIAL_SECONDS = 120.0
"""For one dial over all hosts and addresses of a route, greetings and TLS included."""
DIAL_PAUSE_SECONDS = 1.0
"""After a connection could not be made no other is tried for this long: a site that refuses is not to be flooded."""


@dataclass(frozen=True, slots=True)
class SiteRules:
    """Limits of a site."""

    connections: int
    messages_per_connection: int
    idle_seconds: float
    interval_seconds: float = 0.0
    """Between one message and the next, over all connections; 0: none."""


class SiteOwner(Protocol):
    """What a site needs from the agent."""

    @property
    def paused(self) -> bool:
        """Nothing may be sent now: the spool could not record what becomes of it, or the worker stops."""

    def may_connect(self) -> bool:
        """Whether the worker has room for another connection. Cheap."""

    def count_connections(self, change: int) -> None:
        """So many more connections are open or being opened; negative: fewer."""

    def settle(self, job: Job, outcomes: Sequence[tuple[JobRecipient, Outcome]]) -> None:
        """Record what became of a job."""

    def source_unfit(self, route: Route, error: SourceUnfit, jobs: Sequence[Job]) -> None:
        """The source of a site cannot be used for it: find other ways for its jobs."""


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
        self._dials: set[int] = set()
        """Connections being opened, by number."""
        self._last_dial = 0
        self._dial_from = 0.0
        self._verdict_at = 0
        """Once every dial up to this number has failed, what waits is settled; 0: none has failed lately."""
        self._loading = 0
        self._next_at = 0.0
        """With an interval: no message is begun before."""
        self._wake: asyncio.TimerHandle | None = None

    @property
    def slots_used(self) -> int:
        """Connections that are open or being opened."""
        return len(self._connections) + len(self._dials)

    @property
    def connections(self) -> int:
        """Connections that are open and may carry a transaction."""
        return len(self._connections)

    @property
    def unused(self) -> bool:
        """Nothing waits, nothing is open, and there is no interval to remember."""
        busy = self._ready or self._connections or self._dials or self._loading
        return not busy and self._next_at <= time.monotonic()

    @property
    def waiting(self) -> int:
        """Jobs that wait for a connection."""
        return len(self._ready)

    def submit(self, job: Job) -> None:
        """A job for this site."""
        self.last_used = time.monotonic()
        self._ready.put(job)
        self.dispatch()

    def dispatch(self) -> None:
        """Give waiting jobs to idle connections, and open connections for the rest."""
        while self._ready and self._idle and not self._owner.paused and not self._must_wait():
            connection, _ = self._idle.pop()
            if connection.idle:
                self._next(connection)
            else:
                connection.close()
        while len(self._ready) > len(self._dials) and not self._must_wait() and self._may_open():
            self._last_dial += 1
            self._dials.add(self._last_dial)
            self._owner.count_connections(+1)
            self._tasks.start(self._open(self._last_dial), f"dial-{self.route.site}")

    def sweep(self, now: float) -> None:
        """Once a second: end connections that are late, close those nobody needs."""
        for connection in list(self._connections):
            if connection.job is not None:
                connection.expire(now)
        # Closing one may give jobs to others, so those that stay are put in order first.
        entries, self._idle = self._idle, []
        late: list[OutgoingConnection] = []
        for connection, since in entries:
            if now - since > self._rules.idle_seconds or not connection.idle:
                late.append(connection)
            else:
                self._idle.append((connection, since))
        for connection in late:
            connection.close()
        if self._ready:
            self.dispatch()

    def close_idle(self) -> None:
        """Close the connections that carry nothing."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def abandon(self) -> None:
        """Close everything at once; what only waited stays queued in the spool."""
        self._ready.take_all()
        for connection in list(self._connections):
            connection.close()

    def take_waiting(self) -> list[Job]:
        """The jobs that wait for a connection."""
        return self._ready.take_all()

    # -- told by connections -----------------------------------------------------------------------------------------

    def finished(self, connection: OutgoingConnection, job: Job, done: TransactionDone) -> None:
        """A transaction has ended: settle it and go on with the next job."""
        outcomes = [
            (recipient, classify.of_result(result, connection.host, by_provider=bool(self.route.provider)))
            for recipient, result in zip(job.recipients, done.results, strict=True)
        ]
        self._owner.settle(job, outcomes)
        if connection.idle:
            if connection.jobs_done >= self._rules.messages_per_connection:
                connection.close()
            else:
                self._next(connection)

    def returned(self, connection: OutgoingConnection, job: Job) -> None:
        """A connection kept from earlier was dead when the job came: this was no attempt, another one makes it."""
        self._ready.put_back(job)

    def lost(self, connection: OutgoingConnection) -> None:
        """A connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._owner.count_connections(-1)
        self._idle = [entry for entry in self._idle if entry[0] is not connection]
        if self._ready:
            self.dispatch()

    # -- jobs and connections ----------------------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        """Whether the interval between messages has not passed; then what waits is looked at again when it has."""
        if not self._rules.interval_seconds:
            return False
        now = time.monotonic()
        if now >= self._next_at:
            return False
        if self._ready and self._wake is None:
            self._wake = asyncio.get_running_loop().call_later(self._next_at - now, self._woken)
        return True

    def _woken(self) -> None:
        self._wake = None
        self.dispatch()

    def _next(self, connection: OutgoingConnection) -> None:
        while not self._owner.paused and not self._must_wait() and (job := self._ready.take()) is not None:
            if self._rules.interval_seconds:
                self._next_at = time.monotonic() + self._rules.interval_seconds
            if job.content is None:
                self._loading += 1
                self._tasks.start(self._load(connection, job), "load-content")
                return
            if self._assign(connection, job):
                return
        self._idle.append((connection, time.monotonic()))

    def _assign(self, connection: OutgoingConnection, job: Job) -> bool:
        """Begin a job; False if it can never be sent, and is settled."""
        try:
            connection.assign(job)
        except ValueError as error:
            log.error("message_cannot_be_sent", id=job.message_id, error=str(error))
            self._settle(job, classify.of_unsendable(f"the message cannot be sent: {error}"))
            return False
        return True

    async def _load(self, connection: OutgoingConnection, job: Job) -> None:
        """Read the content that memory does not have, then go on."""
        try:
            job.content = await self._store.content(job.message_id)
        except Exception as error:
            log.error("content_unreadable", id=job.message_id, error=str(error))
        finally:
            self._loading -= 1
        if job.content is None:
            self._settle(job, classify.of_local("the message could not be read from storage", "4.3.0"))
        elif self._owner.paused or not connection.idle:
            self._ready.put_back(job)
        elif self._assign(connection, job):
            return
        if connection.idle:
            self._next(connection)
        else:
            self.dispatch()

    def _may_open(self) -> bool:
        return (
            not self._owner.paused
            and self.slots_used < self._rules.connections
            and time.monotonic() >= self._dial_from
            and not (self._dials and self._singly())
            and self._owner.may_connect()
        )

    def _singly(self) -> bool:
        """Whether to open one connection at a time: a wrong password is to be tried once, not once per connection."""
        login_unproven = self.route.credentials is not None and not self._connections
        return login_unproven or self._rules.interval_seconds > 0

    async def _open(self, number: int) -> None:
        try:
            connection = await self._dial(number)
        except SourceUnfit as error:
            self._owner.source_unfit(self.route, error, self._ready.take_all())
            return
        except NotConnected as error:
            self._not_opened(error.outcome, error.pause)
            return
        except Exception as error:
            log.exception("dial_broke", site=self.route.site)
            self._not_opened(classify.of_connect(f"no connection could be made: {type(error).__name__}", None))
            return
        if not connection.idle:
            connection.close()  # the server has said goodbye already
            self._not_opened(classify.of_connect(f"{connection.host}: {LOST}", connection.host))
            return
        self._connections.add(connection)
        self._owner.count_connections(+1)
        self._verdict_at = 0
        connection.owner = self
        self._next(connection)
        if self.route.credentials is not None:
            self.dispatch()  # now that the login is good, the other connections

    async def _dial(self, number: int) -> OutgoingConnection:
        """A new connection. Raises NotConnected."""
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                return await self._dialer.dial(self.route)
        except TimeoutError:
            raise NotConnected(classify.of_connect("no server was ready for mail in time", None)) from None
        finally:
            self._dials.discard(number)
            self._owner.count_connections(-1)

    def _not_opened(self, outcome: Outcome, pause: float = 0.0) -> None:
        """Without any connection nothing can be sent now; with some, the server wants no more of them.

        Dials that were under way at the first failure may still succeed: a server that takes five connections at once
        refuses the sixth before it has greeted the first. Later ones are not waited for: with a steady trickle of mail
        there always is one, and nothing would ever be settled.
        """
        self._dial_from = time.monotonic() + max(DIAL_PAUSE_SECONDS, pause)
        if self._connections:
            return
        self._verdict_at = self._verdict_at or self._last_dial
        if all(number > self._verdict_at for number in self._dials):
            self._verdict_at = 0
            for job in self._ready.take_all():
                self._settle(job, outcome)

    def _settle(self, job: Job, outcome: Outcome) -> None:
        self._owner.settle(job, [(recipient, outcome) for recipient in job.recipients])
