"""Whatever happens in whatever order, no credit appears or vanishes: a property of the store, on a real database."""

import asyncio
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.database import Database
from control.store import journal, leases, ledger, tenants
from control.store.journal import Event, EventKind
from control.store.leases import Lease
from control.store.ledger import CreditsLeased
from control.store.tenants import Contact
from mta.runtime.refusals import Refusal
from tests.integration.control.harness import PostgresServer, opened

ROOT, CHILDREN, HOLDERS = "root", ("one", "two"), 2
TENANTS = (ROOT, *CHILDREN)

tenant_numbers = st.integers(0, len(TENANTS) - 1)
holder_numbers = st.integers(0, HOLDERS - 1)
amounts = st.integers(1, 400)
steps = st.one_of(
    st.tuples(st.just("grant"), tenant_numbers, amounts),
    st.tuples(st.just("transfer"), tenant_numbers, tenant_numbers, amounts),
    st.tuples(st.just("lease"), tenant_numbers, holder_numbers, amounts),
    st.tuples(st.just("use"), holder_numbers, amounts),
    st.tuples(st.just("release"), holder_numbers, amounts),
    st.tuples(st.just("restart"), holder_numbers, st.booleans()),
    st.tuples(st.just("replay"), holder_numbers),
)


@dataclass
class Spool:
    """A model of a worker: what it has on record and what it has told."""

    holder: uuid.UUID = field(default_factory=uuid.uuid4)
    epoch: int = 0
    sequence: int = 0
    rests: dict[int, tuple[str, int]] = field(default_factory=dict)
    last_batch: list[Event] = field(default_factory=list)


class World:
    """The store under test beside a model of what every tenant should have."""

    def __init__(self, database: Database, prefix: str) -> None:
        self.database = database
        self.names = [f"{prefix}-{name}" for name in TENANTS]
        self.granted = 0
        self.spools = [Spool() for _ in range(HOLDERS)]

    async def make(self) -> None:
        async def work(connection: object) -> None:
            above = await tenants.visible(connection, "operator", "operator")  # type: ignore[arg-type]
            root = await tenants.create(connection, self.names[0], above, "", Contact(), "")  # type: ignore[arg-type]
            for name in self.names[1:]:
                await tenants.create(connection, name, root, "", Contact(), "")  # type: ignore[arg-type]

        await self.database.transact(work)
        for spool in self.spools:
            await self.restart(spool, forget=False)

    async def run(self, step: tuple[object, ...]) -> None:
        match step:
            case ("grant", int(tenant), int(amount)):
                await self.database.transact(lambda c: ledger.grant(c, self.names[tenant], amount, ""))
                self.granted += amount
            case ("transfer", int(source), int(destination), int(amount)) if source != destination:
                giver, getter = self.names[source], self.names[destination]
                with suppress(Refusal, CreditsLeased):
                    await self.database.transact(lambda c: ledger.transfer(c, giver, getter, amount, ""))
            case ("lease", int(tenant), int(holder), int(amount)):
                await self.lease(self.spools[holder], self.names[tenant], amount)
            case ("use", int(holder), int(amount)):
                await self.tell(self.spools[holder], EventKind.RECEIVED, amount)
            case ("release", int(holder), int(amount)):
                await self.tell(self.spools[holder], EventKind.LEASE_RELEASED, amount)
            case ("restart", int(holder), bool(forget)):
                await self.restart(self.spools[holder], forget)
            case ("replay", int(holder)):
                spool = self.spools[holder]
                if spool.last_batch:
                    await self.record(spool, spool.last_batch)

    async def lease(self, spool: Spool, tenant: str, amount: int) -> None:
        request_id = uuid.uuid4()

        async def acquire() -> Lease:
            return await self.database.transact(
                lambda c: leases.acquire(c, spool.holder, spool.epoch, tenant, amount, request_id)
            )

        try:
            lease = await acquire()
        except (Refusal, CreditsLeased):
            return
        assert await acquire() == lease
        spool.rests[lease.lease_id] = (tenant, lease.amount)

    async def tell(self, spool: Spool, kind: EventKind, amount: int) -> None:
        events: list[Event] = []
        for lease_id, (tenant, rest) in list(spool.rests.items()):
            credits = min(amount, rest)
            if credits == 0:
                continue
            spool.sequence += 1
            events.append(_event(spool.sequence, kind, tenant, lease_id, credits))
            spool.rests[lease_id] = (tenant, rest - credits)
        if events:
            spool.last_batch = events
            await self.record(spool, events)

    async def record(self, spool: Spool, events: list[Event]) -> None:
        recorded, _ = await self.database.transact(lambda c: journal.record(c, spool.holder, "n", events))
        assert recorded == spool.sequence

    async def restart(self, spool: Spool, forget: bool) -> None:
        """A new run; ``forget``: the newest untouched lease had not reached the disk."""
        spool.epoch += 1
        if forget and spool.rests:
            lease_id = max(spool.rests)
            untouched = all(event.lease_id != lease_id for event in spool.last_batch)
            if untouched:
                del spool.rests[lease_id]
        known = list(spool.rests)
        await self.database.transact(lambda c: leases.open_holder(c, spool.holder, spool.epoch, known))

    async def check(self) -> None:
        sums = await self.database.transact(
            lambda c: c.fetch(
                "SELECT tenant_id, account.available, account.reserved, account.consumed,"
                " coalesce(sum(amount) FILTER (WHERE posting.account = 'available'), 0) AS available_sum,"
                " coalesce(sum(amount) FILTER (WHERE posting.account = 'reserved'), 0) AS reserved_sum,"
                " coalesce(sum(amount) FILTER (WHERE posting.account = 'consumed'), 0) AS consumed_sum"
                " FROM account LEFT JOIN ledger_posting AS posting USING (tenant_id)"
                " WHERE tenant_id = ANY ($1) GROUP BY tenant_id",
                self.names,
            )
        )
        total = 0
        for row in sums:
            for name in ("available", "reserved", "consumed"):
                assert row[name] == row[f"{name}_sum"] >= 0
                total += row[name]
        assert total == self.granted
        reserved = {row["tenant_id"]: row["reserved"] for row in sums}
        for name in self.names:
            held = sum(rest for spool in self.spools for tenant, rest in spool.rests.values() if tenant == name)
            assert reserved[name] >= held
        world_sum = await self.database.transact(lambda c: c.fetchval("SELECT sum(amount) FROM ledger_posting"))
        assert world_sum in (None, 0)


def _event(sequence: int, kind: EventKind, tenant: str, lease_id: int, credits: int) -> Event:
    now = datetime.now(UTC)
    return Event(
        sequence, kind, now, tenant, sequence, sequence, "", "", "", "", 0, 0, 0, "", "", "", None, lease_id, credits
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(steps, min_size=5, max_size=25))
def test_no_credit_appears_or_vanishes(postgres_server: PostgresServer, plan: list[tuple[object, ...]]) -> None:
    async def scenario() -> None:
        async with opened(postgres_server.url_of("barua_property"), pool_size=2) as database:
            world = World(database, f"p{uuid.uuid4().hex[:12]}")
            await world.make()
            for step in plan:
                await world.run(step)
            await world.check()

    postgres_server.ensure_database("barua_property")
    asyncio.run(scenario())
