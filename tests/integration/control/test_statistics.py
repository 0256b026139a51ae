"""Statistics: counters that follow the events, by day, dimension and tenant."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import lease_service_pb2
from barua.control.v1 import statistics_service_pb2 as proto
from barua.journal.v1.event_pb2 import Event

from control.database import Connection, Database
from control.model import messageids
from control.model.statistics import CounterKey, Counts, Dimension
from control.store import statistics
from control.store.statistics import KEPT_CHOSEN_DAYS, KEPT_DAYS, forget_old
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, basic
from tests.integration.control.test_leases import Spool

FIRST = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = datetime(2026, 11, 21, 12, tzinfo=UTC)
RANGE: dict[str, Any] = {"start_date": "2026-11-20", "end_date": "2026-11-21"}


async def counted(connection: Connection) -> int:
    """Up to which event the counters count."""
    number: int | None = await connection.fetchval("SELECT number FROM event_cursor WHERE name = 'statistics'")
    return number or 0


def at(event: Event, time: datetime, **fields: Any) -> Event:
    """An event of a time, with more in it."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    event.time.CopyFrom(stamp)
    for name, value in fields.items():
        setattr(event, name, value)
    return event


@pytest.fixture
async def told(control: Control, database: Database) -> Control:
    """A reseller with two accounts that sent on two days."""
    await control.tenant("reseller")
    await control.tenant("first", "reseller")
    await control.tenant("second", "reseller")
    spool = Spool(control)
    events = []
    for number, (tenant, time, domain) in enumerate(
        [
            ("first", FIRST, "x.test"),
            ("first", SECOND, "x.test"),
            ("first", SECOND, "y.test"),
            ("second", FIRST, "x.test"),
        ]
    ):
        id_ = messageids.first_at(time) + number
        lease = lease_service_pb2.Lease(tenant_id=tenant)
        events.append(
            at(spool.received(lease, id_, 0), time, recipient=f"a@{domain}", sender="me@acme.test", stream="news")
        )
        kind = Event.KIND_BOUNCED if domain == "y.test" else Event.KIND_DELIVERED
        events.append(at(spool.outcome(Event.KIND_DEFERRED, tenant, id_, 451, "Later"), time, egress_source="ip1"))
        events.append(at(spool.outcome(kind, tenant, id_, 250, "Ok"), time, egress_source="ip2", provider="smart"))
    await spool.tell(*events)
    async with asyncio.timeout(60):
        consumed = 0
        while consumed < len(events):
            await asyncio.sleep(0.02)
            consumed = await database.transact(counted)
    return control


async def listed(control: Control, tenant: str, **fields: Any) -> list[tuple[str, str, int, int, int, int]]:
    """Counters: day, value, accepted, delivered, bounced, deferred; all pages."""
    request = proto.ListDailyCountersRequest(**{"parent": f"tenants/{tenant}", "page_size": 1, **RANGE, **fields})
    found = []
    while True:
        answer = await control.call(control.statistics.ListDailyCounters, request)
        for counter in answer.daily_counters:
            counts = counter.counts
            found.append(
                (counter.day, counter.value, counts.accepted_count, counts.delivered_count, counts.bounced_count,
                 counts.deferred_count)
            )  # fmt: skip
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            return found


async def summed(control: Control, metadata: Any = None, **fields: Any) -> list[proto.CounterSummary]:
    """Summaries."""
    request = proto.SummarizeCountersRequest(**{**RANGE, **fields})
    answer = await control.call(control.statistics.SummarizeCounters, request, metadata)
    return list(answer.summaries)


@pytest.mark.each_postgres
async def test_counters_by_day_and_dimension(told: Control) -> None:
    total = [("2026-11-20", "", 1, 1, 0, 1), ("2026-11-21", "", 2, 1, 1, 2)]
    assert await listed(told, "first") == total
    assert await listed(told, "first", end_date="2026-11-20") == total[:1]
    assert await listed(told, "first", dimension=proto.DIMENSION_SENDER_DOMAIN, value="ACME.test") == [
        (day, "acme.test", *counts) for day, _, *counts in total
    ]
    assert await listed(told, "first", dimension=proto.DIMENSION_RECIPIENT_DOMAIN, start_date="2026-11-21") == [
        ("2026-11-21", "x.test", 1, 1, 0, 1), ("2026-11-21", "y.test", 1, 0, 1, 1),
    ]  # fmt: skip
    assert await listed(told, "first", dimension=proto.DIMENSION_STREAM, value="news") == [
        ("2026-11-20", "news", 1, 1, 0, 1), ("2026-11-21", "news", 2, 1, 1, 2),
    ]  # fmt: skip
    assert await listed(told, "second", dimension=proto.DIMENSION_EGRESS_SOURCE) == [
        ("2026-11-20", "ip1", 0, 0, 0, 1), ("2026-11-20", "ip2", 0, 1, 0, 0),
    ]  # fmt: skip
    assert await listed(told, "second", dimension=proto.DIMENSION_PROVIDER) == [("2026-11-20", "smart", 0, 1, 0, 0)]


async def test_a_reseller_sees_its_accounts_added_up(told: Control) -> None:
    assert await listed(told, "reseller") == []
    assert await listed(told, "reseller", include_descendants=True) == [
        ("2026-11-20", "", 2, 2, 0, 2), ("2026-11-21", "", 2, 1, 1, 2),
    ]  # fmt: skip
    (total,) = await summed(told, basic("reseller"), parent="tenants/me", include_descendants=True)
    assert (total.counts.accepted_count, total.delivery_rate, total.bounce_rate) == (4, 0.75, 0.25)
    by_tenant = await summed(told, basic("reseller"), parent="tenants/me", by_tenant=True)
    assert [(part.tenant, part.counts.accepted_count) for part in by_tenant] == [
        ("tenants/first", 3), ("tenants/second", 1),
    ]  # fmt: skip
    (whole,) = await summed(told, parent="tenants/operator", by_tenant=True)
    assert (whole.tenant, whole.counts.accepted_count) == ("tenants/reseller", 4)
    domains = await summed(told, parent="tenants/first", dimension=proto.DIMENSION_RECIPIENT_DOMAIN, limit=1)
    assert [(part.value, part.delivery_rate) for part in domains] == [("x.test", 1.0)]


async def test_bad_requests_name_their_field(told: Control) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"start_date": "yesterday"}, {"start_date": "20261120"}, {"end_date": "2026-11-19"},
        {"start_date": "1999-01-01"}, {"dimension": 9}, {"value": "a\nb"}, {"page_size": -1}, {"page_token": "x"},
    )  # fmt: skip
    for fields in wrong:
        request = proto.ListDailyCountersRequest(**{"parent": "tenants/first", **RANGE, **fields})
        assert await told.refused(told.statistics.ListDailyCounters, request) is Reason.INVALID_ARGUMENT, fields
    summing = proto.SummarizeCountersRequest(parent="tenants/first", **RANGE, limit=-1)
    assert await told.refused(told.statistics.SummarizeCounters, summing) is Reason.INVALID_ARGUMENT


async def test_old_counters_are_forgotten_those_of_domains_first(told: Control, database: Database) -> None:
    for age, expected in ((KEPT_CHOSEN_DAYS, (2, 3)), (KEPT_CHOSEN_DAYS + 2, (2, 0)), (KEPT_DAYS + 2, (0, 0))):
        today = FIRST.date() + timedelta(days=age)
        await database.transact(partial(forget_old, today=today))
        domains = await listed(told, "first", dimension=proto.DIMENSION_RECIPIENT_DOMAIN)
        assert (len(await listed(told, "first")), len(domains)) == expected


async def test_another_tag_for_every_message_does_not_fill_the_table(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MAX_TAGS", 2)

    def key(tag: str, tenant: str = "first", time: datetime = FIRST) -> CounterKey:
        return CounterKey(tenant, Dimension.TAG, time.date(), tag)

    total = CounterKey("first", Dimension.TOTAL, FIRST.date(), "")
    kept = [key("b"), key("c", "second"), key("c", time=SECOND), total]

    async def count(connection: Connection) -> None:
        few = {key(tag): Counts(accepted=1) for tag in "ab"}
        assert await statistics.bounded(connection, few) == few
        await statistics.add(connection, few)
        more = {one: Counts(accepted=1) for one in [*kept, key("c"), key("d")]}
        assert list(await statistics.bounded(connection, more)) == kept

    await database.transact(count)
