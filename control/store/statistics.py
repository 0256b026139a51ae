"""Daily counters: filled by a consumer of events, listed by day, summed over days and tenants."""

# ruff: noqa: S608 - the only text put into statements are the names of the counts

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from control.database import Connection, Row
from control.model.statistics import COUNTED, CounterKey, Counts, Dimension

KEPT_DAYS = 800
"""Counters are small: two years and a bit, so that a month can be held against that of the year before."""
KEPT_CHOSEN_DAYS = 90
"""Except those by recipient domain and by stream: who sends chooses them, and there may be a great many."""

_SUMS = ", ".join(f"coalesce(sum({name}), 0)::bigint AS {name}" for name in COUNTED)


@dataclass(frozen=True, slots=True)
class DailyCounter:
    """What happened to one tenant's mail on one day, under one value."""

    day: date
    value: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Selection:
    """Which counters: days ``first`` to ``last``, both included; ``value`` None means every value.

    With ``descendants`` the tenants below count too.
    """

    tenant_id: str
    first: date
    last: date
    dimension: Dimension
    value: str | None = None
    descendants: bool = False

    def arguments(self) -> tuple[object, ...]:
        """For the condition below."""
        return (self.tenant_id, self.first, self.last, self.dimension, self.value, self.descendants)


_SELECTED = (
    " day BETWEEN $2 AND $3 AND dimension = $4 AND ($5::text IS NULL OR value = $5)"
    " AND (tenant_id = $1 OR $6 AND tenant_id IN (SELECT tenant_id FROM tenant WHERE $1 = ANY (path)))"
)


async def add(connection: Connection, counters: Mapping[CounterKey, Counts]) -> None:
    """Add to counters. Locks them in the order of their keys, which is that of the mapping."""
    keys = list(counters)
    columns = {name: [getattr(counts, name) for counts in counters.values()] for name in COUNTED}
    # Few kinds of events come at a time: what is not counted in any of the counters need not be sent.
    told = {name: column for name, column in columns.items() if any(column)}
    if not told:
        return
    arrays = ", ".join(f"${number}::bigint[]" for number in range(5, 5 + len(told)))
    additions = ", ".join(f"{name} = daily_counter.{name} + excluded.{name}" for name in told)
    await connection.execute(
        f"INSERT INTO daily_counter (tenant_id, dimension, day, value, {', '.join(told)})"
        f" SELECT * FROM unnest($1::text[], $2::smallint[], $3::date[], $4::text[], {arrays})"
        f" ON CONFLICT (tenant_id, dimension, day, value) DO UPDATE SET {additions}",
        [key.tenant_id for key in keys],
        [key.dimension for key in keys],
        [key.day for key in keys],
        [key.value for key in keys],
        *told.values(),
    )


async def page(connection: Connection, wanted: Selection, after: tuple[date, str], limit: int) -> list[DailyCounter]:
    """Counters by day and value, after a day and value; those of several tenants added up."""
    rows = await connection.fetch(
        f"SELECT day, value, {_SUMS} FROM daily_counter WHERE {_SELECTED} AND (day, value) > ($7, $8)"
        " GROUP BY day, value ORDER BY day, value LIMIT $9",
        *wanted.arguments(),
        *after,
        limit,
    )
    return [DailyCounter(row["day"], row["value"], _counts(row)) for row in rows]


async def sums(connection: Connection, wanted: Selection, limit: int) -> list[tuple[str, Counts]]:
    """Counters of all days added up, by value; those with the most accepted recipients first."""
    rows = await connection.fetch(
        f"SELECT value, {_SUMS} FROM daily_counter WHERE {_SELECTED}"
        " GROUP BY value ORDER BY sum(accepted) DESC, sum(delivered) DESC, value LIMIT $7",
        *wanted.arguments(),
        limit,
    )
    return [(row["value"], _counts(row)) for row in rows]


async def sums_by_tenant(connection: Connection, wanted: Selection, limit: int) -> list[tuple[str, Counts]]:
    """The same by tenant: each child of the tenant with everything below it, and the tenant itself."""
    rows = await connection.fetch(
        # The part of a tenant's line right below the tenant asked for: its child, or the tenant itself.
        "WITH part AS (SELECT tenant_id, coalesce(path[array_position(path, $1) + 1], $1) AS child"
        "              FROM tenant WHERE $1 = ANY (path))"
        f" SELECT child, {_SUMS} FROM daily_counter JOIN part USING (tenant_id) WHERE {_SELECTED}"
        " GROUP BY child ORDER BY sum(accepted) DESC, child LIMIT $7",
        *wanted.arguments(),
        limit,
    )
    return [(row["child"], _counts(row)) for row in rows]


async def forget_old(connection: Connection, today: date) -> None:
    """Forget the counters of days long past."""
    await connection.execute(
        "DELETE FROM daily_counter WHERE day < $1 OR day < $2 AND dimension = ANY ($3::smallint[])",
        today - timedelta(days=KEPT_DAYS),
        today - timedelta(days=KEPT_CHOSEN_DAYS),
        [Dimension.RECIPIENT_DOMAIN, Dimension.STREAM],
    )


def _counts(row: Row) -> Counts:
    return Counts(*(row[name] for name in COUNTED))
