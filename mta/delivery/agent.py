"""The delivery agent of a worker: files jobs under their sites, and keeps the whole within its limits.

Implements ``mta.queues.ports.Delivery``. A job whose domain's route is at hand goes to its site at once; otherwise the
route is looked up, once for all jobs of that domain. Where the policy has ways out (providers, pools, rules) ``ways``
decides first, and may have a job wait in the spool; when they change, what waits in memory is filed anew. While the
spool is sick nothing is sent: an outcome that cannot be recorded would be a duplicate later.
"""

import asyncio
import random
import time
from collections.abc import Sequence

from prometheus_client import Gauge

from mta.custody.quotas import Quotas
from mta.custody.settlement import Settlement
from mta.delivery import classify, mock
from mta.delivery.dial import Dialer, SourceUnfit
from mta.delivery.site import Site, SiteRules
from mta.delivery.ways import (
    MAX_WAIT_SECONDS,
    NEEDS_ROUTE,
    WAIT_SECONDS,
    NeedsQuota,
    Placed,
    Wait,
    Ways,
    without_source,
)
from mta.message.outcome import Outcome, OutcomeKind
from mta.queues.jobs import Job, JobRecipient
from mta.routing.router import Route, RouteFailure, Router
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Refusal
from mta.spool.records import Store

log = get_logger(__name__)

SWEEP_SECONDS = 1.0
"""Pause between looks for late and idle connections."""
SITE_SECONDS = 60.0
"""A site that nobody used for this long is forgotten."""

CONNECTIONS = Gauge("barua_delivery_connections", "Outgoing connections, open or being opened.")
WAITING_JOBS = 5_000
"""Jobs that wait in memory for one way out that the policy names; more wait in the spool. Such a way may have mail for
any number of domains, and be slow: it must not fill the memory that all mail shares."""
FULL = Wait(10.0, "much mail waits for the same way out", "the server that takes this mail was too slow")

ACTIVE = Gauge("barua_delivery_active_recipients", "Recipients in memory, waiting for a connection or on one.")


class DeliveryAgent:
    """Deliveries of one worker."""

    def __init__(
        self,
        rules: SiteRules,
        connections_total: int,
        router: Router,
        dialer: Dialer,
        store: Store,
        ways: Ways | None = None,
        quotas: Quotas | None = None,
        mock_domain: str = "",
    ) -> None:
        """``mock_domain``, in lower case, is one that nothing is sent to; see ``mock``."""
        self._rules = rules
        self._connections_total = connections_total
        self._router = router
        self._dialer = dialer
        self._store = store
        self._ways = ways
        self._quotas = quotas
        self._mock_domain = mock_domain
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
        if self._mock_domain and job.domain == self._mock_domain:
            self._play(job)
        else:
            self._place(job)

    def _play(self, job: Job) -> None:
        """Nothing is sent, not even a bounce message: its sender need not be played."""
        job.sender = ""
        self.settle(
            job, [(recipient, mock.outcome(recipient.address, recipient.attempts)) for recipient in job.recipients]
        )

    def policy_changed(self) -> None:
        """The policy in force may be another: when its ways out are, file anew what waits for a connection."""
        if self._ways is None or self._stopping or not self._ways.refresh():
            return
        waiting: list[Job] = []
        for site in self._sites.values():
            source = site.route.source
            if source is not None and self._ways.is_draining(source.source_id):
                continue
            waiting += site.take_waiting()
            site.close_idle()
        for job in waiting:
            self._place_anew(job)

    def source_unfit(self, route: Route, error: SourceUnfit, jobs: Sequence[Job]) -> None:
        """The source of a site cannot be used for it: find other ways for its jobs."""
        assert self._ways is not None
        assert route.source is not None
        if error.missing:
            self._ways.source_missing(route.source.source_id, error.outcome.text)
        else:
            self._ways.source_unfit(route.source.source_id, without_source(route.site), error.outcome.text)
        for job in jobs:
            self._place_anew(job)

    def _place_anew(self, job: Job) -> None:
        self._uncount(job)
        job.via = job.source = ""
        self._place(job)

    def _place(self, job: Job) -> None:
        if self._ways is not None and (job.provider or job.pool or not self._ways.plain):
            self._choose(job, None)
        else:
            self._route_or_file(job)

    def _route_or_file(self, job: Job) -> None:
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
        if job.counted and any(outcome.kind is OutcomeKind.DEFERRED for _, outcome in outcomes):
            self._uncount(job, sum(outcome.kind is OutcomeKind.DEFERRED for _, outcome in outcomes))
        assert self._settlement is not None
        self._settlement.settle(job, outcomes)

    async def _route(self, domain: str) -> None:
        answer = await self._router.resolve(domain)
        for job in self._unrouted.pop(domain):
            self._file(job, answer)

    def _file(self, job: Job, answer: Route | RouteFailure) -> None:
        if self._ways is not None and (job.provider or job.pool or not self._ways.plain):
            self._choose(job, answer)
        elif isinstance(answer, RouteFailure):
            self._fail(job, answer)
        else:
            self._to_site(job, answer, self._rules)

    def _fail(self, job: Job, failure: RouteFailure) -> None:
        outcome = classify.of_route(failure)
        self.settle(job, [(recipient, outcome) for recipient in job.recipients])

    def _to_site(self, job: Job, route: Route, rules: SiteRules) -> None:
        site = self._sites.get(route.site)
        if site is None:
            site = Site(route, rules, self, self._dialer, self._store, self._tasks)
            self._sites[route.site] = site
        site.route = route  # the newest order of its hosts
        site.submit(job)

    def _choose(self, job: Job, answer: Route | RouteFailure | None) -> None:
        """File a job where the policy's ways out say."""
        assert self._ways is not None
        try:
            way = self._ways.way(job, answer)
        except Exception:  # such as a replica that cannot be read: the mail must not be forgotten
            log.exception("way_not_found", id=job.message_id)
            way = Wait(WAIT_SECONDS, "its way out could not be found")
        match way:
            case Placed() if self._is_full(way.route):
                self._postpone(job, FULL)
            case Placed():
                job.via = way.route.provider
                job.source = way.route.source.source_id if way.route.source is not None else ""
                self._to_site(job, way.route, way.rules)
            case RouteFailure():
                self._fail(job, way)
            case Wait() if 0 < way.left < len(job.recipients):
                self._in_parts(job, way.left)
            case Wait():
                self._postpone(job, way)
            case NeedsQuota():
                self._tasks.start(self._after_quota(job, way.subject), "wait-for-quota")
            case _:
                assert way is NEEDS_ROUTE
                self._route_or_file(job)

    def _is_full(self, route: Route) -> bool:
        site = self._sites.get(route.site)
        return site is not None and site.waiting >= WAITING_JOBS

    async def _after_quota(self, job: Job, subject: str) -> None:
        """Choose again once control has said how many more may go."""
        assert self._quotas is not None
        try:
            await self._quotas.wait(subject, len(job.recipients))
        except Refusal as refusal:
            log.info("quota_refused", subject=subject, reason=refusal.message)
        if not self._stopping:  # otherwise it stays queued in the spool
            self._place(job)

    def _postpone(self, job: Job, wait: Wait) -> None:
        """Have a job wait in the spool. What is old is looked at less often: there may be a million of its kind."""
        assert self._settlement is not None
        self._uncount(job)
        age = time.time() - job.received_ms / 1000
        if self._settlement.postpone(job, max(wait.seconds, min(age / 4, MAX_WAIT_SECONDS)), wait.why):
            self._forget([job])
        else:
            outcome = classify.of_local(wait.told or wait.why, "4.7.0")
            self.settle(job, [(recipient, outcome) for recipient in job.recipients])

    def _in_parts(self, job: Job, count: int) -> None:
        """A limit has room for some recipients of a job: they go, and the others wait for more."""
        self._uncount(job)
        rest = job.split(count)
        self.active_bytes += rest.size
        self._place(job)
        self._place(rest)

    def _uncount(self, job: Job, count: int | None = None) -> None:
        """What was counted for a job was not used: it goes back to the quotas."""
        if self._quotas is not None:
            for subject, window in job.counted:
                self._quotas.give_back(subject, len(job.recipients) if count is None else count, window)
        job.counted = ()

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
