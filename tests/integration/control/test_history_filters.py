"""Searches in every combination against a plain reckoning: filters, skipping, counting, several records at once."""

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from barua.control.v1 import history_service_pb2 as proto
from barua.control.v1.history_service_pb2 import MessageRecord, MessageRecordFilter
from barua.journal.v1.event_pb2 import Event

from control.model import messageids
from control.store import history
from mta.runtime.links import new_reference
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, basic
from tests.integration.control.test_history import id_at, received, stamp
from tests.integration.control.test_leases import Spool

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=2)
STRANGE = MessageRecord.State.ValueType(9)
OUTCOMES = (None, Event.KIND_DELIVERED, Event.KIND_BOUNCED, Event.KIND_EXPIRED)
STATES = {
    None: MessageRecord.STATE_QUEUED,
    Event.KIND_DELIVERED: MessageRecord.STATE_DELIVERED,
    Event.KIND_BOUNCED: MessageRecord.STATE_BOUNCED,
    Event.KIND_EXPIRED: MessageRecord.STATE_BOUNCED,
}


class Known(NamedTuple):
    """A record as it was told."""

    id: int
    tenant: str
    recipient: str
    tags: tuple[str, ...]
    state: int
    received: datetime
    done: datetime | None
    submitted: bool


@pytest.fixture
async def spool(control: Control) -> Spool:
    await control.tenant("reseller")
    await control.tenant("tenant", "reseller")
    await control.tenant("other", "reseller")
    return Spool(control)


async def told(spool: Spool, count: int = 60) -> list[Known]:
    """Records of three days; the newest first."""
    chance = random.Random(7)
    known, events = [], []
    for number in range(count):
        tenant = chance.choice(("tenant", "tenant", "other"))
        time = NOON - timedelta(hours=chance.randrange(60), seconds=number)
        id_ = id_at(time, number)
        recipient = f"{chance.choice('abc')}@{chance.choice('xy')}.test"
        tags = tuple(chance.sample(("spring", "sale", "x y"), chance.randrange(3)))
        outcome = chance.choice(OUTCOMES)
        properties = f'{{"number": {number}}}' if number % 2 else ""
        submitted = number % 5 > 0
        source = "smtp" if submitted else "bounce"
        events.append(received(spool, tenant, id_, recipient, tags=tags, properties=properties, source=source))
        done = None
        if outcome is not None:
            done = time + timedelta(minutes=chance.randrange(600))
            event = spool.outcome(outcome, tenant, id_, 550 if outcome != Event.KIND_DELIVERED else 250, "So")
            event.time.CopyFrom(stamp(done))
            events.append(event)
        known.append(Known(id_, tenant, recipient, tags, STATES[outcome], messageids.time_of(id_), done, submitted))
    await spool.tell(*events)
    return sorted(known, reverse=True)


async def pages(control: Control, **fields: Any) -> list[int]:
    """The ids on all pages."""
    request = proto.ListMessageRecordsRequest(**{"parent": "tenants/reseller", "page_size": 7, **fields})
    found: list[int] = []
    while True:
        answer = await control.call(control.history.ListMessageRecords, request)
        found += [id_of(record) for record in answer.message_records]
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
        request.ClearField("skip")


def id_of(record: MessageRecord) -> int:
    """The number in its name."""
    return int(record.name.rpartition("/")[2])


MIDDLE = NOON - timedelta(hours=30)
FILTERS: dict[str, tuple[dict[str, Any], Callable[[Known], bool]]] = {
    "all": ({}, lambda one: True),
    "tag": ({"tag": "sale"}, lambda one: "sale" in one.tags),
    "odd tag": ({"tag": "x y"}, lambda one: "x y" in one.tags),
    "no tag": ({"tag": "none"}, lambda one: False),
    "states": (
        {"states": [MessageRecord.STATE_QUEUED, MessageRecord.STATE_BOUNCED]},
        lambda one: one.state in {MessageRecord.STATE_QUEUED, MessageRecord.STATE_BOUNCED},
    ),
    "domain": ({"recipient_domain": "x.test"}, lambda one: one.recipient.endswith("@x.test")),
    "recipient": ({"recipient": "A@Y.test"}, lambda one: one.recipient == "a@y.test"),
    "received": ({"start_time": stamp(MIDDLE)}, lambda one: one.received >= MIDDLE),
    "outcome": (
        {"outcome_start_time": stamp(MIDDLE), "outcome_end_time": stamp(NOON)},
        lambda one: one.done is not None and MIDDLE <= one.done < NOON,
    ),
    "submitted": ({"without_notifications": True}, lambda one: one.submitted),
}


async def test_searches_find_what_a_plain_reckoning_finds(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    known = await told(spool)
    control = spool.control
    for (one, (first, meets)), (other, (second, meets_too)) in itertools.combinations(FILTERS.items(), 2):
        if first.keys() & second.keys():
            continue
        both = MessageRecordFilter(include_descendants=True, **{**first, **second})
        expected = [record.id for record in known if meets(record) and meets_too(record)]
        assert await pages(control, filter=both) == expected, (one, other)
        counted = await control.call(
            control.history.CountMessageRecords,
            proto.CountMessageRecordsRequest(parent="tenants/reseller", filter=both),
        )
        assert (counted.count, counted.incomplete) == (len(expected), False), (one, other)
    for (_, (fields, meets)), skip in itertools.product(FILTERS.items(), (1, 9, 10_000)):
        expected = [record.id for record in known if meets(record)][skip:]
        found = await pages(control, filter=MessageRecordFilter(include_descendants=True, **fields), skip=skip)
        assert found == expected
    mine = [record.id for record in known if record.tenant == "tenant"]
    assert await pages(control, parent="tenants/tenant", skip=3) == mine[3:]
    # With no time at all each page is one window at most; the rest of what is to be passed over is in the token.
    monkeypatch.setattr(history, "WALK_SECONDS", 0.0)
    fields = {"filter": MessageRecordFilter(include_descendants=True, tag="sale"), "skip": 3}
    assert await pages(control, **fields) == [record.id for record in known if "sale" in record.tags][3:]
    request = proto.CountMessageRecordsRequest(parent="tenants/tenant")
    assert (await control.call(control.history.CountMessageRecords, request)).incomplete


async def test_the_older_fields_say_the_same_and_do_not_contradict(spool: Spool) -> None:
    known = await told(spool, 20)
    control = spool.control
    bounced = [one.id for one in known if one.state == MessageRecord.STATE_BOUNCED]
    fields = {"include_descendants": True, "state": MessageRecord.STATE_BOUNCED}
    assert await pages(control, **fields) == bounced
    same = MessageRecordFilter(include_descendants=True, states=[MessageRecord.STATE_BOUNCED])
    assert await pages(control, **fields, filter=same) == bounced
    for own, inner in (
        ({"recipient": "a@x.test"}, {"recipient": "b@x.test"}),
        ({"state": MessageRecord.STATE_BOUNCED}, {"states": [MessageRecord.STATE_QUEUED]}),
        ({"start_time": stamp(NOON)}, {"start_time": stamp(MIDDLE)}),
    ):
        request = proto.ListMessageRecordsRequest(
            parent="tenants/reseller",
            filter=MessageRecordFilter(**inner),
            **own,
        )
        assert await control.refused(control.history.ListMessageRecords, request) is Reason.INVALID_ARGUMENT


async def test_views_tell_more_or_less(spool: Spool) -> None:
    reference = new_reference()
    id_ = id_at(NOON)
    event = received(spool, "tenant", id_, tags=["spring"], properties='{"a": 1}', reference=reference)
    await spool.tell(event, spool.outcome(Event.KIND_BOUNCED, "tenant", id_, 550, "No such user"))
    control = spool.control
    view = proto.RecordView
    for asked, properties, events in (
        (view.RECORD_VIEW_UNSPECIFIED, "", 0),
        (view.RECORD_VIEW_BASIC, "", 0),
        (view.RECORD_VIEW_FULL, '{"a": 1}', 0),
        (view.RECORD_VIEW_EVENTS, '{"a": 1}', 2),
    ):
        request = proto.ListMessageRecordsRequest(
            parent="tenants/tenant", filter=MessageRecordFilter(reference=reference), view=asked
        )
        (record,) = (await control.call(control.history.ListMessageRecords, request)).message_records
        assert (record.properties, len(record.events)) == (properties, events)
        assert (list(record.tags), record.reference) == (["spring"], reference)
    assert (record.last_code, record.last_enhanced_code, record.last_text) == (550, "5.0.0", "No such user")
    assert (record.last_reply, record.remote_host) == ("550 5.0.0 No such user", "mx.example.net")
    assert record.events[0].properties == '{"a": 1}'


async def test_several_records_come_in_the_order_of_their_names(spool: Spool) -> None:
    known = [one for one in await told(spool) if one.tenant == "tenant"]
    control = spool.control
    wanted = random.Random(3).sample(known, 10)
    names = [f"tenants/tenant/messages/{one.id}" for one in wanted]
    names[1] = f"tenants/tenant/messages/{messageids.uuid(wanted[1].id)}"
    missing = [f"tenants/tenant/messages/{id_at(NOON, 99_999)}", "tenants/tenant/messages/nonsense"]
    request = proto.BatchGetMessageRecordsRequest(parent="tenants/tenant", names=[*missing, *names, names[0]])
    answer = await control.call(control.history.BatchGetMessageRecords, request, basic("tenant"))
    assert [id_of(record) for record in answer.message_records] == [*(one.id for one in wanted), wanted[0].id]
    assert any(record.properties for record in answer.message_records)
    for wrong in ([], ["tenants/tenant/messages/1"] * 501, ["tenants/other/messages/1"], ["nonsense"]):
        request = proto.BatchGetMessageRecordsRequest(parent="tenants/tenant", names=wrong)
        reason = await control.refused(control.history.BatchGetMessageRecords, request)
        assert reason in {Reason.INVALID_ARGUMENT, Reason.NOT_FOUND}, wrong


async def test_several_records_of_tenants_below(spool: Spool) -> None:
    known = await told(spool, 20)
    control = spool.control
    names = [f"tenants/reseller/messages/{one.id}" for one in known]
    for below, expected in ((True, [one.id for one in known]), (False, [])):
        request = proto.BatchGetMessageRecordsRequest(
            parent="tenants/reseller", names=names, include_descendants=below, view=proto.RECORD_VIEW_EVENTS
        )
        answer = await control.call(control.history.BatchGetMessageRecords, request, basic("reseller"))
        assert [id_of(record) for record in answer.message_records] == expected
        assert all(record.events for record in answer.message_records)


async def test_malformed_searches_are_refused(spool: Spool) -> None:
    control = spool.control
    for fields in (
        {"skip": -1}, {"skip": 10_001}, {"view": 9}, {"filter": MessageRecordFilter(reference=b"short")},
        {"filter": MessageRecordFilter(states=[STRANGE])}, {"filter": MessageRecordFilter(message_id="nonsense")},
        {"page_token": "nonsense"},
    ):  # fmt: skip
        request = proto.ListMessageRecordsRequest(parent="tenants/tenant", **fields)
        assert await control.refused(control.history.ListMessageRecords, request) is Reason.INVALID_ARGUMENT, fields
