"""Limits on recipients and spending, where they are enforced: when credits are leased."""

import asyncio
from datetime import UTC, datetime

import pytest

from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_pb2 import Price, TenantLimits

from control.database import Database
from control.model.limits import Window
from control.store import windows
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control
from tests.integration.control.test_leases import Spool


@pytest.fixture
async def spool(control: Control) -> Spool:
    """A worker, and three tenants: reseller above one and two."""
    await control.tenant("reseller", credits=100_000)
    for name in ("one", "two"):
        await control.tenant(name, "reseller", credits=100_000)
    spool = Spool(control)
    await spool.open()
    return spool


async def limit(spool: Spool, tenant: str, price: Price | None = None, **limits: int) -> None:
    changed = tenant_pb2.Tenant(name=f"tenants/{tenant}", limits=TenantLimits(**limits), price=price)
    request = tenant_service_pb2.UpdateTenantRequest(tenant=changed)
    request.update_mask.paths.extend(["limits", "price"])
    await spool.control.call(spool.control.tenants.UpdateTenant, request)


async def leased(spool: Spool, tenant: str, wanted: int = 5000) -> int:
    """Credits that can be leased before a limit is reached."""
    total = 0
    while True:
        try:
            total += (await spool.acquire(spool.wish(tenant, wanted))).amount
        except Refusal as refusal:
            assert refusal.reason is Reason.RATE_LIMITED
            return total


async def refusal(spool: Spool, tenant: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        await spool.acquire(spool.wish(tenant, 1))
    return refused.value


async def used(spool: Spool, tenant: str) -> dict[str, int]:
    request = tenant_service_pb2.GetTenantRequest(name=f"tenants/{tenant}")
    found = await spool.control.call(spool.control.tenants.GetTenant, request)
    return {held.limit: held.used for held in found.effective_terms.limits}


async def test_no_more_is_leased_than_the_limit_and_it_says_until_when(spool: Spool) -> None:
    await limit(spool, "one", hourly_recipients=250)
    before = datetime.now(UTC)
    assert await leased(spool, "one") == 250
    refused = await refusal(spool, "one")
    assert "hourly limit on recipients" in refused.message
    assert refused.metadata["cap"] == "hourly_recipients"
    assert (refused.metadata["scope"], refused.metadata["limit"]) == ("own", "250")
    until = datetime.fromisoformat(refused.metadata["until"])
    assert until in (Window.HOUR.end(before), Window.HOUR.end(datetime.now(UTC)))
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 3600
    assert await used(spool, "one") == {"hourly_recipients": 250}
    # A raised limit takes effect at once, and others were never limited.
    await limit(spool, "one", hourly_recipients=251)
    assert await leased(spool, "one") == 1
    assert (await spool.acquire(spool.wish("two", 5000))).amount == 5000
    await limit(spool, "one")
    assert (await spool.acquire(spool.wish("one", 5000))).amount == 5000


async def test_leases_are_a_small_part_of_a_limit(spool: Spool) -> None:
    await limit(spool, "one", daily_recipients=10_000)
    assert (await spool.acquire(spool.wish("one", 5000))).amount == 500


async def test_a_limit_counts_the_whole_subtree(spool: Spool) -> None:
    await limit(spool, "reseller", daily_recipients=300)
    await limit(spool, "two", daily_recipients=1000)
    assert await leased(spool, "one", 100) == 300
    refused = await refusal(spool, "two")
    assert "of the account above" in refused.message
    assert (refused.metadata["scope"], "limit" in refused.metadata) == ("above", False)
    assert await used(spool, "reseller") == {"daily_recipients": 300}
    assert (await refusal(spool, "reseller")).metadata["scope"] == "own"


async def test_what_comes_back_counts_no_more(spool: Spool) -> None:
    await limit(spool, "reseller", monthly_recipients=100, hourly_recipients=1000)
    lease = await spool.acquire(spool.wish("one", 100))
    await refusal(spool, "two")
    await spool.tell(spool.received(lease, 1, 30), spool.released(lease, 70))
    assert await used(spool, "reseller") == {"monthly_recipients": 30, "hourly_recipients": 30}
    assert await leased(spool, "two") == 70


async def test_leases_of_others_are_called_back_before_it_is_refused(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.services.leases.LEASE_WAIT_SECONDS", 30.0)
    await limit(spool, "one", hourly_recipients=100)
    other = Spool(spool.control)
    await other.open()
    lease = await other.acquire(other.wish("one", 100))
    waiting = asyncio.create_task(spool.acquire(spool.wish("one", 10)))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await other.tell(other.released(lease, 100))
    assert (await waiting).amount == 10


async def test_money_is_a_limit_at_the_price_that_holds(spool: Spool) -> None:
    await limit(spool, "reseller", Price(currency_code="EUR", micros_per_thousand=2_000_000))
    await limit(spool, "one", monthly_spend_micros=300_000)
    assert await leased(spool, "one") == 150
    assert (await refusal(spool, "one")).metadata["cap"] == "monthly_spend_micros"
    assert await used(spool, "one") == {"monthly_spend_micros": 300_000}
    await limit(spool, "reseller", Price(currency_code="EUR", micros_per_thousand=1_000_000))
    assert await leased(spool, "one") == 150


@pytest.mark.each_postgres
async def test_the_next_window_starts_empty(spool: Spool, database: Database) -> None:
    await limit(spool, "one", hourly_recipients=100, daily_recipients=150)
    lease = await spool.acquire(spool.wish("one", 100))
    await refusal(spool, "one")
    await database.transact(
        lambda c: c.execute(
            "UPDATE lease_count SET hour_start = hour_start - interval '1 hour' WHERE tenant_id IN ('one', 'reseller')"
        )
    )
    assert await leased(spool, "one", 10) == 50
    assert (await refusal(spool, "one")).metadata["cap"] == "daily_recipients"
    # What comes back was taken in the hour before, but on this day.
    await database.transact(
        lambda c: c.execute("UPDATE lease SET created_at = date_trunc('hour', now()) - interval '1 second'")
    )
    await spool.tell(spool.released(lease, 100))
    counted = await database.transact(lambda c: windows.counted(c, ["one"]))
    assert counted["one"].hour == 50
    assert counted["one"].day == (50 if datetime.now(UTC).hour else 150)


async def test_leases_at_once_do_not_pass_a_limit(spool: Spool) -> None:
    await limit(spool, "reseller", hourly_recipients=500)
    wishes = [spool.wish(tenant, 100) for tenant in ("one", "two", "reseller") for _ in range(6)]
    results = await asyncio.gather(*(spool.acquire(wish) for wish in wishes), return_exceptions=True)
    assert sum(result.amount for result in results if not isinstance(result, BaseException)) == 500
    assert {result.reason for result in results if isinstance(result, Refusal)} == {Reason.RATE_LIMITED}
