"""Statistics: counters of an account with its sub-accounts, and of single sub-accounts, by day or added up.

Paths below ``/account/stat`` are about the account with all its sub-accounts, those below ``/account/subaccount/stat``
about one of these; ``/subaccount/stat`` is the same for the sub-account of the key.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from msgspec import Struct

from barua.control.v1 import list_validation_pb2, list_validation_service_pb2, tenant_service_pb2
from barua.control.v1 import statistics_service_pb2 as service
from barua.control.v1.statistics_service_pb2 import Dimension

from api_bridge.dialects.sendpost import counters
from api_bridge.dialects.sendpost.answers import Count
from api_bridge.dialects.sendpost.counters import (
    AGGREGATE_DAYS,
    DAILY_DAYS,
    GROUP,
    OPTIONAL_RANGE,
    RANGE,
    Counters,
    DailyCounters,
    DomainCounters,
    GroupCounters,
    IpCounters,
    ProviderCounters,
    SubAccountCounters,
    TpspCounters,
)
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Handler, Key, Operation, Parameter, paging

_Entry = TypeVar("_Entry", bound=Counters)

MOST_VALUES = 1000
"""Values of a dimension: those with the most mail."""
MOST_TENANTS = 10_000
"""Sub-accounts that are looked up for their names."""

_ORDER = (
    Parameter("orderBy", description="Counter to order by.", choices=tuple(counters.Counters.__struct_fields__)),
    Parameter("sortOrder", description="Direction.", default="desc", choices=("asc", "desc", "ASC", "DESC")),
)
_FILTER = (
    Parameter("filterBy", description="Without effect but with filterValue.", most=100),
    Parameter("filterValue", description="Only this value.", most=320),
)


class Usage(Struct):
    """What an account used in the running month."""

    processed: int


class ValidationCounters(Struct):
    """What validations found."""

    initiated: int = 0
    processed: int = 0
    valid: int = 0
    invalid: int = 0
    softBounced: int = 0  # noqa: N815  # names in the JSON
    hardBounced: int = 0  # noqa: N815
    catchAll: int = 0  # noqa: N815
    unknown: int = 0


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    account, sub_account, grouped = Key.ACCOUNT, Key.SUB_ACCOUNT, (GROUP, *RANGE)
    one, own = "/account/subaccount/stat/{subaccount_id}", "/subaccount/stat"
    made: list[Operation] = []
    for path, name, key in ((one, "sub_account_stat", account), (own, "own_stat", sub_account)):
        made += [
            _get(key, path, name, "Day by day.", _daily, RANGE, list[DailyCounters]),
            _get(key, f"{path}/aggregate", f"{name}_aggregate", "Added up.", _sum, RANGE, Counters),
            _get(key, f"{path}/group", f"{name}_group", "A group, added up.", _group_sum, grouped, Counters),
        ]
    made.append(
        _get(
            sub_account,
            f"{own}/aggregate/group",
            "own_stat_aggregate_group",
            "A group, added up.",
            _group_sum,
            grouped,
            Counters,
        )
    )
    for part, (handler, kind) in _BREAKDOWNS.items():
        path, name = f"{one}/aggregate/{part}", f"sub_account_stat_by_{part}"
        made.append(_get(account, path, name, f"Added up by {part}.", handler, OPTIONAL_RANGE, _list_of(kind)))
    return [*made, *_account_operations()]


def _account_operations() -> list[Operation]:
    path, grouped = "/account/stat", (GROUP, *RANGE)
    made = [
        _of_account(path, "account_stat", "Day by day.", _daily, RANGE, list[DailyCounters]),
        _of_account(f"{path}/aggregate", "account_stat_aggregate", "Added up.", _sum, RANGE, Counters),
        _of_account(
            f"{path}/group", "account_stat_group", "A group, day by day.", _daily, grouped, list[DailyCounters]
        ),
        _of_account(
            f"{path}/aggregate/group",
            "account_stat_group_aggregate",
            "A group, added up.",
            _group_sum,
            grouped,
            Counters,
        ),
        _of_account(
            f"{path}/cycleusage", "account_usage", "What the account used in the running month.", _usage, (), Usage
        ),
        _of_account(
            f"{path}/aggregate/validation",
            "account_stat_by_validation",
            "What validations of lists found.",
            _validation,
            OPTIONAL_RANGE,
            ValidationCounters,
        ),
    ]
    query = (*OPTIONAL_RANGE, *_FILTER, *_ORDER, SEARCH, *paging(MOST_VALUES))
    parts: dict[str, tuple[Handler, Any]] = {
        "domain": _BREAKDOWNS["domain"],
        "ip": _BREAKDOWNS["ip"],
        "subaccount": (_by_sub_account, SubAccountCounters),
        "tpsp": (_by_tpsp, TpspCounters),
    }
    for part, (handler, kind) in parts.items():
        title, name, below = f"Added up by {part}.", f"account_stat_by_{part}", f"{path}/aggregate/{part}"
        counted = f"How many {part} there are."
        made += [
            _of_account(below, name, title, handler, query, _list_of(kind)),
            _of_account(f"{below}/count", f"{name}_count", counted, _counting(handler), query, Count),
        ]
    return made


def _of_account(
    path: str, name: str, summary: str, handler: Handler, query: Sequence[Parameter], answer: Any
) -> Operation:
    return _get(Key.ACCOUNT, path, name, summary, handler, query, answer, "account statistics")


def _get(
    key: Key,
    path: str,
    name: str,
    summary: str,
    handler: Handler,
    query: Sequence[Parameter],
    answer: Any,
    tag: str = "sub-account statistics",
) -> Operation:
    return Operation("GET", path, name, summary, handler, key, query, answer=answer, tag=tag)


def _list_of(kind: Any) -> Any:
    return list[kind]


async def _scope(call: Call) -> tuple[str, bool]:
    """The tenant, and whether those below it count, too."""
    if "subaccount_id" in call.request.path_params:
        tenant = await call.dialect.accounts.sub_account(call, call.number("subaccount_id", "Sub-account"))
        own = await call.dialect.accounts.own(call)
        # The default sub-account is the account itself; what is below that are the other sub-accounts.
        return tenant.name, tenant.name != own.name
    return "tenants/me", True


async def _daily(call: Call) -> list[DailyCounters]:
    first, last = _days(call, DAILY_DAYS)
    tenant, below = await _scope(call)
    group = call.query.get("group")
    request = service.ListDailyCountersRequest(
        parent=tenant,
        start_date=first.isoformat(),
        end_date=last.isoformat(),
        dimension=Dimension.DIMENSION_TAG if group else Dimension.DIMENSION_TOTAL,
        value=group or "",
        include_descendants=below,
        page_size=MOST_VALUES,
    )
    return counters.daily(first, last, await call.first(MOST_VALUES, "statistics", "ListDailyCounters", request))


async def _sum(call: Call) -> Counters:
    return await _added_up(call, Dimension.DIMENSION_TOTAL, "")


async def _group_sum(call: Call) -> Counters:
    return await _added_up(call, Dimension.DIMENSION_TAG, call.query["group"])


async def _added_up(call: Call, dimension: Dimension.ValueType, value: str) -> Counters:
    found = await _summaries(call, dimension, value)
    return Counters(**counters.fields(found[0].counts)) if found else Counters()


async def _summaries(
    call: Call, dimension: Dimension.ValueType, value: str = "", *, by_tenant: bool = False
) -> Sequence[service.CounterSummary]:
    first, last = _days(call, AGGREGATE_DAYS)
    tenant, below = await _scope(call)
    request = service.SummarizeCountersRequest(
        parent=tenant,
        start_date=first.isoformat(),
        end_date=last.isoformat(),
        dimension=dimension,
        value=value,
        include_descendants=below,
        by_tenant=by_tenant,
        limit=MOST_VALUES,
    )
    answer: service.SummarizeCountersResponse = await call.ask("statistics", "SummarizeCounters", request)
    return answer.summaries


async def _by_group(call: Call) -> list[GroupCounters]:
    found = await _summaries(call, Dimension.DIMENSION_TAG)
    return _arranged(call, [GroupCounters(group=one.value, **counters.fields(one.counts)) for one in found])


async def _by_domain(call: Call) -> list[DomainCounters]:
    found = await _summaries(call, Dimension.DIMENSION_SENDER_DOMAIN)
    return _arranged(call, [DomainCounters(domain=one.value, **counters.fields(one.counts)) for one in found])


async def _by_ip(call: Call) -> list[IpCounters]:
    found = await _summaries(call, Dimension.DIMENSION_EGRESS_SOURCE)
    return _arranged(call, [IpCounters(publicIp=one.value, **counters.fields(one.counts)) for one in found])


async def _by_tpsp(call: Call) -> list[TpspCounters]:
    found = await _summaries(call, Dimension.DIMENSION_PROVIDER)
    return _arranged(call, [TpspCounters(name=one.value, **counters.fields(one.counts)) for one in found])


async def _by_provider(call: Call) -> list[ProviderCounters]:
    sums: dict[str, dict[str, int]] = {}
    for one in await _summaries(call, Dimension.DIMENSION_RECIPIENT_DOMAIN):
        total = sums.setdefault(counters.provider(one.value), {})
        for name, count in counters.fields(one.counts).items():
            total[name] = total.get(name, 0) + count
    return _arranged(call, [ProviderCounters(provider=name, **total) for name, total in sums.items()])


async def _by_sub_account(call: Call) -> list[SubAccountCounters]:
    found = await _summaries(call, Dimension.DIMENSION_TOTAL, by_tenant=True)
    request = tenant_service_pb2.ListTenantsRequest(parent="tenants/me", include_parent=True, page_size=MOST_VALUES)
    tenants = {one.name: one for one in await call.first(MOST_TENANTS, "tenants", "ListTenants", request)}
    made = []
    for one in found:
        tenant = tenants.get(one.tenant)
        if tenant is not None:
            values = counters.fields(one.counts)
            made.append(SubAccountCounters(subAccountId=tenant.number, subAccountName=tenant.display_name, **values))
    return _arranged(call, made)


_BREAKDOWNS: dict[str, tuple[Handler, Any]] = {
    "domain": (_by_domain, DomainCounters),
    "group": (_by_group, GroupCounters),
    "ip": (_by_ip, IpCounters),
    "provider": (_by_provider, ProviderCounters),
}


def _arranged(call: Call, entries: list[_Entry]) -> list[_Entry]:
    """Filtered, in order and cut as the query asks; those with the most mail first unless it asks."""
    query: Mapping[str, Any] = call.query
    wanted, search = query.get("filterValue") or "", (query.get("search") or "").casefold()

    def kept(entry: _Entry) -> bool:
        texts = [str(getattr(entry, name)) for name in entry.__struct_fields__ if isinstance(getattr(entry, name), str)]
        return (not wanted or wanted in texts) and any(search in text.casefold() for text in texts)

    order = query.get("orderBy") or "processed"
    descending = (query.get("sortOrder") or "desc").lower() == "desc"
    ordered = sorted(filter(kept, entries), key=lambda entry: getattr(entry, order), reverse=descending)
    offset = query.get("offset") or 0
    return ordered[offset : offset + (query.get("limit") or MOST_VALUES)]


def _counting(handler: Handler) -> Handler:
    async def count(call: Call) -> Count:
        call.query = {**call.query, "offset": 0, "limit": MOST_VALUES}
        return Count(len(await handler(call)))

    return count


async def _usage(call: Call) -> Usage:
    request = tenant_service_pb2.GetTenantUsageRequest(name="tenants/me/usage")
    usage = await call.ask("tenants", "GetTenantUsage", request)
    return Usage(usage.month_recipients)


async def _validation(call: Call) -> ValidationCounters:
    first, last = _days(call, AGGREGATE_DAYS)
    request = list_validation_service_pb2.ListListValidationsRequest(parent="tenants/me", page_size=MOST_VALUES)
    sums = ValidationCounters()
    for one in await call.first(MOST_VALUES, "list_validation", "ListListValidations", request):
        if first <= one.create_time.ToDatetime(UTC).date() <= last:
            _add(sums, one)
    return sums


def _add(sums: ValidationCounters, one: list_validation_pb2.ListValidation) -> None:
    sums.initiated += one.address_count
    sums.processed += one.checked_count
    sums.valid += one.deliverable_count
    sums.invalid += one.undeliverable_count
    sums.unknown += one.unknown_count + one.risky_count


def _days(call: Call, most: int) -> tuple[date, date]:
    return counters.days(call.query, most, datetime.now(UTC).date())
