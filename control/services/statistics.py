"""StatisticsService: how much mail there was and what became of it."""

from datetime import date
from typing import Any

import grpc

from barua.control.v1 import statistics_service_pb2 as proto
from barua.control.v1.statistics_service_pb2_grpc import StatisticsServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, names
from control.model.statistics import MAX_VALUE, Counts, Dimension, rate
from control.services.listing import page_of
from control.store import statistics, tenants
from control.store.statistics import KEPT_DAYS, DailyCounter, Selection

_Context = grpc.aio.ServicerContext[Any, Any]

_DIMENSIONS = {dimension.value: dimension for dimension in Dimension} | {0: Dimension.TOTAL}


class StatisticsServicer(StatisticsServiceServicer):
    """See the proto."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ListDailyCounters(
        self, request: proto.ListDailyCountersRequest, context: _Context
    ) -> proto.ListDailyCountersResponse:
        """See the proto."""
        me = caller().tenant_id
        wanted = _selection(request, names.tenant(request.parent, me, "parent"))
        page = page_of(request, "", *map(str, wanted.arguments()))
        after = _place(page.after)

        async def read(connection: Connection) -> list[DailyCounter]:
            await tenants.visible(connection, me, wanted.tenant_id)
            return await statistics.page(connection, wanted, after, page.limit)

        found, token = page.cut(
            await self._database.transact(read), lambda counter: f"{counter.day.isoformat()}/{counter.value}"
        )
        return proto.ListDailyCountersResponse(
            daily_counters=[
                proto.DailyCounter(day=counter.day.isoformat(), value=counter.value, counts=_counts(counter.counts))
                for counter in found
            ],
            next_page_token=token,
        )

    async def SummarizeCounters(
        self, request: proto.SummarizeCountersRequest, context: _Context
    ) -> proto.SummarizeCountersResponse:
        """See the proto."""
        me = caller().tenant_id
        wanted = _selection(request, names.tenant(request.parent, me, "parent"), everybody=request.by_tenant)
        if request.limit < 0:
            raise fields.invalid("limit", f"limit must not be negative; it is {request.limit}")
        limit = fields.page_size(request.limit)

        async def read(connection: Connection) -> list[tuple[str, Counts]]:
            await tenants.visible(connection, me, wanted.tenant_id)
            summed = statistics.sums_by_tenant if request.by_tenant else statistics.sums
            return await summed(connection, wanted, limit)

        found = await self._database.transact(read)
        return proto.SummarizeCountersResponse(
            summaries=[_summary(key, counts, by_tenant=request.by_tenant) for key, counts in found]
        )


def _selection(
    request: proto.ListDailyCountersRequest | proto.SummarizeCountersRequest, tenant_id: str, everybody: bool = False
) -> Selection:
    first, last = _date(request.start_date, "start_date"), _date(request.end_date, "end_date")
    if last < first:
        raise fields.invalid("end_date", f"end_date must not be before start_date, {first.isoformat()}")
    if (last - first).days > KEPT_DAYS:
        raise fields.invalid("end_date", f"end_date must be at most {KEPT_DAYS} days after start_date")
    dimension = _DIMENSIONS.get(request.dimension)
    if dimension is None:
        raise fields.invalid("dimension", f"dimension {request.dimension} is not known")
    value = fields.text(request.value, "value", MAX_VALUE)
    if dimension in (Dimension.SENDER_DOMAIN, Dimension.RECIPIENT_DOMAIN):
        value = value.lower()
    return Selection(tenant_id, first, last, dimension, value or None, request.include_descendants or everybody)


def _date(text: str, field: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    # Other forms of ISO 8601 that Python reads would make two texts of one page token.
    if day.isoformat() != text:
        raise fields.invalid(field, f'{field} must be a date such as 2026-11-22; it is "{text[:50]}"')
    return day


def _place(token: str) -> tuple[date, str]:
    """The day and value after which a page starts; a forged one starts where it says."""
    if not token:
        return date.min, ""
    day, _, value = token.partition("/")
    return _date(day, "page_token"), value


def _summary(key: str, counts: Counts, *, by_tenant: bool) -> proto.CounterSummary:
    return proto.CounterSummary(
        value="" if by_tenant else key,
        tenant=f"tenants/{key}" if by_tenant else "",
        counts=_counts(counts),
        delivery_rate=rate(counts.delivered, counts.finished),
        bounce_rate=rate(counts.bounced, counts.finished),
        complaint_rate=rate(counts.complained, counts.delivered),
    )


def _counts(counts: Counts) -> proto.Counts:
    return proto.Counts(
        accepted_count=counts.accepted,
        delivered_count=counts.delivered,
        bounced_count=counts.bounced,
        deferred_count=counts.deferred,
        expired_count=counts.expired,
        suppressed_count=counts.suppressed,
        complained_count=counts.complained,
        unsubscribed_count=counts.unsubscribed,
        dropped_count=counts.suppressed,
        smtp_dropped_count=counts.smtp_dropped,
        soft_bounced_count=counts.deferred,
        hard_bounced_count=counts.hard_bounced,
        opened_count=counts.opened,
        open_count=counts.opens,
        clicked_count=counts.clicked,
        click_count=counts.clicks,
        processed_count=counts.processed,
        sent_count=counts.sent,
    )
