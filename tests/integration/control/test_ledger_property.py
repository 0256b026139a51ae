"""Whatever happens in whatever order, no credit appears or vanishes: a property of the store, on a real database."""

import asyncio
import itertools
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.consumers.refunds import RefundConsumer
from control.database import Connection, Database
from control.expiry import sweep
from control.model.events import PastEvent
from control.model.messageids import first_at
from control.store import journal, leases, ledger, statements, tenants, windows
from control.store.journal import Event, EventKind
from control.store.leases import Lease
from control.store.ledger import CreditsLeased
from control.store.tenants import Settings
from mta.runtime.refusals import Refusal
from tests.integration.control.harness import PostgresServer, opened

ROOT, CHILDREN, HOLDERS = "root", ("one", "two"), 2
SHARING = {"lean": "one", "leaner": "lean"}
"""Tenants below others whose balance they share; "two" shares that of the root at times."""
TENANTS = (ROOT, *CHILDREN, *SHARING)
SOON_SECONDS = 0.03
_recipients = itertools.count(first_at(datetime.now(UTC)))

tenant_numbers = st.integers(0, len(TENANTS) - 1)
holder_numbers = st.integers(0, HOLDERS - 1)
amounts = st.integers(1, 400)
leasing = st.tuples(st.just("lease"), tenant_numbers, holder_numbers, amounts)
using = st.tuples(st.just("use"), holder_numbers, st.integers(1, 60))
bouncing = st.tuples(st.just("bounce"), st.integers(0, 50))
# What only does something after something else comes more often.
steps = st.one_of(
    leasing,
    leasing,
    leasing,
    using,
    using,
    using,
    bouncing,
    bouncing,
    st.tuples(st.just("grant"), tenant_numbers, amounts),
    st.tuples(st.just("lend"), tenant_numbers, amounts, st.sampled_from([SOON_SECONDS, 3600.0])),
    st.tuples(st.just("wait"), st.booleans()),
    st.tuples(st.just("transfer"), tenant_numbers, tenant_numbers, amounts),
    st.tuples(st.just("release"), holder_numbers, amounts),
    st.tuples(st.just("restart"), holder_numbers, st.booleans()),
    st.tuples(st.just("replay"), holder_numbers),
    st.tuples(st.just("write off"), holder_numbers, st.booleans()),
    st.tuples(st.just("share"), st.booleans()),
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
        self.granted = self.lent = 0
        self.spools = [Spool() for _ in range(HOLDERS)]
        self.lost: list[Spool] = []
        self.charged: dict[int, tuple[str, int]] = {}
        self.payers: dict[int, str] = {}
        """Who pays for a lease."""
        self.lease_of: dict[int, int] = {}
        self.two_shares = False
        self.bounced: set[int] = set()

    async def make(self) -> None:
        async def work(connection: Connection) -> None:
            above = await tenants.visible(connection, "operator", "operator")
            refunding = Settings(refunds=frozenset({"bounced"}))
            root = await tenants.create(connection, self.names[0], above, refunding)
            made = {ROOT: root}
            for name, full_name in zip(TENANTS[1:], self.names[1:], strict=True):
                above = made[SHARING.get(name, ROOT)]
                made[name] = await tenants.create(
                    connection, full_name, above, Settings(shares_balance=name in SHARING)
                )

        await self.database.transact(work)
        for spool in self.spools:
            await self.restart(spool, forget=False)
        for tenant in range(len(TENANTS)):
            await self.run(("grant", tenant, 300))
            await self.run(("lend", tenant, 100, SOON_SECONDS))

    async def run(self, step: tuple[object, ...]) -> None:
        match step:
            case ("grant", int(tenant), int(amount)):
                with suppress(Refusal):  # to a tenant that shares
                    await self.database.transact(lambda c: ledger.grant(c, self.names[tenant], amount, ""))
                    self.granted += amount
            case ("lend", int(tenant), int(amount), float(seconds)):
                at = datetime.now(UTC) + timedelta(seconds=seconds)
                with suppress(Refusal):
                    await self.database.transact(
                        lambda c: ledger.grant(c, self.names[tenant], amount, "", expire_at=at)
                    )
                    self.granted += amount
                    self.lent += amount
            case ("wait", bool(swept)):
                await asyncio.sleep(SOON_SECONDS)
                if swept:
                    await asyncio.gather(sweep(self.database), sweep(self.database))
            case ("transfer", int(source), int(destination), int(amount)) if source != destination:
                giver, getter = self.names[source], self.names[destination]
                with suppress(Refusal, CreditsLeased):
                    await self.database.transact(lambda c: ledger.transfer(c, giver, getter, amount, ""))
            case ("bounce", int(number)):
                await self.bounce(number)
            case ("share", bool(shares)):
                await self.share(shares)
            case _:
                await self.run_holder(step)

    async def run_holder(self, step: tuple[object, ...]) -> None:
        match step:
            case ("lease", int(tenant), int(holder), int(amount)):
                await self.lease(self.spools[holder], self.names[tenant], amount)
            case ("use", int(holder), int(amount)):
                await self.tell(self.spools[holder], EventKind.RECEIVED, amount)
                for spool in self.lost:  # back from the dead: on record, but without effect
                    await self.tell(spool, EventKind.RECEIVED, amount)
            case ("release", int(holder), int(amount)):
                await self.tell(self.spools[holder], EventKind.LEASE_RELEASED, amount)
            case ("restart", int(holder), bool(forget)):
                await self.restart(self.spools[holder], forget)
            case ("replay", int(holder)):
                spool = self.spools[holder]
                if spool.last_batch:
                    await self.record(spool, spool.last_batch)
            case ("write off", int(holder), bool(give_back)):
                spool = self.spools[holder]
                await self.database.transact(
                    lambda c: leases.write_off(c, spool.holder, give_back=give_back, note="", actor="")
                )
                self.lost.append(spool)
                self.spools[holder] = Spool()
                await self.restart(self.spools[holder], forget=False)

    async def share(self, shares: bool) -> None:
        """The tenant "two" shares the root's balance from now on, or no longer; it gives its credits back before."""
        name = self.names[TENANTS.index("two")]
        has = await self.database.transact(lambda c: ledger.balance(c, name))
        if has.available:
            await self.run(("transfer", TENANTS.index("two"), 0, has.available))

        async def work(connection: Connection) -> None:
            tenant = await tenants.visible(connection, "operator", name, lock=True)
            if shares and (await ledger.lock(connection, [name]))[name].spendable:
                return
            await tenants.share_balance(connection, name, shares)
            await tenants.update(connection, name, replace(tenant.settings, shares_balance=shares))

        await self.database.transact(work)
        self.two_shares = (await self.database.transact(lambda c: ledger.balance(c, name))).shared

    def payer_of(self, tenant: str) -> str:
        """Who pays for a tenant's mail now."""
        short = TENANTS[self.names.index(tenant)]
        if short in SHARING:
            return self.payer_of(self.names[TENANTS.index(SHARING[short])])
        return self.names[0] if short == "two" and self.two_shares else tenant

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
        assert lease.payer_id == self.payer_of(tenant)
        self.payers[lease.lease_id] = lease.payer_id
        spool.rests[lease.lease_id] = (tenant, lease.amount)

    async def tell(self, spool: Spool, kind: EventKind, amount: int) -> None:
        events: list[Event] = []
        for lease_id, (tenant, rest) in list(spool.rests.items()):
            credits = min(amount, rest)
            if credits == 0:
                continue
            spool.sequence += 1
            recipient_id = next(_recipients)
            events.append(_event(spool.sequence, kind, tenant, recipient_id, lease_id, credits))
            spool.rests[lease_id] = (tenant, rest - credits)
            if kind is EventKind.RECEIVED and spool not in self.lost:
                self.charged[recipient_id] = (tenant, credits)
                self.lease_of[recipient_id] = lease_id
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

    async def bounce(self, number: int) -> None:
        """A recipient bounces, and is told of twice."""
        if not self.charged:
            return
        recipient_id = list(self.charged)[number % len(self.charged)]
        self.bounced.add(recipient_id)
        told = [_bounced(recipient_id, self.charged[recipient_id][0])]
        consumer = RefundConsumer()
        for _ in range(2):
            await self.database.transact(lambda c: consumer.consume(c, told))
        row = await self.database.transact(
            lambda c: c.fetchrow(
                "SELECT given_back OR shared AS lost, EXISTS (SELECT FROM refund WHERE recipient_id = $2) AS refunded"
                " FROM lease JOIN account ON account.tenant_id = payer_id WHERE lease_id = $1",
                self.lease_of[recipient_id],
                recipient_id,
            )
        )
        assert row is not None
        assert row["refunded"] or row["lost"]

    async def check(self) -> None:
        for spool in self.spools:
            held = sum(rest for _, rest in spool.rests.values())
            if held:
                await self.tell(spool, EventKind.LEASE_RELEASED, held)
        await sweep(self.database)
        audited = await self.database.transact(lambda c: statements.audit(c, self.names[0], ""))
        assert len(audited) == len(TENANTS)
        assert [wrong for tenant in audited for wrong in tenant.discrepancies] == []
        moved = [tenant.moved for tenant in audited]
        assert sum(totals.granted for totals in moved) == self.granted
        assert sum(totals.transferred_in - totals.transferred_out for totals in moved) == 0
        assert sum(totals.expired for totals in moved) <= self.lent
        assert sum(totals.net for totals in moved) == sum(tenant.available + tenant.reserved for tenant in audited)
        assert sum(totals.consumed for totals in moved) == sum(credits for _, credits in self.charged.values())
        refunded = await self.refunded()
        assert sum(totals.refunded for totals in moved) == sum(refunded.values())
        assert all(recipient_id in self.bounced for recipient_id in refunded)
        assert all(credits == self.charged[recipient_id][1] for recipient_id, credits in refunded.items())
        # Every spool has given everything back or was written off.
        assert all(tenant.reserved == 0 for tenant in audited)
        await self.check_statements()
        await self.check_counts()
        await self.check_payers()
        assert await self.database.transact(statements.audit_world) == []

    async def check_counts(self) -> None:
        """What is counted against limits is what was leased and did not come back."""
        rows = await self.database.transact(
            lambda c: c.fetch(
                "SELECT tenant_id, sum(amount - returned)::bigint AS kept FROM lease WHERE tenant_id = ANY ($1)"
                " AND created_at >= date_trunc('hour', now()) GROUP BY tenant_id",
                self.names,
            )
        )
        kept = {row["tenant_id"]: row["kept"] for row in rows}
        counted = await self.database.transact(lambda c: windows.counted(c, self.names))
        rows = await self.database.transact(
            lambda c: c.fetch("SELECT tenant_id, path FROM tenant WHERE tenant_id = ANY ($1)", self.names)
        )
        for name in self.names:
            below = [row["tenant_id"] for row in rows if name in row["path"]]
            assert counted[name].hour == sum(kept.get(tenant, 0) for tenant in below)

    async def check_payers(self) -> None:
        """The ledger says for each tenant what its mail cost, also where another one paid."""
        rows = await self.database.transact(
            lambda c: c.fetch(
                "SELECT coalesce(counterparty_id, tenant_id) AS whose, sum(amount)::bigint AS credits"
                " FROM ledger_posting JOIN ledger_transaction USING (transaction_id)"
                " WHERE kind = 'usage' AND account = 'consumed' AND tenant_id = ANY ($1) GROUP BY whose",
                self.names,
            )
        )
        costs = {row["whose"]: row["credits"] for row in rows}
        rows = await self.database.transact(
            lambda c: c.fetch(
                "SELECT tenant_id, sum(amount)::bigint AS credits"
                " FROM ledger_posting JOIN ledger_transaction USING (transaction_id)"
                " WHERE kind = 'refund' AND account = 'available' AND tenant_id = ANY ($1) GROUP BY tenant_id",
                self.names,
            )
        )
        came_back: Counter[str] = Counter()
        for recipient_id, credits in (await self.refunded()).items():
            came_back[self.payers[self.lease_of[recipient_id]]] += credits
        assert {row["tenant_id"]: row["credits"] for row in rows} == came_back
        for name in self.names:
            assert costs.get(name, 0) == sum(credits for tenant, credits in self.charged.values() if tenant == name)
        for name in SHARING:
            has = await self.database.transact(lambda c, name=name: ledger.balance(c, self.names[TENANTS.index(name)]))  # type: ignore[misc]
            assert (has.available, has.reserved, has.consumed, has.shared) == (0, 0, 0, True)

    async def refunded(self) -> dict[int, int]:
        rows = await self.database.transact(
            lambda c: c.fetch("SELECT recipient_id, credits FROM refund WHERE tenant_id = ANY ($1)", self.names)
        )
        return {row["recipient_id"]: row["credits"] for row in rows}

    async def check_statements(self) -> None:
        for name in self.names:
            found = await self.database.transact(
                lambda c, name=name: statements.entries(c, name, before=2**63 - 1, limit=1000)  # type: ignore[misc]
            )
            balance = 0
            for entry in reversed(found):
                balance += entry.amount if entry.account != "consumed" else 0
                assert entry.balance == balance
            middle = found[len(found) // 2].created_at if found else None
            first, _ = await self.database.transact(
                lambda c, name=name, end=middle: statements.statement(c, name, None, end)  # type: ignore[misc]
            )
            second, _ = await self.database.transact(
                lambda c, name=name, start=middle: statements.statement(c, name, start, None)  # type: ignore[misc]
            )
            for statement in (first, second):
                assert statement.opening + statement.moved.net == statement.closing
            assert first.opening == 0
            assert second.closing == balance
            assert middle is None or first.closing == second.opening


def _event(sequence: int, kind: EventKind, tenant: str, recipient_id: int, lease_id: int, credits: int) -> Event:
    return Event(
        sequence=sequence,
        kind=kind,
        time=datetime.now(UTC),
        tenant_id=tenant,
        recipient_id=recipient_id,
        message_id=recipient_id,
        sender="",
        recipient="",
        subject="",
        source="",
        size_bytes=0,
        attempt=0,
        code=0,
        enhanced_code="",
        text="",
        remote_host="",
        next_attempt_time=None,
        lease_id=lease_id,
        credits=credits,
        stream="",
        egress_source="",
        provider="",
    )


def _bounced(recipient_id: int, tenant: str) -> PastEvent:
    return PastEvent(
        event_number=1,
        recipient_id=recipient_id,
        message_id=recipient_id,
        tenant_id=tenant,
        kind=EventKind.BOUNCED,
        occurred_at=datetime.now(UTC),
        attempt=1,
        code=550,
        enhanced_code="5.1.1",
        reply="no such user",
        remote_host="",
        egress_source="",
        provider="",
        credits=0,
        lease_id=0,
        next_attempt_at=None,
        sender="",
        recipient="",
        recipient_key="",
        stream="",
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(steps, min_size=10, max_size=40))
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
