"""Leases and the journal: crashes at every step, replays, unsound nodes; the ledger stays exact."""

import asyncio
import time
from collections.abc import Iterable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import history_service_pb2, lease_service_pb2
from barua.control.v1.credit_service_pb2 import TransferCreditsRequest
from barua.journal.v1 import journal_service_pb2
from barua.journal.v1.event_pb2 import Event

from control.database import Database
from control.store import leases as store
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id
from tests.support.waiting import in_time_async

NOON = Timestamp(seconds=1_800_000_000)


class Spool:
    """The part of a worker that control sees: a holder with an outbox."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.holder = new_id()
        self.epoch = 0
        self.sequence = 0

    async def open(self, known: Iterable[int] = ()) -> None:
        """Start a run."""
        self.epoch += 1
        request = lease_service_pb2.OpenHolderRequest(holder=self.holder, epoch=self.epoch, lease_ids=known)
        await self.control.call(self.control.leases.OpenHolder, request, self.control.node)

    def wish(self, tenant_id: str, amount: int) -> lease_service_pb2.AcquireLeaseRequest:
        """A request for a lease."""
        return lease_service_pb2.AcquireLeaseRequest(
            holder=self.holder, epoch=self.epoch, tenant_id=tenant_id, amount=amount, request_id=new_id()
        )

    async def acquire(self, request: lease_service_pb2.AcquireLeaseRequest) -> lease_service_pb2.Lease:
        """Ask for a lease."""
        lease: lease_service_pb2.Lease = await self.control.call(
            self.control.leases.AcquireLease, request, self.control.node
        )
        return lease

    def received(self, lease: lease_service_pb2.Lease, recipient_id: int, credits: int = 1, **fields: object) -> Event:
        """A recipient was accepted."""
        self.sequence += 1
        return Event(
            sequence=self.sequence,
            kind=Event.KIND_RECEIVED,
            time=NOON,
            tenant_id=lease.tenant_id,
            recipient_id=recipient_id,
            message_id=recipient_id,
            recipient="Ann@example.net",
            lease_id=lease.lease_id,
            credits=credits,
            **fields,  # type: ignore[arg-type]
        )

    def released(self, lease: lease_service_pb2.Lease, credits: int) -> Event:
        """The rest of a lease goes back."""
        self.sequence += 1
        return Event(
            sequence=self.sequence,
            kind=Event.KIND_LEASE_RELEASED,
            time=NOON,
            tenant_id=lease.tenant_id,
            lease_id=lease.lease_id,
            credits=credits,
        )

    def outcome(self, kind: Event.Kind.ValueType, tenant_id: str, recipient_id: int, code: int, text: str) -> Event:
        """An attempt ended."""
        self.sequence += 1
        return Event(
            sequence=self.sequence,
            kind=kind,
            time=NOON,
            tenant_id=tenant_id,
            recipient_id=recipient_id,
            message_id=recipient_id,
            attempt=1,
            code=code,
            enhanced_code=f"{code // 100}.0.0",
            text=text,
            remote_host="mx.example.net",
        )

    def push(self, *events: Event) -> journal_service_pb2.PushEventsRequest:
        """The request that tells control."""
        return journal_service_pb2.PushEventsRequest(holder=self.holder, node="node1", events=events)

    async def tell(self, *events: Event) -> int:
        """Push events; the recorded sequence."""
        answer = await self.control.call(self.control.journal.PushEvents, self.push(*events), self.control.node)
        return int(answer.recorded_sequence)

    async def refused(self, *events: Event) -> Reason:
        """The reason why a push is refused."""
        return await self.control.refused(self.control.journal.PushEvents, self.push(*events), self.control.node)


async def figures(control: Control, tenant: str) -> tuple[int, int, int]:
    balance = await control.balance(tenant)
    return balance.available, balance.reserved, balance.consumed


@pytest.fixture
async def spool(control: Control) -> Spool:
    await control.tenant("tenant", credits=1000)
    spool = Spool(control)
    await spool.open()
    return spool


async def test_a_lease_takes_half_and_the_last_credits_whole(spool: Spool) -> None:
    amounts = [(await spool.acquire(spool.wish("tenant", 10_000))).amount for _ in range(5)]
    assert amounts == [500, 250, 125, 100, 25]
    assert await figures(spool.control, "tenants/tenant") == (0, 1000, 0)


@pytest.mark.each_postgres
async def test_usage_and_release_move_what_was_reserved(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 100))
    await spool.tell(spool.received(lease, 1), spool.received(lease, 2, credits=3))
    assert await figures(spool.control, "tenants/tenant") == (900, 96, 4)
    await spool.tell(spool.received(lease, 3), spool.released(lease, 95))
    assert await figures(spool.control, "tenants/tenant") == (995, 0, 5)


async def test_a_lost_answer_is_the_same_lease_again(spool: Spool) -> None:
    request = spool.wish("tenant", 100)
    leases = await asyncio.gather(*(spool.acquire(request) for _ in range(5)))
    assert len({lease.lease_id for lease in leases}) == 1
    assert await figures(spool.control, "tenants/tenant") == (900, 100, 0)


async def test_a_lease_that_never_reached_its_holder_is_returned_at_its_next_start(spool: Spool) -> None:
    known = await spool.acquire(spool.wish("tenant", 100))
    lost = spool.wish("tenant", 50)
    await spool.acquire(lost)
    await spool.open([known.lease_id])
    assert await figures(spool.control, "tenants/tenant") == (900, 100, 0)
    lost.epoch = spool.epoch
    reason = await spool.control.refused(spool.control.leases.AcquireLease, lost, spool.control.node)
    assert reason is Reason.FAILED_PRECONDITION


async def test_a_late_repeat_of_open_holder_spares_the_leases_of_the_run(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 100))
    spool.epoch -= 1
    await spool.open()
    await spool.tell(spool.received(lease, 1, credits=100))
    assert await figures(spool.control, "tenants/tenant") == (900, 0, 100)


async def test_an_earlier_run_is_fenced(spool: Spool) -> None:
    stale = spool.wish("tenant", 100)
    await spool.open()
    refused = spool.control.refused
    assert await refused(spool.control.leases.AcquireLease, stale, spool.control.node) is Reason.FAILED_PRECONDITION
    request = lease_service_pb2.OpenHolderRequest(holder=spool.holder, epoch=1)
    assert await refused(spool.control.leases.OpenHolder, request, spool.control.node) is Reason.FAILED_PRECONDITION
    stranger = Spool(spool.control)
    stranger.epoch = 1
    request_of_stranger = stranger.wish("tenant", 1)
    reason = await refused(spool.control.leases.AcquireLease, request_of_stranger, spool.control.node)
    assert reason is Reason.FAILED_PRECONDITION


async def test_the_last_credits_are_called_back_for_another_holder(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.services.leases.LEASE_WAIT_SECONDS", 30.0)
    tenant = "tenants/tenant"
    leases = [await spool.acquire(spool.wish("tenant", 10_000)) for _ in range(5)]
    other = Spool(spool.control)
    await other.open()
    asking = asyncio.create_task(other.acquire(other.wish("tenant", 30)))
    await asyncio.sleep(0.3)
    await spool.tell(spool.received(leases[0], 1, credits=400), spool.released(leases[0], 100))
    assert (await asking).amount == 30
    assert await figures(spool.control, tenant) == (70, 530, 400)


async def test_no_credits_anywhere_is_told_at_once(spool: Spool) -> None:
    await spool.control.tenant("poor")
    refused = spool.control.refused
    request = spool.wish("poor", 1)
    assert await refused(spool.control.leases.AcquireLease, request, spool.control.node) is Reason.INSUFFICIENT_CREDITS
    request = spool.wish("nobody", 1)
    assert await refused(spool.control.leases.AcquireLease, request, spool.control.node) is Reason.NOT_FOUND


async def test_a_replayed_batch_changes_nothing(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 100))
    first = [spool.received(lease, number) for number in range(1, 11)]
    second = [spool.outcome(Event.KIND_DELIVERED, "tenant", number, 250, "Ok") for number in range(1, 11)]
    assert await spool.tell(*first) == 10
    assert await spool.tell(*first, *second) == 20
    assert await spool.tell(*first, *second) == 20
    results = await asyncio.gather(*(spool.tell(*first, *second) for _ in range(4)))
    assert results == [20] * 4
    assert await figures(spool.control, "tenants/tenant") == (900, 90, 10)
    record = await get_record(spool.control, 1)
    assert [event.sequence for event in record.events] == [1, 11]


async def test_usage_that_no_lease_covers_is_refused_whole(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 10))
    other = Spool(spool.control)
    await other.open()
    good = spool.received(lease, 1)
    assert await spool.refused(good, spool.received(lease, 2, credits=10)) is Reason.FAILED_PRECONDITION
    assert await other.refused(other.received(lease, 3)) is Reason.FAILED_PRECONDITION
    lease_of_nobody = lease_service_pb2.Lease(lease_id=10**9, tenant_id="tenant")
    assert await spool.refused(spool.received(lease_of_nobody, 4)) is Reason.FAILED_PRECONDITION
    assert await figures(spool.control, "tenants/tenant") == (990, 10, 0)
    assert await spool.tell(good) == 1


async def test_credits_spent_without_a_lease_are_refused(spool: Spool) -> None:
    nobody = lease_service_pb2.Lease(lease_id=0, tenant_id="tenant")
    assert await spool.refused(spool.received(nobody, 1)) is Reason.FAILED_PRECONDITION
    assert await spool.tell(spool.received(nobody, 1, credits=0)) == spool.sequence


async def test_leases_wait_while_a_transfer_does(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that send: what the one gives back must not go to the other before the transfer has it."""
    monkeypatch.setattr(store, "HOLD_SECONDS", 30.0)
    monkeypatch.setattr("control.services.credits.TRANSFER_WAIT_SECONDS", 30.0)
    monkeypatch.setattr("control.services.leases.LEASE_WAIT_SECONDS", 4.0)
    child = await spool.control.tenant("child", "tenant")
    leases = [await spool.acquire(spool.wish("tenant", 10_000)) for _ in range(5)]
    other = Spool(spool.control)
    await other.open()
    request = TransferCreditsRequest(source="tenants/tenant", destination=child, amount=985)
    moving = asyncio.create_task(spool.control.call(spool.control.credits.TransferCredits, request))
    await asyncio.sleep(0.2)
    eager = [asyncio.create_task(one.acquire(one.wish("tenant", 10_000))) for one in (spool, other)]
    await spool.tell(spool.received(leases[0], 1, credits=10))
    for lease, rest in zip(leases, [490, 250, 125, 100, 25], strict=True):
        await spool.tell(spool.released(lease, rest))
        await asyncio.sleep(0.1)
    assert (await moving).source.balance == 5
    results = await asyncio.gather(*eager, return_exceptions=True)
    assert [result.amount for result in results if isinstance(result, lease_service_pb2.Lease)] == [5]
    assert [result.reason for result in results if isinstance(result, Refusal)] == [Reason.CREDITS_UNAVAILABLE]
    assert await figures(spool.control, "tenants/tenant") == (0, 5, 10)


async def test_a_hold_ends_by_itself_and_a_pause_follows(spool: Spool, database: Database) -> None:
    async def hold() -> None:
        await database.transact(lambda connection: store.recall(connection, "tenant", hold=True))

    async def seconds() -> float:
        """Until there is a lease, right after one more hold was asked for."""
        await hold()
        started = time.monotonic()
        lease = await spool.acquire(spool.wish("tenant", 10))
        assert lease.amount == 10
        return time.monotonic() - started

    assert await seconds() > 1.5
    # An attempt that a busy machine drew out beyond the pause is followed by another hold.
    await in_time_async(seconds, 0.5)


async def test_malformed_batches_are_refused(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 10))
    one, two = spool.received(lease, 1), spool.received(lease, 2)
    assert await spool.refused(two, one) is Reason.INVALID_ARGUMENT
    assert await spool.refused(Event(sequence=9, kind=Event.KIND_UNSPECIFIED)) is Reason.INVALID_ARGUMENT
    too_many = (Event(sequence=number, kind=Event.KIND_DELIVERED) for number in range(1, 10_002))
    assert await spool.refused(*too_many) is Reason.INVALID_ARGUMENT
    assert await spool.refused(spool.received(lease, 3, credits=-1)) is Reason.INVALID_ARGUMENT


async def get_record(control: Control, recipient_id: int) -> history_service_pb2.MessageRecord:
    name = f"tenants/tenant/messages/{recipient_id}"
    request = history_service_pb2.GetMessageRecordRequest(name=name)
    record: history_service_pb2.MessageRecord = await control.call(control.history.GetMessageRecord, request)
    return record


async def test_history_tells_what_happened(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 10))
    received = spool.received(lease, 7, sender="a@x.test", subject="Hi\0there", size_bytes=42, source="smtp")
    await spool.tell(received, spool.outcome(Event.KIND_DEFERRED, "tenant", 7, 451, "Later"))
    record = await get_record(spool.control, 7)
    assert record.state == history_service_pb2.MessageRecord.STATE_QUEUED
    assert record.last_reply == "451 4.0.0 Later"
    await spool.tell(spool.outcome(Event.KIND_DELIVERED, "tenant", 7, 250, "Ok"))
    await spool.tell(spool.outcome(Event.KIND_DEFERRED, "tenant", 7, 451, "a late word"))
    record = await get_record(spool.control, 7)
    assert record.state == history_service_pb2.MessageRecord.STATE_DELIVERED
    assert (record.last_reply, record.subject, record.size_bytes) == ("250 2.0.0 Ok", "Hi�there", 42)
    assert [event.kind for event in record.events] == [1, 3, 2, 3]
    assert (record.events[0].sender, record.events[0].source) == ("a@x.test", "smtp")
    missing = history_service_pb2.GetMessageRecordRequest(name="tenants/tenant/messages/8")
    assert await spool.control.refused(spool.control.history.GetMessageRecord, missing) is Reason.NOT_FOUND


async def test_history_is_listed_newest_first_and_by_recipient(spool: Spool) -> None:
    lease = await spool.acquire(spool.wish("tenant", 10))
    await spool.tell(*(spool.received(lease, number) for number in range(1, 6)))
    request = history_service_pb2.ListMessageRecordsRequest(
        parent="tenants/me", recipient="ann@EXAMPLE.net", page_size=3
    )
    first = await spool.control.call(spool.control.history.ListMessageRecords, request, basic("tenant"))
    request.page_token = first.next_page_token
    second = await spool.control.call(spool.control.history.ListMessageRecords, request, basic("tenant"))
    names = [record.name for record in (*first.message_records, *second.message_records)]
    assert names == [f"tenants/tenant/messages/{number}" for number in (5, 4, 3, 2, 1)]
    request.recipient, request.page_token = "bob@example.net", ""
    assert not (await spool.control.call(spool.control.history.ListMessageRecords, request)).message_records


async def test_an_event_of_an_unknown_recipient_is_no_error(spool: Spool, database: Database) -> None:
    await spool.tell(spool.outcome(Event.KIND_BOUNCED, "tenant", 99, 550, "No"))
    count = await database.transact(lambda connection: connection.fetchval("SELECT count(*) FROM delivery_event"))
    assert count == 1
