"""Posts what is due: at least once, each endpoint at its own pace, none delaying another.

Every webhook with something due gets a lane: a task that claims a batch, posts it, records how it went, and goes on
until nothing is due or the endpoint fails. A lane that does well is joined by more, up to ``LANES_PER_WEBHOOK``, as
long as half of all lanes is free for others; one that has had ``TURN_SECONDS`` steps back for those who have waited
longer. So an endpoint that is slow holds up to four of many lanes, and its own queue alone. The pauses of the
endpoint's breaker are kept in the database and hold for all control programs.

A claim outlives its request. A program that dies between posting and recording leaves it to run out; then the batch is
posted again, with the same event ids. ``step`` records and claims anew in one transaction.

Mail does not wait for this: it reads rows that a consumer of the journal wrote, and uses at most ``DATABASE_SHARE``
connections at once. One event loop. Errors: none; what goes wrong is logged, counted and tried again.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass

import msgspec
import prometheus_client

from control.database import FAILURES, Connection, Database
from control.store import webhook_deliveries, webhook_endpoints, webhooks
from control.store.webhook_deliveries import Attempt, Claimed
from control.store.webhook_endpoints import Signer
from control.store.webhooks import Webhook
from control.webhooks import schedule
from control.webhooks.destinations import Rules, Target
from control.webhooks.disabling import Disabling
from control.webhooks.formats import RENDERERS
from control.webhooks.rendering import Posting, Rendered, decode
from control.webhooks.sender import Line, Sender
from control.webhooks.vault import Vault
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Refusal

log = get_logger(__name__)

POLL_SECONDS = 0.5
"""Between looks for webhooks that have something due."""
RESTS = 20
"""After a look that took long, which it does with thousands of webhooks, the next one waits so many times as long."""
LANES_PER_WEBHOOK = 4
"""Requests to one endpoint at once."""
LANES_PER_TENANT = 16
"""Requests to all endpoints of a tenant at once."""
TURN_SECONDS = 5.0
"""After that a lane steps back when others wait."""
CLAIM_SLACK_SECONDS = 30.0
"""A claim outlives the request's timeout by so much: recording may have to wait."""
DATABASE_SHARE = 3
"""Connections used at once."""
FAILED_PAUSE_SECONDS = 1.0
"""After the database did not answer."""
STOP_SECONDS = 1.0
"""For requests under way when the program stops: what is not recorded by then is posted again."""

_results = prometheus_client.Counter(
    "barua_control_webhook_deliveries_total", "Attempts to tell a webhook an event, by result.", ["result"]
)
_lanes = prometheus_client.Gauge("barua_control_webhook_lanes", "Requests to webhooks that may be under way.")


@dataclass(frozen=True, slots=True)
class _Work:
    """A claimed batch and what is needed to post it. ``signer`` has the secret; None: nobody has one."""

    webhook: Webhook
    token: uuid.UUID
    claimed: list[Claimed]
    signer: Signer | None


@dataclass(frozen=True, slots=True)
class _Done:
    """A batch that was posted."""

    work: _Work
    attempt: Attempt

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took it."""
        return 200 <= self.attempt.status_code <= 299


class Dispatcher:
    """The dispatcher of one control program. ``pace`` stretches every pause; ``lanes`` are all there are."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        vault: Vault,
        rules: Rules,
        disabling: Disabling,
        lanes: int,
        pace: float,
    ) -> None:
        self._database = database
        self._sender = sender
        self._vault = vault
        self._rules = rules
        self._disabling = disabling
        self._max_lanes = lanes
        self._pauses = [schedule.endpoint_pause(failures) * pace for failures in range(1, 20)]
        self._pace = pace
        self._tasks = Tasks()
        self._lanes: Counter[str] = Counter()
        self._tenant_lanes: Counter[str] = Counter()
        # When each webhook had its last turn: who has waited longest comes first.
        self._served: dict[str, float] = {}
        self._waiting = False
        self._stopping = False
        self._share = asyncio.Semaphore(DATABASE_SHARE)
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Dispatch for ever; cancelled, gives requests under way a moment."""
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._fill()
                except FAILURES as error:
                    log.warning("webhooks_postponed", error=type(error).__name__, text=str(error))
                    await asyncio.sleep(FAILED_PAUSE_SECONDS)
                await self._pause(time.monotonic() - started)
        finally:
            self._stopping = True
            await self._tasks.wait(STOP_SECONDS)
            await self._tasks.close()

    async def _pause(self, spent: float) -> None:
        """Rest after a look that took so long: a small share of the time may go into looking."""
        if not self._waiting:
            await asyncio.sleep(max(POLL_SECONDS, RESTS * spent))
            return
        # A lane that ends makes room for others.
        self._wake.clear()
        await asyncio.sleep(spent)
        try:
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        except TimeoutError:
            return

    async def _fill(self) -> None:
        """Give free lanes to webhooks that have something due and no lane, longest waiting first."""
        async with self._share:
            found = await self._database.transact(webhook_deliveries.due)
        idle = [(tenant_id, webhook_id) for tenant_id, webhook_id in found if not self._lanes[webhook_id]]
        idle.sort(key=lambda one: self._served.get(one[1], 0.0))
        self._served = {webhook_id: at for webhook_id, at in self._served.items() if at > time.monotonic() - 3600}
        self._waiting = False
        for tenant_id, webhook_id in idle:
            if self._free <= 0:
                self._waiting = True
                return
            if self._tenant_lanes[tenant_id] < LANES_PER_TENANT:
                self._open(tenant_id, webhook_id)

    @property
    def _free(self) -> int:
        return self._max_lanes - self._lanes.total()

    def _open(self, tenant_id: str, webhook_id: str) -> None:
        self._lanes[webhook_id] += 1
        self._tenant_lanes[tenant_id] += 1
        _lanes.set(self._lanes.total())
        self._tasks.start(self._lane(tenant_id, webhook_id), f"webhook-{webhook_id}")

    async def _lane(self, tenant_id: str, webhook_id: str) -> None:
        try:
            async with self._sender.line() as line:
                await self._serve(line, tenant_id, webhook_id)
        except FAILURES as error:
            # What was claimed is due again when the claim runs out.
            log.warning("webhook_lane_failed", webhook=webhook_id, error=type(error).__name__, text=str(error))
            await asyncio.sleep(FAILED_PAUSE_SECONDS)
        finally:
            for lanes, key in ((self._lanes, webhook_id), (self._tenant_lanes, tenant_id)):
                lanes[key] -= 1
                if not lanes[key]:
                    del lanes[key]
            self._served[webhook_id] = time.monotonic()
            _lanes.set(self._lanes.total())
            self._wake.set()

    async def _serve(self, line: Line, tenant_id: str, webhook_id: str) -> None:
        started = time.monotonic()
        done: _Done | None = None
        while True:
            over = self._stopping or (self._waiting and time.monotonic() - started > TURN_SECONDS)
            work = await self._step(webhook_id, done, claim=not over)
            if work is None:
                return
            if done is not None and self._may_join(tenant_id, webhook_id):
                self._open(tenant_id, webhook_id)
            done = _Done(work, await self._post(line, work))
            if not done.delivered:
                await self._step(webhook_id, done, claim=False)
                return

    def _may_join(self, tenant_id: str, webhook_id: str) -> bool:
        """Whether a webhook may have one lane more: others could still begin."""
        return (
            not self._stopping
            and self._lanes[webhook_id] < LANES_PER_WEBHOOK
            and self._tenant_lanes[tenant_id] < LANES_PER_TENANT
            and self._free > self._max_lanes // 2
        )

    async def _step(self, webhook_id: str, done: _Done | None, *, claim: bool) -> _Work | None:
        """Record a batch and claim the next, in one transaction."""
        token = uuid.uuid4()

        async def work(connection: Connection) -> _Work | None:
            if done is not None:
                await self._record(connection, done)
            return await self._claim(connection, webhook_id, token) if claim else None

        async with self._share:
            found = await self._database.transact(work)
        if done is not None:
            self._count(done)
        return found

    async def _claim(self, connection: Connection, webhook_id: str, token: uuid.UUID) -> _Work | None:
        webhook = await webhooks.ready(connection, webhook_id)
        if webhook is None:
            return None
        renderer = RENDERERS[webhook.settings.format]
        # A failing endpoint is asked with a single event.
        limit = 1 if webhook.failures else min(webhook.settings.batch_size, renderer.max_batch)
        seconds = self._sender.timeout_seconds + CLAIM_SLACK_SECONDS
        early = renderer.gathering_seconds > 0
        claimed = await webhook_deliveries.claim(connection, webhook_id, token, limit, seconds, early=early)
        if not claimed:
            return None
        signer = webhook if webhook.endpoint is None else await webhook_endpoints.signer(connection, webhook.tenant_id)
        return _Work(webhook, token, claimed, signer)

    async def _post(self, line: Line, work: _Work) -> Attempt:
        try:
            target, rendered, headers = self._request(work)
        except Refusal as refusal:  # the operator's rules are other ones than when the URL was taken
            return Attempt(0, "", refusal.message, 0)
        except (ValueError, msgspec.MsgspecError):  # sealed with another key, or kept by other code
            log.exception("webhook_request_impossible", webhook=work.webhook.name)
            return Attempt(0, "", "the request could not be made; tell the operator", 0)
        return await line.post(target, rendered, headers)

    def _request(self, work: _Work) -> tuple[Target, Rendered, dict[str, str]]:
        webhook = work.webhook
        target = self._rules.parse(work.claimed[0].url or webhook.settings.url, "url")
        posting = Posting(
            webhook=webhook.name,
            attempt=max(one.attempts for one in work.claimed),
            time=int(time.time()),
            secrets=self._vault.secrets_of(work.signer),
            events=[decode(one.content) for one in work.claimed],
        )
        return target, RENDERERS[webhook.settings.format].render(posting), self._vault.headers(webhook)

    async def _record(self, connection: Connection, done: _Done) -> None:
        webhook, attempt = done.work.webhook, done.attempt
        if done.delivered:
            pauses: list[tuple[int, float | None]] = [(one.delivery_id, None) for one in done.work.claimed]
        else:
            plan = RENDERERS[webhook.settings.format].schedule
            pauses = [(one.delivery_id, self._pause_after(plan, one.attempts)) for one in done.work.claimed]
        await webhook_deliveries.settle(connection, done.work.token, attempt, pauses, done.delivered)
        if done.delivered:
            if webhook.failures:
                await webhooks.recovered(connection, webhook.webhook_id)
            return
        after = await webhooks.failed(connection, webhook.webhook_id, self._pauses)
        if after is not None and after.endpoint is None:
            await self._disabling.consider(connection, after, attempt)

    def _pause_after(self, plan: schedule.Schedule, attempts: int) -> float | None:
        pause = plan.pause(attempts, random.random())  # noqa: S311 - spreads repeats, no secret
        return pause * self._pace if pause is not None else None

    def _count(self, done: _Done) -> None:
        result = "delivered" if done.delivered else "failed"
        _results.labels(result).inc(len(done.work.claimed))
        if not done.delivered:
            attempt = done.attempt
            log.info("webhook_failed", webhook=done.work.webhook.name, status=attempt.status_code, error=attempt.error)
