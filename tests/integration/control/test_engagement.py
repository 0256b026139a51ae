"""What recipients do: recorded once, counted, told to watchers, and heeded by suppressions."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import engagement_service_pb2 as proto
from barua.control.v1 import history_service_pb2, lease_service_pb2, statistics_service_pb2, suppression_service_pb2
from barua.control.v1.event_service_pb2 import WatchEventsRequest
from barua.control.v1.history_service_pb2 import MessageRecord
from barua.journal.v1.event_pb2 import Event

from control.consumers.mock import MockConsumer
from control.database import Connection, Database
from control.model import messageids
from control.model.events import EventKind
from control.retention import keep_history
from control.store import engagement
from control.store import events as numbered
from mta.runtime import keyring, links
from mta.runtime.keyring import KeyRing
from mta.runtime.links import Link, Purpose
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, basic, new_id
from tests.integration.control.test_leases import Spool

RECORDED = proto.RecordEngagementsResponse.RESULT_RECORDED
INVALID = proto.RecordEngagementsResponse.RESULT_INVALID_TOKEN
ANN = "ann@example.net"


class Mail:
    """Messages with links in them, and what their recipients do."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.spool = Spool(control)
        self.ring = keyring.read(control.options.path("secrets", "tracking.key"))
        self._number = 0

    async def send(self, tenant: str = "tenant", recipient: str = ANN, **fields: Any) -> bytes:
        """A message goes out; its reference."""
        reference = links.new_reference()
        await self.tell(self.event(reference, tenant, recipient, **fields))
        return reference

    def event(self, reference: bytes, tenant: str = "tenant", recipient: str = ANN, **fields: Any) -> Event:
        """A recipient was accepted."""
        self._number += 1
        now = datetime.now(UTC)
        event = self.spool.received(
            lease_service_pb2.Lease(tenant_id=tenant), messageids.first_at(now) + self._number, 0,
            sender="me@acme.test", reference=reference, **fields,
        )  # fmt: skip
        event.recipient = recipient
        event.time.FromDatetime(now)
        return event

    async def tell(self, *events: Event) -> None:
        """Push events."""
        await self.spool.tell(*events)

    def token(self, reference: bytes, purpose: Purpose, ring: KeyRing | None = None) -> str:
        """The token of a link."""
        url = "https://a.test/" if purpose is Purpose.CLICK else ""
        return links.sign(ring or self.ring, Link(purpose, reference, url))

    async def do(self, reference: bytes, *purposes: Purpose, ids: Sequence[str] = ()) -> list[int]:
        """The recipient does something; what control makes of it."""
        engagements = [
            proto.Engagement(
                token=self.token(reference, purpose), request_id=id_, ip_address="192.0.2.9", user_agent="Agent/1.0"
            )
            for purpose, id_ in zip(purposes, ids or [new_id() for _ in purposes], strict=True)
        ]
        return await self.record(*engagements)

    async def record(self, *engagements: proto.Engagement) -> list[int]:
        """Tell control."""
        request = proto.RecordEngagementsRequest(engagements=engagements)
        answer = await self.control.engagement.RecordEngagements(request, timeout=60)
        return list(answer.results)

    async def found(self, reference: bytes, tenant: str = "tenant") -> MessageRecord:
        """The record of a message, with its events."""
        request = history_service_pb2.ListMessageRecordsRequest(
            parent=f"tenants/{tenant}",
            filter=history_service_pb2.MessageRecordFilter(reference=reference),
            view=history_service_pb2.RECORD_VIEW_EVENTS,
        )
        (record,) = (await self.control.call(self.control.history.ListMessageRecords, request)).message_records
        result: MessageRecord = record
        return result

    async def suppressed(self, tenant: str = "tenant") -> list[Any]:
        """The tenant's suppressions."""
        request = suppression_service_pb2.ListSuppressionsRequest(parent=f"tenants/{tenant}")
        return list((await self.control.call(self.control.suppressions.ListSuppressions, request)).suppressions)


@pytest.fixture
async def mail(control: Control) -> Mail:
    await control.tenant("reseller")
    await control.tenant("tenant", "reseller")
    await control.tenant("other", "reseller")
    return Mail(control)


async def consumed(database: Database) -> None:
    """Wait until every consumer has dealt with everything."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        head = await database.transact(numbered.head)
        if (await database.transact(numbered.oldest_consumed) or 0) >= head.number:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the consumers do not come to the end")


def kinds(record: MessageRecord) -> list[tuple[int, bool]]:
    """What happened, and whether it was the first of its kind."""
    return [(event.kind, event.first) for event in record.events]


@pytest.mark.each_postgres
async def test_what_recipients_do_becomes_events_counts_and_figures(mail: Mail, database: Database) -> None:
    reference = await mail.send(tags=["spring", "sale"], properties='{"dialect": "x"}', stream="news")
    assert await mail.do(reference, Purpose.OPEN, Purpose.OPEN, Purpose.CLICK) == [RECORDED] * 3
    assert await mail.do(reference, Purpose.OPEN) == [RECORDED]
    record = await mail.found(reference)
    assert kinds(record) == [
        (Event.KIND_RECEIVED, False), (Event.KIND_OPENED, True), (Event.KIND_OPENED, False), (Event.KIND_CLICKED, True),
        (Event.KIND_OPENED, False),
    ]  # fmt: skip
    assert (record.open_count, record.click_count) == (3, 1)
    assert record.first_open_time.seconds > 0
    assert record.first_click_time.seconds > 0
    assert (list(record.tags), record.properties, record.reference) == (
        ["spring", "sale"],
        '{"dialect": "x"}',
        reference,
    )
    opened, clicked = record.events[1], record.events[3]
    assert (opened.ip_address, opened.user_agent, opened.url) == ("192.0.2.9", "Agent/1.0", "")
    assert clicked.url == "https://a.test/"
    assert record.state is MessageRecord.STATE_QUEUED
    await consumed(database)
    day = datetime.now(UTC).date()
    by = statistics_service_pb2.Dimension
    for dimension, value in (
        (by.DIMENSION_TOTAL, ""),
        (by.DIMENSION_TAG, "spring"),
        (by.DIMENSION_TAG, "sale"),
        (by.DIMENSION_STREAM, "news"),
        (by.DIMENSION_SENDER_DOMAIN, "acme.test"),
    ):
        request = statistics_service_pb2.SummarizeCountersRequest(
            parent="tenants/reseller",
            start_date=(day - timedelta(days=1)).isoformat(),
            end_date=day.isoformat(),
            dimension=dimension,
            value=value,
            include_descendants=True,
        )
        (summary,) = (await mail.control.call(mail.control.statistics.SummarizeCounters, request)).summaries
        counts = summary.counts
        assert (counts.opened_count, counts.open_count, counts.clicked_count, counts.click_count) == (1, 3, 1, 1), value
        assert (counts.accepted_count, counts.processed_count, counts.sent_count) == (1, 1, 1)


async def test_what_is_told_twice_is_recorded_once(mail: Mail) -> None:
    reference = await mail.send()
    ids = [new_id(), new_id()]
    purposes = (Purpose.OPEN, Purpose.CLICK)
    await asyncio.gather(*(mail.do(reference, *purposes, ids=ids) for _ in range(8)))
    assert await mail.do(reference, *purposes, ids=ids) == [RECORDED, RECORDED]
    record = await mail.found(reference)
    assert (record.open_count, record.click_count, len(record.events)) == (1, 1, 3)


async def test_what_comes_before_the_message_is_recorded_once_that_is_there(mail: Mail, database: Database) -> None:
    reference = links.new_reference()
    assert await mail.do(reference, Purpose.OPEN, Purpose.UNSUBSCRIBE) == [RECORDED, RECORDED]
    await mail.tell(mail.event(reference))
    until = time.monotonic() + 60
    while len((await mail.found(reference)).events) < 3:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    assert kinds(await mail.found(reference))[1:] == [(Event.KIND_OPENED, True), (Event.KIND_UNSUBSCRIBED, True)]
    assert await database.transact(engagement.settle_due) == 0
    await consumed(database)
    assert [one.address for one in await mail.suppressed()] == [ANN]


async def test_what_belongs_to_no_message_ends_some_day(mail: Mail, database: Database) -> None:
    await mail.do(links.new_reference(), Purpose.OPEN)

    async def age(connection: Connection) -> None:
        await connection.execute("UPDATE engagement SET due_at = now(), arrived_at = now() - interval '25 hours'")

    async def left(connection: Connection) -> tuple[int, int]:
        row = await connection.fetchrow("SELECT count(*) AS rows, count(due_at) AS due FROM engagement")
        assert row is not None
        return row["rows"], row["due"]

    await database.transact(age)
    until = time.monotonic() + 60
    while await database.transact(left) != (1, 0):
        await database.transact(engagement.settle_due)
        assert time.monotonic() < until
    await database.transact(lambda c: c.execute("UPDATE engagement SET arrived_at = now() - interval '49 hours'"))
    assert await database.transact(lambda c: engagement.forget_old(c, 10)) == 1
    assert await database.transact(left) == (0, 0)


async def test_unsubscribing_suppresses_the_stream_and_says_so_once(mail: Mail, database: Database) -> None:
    reference = await mail.send(stream="news")
    await mail.do(reference, Purpose.UNSUBSCRIBE)
    await mail.do(reference, Purpose.UNSUBSCRIBE)
    await consumed(database)
    (suppression,) = await mail.suppressed()
    assert (suppression.address, suppression.stream) == (ANN, "news")
    assert suppression.reason == suppression.REASON_UNSUBSCRIBE
    assert "192.0.2.9" in suppression.evidence
    record = await mail.found(reference)
    assert kinds(record)[1:] == [(Event.KIND_UNSUBSCRIBED, True)]
    assert record.unsubscribe_time.seconds > 0
    # Long after, with the suppression in force: nothing new. Taken back by the tenant: the wish holds again.
    long_ago = "UPDATE message_record SET unsubscribed_at = now() - interval '1 day'"
    await database.transact(lambda c: c.execute(long_ago))
    await mail.do(reference, Purpose.UNSUBSCRIBE)
    assert len((await mail.found(reference)).events) == 2
    await mail.control.call(
        mail.control.suppressions.DeleteSuppression,
        suppression_service_pb2.DeleteSuppressionRequest(name=suppression.name),
    )
    await database.transact(lambda c: c.execute(long_ago))
    await mail.do(reference, Purpose.UNSUBSCRIBE)
    assert kinds(await mail.found(reference))[1:] == [(Event.KIND_UNSUBSCRIBED, True), (Event.KIND_UNSUBSCRIBED, False)]
    await consumed(database)
    assert [one.address for one in await mail.suppressed()] == [ANN]


async def test_a_link_that_several_recipients_share_unsubscribes_nobody(mail: Mail, database: Database) -> None:
    reference = links.new_reference()
    await mail.tell(mail.event(reference), mail.event(reference, recipient="bob@example.net"))
    assert await mail.do(reference, Purpose.UNSUBSCRIBE, Purpose.OPEN) == [RECORDED, RECORDED]
    await consumed(database)
    assert await mail.suppressed() == []


async def test_another_tenant_with_the_same_reference_is_in_nobodys_way(mail: Mail, database: Database) -> None:
    reference = await mail.send()
    await mail.tell(mail.event(reference, "other", "bob@example.net"))
    await mail.do(reference, Purpose.UNSUBSCRIBE)
    await consumed(database)
    assert [one.address for one in await mail.suppressed()] == [ANN]
    assert await mail.suppressed("other") == []


async def test_a_complaint_suppresses_all_mail(mail: Mail, database: Database) -> None:
    reference = await mail.send(stream="news")
    name = (await mail.found(reference)).name
    request = proto.RecordComplaintRequest(name=name, source="feedback@isp.test", validate_only=True)
    await mail.control.call(mail.control.engagement.RecordComplaint, request)
    assert len((await mail.found(reference)).events) == 1
    request.validate_only, request.request_id = False, new_id()
    for who in (mail.control.operator, basic("tenant")):
        await mail.control.call(mail.control.engagement.RecordComplaint, request, who)
    await consumed(database)
    (suppression,) = await mail.suppressed()
    assert (suppression.address, suppression.stream) == (ANN, "")
    assert suppression.reason == suppression.REASON_COMPLAINT
    assert "feedback@isp.test" in suppression.evidence
    record = await mail.found(reference)
    assert kinds(record)[1:] == [(Event.KIND_COMPLAINED, True)]
    assert record.complaint_time.seconds > 0
    missing = proto.RecordComplaintRequest(name="tenants/tenant/messages/12345")
    assert await mail.control.refused(mail.control.engagement.RecordComplaint, missing) is Reason.NOT_FOUND


async def test_only_our_tokens_are_believed(mail: Mail) -> None:
    reference = await mail.send()
    foreign = mail.token(reference, Purpose.OPEN, KeyRing(b"x" * 32))
    good = mail.token(reference, Purpose.OPEN)
    flipped = good[:-1] + ("A" if good[-1] != "A" else "B")
    tokens = [foreign, flipped, "", "nonsense", good]
    results = await mail.record(*(proto.Engagement(token=token, request_id=new_id()) for token in tokens))
    assert results == [INVALID] * 4 + [RECORDED]
    assert (await mail.found(reference)).open_count == 1


async def test_a_malformed_engagement_is_refused_as_a_whole(mail: Mail) -> None:
    reference = await mail.send()
    token = mail.token(reference, Purpose.OPEN)
    good = proto.Engagement(token=token, request_id=new_id())
    bad = (
        proto.Engagement(token=token, request_id="no uuid"),
        proto.Engagement(token=token, request_id=new_id(), time=Timestamp(seconds=10**15)),
    )
    method = mail.control.engagement.RecordEngagements
    for wrong in ([], [good] * 1001, *([good, one] for one in bad)):
        request = proto.RecordEngagementsRequest(engagements=wrong)
        assert await mail.control.refused(method, request) is Reason.INVALID_ARGUMENT
    assert (await mail.found(reference)).open_count == 0


async def test_odd_words_of_programs_are_kept_fit(mail: Mail) -> None:
    reference = await mail.send()
    token = mail.token(reference, Purpose.OPEN)
    old = Timestamp(seconds=1_000_000_000)
    odd = [
        proto.Engagement(token=token, request_id=new_id(), ip_address="not one", user_agent="a\0b\r\nc" + "x" * 999),
        proto.Engagement(token=token, request_id=new_id(), ip_address="::ffff:192.0.2.7", time=old),
    ]
    assert await mail.record(*odd) == [RECORDED, RECORDED]
    first, second = (await mail.found(reference)).events[1:]
    assert (first.ip_address, first.user_agent[:6], len(first.user_agent)) == ("", "a b  c", 500)
    assert second.ip_address == "192.0.2.7"
    assert abs(second.time.seconds - time.time()) < 3600


async def test_programs_that_load_a_picture_for_ever_do_not_fill_the_history(mail: Mail, database: Database) -> None:
    reference = await mail.send()
    for _ in range(2):
        await mail.do(reference, *[Purpose.OPEN] * 80)
    record = await mail.found(reference)
    assert record.open_count == engagement.MAX_EVENTS
    assert len(record.events) == 1 + engagement.MAX_EVENTS
    kept = "SELECT count(*) FROM engagement"
    assert await database.transact(lambda c: c.fetchval(kept)) == engagement.MAX_EVENTS


async def test_others_see_nothing_of_it(mail: Mail, database: Database) -> None:
    reference = await mail.send()
    name = (await mail.found(reference)).name
    await mail.do(reference, Purpose.OPEN, Purpose.UNSUBSCRIBE)
    await consumed(database)
    control, other = mail.control, basic("other")
    complaint = proto.RecordComplaintRequest(name=name)
    assert await control.refused(control.engagement.RecordComplaint, complaint, other) is Reason.NOT_FOUND
    mine = proto.RecordComplaintRequest(name=name.replace("tenants/tenant", "tenants/other"))
    assert await control.refused(control.engagement.RecordComplaint, mine, other) is Reason.NOT_FOUND
    listing = history_service_pb2.ListMessageRecordsRequest(
        parent="tenants/other", filter=history_service_pb2.MessageRecordFilter(reference=reference)
    )
    assert not (await control.call(control.history.ListMessageRecords, listing, other)).message_records
    batch = history_service_pb2.BatchGetMessageRecordsRequest(
        parent="tenants/other", names=[name.replace("tenants/tenant", "tenants/other")], include_descendants=True
    )
    assert not (await control.call(control.history.BatchGetMessageRecords, batch, other)).message_records
    assert await mail.suppressed("other") == []


async def test_watchers_see_it_once_with_tags(mail: Mail) -> None:
    reference = await mail.send(tags=["spring"])
    request = WatchEventsRequest(parent="tenants/reseller")
    stream = mail.control.events.WatchEvents(request, metadata=basic("reseller"), timeout=60)
    assert not (await anext(aiter(stream))).events
    id_ = new_id()
    for _ in range(2):
        await mail.do(reference, Purpose.CLICK, ids=[id_])
    await mail.do(reference, Purpose.OPEN)
    seen: list[Event] = []
    async for answer in stream:
        seen += [watched.event for watched in answer.events]
        if len(seen) >= 2:
            break
    stream.cancel()
    assert [(one.kind, one.first, one.url, list(one.tags)) for one in seen] == [
        (Event.KIND_CLICKED, True, "https://a.test/", ["spring"]),
        (Event.KIND_OPENED, True, "", ["spring"]),
    ]


async def test_nodes_cannot_tell_what_recipients_do(mail: Mail) -> None:
    event = mail.event(links.new_reference())
    event.kind = Event.KIND_OPENED
    assert await mail.spool.refused(event) is Reason.INVALID_ARGUMENT


async def test_a_dropped_recipient_is_on_record_and_final(mail: Mail, database: Database) -> None:
    event = mail.event(reference := links.new_reference())
    event.kind, event.code, event.enhanced_code, event.text = Event.KIND_DROPPED, 550, "5.7.1", "is suppressed"
    await mail.tell(event)
    record = await mail.found(reference)
    assert record.state is MessageRecord.STATE_DROPPED
    assert (record.last_code, record.last_enhanced_code, record.last_text) == (550, "5.7.1", "is suppressed")
    assert record.events[0].recipient == record.recipient == ANN
    await consumed(database)
    day = datetime.now(UTC).date().isoformat()
    request = statistics_service_pb2.SummarizeCountersRequest(parent="tenants/tenant", start_date=day, end_date=day)
    (summary,) = (await mail.control.call(mail.control.statistics.SummarizeCounters, request)).summaries
    counts = summary.counts
    assert (counts.dropped_count, counts.processed_count, counts.sent_count, counts.accepted_count) == (1, 1, 0, 0)


async def test_the_mock_recipient_opens_and_clicks_once(mail: Mail, database: Database) -> None:
    await mail.tell(event := mail.event(b"", recipient="Test@Play.Test"))
    await mail.tell(mail.spool.outcome(Event.KIND_DELIVERED, "tenant", event.recipient_id, 250, "Ok"))
    consumer = MockConsumer("play.test")

    async def consume(connection: Connection) -> None:
        await consumer.consume(connection, await numbered.read(connection, 0, 100))

    for _ in range(2):
        await database.transact(consume)

    async def planned(connection: Connection) -> list[tuple[int, float, float]]:
        rows = await connection.fetch(
            "SELECT kind, extract(epoch FROM occurred_at - $1)::float AS after FROM engagement ORDER BY kind",
            datetime.fromtimestamp(1_800_000_000, UTC),
        )
        return [(row["kind"], row["after"], 0.0) for row in rows]

    (opened, first, _), (clicked, second, _) = await database.transact(planned)
    assert (opened, clicked) == (EventKind.OPENED, EventKind.CLICKED)
    assert 2 <= first <= 5
    assert 1 <= second - first <= 3
    await database.transact(lambda c: c.execute("UPDATE engagement SET due_at = now()"))
    until = time.monotonic() + 60
    while (record := await record_of(mail, event)).click_count == 0:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    assert (record.open_count, record.click_count) == (1, 1)


async def record_of(mail: Mail, event: Event) -> MessageRecord:
    """The record that an event made."""
    request = history_service_pb2.GetMessageRecordRequest(name=f"tenants/tenant/messages/{event.recipient_id}")
    record: MessageRecord = await mail.control.call(mail.control.history.GetMessageRecord, request)
    return record


async def test_who_follows_events_is_not_lost_when_an_old_message_goes(mail: Mail, database: Database) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    reference = int(old.timestamp() * 1000).to_bytes(6, "big") + links.new_reference()[6:]
    event = mail.event(reference)
    event.recipient_id = messageids.first_at(old)
    await mail.tell(event)
    for _ in range(3):
        await mail.send()
    assert await mail.do(reference, Purpose.OPEN) == [RECORDED]
    assert (await mail.found(reference)).open_count == 1
    await consumed(database)
    await keep_history(database, 30)
    head = await database.transact(numbered.head)
    assert (head.number, head.trimmed_number) == (5, 1)
    # What comes later still finds no message, and waits in vain.
    assert await mail.do(reference, Purpose.OPEN) == [RECORDED]
    assert (await database.transact(numbered.head)).number == 5


async def test_an_opening_does_not_hide_when_the_next_attempt_is(mail: Mail) -> None:
    await mail.tell(event := mail.event(reference := links.new_reference()))
    deferred = mail.spool.outcome(Event.KIND_DEFERRED, "tenant", event.recipient_id, 450, "Later")
    deferred.next_attempt_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    await mail.tell(deferred)
    await mail.do(reference, Purpose.OPEN)
    request = history_service_pb2.GetMessageTimelineRequest(name=f"tenants/tenant/messages/{event.recipient_id}")
    timeline = await mail.control.call(mail.control.history.GetMessageTimeline, request)
    assert timeline.next_attempt_time == deferred.next_attempt_time
    assert timeline.entries[-1].event.kind == Event.KIND_OPENED
    assert timeline.record.last_code == 450
