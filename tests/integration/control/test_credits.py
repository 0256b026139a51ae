"""Credits over gRPC: grants, transfers, statements, recalls; nothing is lost and nothing is spent twice."""

import asyncio

import pytest

from barua.control.v1 import credit_service_pb2, lease_service_pb2, tenant_service_pb2
from barua.control.v1.credit_service_pb2 import TransferCreditsRequest
from barua.journal.v1 import journal_service_pb2
from barua.journal.v1.event_pb2 import Event
from barua.policy.v1 import policy_service_pb2

from control.database import Database
from control.model.credits import Account, Movement
from control.store import ledger
from control.store.ledger import Posting
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, basic, new_id


def transfer(source: str, destination: str, amount: int, request_id: str = "") -> TransferCreditsRequest:
    return TransferCreditsRequest(source=source, destination=destination, amount=amount, request_id=request_id)


@pytest.mark.each_postgres
async def test_credits_move_between_parent_and_child_either_way(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    child = await control.tenant("child", "parent")
    answer = await control.call(control.credits.TransferCredits, transfer(parent, child, 60), basic("parent"))
    assert (answer.source.balance, answer.destination.balance) == (40, 60)
    back = transfer("logins/child", "tenants/me", 10)
    answer = await control.call(control.credits.TransferCredits, back, basic("parent"))
    assert (answer.source.tenant, answer.source.balance, answer.destination.balance) == (child, 50, 50)


async def test_unsound_transfers_are_refused_and_move_nothing(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    left, right = await control.tenant("left", "parent"), await control.tenant("right", "parent")
    for request, reason in [
        (transfer(parent, left, 101), Reason.INSUFFICIENT_CREDITS),
        (transfer(parent, left, 0), Reason.INVALID_ARGUMENT),
        (transfer(parent, left, -5), Reason.INVALID_ARGUMENT),
        (transfer(parent, left, 10**15 + 1), Reason.INVALID_ARGUMENT),
        (transfer(parent, parent, 1), Reason.INVALID_ARGUMENT),
        (transfer(left, right, 1), Reason.INVALID_ARGUMENT),
        (transfer("tenants/operator", left, 1), Reason.NOT_FOUND),
        (transfer("logins/nobody", left, 1), Reason.NOT_FOUND),
        (transfer("parent", left, 1), Reason.INVALID_ARGUMENT),
    ]:
        assert await control.refused(control.credits.TransferCredits, request, basic("parent")) is reason, request
    assert [(await control.balance(name)).balance for name in (parent, left, right)] == [100, 0, 0]


async def test_64_concurrent_transfers_never_overdraw(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    children = [await control.tenant(f"child{number}", "parent") for number in range(4)]
    requests = [transfer(parent, children[number % 4], 5) for number in range(48)]
    requests += [transfer(children[number % 4], parent, 1) for number in range(16)]
    calls = [control.call(control.credits.TransferCredits, request) for request in requests]
    results = await asyncio.gather(*calls, return_exceptions=True)
    balances = [(await control.balance(name)).balance for name in (parent, *children)]
    moved = sum(5 for result in results[:48] if not isinstance(result, Exception))
    returned = sum(1 for result in results[48:] if not isinstance(result, Exception))
    assert balances[0] == 100 - moved + returned
    assert sum(balances) == 100
    assert min(balances) >= 0
    assert 100 <= moved <= 115


async def test_a_repeated_request_moves_credits_once(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    child = await control.tenant("child", "parent")
    request = transfer(parent, child, 30, new_id())
    answers = await asyncio.gather(*(control.call(control.credits.TransferCredits, request) for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert (await control.balance(parent)).balance == 70
    request.amount = 31
    assert await control.refused(control.credits.TransferCredits, request) is Reason.REQUEST_ID_REUSED


async def test_a_refused_request_is_not_recorded(control: Control) -> None:
    parent = await control.tenant("parent")
    child = await control.tenant("child", "parent")
    request = transfer(parent, child, 30, new_id())
    assert await control.refused(control.credits.TransferCredits, request) is Reason.INSUFFICIENT_CREDITS
    await control.call(control.credits.GrantCredits, credit_service_pb2.GrantCreditsRequest(tenant=parent, amount=30))
    await control.call(control.credits.TransferCredits, request)
    assert (await control.balance(child)).balance == 30


async def test_a_dry_run_changes_nothing(control: Control) -> None:
    parent = await control.tenant("parent", credits=10)
    child = await control.tenant("child", "parent")
    request = transfer(parent, child, 10)
    request.validate_only = True
    assert (await control.call(control.credits.TransferCredits, request)).destination.balance == 10
    assert (await control.balance(child)).balance == 0
    request.amount = 11
    assert await control.refused(control.credits.TransferCredits, request) is Reason.INSUFFICIENT_CREDITS


async def test_only_the_operator_grants(control: Control) -> None:
    tenant = await control.tenant("tenant")
    request = credit_service_pb2.GrantCreditsRequest(tenant=tenant, amount=1)
    assert await control.refused(control.credits.GrantCredits, request, basic("tenant")) is Reason.PERMISSION_DENIED


async def test_no_balance_can_overflow(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    postings = [Posting(None, Account.ISSUANCE, -(10**18 - 1)), Posting("tenant", Account.AVAILABLE, 10**18 - 1)]
    await database.transact(lambda connection: ledger.post(connection, Movement.GRANT, postings))
    request = credit_service_pb2.GrantCreditsRequest(tenant=tenant, amount=2)
    assert await control.refused(control.credits.GrantCredits, request) is Reason.FAILED_PRECONDITION
    request.amount = 1
    assert (await control.call(control.credits.GrantCredits, request)).balance == 10**18


async def test_a_new_tenant_gets_its_credits_from_its_parent_or_is_not_made(control: Control) -> None:
    parent = await control.tenant("parent", credits=10)
    request = tenant_service_pb2.CreateTenantRequest(parent=parent, tenant_id="child", initial_credits=11)
    assert await control.refused(control.tenants.CreateTenant, request) is Reason.INSUFFICIENT_CREDITS
    get = tenant_service_pb2.GetTenantRequest(name="tenants/child")
    assert await control.refused(control.tenants.GetTenant, get) is Reason.NOT_FOUND
    request.initial_credits = 10
    await control.call(control.tenants.CreateTenant, request)
    assert (await control.balance("tenants/child")).available == 10


async def test_the_statement_tells_every_movement_newest_first_in_pages(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    child = await control.tenant("child", "parent")
    for amount in (1, 2, 3):
        await control.call(control.credits.TransferCredits, transfer(parent, child, amount))
    request = credit_service_pb2.ListLedgerEntriesRequest(tenant=parent, page_size=3)
    first = await control.call(control.credits.ListLedgerEntries, request)
    request.page_token = first.next_page_token
    second = await control.call(control.credits.ListLedgerEntries, request)
    assert [entry.amount for entry in (*first.entries, *second.entries)] == [-3, -2, -1, 100]
    assert second.next_page_token == ""
    assert second.entries[0].kind == credit_service_pb2.LedgerEntry.KIND_GRANT
    request.tenant = child
    assert await control.refused(control.credits.ListLedgerEntries, request) is Reason.INVALID_ARGUMENT


async def lease_all(control: Control, tenant_id: str, holder: str, amount: int) -> lease_service_pb2.Lease:
    start = lease_service_pb2.OpenHolderRequest(holder=holder, epoch=1)
    await control.call(control.leases.OpenHolder, start, control.node)
    request = lease_service_pb2.AcquireLeaseRequest(
        holder=holder, epoch=1, tenant_id=tenant_id, amount=amount, request_id=new_id()
    )
    lease: lease_service_pb2.Lease = await control.call(control.leases.AcquireLease, request, control.node)
    return lease


async def release(control: Control, holder: str, lease: lease_service_pb2.Lease, spent: int) -> None:
    of_lease = {"tenant_id": lease.tenant_id, "lease_id": lease.lease_id}
    events = [
        Event(sequence=1, kind=Event.KIND_RECEIVED, recipient_id=1, credits=spent, **of_lease),  # type: ignore[arg-type]
        Event(sequence=2, kind=Event.KIND_LEASE_RELEASED, credits=lease.amount - spent, **of_lease),  # type: ignore[arg-type]
    ]
    request = journal_service_pb2.PushEventsRequest(holder=holder, node="n", events=events)
    await control.call(control.journal.PushEvents, request, control.node)


async def test_a_transfer_calls_leased_credits_back(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.services.credits.TRANSFER_WAIT_SECONDS", 30.0)
    parent = await control.tenant("parent", credits=100)
    child = await control.tenant("child", "parent")
    holder = new_id()
    lease = await lease_all(control, "parent", holder, 100)
    assert (await control.balance(parent)).reserved == 100

    async def node() -> None:
        watch = control.policy.WatchPolicy(policy_service_pb2.WatchPolicyRequest(node="n"), metadata=control.node)
        async for step in watch:
            if step.WhichOneof("step") == "recall":
                assert step.recall.tenant_id == "parent"
                await release(control, holder, lease, 20)
                return

    watching = asyncio.create_task(node())
    await asyncio.sleep(0.2)
    answer = await control.call(control.credits.TransferCredits, transfer(parent, child, 80))
    await watching
    assert (answer.source.balance, answer.source.consumed, answer.destination.balance) == (0, 20, 80)


async def test_a_transfer_gives_up_when_leased_credits_do_not_come_back(control: Control) -> None:
    parent = await control.tenant("parent", credits=100)
    child = await control.tenant("child", "parent")
    await lease_all(control, "parent", new_id(), 100)
    request = transfer(parent, child, 80, new_id())
    assert await control.refused(control.credits.TransferCredits, request) is Reason.CREDITS_UNAVAILABLE
    assert ((await control.balance(parent)).balance, (await control.balance(child)).balance) == (100, 0)


async def test_the_ledger_refuses_to_be_rewritten_or_unbalanced(control: Control, database: Database) -> None:
    await control.tenant("tenant", credits=5)
    for statement in (
        "UPDATE ledger_posting SET amount = amount + 1",
        "DELETE FROM ledger_posting",
        "UPDATE ledger_transaction SET note = 'x'",
        "INSERT INTO ledger_posting (transaction_id, tenant_id, account, amount)"
        " SELECT max(transaction_id), 'tenant', 'available', 1 FROM ledger_transaction",
        "INSERT INTO ledger_posting (transaction_id, tenant_id, account, amount)"
        " SELECT max(transaction_id), 'tenant', account, amount FROM ledger_transaction,"
        " (VALUES ('available', -6), ('consumed', 6)) AS posting (account, amount) GROUP BY account, amount",
    ):
        try:
            await database.transact(lambda connection, text=statement: connection.execute(text))  # type: ignore[misc]
        except Exception as error:
            assert "ledger" in str(error) or "account" in str(error), error
        else:
            raise AssertionError(f"not refused: {statement}")
