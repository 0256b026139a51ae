"""Credits that expire, refunds, statements and audits over gRPC."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import credit_service_pb2 as pb
from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_pb2 import RefundPolicy
from barua.journal.v1.event_pb2 import Event
from barua.policy.v1 import policy_service_pb2

from control.database import Connection, Database
from control.expiry import sweep
from control.model.messageids import first_at
from control.store import ledger
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, Metadata, basic, new_id
from tests.integration.control.test_leases import Spool, figures

RETURN = pb.WriteOffHolderRequest.DISPOSITION_RETURN
ID = first_at(datetime.now(UTC))


def time(moment: datetime) -> Timestamp:
    proto = Timestamp()
    proto.FromDatetime(moment)
    return proto


def soon(seconds: float = 3600.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def lend(database: Database, tenant_id: str, amount: int) -> None:
    """Grant credits that expire in an hour."""
    at = soon()
    await database.transact(lambda c: ledger.grant(c, tenant_id, amount, "", expire_at=at))


async def two_hours_later(database: Database) -> None:
    """Let time pass for all that expires."""

    async def work(connection: Connection) -> None:
        await connection.execute("ALTER TABLE ledger_posting DISABLE TRIGGER USER")
        for table in ("ledger_posting", "credit_lot"):
            await connection.execute(f"UPDATE {table} SET expire_at = expire_at - interval '2 hours'")
        await connection.execute(
            "UPDATE lease SET expire_at = ARRAY(SELECT at - interval '2 hours' FROM unnest(expire_at) AS at)"
        )
        await connection.execute("ALTER TABLE ledger_posting ENABLE TRIGGER USER")

    await database.transact(work)


async def move(control: Control, source: str, destination: str, amount: int, as_: Metadata | None = None) -> None:
    request = pb.TransferCreditsRequest(source=source, destination=destination, amount=amount, note="move")
    await control.call(control.credits.TransferCredits, request, as_)


async def entries(control: Control, tenant: str, as_: Metadata | None = None, **more: Any) -> list[pb.LedgerEntry]:
    request = pb.ListLedgerEntriesRequest(tenant=tenant, page_size=1, **more)
    found: list[pb.LedgerEntry] = []
    while True:
        page = await control.call(control.credits.ListLedgerEntries, request, as_)
        found += page.entries
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def audit(control: Control, tenant: str = "tenants/operator", as_: Metadata | None = None) -> Any:
    return await control.call(control.credits.AuditCredits, pb.AuditCreditsRequest(tenant=tenant), as_)


@pytest.mark.each_postgres
async def test_expiring_credits_go_first_and_keep_their_time(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    child = await control.tenant("child", "parent")
    later, sooner = soon(7200), soon(3600)
    for at, amount in (later, 50), (sooner, 30):
        await control.call(
            control.credits.GrantCredits, pb.GrantCreditsRequest(tenant=parent, amount=amount, expire_time=time(at))
        )
    assert [lot.amount for lot in (await control.balance(parent)).expiring] == [30, 50]
    await move(control, parent, child, 40, basic("parent"))
    assert [(lot.expire_time, lot.amount) for lot in (await control.balance(child)).expiring] == [
        (time(sooner), 30),
        (time(later), 10),
    ]
    assert [lot.amount for lot in (await control.balance(parent)).expiring] == [40]
    spool = Spool(control)
    await spool.open()
    lease = await spool.acquire(spool.wish("child", 35))
    await spool.tell(spool.received(lease, ID + 1, 32), spool.released(lease, 3))
    left = (await control.balance("logins/child")).expiring
    assert [(lot.expire_time, lot.amount) for lot in left] == [(time(later), 8)]
    await move(control, child, parent, 8, basic("parent"))
    assert [lot.amount for lot in (await control.balance(parent)).expiring] == [48]
    assert not (await audit(control)).discrepancies


async def test_what_is_unspent_expires_once(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant", credits=10)
    await lend(database, "tenant", 100)
    spool = Spool(control)
    await spool.open()
    lease = await spool.acquire(spool.wish("tenant", 40))
    await two_hours_later(database)
    # Used up by nobody: neither leased nor transferred any more, whether it was taken away yet or not.
    with pytest.raises(Refusal) as refused:
        await control.call(
            control.credits.TransferCredits,
            pb.TransferCreditsRequest(source=tenant, destination="tenants/operator", amount=51),
        )
    assert refused.value.reason is Reason.INSUFFICIENT_CREDITS
    await asyncio.gather(*(sweep(database) for _ in range(4)))
    assert await figures(control, tenant) == (10, 40, 0)
    # What is on lease may still be spent; what comes back of it expires.
    await spool.tell(spool.received(lease, ID + 2, 5), spool.released(lease, 35))
    await asyncio.gather(*(sweep(database) for _ in range(4)))
    assert await figures(control, tenant) == (10, 0, 5)
    expired = await entries(control, tenant, kinds=[pb.LedgerEntry.KIND_EXPIRE])
    assert [entry.amount for entry in expired] == [-35, -60]
    answer = await audit(control)
    assert (answer.expired, answer.consumed, answer.available, list(answer.discrepancies)) == (95, 5, 10, [])


async def test_leases_are_called_back_once_when_something_in_them_expires(control: Control, database: Database) -> None:
    await control.tenant("tenant")
    await lend(database, "tenant", 10)
    spool = Spool(control)
    await spool.open()
    await spool.acquire(spool.wish("tenant", 10))
    watch = control.policy.WatchPolicy(policy_service_pb2.WatchPolicyRequest(node="n"), metadata=control.node)
    recalls: list[str] = []

    async def follow() -> None:
        async for step in watch:
            if step.HasField("recall"):
                recalls.append(step.recall.tenant_id)  # noqa: PERF401 - seen while it goes on

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    await two_hours_later(database)
    for _ in range(3):
        await sweep(database)
    async with asyncio.timeout(60):
        while not recalls:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    following.cancel()
    assert recalls == ["tenant"]


async def test_a_grant_expires_in_the_future(control: Control) -> None:
    tenant = await control.tenant("tenant")
    for at in (soon(-1), soon(101 * 366 * 86_400)):
        request = pb.GrantCreditsRequest(tenant=tenant, amount=1, expire_time=time(at))
        with pytest.raises(Refusal) as refused:
            await control.call(control.credits.GrantCredits, request)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "expire_time")
    request = pb.GrantCreditsRequest(tenant=tenant, amount=1, expire_time=Timestamp(seconds=2**62))
    assert await control.refused(control.credits.GrantCredits, request) is Reason.INVALID_ARGUMENT


async def test_a_statement_tells_who_moved_what_and_adds_up(control: Control) -> None:
    parent = await control.tenant("parent")
    child = await control.tenant("child", "parent")
    await control.call(control.credits.GrantCredits, pb.GrantCreditsRequest(tenant=parent, amount=100, note="paid"))
    start = datetime.now(UTC)
    await move(control, parent, child, 60, basic("parent"))
    await move(control, child, parent, 10, basic("parent"))
    middle = datetime.now(UTC)
    spool = Spool(control)
    await spool.open()
    lease = await spool.acquire(spool.wish("child", 20))
    await spool.tell(spool.received(lease, ID + 3, 7))
    seen = await entries(control, child, basic("child"))
    assert [(entry.account, entry.amount, entry.balance) for entry in seen] == [
        ("consumed", 7, 43),
        ("reserved", -7, 43),
        ("reserved", 20, 50),
        ("available", -20, 30),
        ("available", -10, 50),
        ("available", 60, 60),
    ]
    assert {entry.counterparty for entry in seen[-2:]} == {"tenants/parent"}
    assert seen[-1].actor.startswith("tenants/parent")
    assert seen[0].actor == ""
    grant = (await entries(control, parent, basic("parent")))[-1]
    assert (grant.note, grant.balance, grant.counterparty) == ("paid", 100, "")
    assert grant.actor.startswith("tenants/operator")
    transfers = await entries(
        control, child, start_time=time(start), end_time=time(middle), kinds=[pb.LedgerEntry.KIND_TRANSFER]
    )
    assert [entry.amount for entry in transfers] == [-10, 60]

    async def statement(**period: Timestamp) -> pb.Statement:
        request = pb.GetStatementRequest(tenant=child, **period)
        answer: pb.Statement = await control.call(control.credits.GetStatement, request, basic("child"))
        return answer

    first, second = await statement(end_time=time(middle)), await statement(start_time=time(middle))
    assert (first.opening, first.transferred_in, first.transferred_out, first.closing) == (0, 60, 10, 50)
    assert (second.opening, second.consumed, second.closing) == (50, 7, 43)
    assert (await statement()).closing == 43
    for request in (
        pb.GetStatementRequest(tenant=child, start_time=time(middle), end_time=time(start)),
        pb.GetStatementRequest(tenant=child, start_time=Timestamp(seconds=2**62)),
    ):
        assert await control.refused(control.credits.GetStatement, request) is Reason.INVALID_ARGUMENT
    unknown = pb.ListLedgerEntriesRequest(tenant=child, kinds=[99])  # type: ignore[list-item]
    assert await control.refused(control.credits.ListLedgerEntries, unknown) is Reason.INVALID_ARGUMENT


async def test_an_audit_finds_a_balance_that_is_not_the_sum_of_its_entries(
    control: Control, database: Database
) -> None:
    await control.tenant("reseller", credits=100)
    child = await control.tenant("child", "reseller")
    await move(control, "tenants/reseller", child, 40)
    answer = await audit(control, "tenants/me", basic("reseller"))
    assert (answer.tenant_count, answer.granted, answer.transferred_in, answer.transferred_out) == (2, 100, 40, 40)
    assert (answer.available, list(answer.discrepancies)) == (100, [])
    await database.transact(lambda c: c.execute("UPDATE account SET available = 41 WHERE tenant_id = 'child'"))
    answer = await audit(control)
    assert [(wrong.tenant, wrong.subject, wrong.expected, wrong.found) for wrong in answer.discrepancies] == [
        (child, "balance: available", 40, 41)
    ]
    await control.tenant("other")
    assert not (await audit(control, "tenants/other")).discrepancies


async def refund(control: Control, tenant: str, *outcomes: RefundPolicy.Outcome.ValueType) -> None:
    changed = tenant_pb2.Tenant(name=tenant, refund_policy=RefundPolicy(outcomes=outcomes))
    await control.call(control.tenants.UpdateTenant, tenant_service_pb2.UpdateTenantRequest(tenant=changed))


async def test_credits_come_back_for_the_outcomes_of_the_policy(control: Control, database: Database) -> None:
    reseller = await control.tenant("reseller")
    tenant = await control.tenant("tenant", "reseller", credits=100)
    other = await control.tenant("other", credits=100)
    await refund(control, reseller, RefundPolicy.OUTCOME_BOUNCED)
    spool = Spool(control)
    await spool.open()
    lease = await spool.acquire(spool.wish("tenant", 50))
    elsewhere = await spool.acquire(spool.wish("other", 50))
    await spool.tell(*(spool.received(lease, ID + number, 2) for number in range(10, 14)))
    await spool.tell(spool.received(elsewhere, ID + 20))
    await spool.tell(
        spool.outcome(Event.KIND_BOUNCED, "tenant", ID + 10, 550, "no"),
        spool.outcome(Event.KIND_DELIVERED, "tenant", ID + 11, 250, "ok"),
        spool.outcome(Event.KIND_EXPIRED, "tenant", ID + 12, 0, "late"),
        spool.outcome(Event.KIND_BOUNCED, "tenant", ID + 13, 550, "no"),
        spool.outcome(Event.KIND_BOUNCED, "tenant", ID + 10, 550, "no"),
        spool.outcome(Event.KIND_BOUNCED, "tenant", ID + 99, 550, "never charged"),
        spool.outcome(Event.KIND_BOUNCED, "other", ID + 20, 550, "no"),
    )
    async with asyncio.timeout(60):
        while (await control.balance(tenant)).consumed != 4:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    assert await figures(control, tenant) == (54, 42, 4)
    assert await figures(control, other) == (50, 49, 1)
    answer = await audit(control)
    assert (answer.consumed, answer.refunded, list(answer.discrepancies)) == (9, 4, [])


async def test_the_credits_of_a_lost_spool_are_written_off(control: Control) -> None:
    tenant = await control.tenant("tenant", credits=1000)
    kept, spent = Spool(control), Spool(control)
    leases = []
    for spool in (kept, spent):
        await spool.open()
        leases.append(await spool.acquire(spool.wish("tenant", 100)))
        await spool.tell(spool.received(leases[-1], ID + 30 + spool.epoch, 10))
    listed = await control.call(control.credits.ListHolders, pb.ListHoldersRequest())
    assert {(holder.holder, holder.reserved) for holder in listed.holders} == {(kept.holder, 90), (spent.holder, 90)}
    give_back = pb.WriteOffHolderRequest(
        holder=kept.holder,
        disposition=RETURN,
        note="disk lost",
        request_id=new_id(),
    )
    for _ in range(2):
        answer = await control.call(control.credits.WriteOffHolder, give_back)
        assert (answer.lease_count, answer.amount) == (1, 90)
    assert await figures(control, tenant) == (890, 90, 20)
    consume = pb.WriteOffHolderRequest(
        holder=spent.holder, disposition=pb.WriteOffHolderRequest.DISPOSITION_CONSUME, note="disk lost"
    )
    await control.call(control.credits.WriteOffHolder, consume)
    assert await figures(control, tenant) == (890, 0, 110)
    assert await control.refused(control.credits.WriteOffHolder, consume) is Reason.FAILED_PRECONDITION
    # The spool turns up again: its history is taken, its credits move nothing, and it gets no more.
    await kept.tell(kept.received(leases[0], ID + 40, 80), kept.released(leases[0], 10))
    assert await kept.refused(kept.received(leases[0], ID + 41, 1)) is Reason.FAILED_PRECONDITION
    assert await figures(control, tenant) == (890, 0, 110)
    kept.sequence -= 1
    wish = kept.wish("tenant", 1)
    assert await control.refused(control.leases.AcquireLease, wish, control.node) is Reason.FAILED_PRECONDITION
    with pytest.raises(Refusal, match="written off"):
        await kept.open()
    answer = await audit(control)
    assert (answer.written_off, list(answer.discrepancies)) == (90, [])
    entry = (await entries(control, tenant, basic("tenant"), kinds=[pb.LedgerEntry.KIND_WRITE_OFF]))[0]
    assert (entry.note, entry.actor.partition(" ")[0]) == ("disk lost", "tenants/operator")
    for wrong, field in (
        (pb.WriteOffHolderRequest(holder=new_id(), disposition=RETURN, note=""), "note"),
        (pb.WriteOffHolderRequest(holder=new_id(), note="x"), "disposition"),
        (pb.WriteOffHolderRequest(holder="x", disposition=RETURN, note="x"), "holder"),
    ):
        with pytest.raises(Refusal) as refused:
            await control.call(control.credits.WriteOffHolder, wrong)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, field)
    gone = pb.WriteOffHolderRequest(holder=new_id(), disposition=RETURN, note="x")
    assert await control.refused(control.credits.WriteOffHolder, gone) is Reason.NOT_FOUND
