"""WatchEvents: in order, without gaps and repeats, also across a resume; for one's own subtree only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from barua.control.v1 import lease_service_pb2
from barua.control.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse
from barua.control.v1.event_service_pb2_grpc import EventServiceStub
from barua.journal.v1.event_pb2 import Event

from control.database import Database
from control.model import messageids
from control.services import events as service
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, running
from tests.integration.control.test_leases import Spool

FIRST_ID = messageids.first_at(datetime.now(UTC))


class Watcher:
    """One stream."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.token = ""

    async def answer(self) -> WatchEventsResponse:
        """The next answer; a refusal is raised."""
        try:
            async with asyncio.timeout(60):
                answer: WatchEventsResponse = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise rpc.refusal_of(error) from error
        self.token = answer.resume_token
        return answer

    async def ids(self, count: int) -> list[int]:
        """Which recipients the next events are about, counted from the first id."""
        found: list[int] = []
        while len(found) < count:
            found += [item.event.recipient_id - FIRST_ID for item in (await self.answer()).events]
        return found


@asynccontextmanager
async def watching(
    control: Control, metadata: Any = None, token: str = "", parent: str = "tenants/me", **fields: Any
) -> AsyncIterator[Watcher]:
    """A stream that has begun."""
    request = WatchEventsRequest(parent=parent, resume_token=token, **fields)
    call = control.events.WatchEvents(request, metadata=metadata or control.operator, timeout=60)
    watcher = Watcher(call)
    try:
        if not token:
            await watcher.answer()
        yield watcher
    finally:
        call.cancel()


@pytest.fixture
async def spool(control: Control) -> Spool:
    await control.tenant("reseller")
    await control.tenant("tenant", "reseller")
    await control.tenant("other")
    return Spool(control)


def received(spool: Spool, tenant: str, number: int) -> Event:
    """A recipient was accepted."""
    return spool.received(lease_service_pb2.Lease(tenant_id=tenant), FIRST_ID + number, 0, stream="news")


async def reason(control: Control, metadata: Any = None, **fields: Any) -> Reason:
    """Why a stream is refused."""
    async with watching(control, metadata, token=fields.pop("token", "x"), **fields) as watcher:
        try:
            await watcher.answer()
        except Refusal as refusal:
            return refusal.reason
    raise AssertionError("not refused")


async def test_everybody_sees_the_own_subtree_as_it_happens(spool: Spool) -> None:
    control = spool.control
    async with (
        watching(control) as operator,
        watching(control, basic("reseller")) as reseller,
        watching(control, basic("tenant")) as tenant,
        watching(control, basic("other")) as other,
        watching(control, basic("reseller"), parent="tenants/tenant", kinds=[Event.KIND_DELIVERED]) as delivered,
    ):
        await spool.tell(received(spool, "tenant", 1), received(spool, "other", 2), received(spool, "reseller", 3))
        await spool.tell(spool.outcome(Event.KIND_DELIVERED, "tenant", FIRST_ID + 1, 250, "Ok"))
        assert await operator.ids(4) == [1, 2, 3, 1]
        assert await reseller.ids(3) == [1, 3, 1]
        assert await tenant.ids(2) == [1, 1]
        assert await other.ids(1) == [2]
        (item,) = (await delivered.answer()).events
        assert (item.event.kind, item.event.recipient, item.event.stream) == (2, "Ann@example.net", "news")
        assert item.message_record == f"tenants/tenant/messages/{FIRST_ID + 1}"


@pytest.mark.each_postgres
async def test_a_stream_goes_on_after_its_token(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    control = spool.control
    async with watching(control, basic("tenant")) as watcher:
        begin = watcher.token
        await spool.tell(received(spool, "tenant", 1), received(spool, "other", 2))
        assert await watcher.ids(1) == [1]
        middle = watcher.token
    await spool.tell(received(spool, "tenant", 3))
    # Once from memory and once from the record, in spans smaller than what is to come.
    for span in (1000, 1):
        monkeypatch.setattr(service, "SPAN", span)
        if span == 1:
            monkeypatch.setattr("control.consumers.feed.Feed.holds", lambda self, number: number >= 3)
        async with watching(control, basic("tenant"), middle) as watcher:
            assert await watcher.ids(1) == [3]
        async with watching(control, basic("reseller"), begin) as watcher:
            assert await watcher.ids(2) == [1, 3]


async def test_no_gaps_and_no_repeats_while_batches_commit_side_by_side(
    spool: Spool, database_url: str, tmp_path: Any
) -> None:
    """A client that comes and goes between two control programs, while three holders tell."""
    holders = [Spool(spool.control) for _ in range(3)]

    async def tell(holder: Spool, first: int) -> None:
        for number in range(first, first + 60, 2):
            await holder.tell(received(holder, "tenant", number), received(holder, "tenant", number + 1))

    async with running(database_url, tmp_path / "second") as second:
        async with watching(spool.control, basic("tenant")) as watcher:
            token = watcher.token
        telling = asyncio.gather(*(tell(holder, 1 + 60 * index) for index, holder in enumerate(holders)))
        found: list[int] = []
        while len(found) < 180:
            for control in (spool.control, second):
                async with watching(control, basic("tenant"), token) as watcher:
                    found += await watcher.ids(1) if len(found) < 180 else []
                    token = watcher.token
        await telling
    assert sorted(found) == list(range(1, 181))
    for index in range(3):
        own = [number for number in found if (number - 1) // 60 == index]
        assert own == sorted(own)


async def test_a_silent_stream_gives_signs_of_life(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PROGRESS_SECONDS", 0.05)
    async with watching(spool.control, basic("tenant")) as watcher:
        first = watcher.token
        await spool.tell(received(spool, "other", 1))
        tokens = {(await watcher.answer()).resume_token for _ in range(5)}
        assert tokens - {first}


async def test_a_token_that_is_of_no_use_is_refused_with_the_reason(spool: Spool, database: Database) -> None:
    control = spool.control
    async with watching(control) as watcher:
        token = watcher.token
    assert await reason(control, token="nonsense") is Reason.INVALID_ARGUMENT
    await spool.tell(received(spool, "tenant", 1))
    await database.transact(lambda c: c.execute("UPDATE event_head SET trimmed_number = 1"))
    assert await reason(control, token=token) is Reason.POSITION_LOST
    await database.transact(lambda c: c.execute("UPDATE event_head SET trimmed_number = 0"))
    async with watching(control, token=token) as watcher:
        assert await watcher.ids(1) == [1]
        token = watcher.token
    await database.transact(lambda c: c.execute("UPDATE event_head SET number = 0"))
    assert await reason(control, token=token) is Reason.POSITION_LOST
    await database.transact(lambda c: c.execute("UPDATE event_head SET lineage = gen_random_uuid()"))
    assert await reason(control, token=token) is Reason.POSITION_LOST


async def test_bad_requests_and_foreign_tenants(spool: Spool) -> None:
    control = spool.control
    for kind in (0, Event.KIND_LEASE_RELEASED, 99):
        assert await reason(control, kinds=[kind]) is Reason.INVALID_ARGUMENT
    for parent in ("tenants/other", "tenants/reseller", "tenants/operator", "tenants/nobody"):
        assert await reason(control, basic("tenant"), parent=parent) is Reason.NOT_FOUND


async def test_one_tenant_cannot_have_all_the_streams(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_STREAMS", 2)
    control = spool.control
    async with watching(control, basic("tenant")), watching(control, basic("tenant")):
        assert await reason(control, basic("tenant")) is Reason.RATE_LIMITED
        async with watching(control, basic("other")):
            pass
    async with asyncio.timeout(60):
        refused = Reason.RATE_LIMITED
        while refused is Reason.RATE_LIMITED:
            await asyncio.sleep(0.05)
            refused = await reason(control, basic("tenant"))


async def test_streams_end_with_the_program(database_url: str, tmp_path: Any) -> None:
    async with running(database_url, tmp_path / "home") as control:
        # A channel that outlives the program.
        channel = rpc.channel(control.options.control.listen)
        stub = EventServiceStub(channel)
        call: Any = stub.WatchEvents(WatchEventsRequest(parent="tenants/me"), metadata=control.operator, timeout=60)
        watcher = Watcher(call)
        await watcher.answer()
        ended = asyncio.create_task(watcher.answer())
    with pytest.raises(Refusal) as refused:
        await ended
    assert refused.value.reason is Reason.UNAVAILABLE
    await channel.close()
