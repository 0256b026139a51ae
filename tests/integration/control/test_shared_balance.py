"""Tenants that share the balance of one above: who pays, who is told what, and that the books stay exact."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import credit_service_pb2, history_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_pb2 import RefundPolicy, Tenant, TenantLimits
from barua.journal.v1.event_pb2 import Event

from control.model.messageids import first_at
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import PASSWORD, Control, basic
from tests.integration.control.test_credits_statements import audit, entries, move
from tests.integration.control.test_leases import Spool, figures
from tests.integration.control.test_policy_stream import watching

ID = first_at(datetime.now(UTC))
FAMILY = "tenants/family"


@pytest.fixture
async def spool(control: Control) -> Spool:
    """A worker, and a family: a tenant with 1,000 credits above two that share them, and one below one of those."""
    await control.tenant("family", credits=1000)
    for name, parent in ("ann", "family"), ("bob", "family"), ("cid", "ann"):
        await create(control, name, parent)
    spool = Spool(control)
    await spool.open()
    return spool


async def create(control: Control, tenant_id: str, parent: str, **more: Any) -> Tenant:
    """Make a tenant that shares, with a login."""
    kind = Tenant.KIND_RESELLER
    made: Tenant = await control.call(
        control.tenants.CreateTenant,
        tenant_service_pb2.CreateTenantRequest(
            parent=f"tenants/{parent}",
            tenant_id=tenant_id,
            tenant=Tenant(shares_balance=True, kind=kind),
            initial_login=tenant_service_pb2.InitialLogin(username=tenant_id, password=PASSWORD),
            **more,
        ),
    )
    return made


async def get(control: Control, tenant: str, as_: str = "") -> Tenant:
    request = tenant_service_pb2.GetTenantRequest(name=f"tenants/{tenant}")
    found: Tenant = await control.call(control.tenants.GetTenant, request, basic(as_) if as_ else None)
    return found


def share(tenant: str, shares: bool = True) -> tenant_service_pb2.UpdateTenantRequest:
    return tenant_service_pb2.UpdateTenantRequest(
        tenant=Tenant(name=f"tenants/{tenant}", shares_balance=shares), update_mask=FieldMask(paths=["shares_balance"])
    )


@pytest.mark.each_postgres
async def test_the_nearest_tenant_above_that_does_not_share_pays(spool: Spool) -> None:
    control = spool.control
    ann = await spool.acquire(spool.wish("ann", 100))
    cid = await spool.acquire(spool.wish("cid", 200))
    assert (ann.tenant_id, cid.tenant_id) == ("ann", "cid")
    assert await figures(control, FAMILY) == (700, 300, 0)
    await spool.tell(
        spool.received(ann, ID + 1, 30),
        spool.released(ann, 70),
        spool.received(cid, ID + 2, 50),
    )
    assert await figures(control, FAMILY) == (770, 150, 80)
    for name in "ann", "cid":
        assert await figures(control, f"tenants/{name}") == (0, 0, 0)
    found = await entries(control, FAMILY, basic("family"), kinds=[credit_service_pb2.LedgerEntry.KIND_USAGE])
    spent = {entry.counterparty: entry.amount for entry in found if entry.account == "consumed"}
    assert spent == {"tenants/ann": 30, "tenants/cid": 50}
    statement = await control.call(control.credits.GetStatement, credit_service_pb2.GetStatementRequest(tenant=FAMILY))
    assert (statement.granted, statement.consumed, statement.closing) == (1000, 80, 920)
    audited = await audit(control, FAMILY)
    assert not audited.discrepancies
    assert (audited.consumed, audited.available, audited.reserved) == (80, 770, 150)
    # A holder that starts anew and has forgotten its leases gives them back to who paid.
    await spool.open()
    assert await figures(control, FAMILY) == (920, 0, 80)
    assert not (await audit(control)).discrepancies


async def test_who_is_told_who_pays(spool: Spool) -> None:
    control = spool.control
    assert [(await get(control, name)).paying_tenant for name in ("family", "ann", "cid")] == [FAMILY] * 3
    cid = await get(control, "cid", as_="cid")
    assert (cid.shares_balance, cid.paying_tenant) == (True, "")
    request = credit_service_pb2.GetBalanceRequest(tenant="tenants/cid")
    for as_, payer in (None, FAMILY), (basic("family"), FAMILY), (basic("ann"), ""), (basic("cid"), ""):
        balance = await control.call(control.credits.GetBalance, request, as_)
        assert (balance.balance, balance.shared, balance.paying_tenant) == (0, True, payer)
    own = await control.balance(FAMILY)
    assert (own.balance, own.shared, own.paying_tenant) == (1000, False, FAMILY)


async def test_too_few_credits_are_told_without_a_name_or_a_figure(spool: Spool) -> None:
    control = spool.control
    await control.tenant("poor")
    await create(control, "poorer", "poor")
    with pytest.raises(Refusal) as refused:
        await spool.acquire(spool.wish("poorer", 5))
    assert refused.value.reason is Reason.INSUFFICIENT_CREDITS
    assert refused.value.metadata == {"tenant": "poorer", "needed": "5"}
    assert '"poor"' not in refused.value.message
    # All there is, is out with another worker, which does not give it back.
    other = Spool(control)
    await other.open()
    while (await control.balance(FAMILY)).available:
        await other.acquire(other.wish("bob", 10_000))
    with pytest.raises(Refusal) as refused:
        await spool.acquire(spool.wish("ann", 5))
    assert refused.value.reason is Reason.CREDITS_UNAVAILABLE
    assert refused.value.metadata == {"tenant": "ann"}
    assert "family" not in refused.value.message


async def test_credits_are_called_back_from_those_who_share_them(spool: Spool) -> None:
    control = spool.control
    leases = []
    while (await control.balance(FAMILY)).available:
        leases.append(await spool.acquire(spool.wish("cid", 10_000)))
    async with watching(control) as node:
        while not node.snapshots:
            await node.step()

        async def give_back() -> None:
            while "cid" not in node.recalls:
                await node.step()
            await spool.tell(*(spool.released(lease, lease.amount) for lease in leases))

        giving_back = asyncio.create_task(give_back())
        # For the same worker, but for another tenant.
        assert (await spool.acquire(spool.wish("bob", 50))).amount == 50
        await giving_back
    assert await figures(control, FAMILY) == (950, 50, 0)


async def test_limits_hold_for_those_who_share(spool: Spool) -> None:
    control = spool.control
    for tenant, most in ("ann", 150), ("family", 400):
        changed = Tenant(name=f"tenants/{tenant}", limits=TenantLimits(daily_recipients=most))
        await control.call(control.tenants.UpdateTenant, tenant_service_pb2.UpdateTenantRequest(tenant=changed))
    leased = {"cid": 0, "ann": 0, "bob": 0}
    for tenant in leased:
        with pytest.raises(Refusal) as refused:
            while True:
                leased[tenant] += (await spool.acquire(spool.wish(tenant, 1000))).amount
        assert refused.value.reason is Reason.RATE_LIMITED
    assert leased == {"cid": 150, "ann": 0, "bob": 250}
    used = {limit.limit: limit.used for limit in (await get(control, "family")).effective_terms.limits}
    assert used == {"daily_recipients": 400}
    assert await figures(control, FAMILY) == (600, 400, 0)


async def test_a_refund_goes_to_who_paid(spool: Spool) -> None:
    control = spool.control
    policy = Tenant(name=FAMILY, refund_policy=RefundPolicy(outcomes=[RefundPolicy.OUTCOME_BOUNCED]))
    await control.call(control.tenants.UpdateTenant, tenant_service_pb2.UpdateTenantRequest(tenant=policy))
    lease = await spool.acquire(spool.wish("cid", 10))
    await spool.tell(
        spool.received(lease, ID + 11, 2),
        spool.released(lease, 8),
        spool.outcome(Event.KIND_BOUNCED, "cid", ID + 11, 550, "no such user"),
    )
    async with asyncio.timeout(60):
        while await figures(control, FAMILY) != (1000, 0, 0):  # noqa: ASYNC110 - a consumer does it
            await asyncio.sleep(0.05)
    found = await entries(control, FAMILY, kinds=[credit_service_pb2.LedgerEntry.KIND_REFUND])
    assert {(entry.account, entry.amount, entry.counterparty) for entry in found} == {
        ("consumed", -2, "tenants/cid"),
        ("available", 2, "tenants/cid"),
    }
    assert not (await audit(control)).discrepancies


async def test_a_tenant_that_shares_has_no_credits_and_gets_none(spool: Spool) -> None:
    control = spool.control
    grant = credit_service_pb2.GrantCreditsRequest(tenant="tenants/ann", amount=1)
    assert await control.refused(control.credits.GrantCredits, grant) is Reason.FAILED_PRECONDITION
    for source, destination in (FAMILY, "tenants/ann"), ("tenants/ann", FAMILY):
        with pytest.raises(Refusal) as refused:
            await move(control, source, destination, 1, basic("family"))
        assert refused.value.reason is Reason.FAILED_PRECONDITION
    with pytest.raises(Refusal) as refused:
        await create(control, "dan", "family", initial_credits=5)
    assert refused.value.reason is Reason.FAILED_PRECONDITION
    assert await figures(control, FAMILY) == (1000, 0, 0)


async def test_sharing_begins_without_credits_and_ends_at_any_time(spool: Spool) -> None:
    control = spool.control
    update = control.tenants.UpdateTenant
    await control.tenant("eve", "family", credits=10)
    assert await control.refused(update, share("eve")) is Reason.FAILED_PRECONDITION
    lease = await spool.acquire(spool.wish("eve", 10))
    assert await control.refused(update, share("eve")) is Reason.FAILED_PRECONDITION
    await spool.tell(spool.received(lease, ID + 21, 10))
    assert await control.refused(update, share("eve"), basic("eve")) is Reason.PERMISSION_DENIED
    assert await control.refused(update, share("operator")) is Reason.FAILED_PRECONDITION
    assert (await control.call(update, share("eve"), basic("family"))).paying_tenant == FAMILY
    shared = await spool.acquire(spool.wish("eve", 20))
    assert await figures(control, FAMILY) == (980, 20, 0)
    # From now on it pays for itself, and cannot; what was leased before stays paid.
    assert (await control.call(update, share("eve", False))).paying_tenant == "tenants/eve"
    with pytest.raises(Refusal) as refused:
        await spool.acquire(spool.wish("eve", 20))
    assert refused.value.reason is Reason.INSUFFICIENT_CREDITS
    await spool.tell(spool.received(shared, ID + 22, 5), spool.released(shared, 15))
    assert await figures(control, FAMILY) == (995, 0, 5)
    assert await figures(control, "tenants/eve") == (0, 0, 10)
    await move(control, FAMILY, "tenants/eve", 5)
    assert (await spool.acquire(spool.wish("eve", 5))).amount == 5
    assert not (await audit(control)).discrepancies


async def test_one_that_shares_can_be_deleted_at_once(spool: Spool) -> None:
    control = spool.control
    lease = await spool.acquire(spool.wish("bob", 100))
    await control.call(control.tenants.DeleteTenant, tenant_service_pb2.DeleteTenantRequest(name="tenants/bob"))
    with pytest.raises(Refusal) as refused:
        await spool.acquire(spool.wish("bob", 1))
    assert refused.value.reason is Reason.NOT_FOUND
    # What it had accepted before is still told, and paid.
    await spool.tell(spool.received(lease, ID + 31, 40), spool.released(lease, 60))
    assert await figures(control, FAMILY) == (960, 0, 40)
    assert not (await audit(control)).discrepancies
    records = history_service_pb2.ListMessageRecordsRequest(parent=FAMILY, include_descendants=True)
    assert (await control.call(control.history.ListMessageRecords, records)).message_records


async def test_usage_is_told_with_all_below(spool: Spool) -> None:
    control = spool.control
    lease = await spool.acquire(spool.wish("cid", 10))
    received = spool.received(lease, ID + 41, 1)
    received.time.FromDatetime(datetime.now(UTC))
    received.sender = "news@cid.test"
    await spool.tell(received, spool.released(lease, 4))

    async def usage(tenant: str, as_: str = "") -> tenant_pb2.TenantUsage:
        request = tenant_service_pb2.GetTenantUsageRequest(name=f"tenants/{tenant}/usage")
        found: tenant_pb2.TenantUsage = await control.call(
            control.tenants.GetTenantUsage, request, basic(as_) if as_ else None
        )
        return found

    async with asyncio.timeout(60):
        while (await usage("family")).month_recipients != 1:  # noqa: ASYNC110 - a consumer counts
            await asyncio.sleep(0.05)
    family = await usage("me", as_="family")
    assert family.name == f"{FAMILY}/usage"
    assert (family.month_recipients, family.day_recipients, family.month_credits) == (1, 1, 6)
    assert (family.tenant_count, family.paying_tenant, family.available_credits) == (3, FAMILY, 994)
    start, end = family.month_start_time.ToDatetime(), family.month_end_time.ToDatetime()
    assert start <= datetime.now(UTC).replace(tzinfo=None) < end
    assert (start.day, end.day) == (1, 1)
    own = await usage("me", as_="cid")
    assert (own.month_recipients, own.tenant_count, own.paying_tenant) == (1, 0, "")
    assert not own.HasField("available_credits")
    assert (await usage("bob")).month_recipients == 0
    wrong = tenant_service_pb2.GetTenantUsageRequest(name="tenants/family")
    assert await control.refused(control.tenants.GetTenantUsage, wrong) is Reason.INVALID_ARGUMENT
