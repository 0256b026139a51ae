"""`barua statistics`: days, summary. How much mail there was and what became of it."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from barua.control.v1 import statistics_service_pb2 as proto
from barua.control.v1.statistics_service_pb2_grpc import StatisticsServiceStub

from control.cli.output import as_data, last, print_json, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="statistics", help="How much mail there was and what became of it.", no_args_is_help=True)

DEFAULT_DAYS = 30
COUNTS = ["accepted", "delivered", "bounced", "deferred", "expired", "dropped", "opened", "clicked", "unsubscribed"]


class By(StrEnum):
    """What counts are by, as on the command line."""

    TOTAL = "total"
    SENDER_DOMAIN = "sender-domain"
    RECIPIENT_DOMAIN = "recipient-domain"
    STREAM = "stream"
    EGRESS_SOURCE = "egress-source"
    PROVIDER = "provider"
    TAG = "tag"
    TENANT = "tenant"


TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
SinceOption = Annotated[datetime | None, typer.Option(help="First day (UTC).", formats=["%Y-%m-%d"])]
UntilOption = Annotated[datetime | None, typer.Option(help="Last day (UTC).", formats=["%Y-%m-%d"])]
ByOption = Annotated[By, typer.Option("--by", help="What the counts are by.")]
ValueOption = Annotated[str, typer.Option(help="Only this value, such as a domain.")]
BelowOption = Annotated[bool, typer.Option("--below", help="Add what belongs to the tenants below.")]


@verb(app, "days")
async def days(
    session: Session,
    tenant: TenantArgument,
    since: SinceOption = None,
    until: UntilOption = None,
    by: ByOption = By.TOTAL,
    value: ValueOption = "",
    below: BelowOption = False,
    limit: Annotated[int, typer.Option(min=1, help="So many lines at most.")] = 1000,
) -> None:
    """List counts day by day."""
    if by is By.TENANT:
        raise typer.BadParameter("counts by tenant are in the summary", param_hint="--by")
    first, end = _range(since, until)
    request = proto.ListDailyCountersRequest(
        parent=tenant_name(tenant),
        start_date=first,
        end_date=end,
        dimension=_dimension(by),
        value=value,
        include_descendants=below,
    )
    async with session.control() as operator:
        stub = StatisticsServiceStub(operator.channel)
        pages = operator.pages(stub.ListDailyCounters, request, "daily_counters", limit=limit)
        found = [counter async for counter in pages]
    if session.json:
        print_json([as_data(counter) for counter in found])
        return
    rows = [(counter.day, counter.value, *_counts(counter.counts)) for counter in found]
    print_table(["day", by.value, *COUNTS], rows)


@verb(app, "summary")
async def summary(
    session: Session,
    tenant: TenantArgument,
    since: SinceOption = None,
    until: UntilOption = None,
    by: ByOption = By.TOTAL,
    value: ValueOption = "",
    below: BelowOption = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many lines at most.")] = 50,
) -> None:
    """Add counts up over the days, with rates."""
    first, end = _range(since, until)
    request = proto.SummarizeCountersRequest(
        parent=tenant_name(tenant),
        start_date=first,
        end_date=end,
        dimension=_dimension(by),
        value=value,
        include_descendants=below,
        by_tenant=by is By.TENANT,
        limit=limit,
    )
    async with session.control() as operator:
        answer = await operator.call(StatisticsServiceStub(operator.channel).SummarizeCounters, request)
    if session.json:
        print_json([as_data(part) for part in answer.summaries])
        return
    rows = [
        (
            last(part.tenant) or part.value,
            *_counts(part.counts),
            _percent(part.delivery_rate),
            _percent(part.bounce_rate),
        )
        for part in answer.summaries
    ]
    print_table([by.value, *COUNTS, "delivery rate", "bounce rate"], rows)


def _range(since: datetime | None, until: datetime | None) -> tuple[str, str]:
    end = until or datetime.now(UTC)
    first = since or end - timedelta(days=DEFAULT_DAYS)
    return first.date().isoformat(), end.date().isoformat()


def _dimension(by: By) -> proto.Dimension.ValueType:
    return proto.DIMENSION_TOTAL if by is By.TENANT else proto.Dimension.Value("DIMENSION_" + by.name)


def _counts(counts: proto.Counts) -> list[int]:
    return [getattr(counts, f"{name}_count") for name in COUNTS]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
