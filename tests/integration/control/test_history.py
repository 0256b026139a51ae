"""History: days as partitions, searches in any combination, ids in any spelling, timelines; nothing for foreigners."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import history_service_pb2, lease_service_pb2
from barua.control.v1.history_service_pb2 import ListMessageRecordsRequest, MessageRecord
from barua.journal.v1.event_pb2 import Event

from control.database import Connection, Database
from control.model import messageids
from control.retention import DAYS_AHEAD, keep_history
from control.store import events as store
from control.store import history
from mta.message import ids as written
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, basic
from tests.integration.control.test_leases import Spool

AS_TENANT = "SELECT set_config('role', 'barua_app', true), set_config('barua.tenant', 'tenant', true)"
TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


def id_at(time: datetime, number: int = 0) -> int:
    """The id of a recipient that was accepted at a time."""
    return messageids.first_at(time) + number


def stamp(time: datetime) -> Timestamp:
    """A time as proto."""
    proto = Timestamp()
    proto.FromDatetime(time)
    return proto


def received(spool: Spool, tenant: str, recipient_id: int, recipient: str = "ann@example.net", **fields: Any) -> Event:
    """A recipient was accepted, free of charge, at the time in its id."""
    lease = lease_service_pb2.Lease(tenant_id=tenant)
    event = spool.received(lease, recipient_id, 0, sender="me@acme.test", **fields)
    event.recipient = recipient
    event.time.CopyFrom(stamp(messageids.time_of(recipient_id)))
    return event


async def days(database: Database) -> list[str]:
    """Days that have partitions, as far as they are in the past."""
    found = await database.transact(store.days)
    return [day.day.isoformat() for day in found if day.day < TODAY.date()]


async def ids(control: Control, metadata: Any = None, **fields: Any) -> list[int]:
    """Numbers of the records that a search finds, all its pages."""
    request = ListMessageRecordsRequest(**{"parent": "tenants/tenant", **fields})
    found: list[int] = []
    while True:
        answer = await control.call(control.history.ListMessageRecords, request, metadata)
        found += [int(record.name.rpartition("/")[2]) for record in answer.message_records]
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            return found


@pytest.fixture
async def spool(control: Control) -> Spool:
    await control.tenant("reseller")
    await control.tenant("tenant", "reseller")
    await control.tenant("other", "reseller")
    return Spool(control)


@pytest.mark.each_postgres
async def test_days_are_made_on_demand_and_dropped_when_their_time_is_over(spool: Spool, database: Database) -> None:
    old, older = id_at(TODAY - timedelta(days=20)), id_at(TODAY - timedelta(days=40))
    await spool.tell(received(spool, "tenant", older), received(spool, "tenant", old))
    await spool.tell(spool.outcome(Event.KIND_DELIVERED, "tenant", older, 250, "Ok"))
    assert await days(database) == [(TODAY - timedelta(days=age)).date().isoformat() for age in (40, 20)]
    await database.transact(lambda c: c.execute("UPDATE event_cursor SET number = 1000000"))
    await keep_history(database, 30)
    assert await days(database) == [(TODAY - timedelta(days=20)).date().isoformat()]
    assert await ids(spool.control) == [old]
    head = await database.transact(store.head)
    assert (head.number, head.trimmed_number) == (3, 3)
    # A late word on a day that is gone finds a place, and goes with the next cleaning.
    await spool.tell(spool.outcome(Event.KIND_BOUNCED, "tenant", older, 550, "No"))
    assert len(await days(database)) == 2
    await keep_history(database, 30)
    assert len(await days(database)) == 1


async def test_a_day_stays_until_every_consumer_is_past_it(spool: Spool, database: Database) -> None:
    await spool.tell(received(spool, "tenant", id_at(TODAY - timedelta(days=40))))
    await database.transact(lambda c: c.execute("INSERT INTO event_cursor (name) VALUES ('slow')"))
    await keep_history(database, 30)
    assert len(await days(database)) == 1


async def test_a_day_that_is_in_use_is_dropped_the_next_time(
    spool: Spool, database: Database, database_url: str
) -> None:
    await spool.tell(received(spool, "tenant", id_at(TODAY - timedelta(days=40))))
    await database.transact(lambda c: c.execute("UPDATE event_cursor SET number = 1000000"))
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.fetch("SELECT FROM delivery_event")
        await keep_history(database, 30)
        assert len(await days(database)) == 1
    await reader.close()
    await keep_history(database, 30)
    assert await days(database) == []


async def test_partitions_are_made_ahead_and_by_several_at_once(database: Database) -> None:
    await keep_history(database, 30)
    await keep_history(database, 30)
    found = await database.transact(store.days)
    assert found[-1].day == TODAY.date() + timedelta(days=DAYS_AHEAD)
    await database.transact(lambda c: store.make_days(c, [messageids.day_of(0), messageids.day_of(messageids.MAX_ID)]))


async def test_a_tenants_transaction_cannot_pass_by_the_row_security(spool: Spool, database: Database) -> None:
    mine, foreign = id_at(TODAY, 1), id_at(TODAY, 2)
    await spool.tell(received(spool, "tenant", mine), received(spool, "other", foreign))

    async def counted(connection: Connection, table: str) -> Any:
        await connection.execute(AS_TENANT)
        return await connection.fetchval(f"SELECT count(*) FROM {table}")

    for table in ("message_record", "delivery_event"):
        assert await database.transact(partial(counted, table=table)) == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.transact(partial(counted, table=f"{table}_d{TODAY:%Y%m%d}"))


async def test_a_search_by_recipient_uses_its_index_under_row_security(spool: Spool, database: Database) -> None:
    """Conditions with functions that leak cannot; so what is searched for is kept as it is compared."""
    await spool.tell(*(received(spool, "tenant", id_at(TODAY, n), f"user{n}@x.test") for n in range(500)))

    async def plan(connection: Connection) -> str:
        await connection.execute("ANALYZE message_record")
        await connection.execute(AS_TENANT)
        rows = await connection.fetch(
            "EXPLAIN SELECT * FROM message_record WHERE tenant_id = 'tenant' AND recipient_key = 'user7@x.test'"
            f" AND recipient_id >= 0 AND recipient_id < {messageids.MAX_ID} ORDER BY recipient_id DESC LIMIT 50"
        )
        return "\n".join(row["QUERY PLAN"] for row in rows)

    assert "recipient_key_recipient_id" in await database.transact(plan)


@pytest.mark.each_postgres
async def test_searches_by_every_condition(spool: Spool) -> None:
    control = spool.control
    first, second, third = (id_at(TODAY - timedelta(days=age)) for age in (3, 2, 0))
    await spool.tell(
        received(spool, "tenant", first, "Ann@Example.NET", stream="news"),
        received(spool, "tenant", second, "bob@sub.example.net"),
        received(spool, "tenant", third, "eve@bücher.example"),
        received(spool, "other", third + 1, "ann@example.net"),
        spool.outcome(Event.KIND_DELIVERED, "tenant", first, 250, "Ok"),
    )
    assert await ids(control) == [third, second, first]
    assert await ids(control, recipient="ann@example.net") == [first]
    assert await ids(control, recipient="no address") == []
    assert await ids(control, recipient_domain="Example.net") == [first]
    assert await ids(control, recipient_domain="bücher.example") == [third]
    assert await ids(control, sender="ME@acme.test") == [third, second, first]
    assert await ids(control, sender="you@acme.test") == []
    assert await ids(control, state=MessageRecord.STATE_DELIVERED) == [first]
    assert await ids(control, state=MessageRecord.STATE_QUEUED, page_size=1) == [third, second]
    assert await ids(control, stream="news", page_size=1) == [first]
    since, until = stamp(TODAY - timedelta(days=2)), stamp(TODAY)
    assert await ids(control, start_time=since) == [third, second]
    assert await ids(control, end_time=until, sender="me@acme.test") == [second, first]
    assert await ids(control, start_time=since, end_time=until, recipient="bob@sub.example.net") == [second]
    everything: dict[str, Any] = {"parent": "tenants/reseller", "include_descendants": True}
    assert await ids(control, basic("reseller"), **everything) == [third + 1, third, second, first]
    assert await ids(control, basic("reseller"), **everything, recipient="ann@example.net") == [third + 1, first]
    assert await ids(control, basic("reseller"), parent="tenants/reseller") == []
    everything["parent"] = "tenants/operator"
    assert await ids(control, **everything, page_size=3, sender="me@acme.test") == [third + 1, third, second, first]


async def test_a_search_that_takes_long_goes_on_where_it_stopped(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [id_at(TODAY - timedelta(days=age)) for age in range(5)]
    await spool.tell(*(received(spool, "tenant", id_, stream="news") for id_ in wanted))
    monkeypatch.setattr(history, "WALK_SECONDS", 0.005)
    assert await ids(spool.control, stream="news") == wanted


async def test_bad_searches_name_their_field(spool: Spool) -> None:
    control = spool.control
    wrong: list[tuple[str, Any]] = [
        ("message_id", "what"),
        ("recipient_domain", "a b"),
        ("state", 9),
        ("page_size", -1),
        ("page_token", "x"),
    ]
    for field, value in wrong:
        fields: dict[str, Any] = {"parent": "tenants/tenant", field: value}
        request = ListMessageRecordsRequest(**fields)
        assert await control.refused(control.history.ListMessageRecords, request) is Reason.INVALID_ARGUMENT
    request = ListMessageRecordsRequest(parent="tenants/tenant", sender="a\0", stream="\0")
    assert not (await control.call(control.history.ListMessageRecords, request)).message_records


async def test_a_message_is_found_by_any_spelling_of_its_id(spool: Spool) -> None:
    control = spool.control
    first = id_at(TODAY, 77)
    batch = [received(spool, "tenant", first + number, f"r{number}@x.test") for number in range(3)]
    for event in batch:
        event.message_id = first
    await spool.tell(*batch, received(spool, "tenant", first + 9))
    spellings = (
        written.message_id(first, "mail.test"), written.mspace(first), written.uuid(first), written.sendpulse(first),
        str(first),
    )  # fmt: skip
    for text in spellings:
        assert await ids(control, message_id=text) == [first + 2, first + 1, first], text
        name = f"tenants/tenant/messages/{text}"
        record = await control.call(
            control.history.GetMessageRecord, history_service_pb2.GetMessageRecordRequest(name=name), basic("tenant")
        )
        assert record.name == f"tenants/tenant/messages/{first}"
        stranger = history_service_pb2.GetMessageTimelineRequest(name=f"tenants/other/messages/{text}")
        assert await control.refused(control.history.GetMessageTimeline, stranger, basic("other")) is Reason.NOT_FOUND
    assert await ids(control, message_id=str(first + 2)) == [first + 2]
    assert await ids(control, basic("other"), parent="tenants/other", message_id=str(first)) == []


async def test_a_timeline_tells_what_happened_when(spool: Spool) -> None:
    control = spool.control
    id_ = id_at(TODAY)
    accepted = received(spool, "tenant", id_, stream="news", subject="Hi")
    later = spool.outcome(Event.KIND_DEFERRED, "tenant", id_, 451, "4.7.1 Try again")
    later.time.CopyFrom(stamp(TODAY + timedelta(seconds=2)))
    later.next_attempt_time.CopyFrom(stamp(TODAY + timedelta(seconds=60)))
    later.egress_source, later.provider = "ip1", "smart"
    await spool.tell(accepted, later)
    request = history_service_pb2.GetMessageTimelineRequest(name=f"tenants/tenant/messages/msg_{id_}")
    waiting = await control.call(control.history.GetMessageTimeline, request, basic("tenant"))
    assert [entry.since_received.ToMilliseconds() for entry in waiting.entries] == [0, 2000]
    assert (waiting.attempt_count, waiting.next_attempt_time) == (1, stamp(TODAY + timedelta(seconds=60)))
    assert (waiting.record.stream, waiting.record.egress_source, waiting.record.provider) == ("news", "ip1", "smart")
    assert (waiting.entries[1].event.text, waiting.entries[1].event.provider) == ("4.7.1 Try again", "smart")
    done = spool.outcome(Event.KIND_DELIVERED, "tenant", id_, 250, "Ok")
    done.attempt = 2
    done.time.CopyFrom(stamp(TODAY + timedelta(seconds=61)))
    await spool.tell(done)
    timeline = await control.call(control.history.GetMessageTimeline, request, basic("tenant"))
    assert (timeline.attempt_count, timeline.duration.seconds) == (2, 61)
    assert not timeline.HasField("next_attempt_time")
    assert timeline.record.state == MessageRecord.STATE_DELIVERED


async def test_two_holders_that_tell_of_one_recipient_do_not_stop_the_journal(spool: Spool) -> None:
    id_ = id_at(TODAY)
    other = Spool(spool.control)
    await spool.tell(received(spool, "tenant", id_, "ann@x.test"))
    await other.tell(received(other, "tenant", id_, "bob@x.test"))
    assert await ids(spool.control, recipient="ann@x.test") == [id_]


async def test_a_negative_recipient_is_refused(spool: Spool) -> None:
    negative = Event(sequence=99, recipient_id=-1, kind=Event.KIND_DELIVERED)
    assert await spool.refused(received(spool, "tenant", 1), negative) is Reason.INVALID_ARGUMENT
