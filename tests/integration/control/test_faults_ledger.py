"""64 clients move, lease, spend, give back and are refunded credits at once, over sessions that are killed.

Afterwards every credit is where it should be, to the unit. A failure names its seed.
"""

import asyncio
import random
import time
from collections import Counter
from typing import Any

import pytest

from barua.control.v1 import credit_service_pb2, tenant_pb2
from barua.journal.v1.event_pb2 import Event

from control.database import Connection, Database
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, new_id
from tests.integration.control.test_faults_database import insistently, terminating, transfer
from tests.integration.control.test_leases import Spool

SECONDS = 4.0
GRANTED = 20_000
TENANTS = ("top", "left", "right", "leaf")
PAIRS = (("top", "left"), ("top", "right"), ("left", "leaf"), ("top", "leaf"))
BALANCES = (
    "SELECT account.tenant_id, account.available, account.reserved, account.consumed,"
    " coalesce(sum(amount) FILTER (WHERE posting.account = 'available'), 0)::bigint AS available_sum,"
    " coalesce(sum(amount) FILTER (WHERE posting.account = 'reserved'), 0)::bigint AS reserved_sum,"
    " coalesce(sum(amount) FILTER (WHERE posting.account = 'consumed'), 0)::bigint AS consumed_sum"
    " FROM account LEFT JOIN ledger_posting AS posting USING (tenant_id) GROUP BY account.tenant_id"
)
NEGATIVE = (
    "SELECT count(*) FROM (SELECT sum(amount) OVER (PARTITION BY tenant_id, account ORDER BY posting_id) AS running"
    " FROM ledger_posting WHERE tenant_id IS NOT NULL) AS history WHERE running < 0"
)


class World:
    """What all clients together know to be true."""

    def __init__(self, control: Control, seed: int) -> None:
        self.control = control
        self.random = random.Random(seed)
        self.deadline = time.monotonic() + SECONDS
        self.granted = 0
        self.spent: Counter[str] = Counter()
        self.bounced: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._ids = iter(range(int((time.time() - 1_704_067_200) * 1000) << 21, 2**62))

    @property
    def running(self) -> bool:
        return time.monotonic() < self.deadline

    def recipient_id(self) -> int:
        return next(self._ids)

    async def grants(self) -> None:
        """The operator issues credits."""
        request = credit_service_pb2.GrantCreditsRequest(
            tenant=f"tenants/{self.random.choice(TENANTS)}", amount=self.random.randint(1, 50), request_id=new_id()
        )
        await insisting(lambda: self.control.call(self.control.credits.GrantCredits, request))
        self.granted += request.amount

    async def transfers(self) -> None:
        """Credits go up and down the tree."""
        source, destination = self.random.sample(self.random.choice(PAIRS), 2)
        amount = self.random.randint(1, 3000)
        try:
            await insistently(self.control, transfer(source, destination, amount, new_id()))
        except Refusal as refusal:
            assert refusal.reason is Reason.CREDITS_UNAVAILABLE

    async def sends(self, spool: Spool) -> None:
        """A worker leases credits, spends some, is told of a bounce, gives back the rest."""
        tenant = self.random.choice(TENANTS)
        wish = spool.wish(tenant, self.random.randint(1, 60))
        try:
            lease = await insisting(lambda: spool.acquire(wish))
        except Refusal as refusal:
            assert refusal.reason in (Reason.INSUFFICIENT_CREDITS, Reason.CREDITS_UNAVAILABLE), refusal
            return
        events: list[Event] = []
        spent = self.random.randint(0, lease.amount)
        for number in range(spent):
            recipient_id = self.recipient_id()
            events.append(spool.received(lease, recipient_id))
            if number % 5 == 0:
                events.append(spool.outcome(Event.KIND_BOUNCED, tenant, recipient_id, 550, "no"))
                self.bounced[tenant] += 1
        if spent < lease.amount:
            events.append(spool.released(lease, lease.amount - spent))
        self.spent[tenant] += spent
        await insisting(lambda: spool.tell(*events))
        await insisting(lambda: spool.tell(*events))


async def insisting(call: Any) -> Any:
    """Repeat a call that can be repeated until it is answered."""
    for _ in range(400):
        try:
            return await call()
        except Refusal as refusal:
            if refusal.reason is not Reason.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("never answered")


@pytest.mark.each_postgres
async def test_no_credit_appears_or_vanishes_under_concurrency(
    control: Control, database: Database, database_url: str
) -> None:
    await control.tenant("top", credits=GRANTED)
    for parent, name in (("top", "left"), ("top", "right"), ("left", "leaf")):
        await control.tenant(name, parent, kind=tenant_pb2.Tenant.KIND_RESELLER)
    await database.transact(lambda c: c.execute("UPDATE tenant SET refunds = '{bounced}' WHERE tenant_id = 'top'"))
    seed = random.randrange(2**32)
    world = World(control, seed)
    world.granted = GRANTED

    async def client(number: int) -> None:
        spool = Spool(control)
        if number % 2:
            await insisting(spool.open)
        while world.running:
            kind = "sends" if number % 2 else "grants" if number % 16 == 0 else "transfers"
            await (world.sends(spool) if kind == "sends" else getattr(world, kind)())
            world.done[kind] += 1

    async with terminating(database_url, 0.5) as ended:
        results = await asyncio.gather(*(client(number) for number in range(64)), return_exceptions=True)
    failures = [result for result in results if result is not None]
    assert not failures, (seed, failures[:3])
    assert sum(ended) and min(world.done[kind] for kind in ("sends", "grants", "transfers")) > 0, world.done

    refunded = world.bounced
    await _until_refunded(database, sum(refunded.values()))
    rows = {row["tenant_id"]: row for row in await database.transact(lambda c: c.fetch(BALANCES))}
    for row in rows.values():
        for name in ("available", "reserved", "consumed"):
            assert row[name] == row[f"{name}_sum"] >= 0, (seed, dict(row))
    assert all(row["reserved"] == 0 for row in rows.values()), seed
    assert {name: rows[name]["consumed"] for name in TENANTS} == {
        name: world.spent[name] - refunded[name] for name in TENANTS
    }, seed
    assert sum(row["available"] + row["consumed"] for row in rows.values()) == world.granted, seed
    assert await database.transact(lambda c: c.fetchval("SELECT sum(amount) FROM ledger_posting")) == 0
    assert await database.transact(lambda c: c.fetchval(NEGATIVE)) == 0, seed


async def _until_refunded(database: Database, expected: int) -> None:
    async def refunded(connection: Connection) -> int:
        return int(await connection.fetchval("SELECT count(*) FROM refund"))

    async with asyncio.timeout(60):
        while await database.transact(refunded) < expected:  # noqa: ASYNC110 - the database tells
            await asyncio.sleep(0.1)
    assert await database.transact(refunded) == expected
