"""Credits under fire: 64 clients at once on connections that are killed; nothing is lost, doubled or negative."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from control.consumers.refunds import RefundConsumer
from control.database import FAILURES, Connection, Database
from control.expiry import sweep
from control.model.messageids import first_at
from control.store import journal, leases, ledger, statements, tenants
from control.store.journal import EventKind
from control.store.ledger import CreditsLeased
from control.store.tenants import Settings
from tests.integration.control.harness import opened
from tests.integration.control.test_ledger_property import _bounced, _event

T = TypeVar("T")

CLIENTS, ROUNDS, ACCOUNTS = 64, 10, 6
KILLS = 40
NAMES = [f"a{number}" for number in range(ACCOUNTS)]
SHARING = [f"s{number}" for number in range(ACCOUNTS)]
"""One below each of them, which shares its balance, or has none of its own for a while."""
GRANT = 2_000
BASE = first_at(datetime.now(UTC)) + 2**20


class Client:
    """One of many, with a spool of its own."""

    def __init__(self, database: Database, number: int) -> None:
        self.database = database
        self.holder = uuid.uuid4()
        self.random = random.Random(number)
        self.sequence = 0
        self.ids = iter(range(BASE + number * 1000, BASE + number * 1000 + 1000))
        self.granted = 0

    async def run(self) -> None:
        await self._surely(lambda c: leases.open_holder(c, self.holder, 1, []))
        for _ in range(ROUNDS):
            with suppress(*FAILURES, CreditsLeased):
                actions = (self.transfer, self.transfer, self.spend, self.spend, self.spend, self.expire, self.share)
                await self.random.choice(actions)()

    async def transfer(self) -> None:
        source, destination = self.random.sample([*NAMES, *SHARING[:2]], 2)
        amount = self.random.randint(1, 300)
        await self.database.transact(lambda c: ledger.transfer(c, source, destination, amount, ""))

    async def expire(self) -> None:
        await sweep(self.database)

    async def share(self) -> None:
        """Have a tenant share the balance above it, or not."""
        name, shares = self.random.choice(SHARING), self.random.random() < 0.7

        async def work(connection: Connection) -> None:
            tenant = await tenants.visible(connection, "operator", name, lock=True)
            if (await ledger.lock(connection, [name]))[name].spendable == 0:
                await tenants.share_balance(connection, name, shares)
                await tenants.update(connection, name, replace(tenant.settings, shares_balance=shares))

        await self.database.transact(work)

    async def spend(self) -> None:
        """Lease, use a part, have some of it refunded, give the rest back; each step until it is known to be done."""
        tenant, request_id = self.random.choice([*NAMES, *SHARING]), uuid.uuid4()
        lease = await self._surely(lambda c: leases.acquire(c, self.holder, 1, tenant, 50, request_id))
        if lease is None:
            return
        used = self.random.randint(0, lease.amount)
        recipients = [next(self.ids) for _ in range(min(used, 3))]
        steps = [(recipient_id, EventKind.RECEIVED, 1) for recipient_id in recipients]
        events = []
        for recipient_id, kind, credits in (*steps, (0, EventKind.LEASE_RELEASED, lease.amount - len(recipients))):
            if credits:
                self.sequence += 1
                events.append(_event(self.sequence, kind, tenant, recipient_id, lease.lease_id, credits))
        await self._surely(lambda c: journal.record(c, self.holder, "n", events))
        told = [_bounced(recipient_id, tenant) for recipient_id in recipients]
        await self._surely(lambda c: RefundConsumer().consume(c, told))

    async def _surely(self, work: Callable[[Connection], Awaitable[T]]) -> T | None:
        """Repeat what may be repeated until it is done; None if it is refused for want of credits."""
        while True:
            try:
                return await self.database.transact(work)
            except CreditsLeased:
                return None
            except FAILURES as error:
                if getattr(error, "reason", None) != "UNAVAILABLE":
                    return None
                await asyncio.sleep(0.01)


async def kill_connections(database: Database, killed: list[int]) -> None:
    """End a connection of somebody's, now and then."""
    for _ in range(KILLS):
        await asyncio.sleep(0.1)
        with suppress(*FAILURES):
            killed[0] += await database.transact(
                lambda c: c.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) AS one"
                )
            )


async def test_64_clients_on_dying_connections_end_with_a_ledger_that_adds_up(database_url: str) -> None:
    async with opened(database_url, pool_size=16) as database, opened(database_url, pool_size=1) as killers:
        await database.transact(_make)
        killed = [0]
        killing = asyncio.create_task(kill_connections(killers, killed))
        try:
            await asyncio.gather(*(Client(database, number).run() for number in range(CLIENTS)))
        finally:
            killing.cancel()
        assert killed[0] > 5
        await sweep(database)
        audited = await database.transact(lambda c: statements.audit(c, "operator", ""))
        assert [wrong for tenant in audited for wrong in tenant.discrepancies] == []
        assert await database.transact(statements.audit_world) == []
        moved = [tenant.moved for tenant in audited]
        assert sum(totals.granted for totals in moved) == ACCOUNTS * (GRANT + 100)
        assert sum(totals.transferred_in for totals in moved) == sum(totals.transferred_out for totals in moved)
        assert sum(totals.consumed for totals in moved) == sum(totals.refunded for totals in moved) > 0
        assert sum(totals.expired for totals in moved) > 0
        assert all(tenant.reserved == 0 and tenant.available >= 0 for tenant in audited)
        lessees = "SELECT count(DISTINCT tenant_id) FROM lease WHERE payer_id <> tenant_id"
        assert await database.transact(lambda c: c.fetchval(lessees)) > ACCOUNTS / 2


async def _make(connection: Connection) -> None:
    root = await tenants.visible(connection, "operator", "operator")
    for name, sharing in zip(NAMES, SHARING, strict=True):
        made = await tenants.create(connection, name, root, Settings(refunds=frozenset({"bounced"})))
        await tenants.create(connection, sharing, made, Settings(shares_balance=True))
        await ledger.grant(connection, name, GRANT, "")
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        await ledger.grant(connection, name, 100, "", expire_at=soon)
