"""The delivery agent of a worker: files jobs under their sites, and keeps the whole within its limits.

Implements ``mta.queues.ports.Delivery``. A job whose domain's route is at hand goes to its site at once; otherwise the
route is looked up, once for all jobs of that domain. While the spool is sick nothing is sent: an outcome that cannot be
recorded would be a duplicate later.
"""

import asyncio
import random
import time
from collections.abc import Sequence

from prometheus_client import Gauge

from mta.custody.settlement import Settlement
from mta.delivery import classify
from mta.delivery.dial import Dialer
from mta.delivery.site import Site, SiteRules
from mta.message.outcome import Outcome
from mta.queues.jobs import Job, JobRecipient
from mta.routing.router import Route, RouteFailure, Router
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.spool.records import Store

log = get_logger(__name__)

SWEEP_SECONDS = 1.0
"""Pause between looks for late and idle connections."""
SITE_SECONDS = 60.0
"""A site that nobody used for this long is forgotten."""

CONNECTIONS = Gauge("barua_delivery_connections", "Outgoing connections, open or being opened.")
ACTIVE = Gauge("barua_delivery_active_recipients", "Recipients in memory, waiting for a connection or on one.")


class DeliveryAgent:
    """Deliveries of one worker."""

    def __init__(self, rules: SiteRules, connections_total: int, router: Router, dialer: Dialer, store: Store) -> None:
        self._rules = rules
        self._connections_total = connections_total
        self._router = router
        self._dialer = dialer
        self._store = store
        self._settlement: Settlement | None = None
        self._tasks = Tasks()
        self._sites: dict[str, Site] = {}
        self._unrouted: dict[str, list[Job]] = {}
        self._stopping = False
        self._connections = 0
        self.active_recipients = 0
        self.active_bytes = 0

    def start(self, settlement: Settlement) -> None:
        """Begin; ``settlement`` gets every outcome."""
        self._settlement = settlement
        self._tasks.start(self._sweep(), "delivery-sweep")

    async def stop(self, timeout_seconds: float) -> None:
        """Finish the transactions under way, start no others; what waits stays in the spool."""
        self._stopping = True
        deadline = time.monotonic() + timeout_seconds
        for site in self._sites.values():
            self._forget(site.take_waiting())
            site.close_idle()
        while any(site.connections for site in self._sites.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            for site in self._sites.values():
                site.close_idle()
        for site in self._sites.values():
            site.abandon()
        await self._tasks.close()

    @property
    def paused(self) -> bool:
        """Nothing may be sent now."""
        return self._stopping or not self._store.healthy

    def may_connect(self) -> bool:
        """Whether the worker has room for another connection."""
        return self._connections < self._connections_total

    def count_connections(self, change: int) -> None:
        """So many more connections are open or being opened."""
        self._connections += change

    def submit(self, job: Job) -> None:
        """Deliver a job as soon as its site has room."""
        self.active_recipients += len(job.recipients)
        self.active_bytes += job.size
        answer = self._router.cached(job.domain)
        if answer is not None:
            self._file(job, answer)
        elif job.domain in self._unrouted:
            self._unrouted[job.domain].append(job)
        else:
            self._unrouted[job.domain] = [job]
            self._tasks.start(self._route(job.domain), f"route-{job.domain}")

    def settle(self, job: Job, outcomes: Sequence[tuple[JobRecipient, Outcome]]) -> None:
        """Record what became of a job."""
        self._forget([job])
        assert self._settlement is not None
        self._settlement.settle(job, outcomes)

    async def _route(self, domain: str) -> None:
        answer = await self._router.resolve(domain)
        for job in self._unrouted.pop(domain):
            self._file(job, answer)

    def _file(self, job: Job, answer: Route | RouteFailure) -> None:
        if isinstance(answer, RouteFailure):
            outcome = classify.of_route(answer)
            self.settle(job, [(recipient, outcome) for recipient in job.recipients])
            return
        site = self._sites.get(answer.site)
        if site is None:
            site = Site(answer, self._rules, self, self._dialer, self._store, self._tasks)
            self._sites[answer.site] = site
        site.route = answer  # the newest order of its hosts
        site.submit(job)

    def _forget(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.active_recipients -= len(job.recipients)
            self.active_bytes -= job.size

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            sites = list(self._sites.items())
            random.shuffle(sites)  # when connections are short, every site gets its turn at them
            for name, site in sites:
                try:
                    site.sweep(now)
                except Exception:  # one site's trouble must not end the watch over the others
                    log.exception("sweep_broke", site=name)
                if site.unused and now - site.last_used > SITE_SECONDS:
                    del self._sites[name]
            CONNECTIONS.set(self._connections)
            ACTIVE.set(self.active_recipients)
