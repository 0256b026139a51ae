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
KEPT_TAG_DAYS = 400
"""Those by tag: people ask for a year of a campaign."""
MAX_TAGS = 5000
"""Tags of a tenant that are counted on a day: who gives every message another tag would fill the table."""

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


async def bounded(connection: Connection, counters: Mapping[CounterKey, Counts]) -> Mapping[CounterKey, Counts]:
    """The counters without further tags of tenants that have ``MAX_TAGS`` on the day."""
    tagged = [key for key in counters if key.dimension == Dimension.TAG]
    if not tagged:
        return counters
    places = sorted({(key.tenant_id, key.day) for key in tagged})
    rows = await connection.fetch(
        "SELECT tenant_id, day FROM unnest($1::text[], $2::date[]) AS place (tenant_id, day)"
        " WHERE (SELECT count(*) FROM (SELECT FROM daily_counter AS counter WHERE counter.tenant_id = place.tenant_id"
        "  AND counter.dimension = $3 AND counter.day = place.day LIMIT $4) AS counted) = $4",
        [tenant_id for tenant_id, _ in places],
        [day for _, day in places],
        Dimension.TAG,
        MAX_TAGS,
    )
    full = {(row["tenant_id"], row["day"]) for row in rows}
    late = {key for key in tagged if (key.tenant_id, key.day) in full}
    if not late:
        return counters
    rows = await connection.fetch(
        "SELECT tenant_id, day, value FROM daily_counter WHERE dimension = $4"
        " AND (tenant_id, day, value) IN (SELECT * FROM unnest($1::text[], $2::date[], $3::text[]))",
        [key.tenant_id for key in late],
        [key.day for key in late],
        [key.value for key in late],
        Dimension.TAG,
    )
    late -= {CounterKey(row["tenant_id"], Dimension.TAG, row["day"], row["value"]) for row in rows}
    return {key: counts for key, counts in counters.items() if key not in late}


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
        "DELETE FROM daily_counter WHERE day < $1 OR day < $2 AND dimension = ANY ($3::smallint[])"
        " OR day < $4 AND dimension = $5",
        today - timedelta(days=KEPT_DAYS),
        today - timedelta(days=KEPT_CHOSEN_DAYS),
        [Dimension.RECIPIENT_DOMAIN, Dimension.STREAM],
        today - timedelta(days=KEPT_TAG_DAYS),
        Dimension.TAG,
    )


def _counts(row: Row) -> Counts:
    return Counts(*(row[name] for name in COUNTED))
