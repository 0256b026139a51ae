"""Sources, pools, egress rules and which tenant has which pool: the operator's ways out. Every change is logged."""

# ruff: noqa: S608 - the only text put into statements is the lists of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import asyncpg

from control.database import Connection, Row
from control.model import quotas
from control.store import policy_log
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

_SOURCE = "source_id, host(address) AS address, ehlo_name, state, warm_up_start, warm_up_limits, daily_limit, note"
SOURCE_COLUMNS = (
    f"{_SOURCE}, allotted_to, released, auto_warm_up, usage_day, usage_count, created_at, updated_at, version, number"
)
_POOL = (
    "pool.pool_id, display_name, created_at, updated_at, version, number, owner, folded_name,"
    " CASE WHEN overflow THEN overflow_pool_id END AS overflow_pool_id,"
    " array(SELECT source_id FROM pool_member m WHERE m.pool_id = pool.pool_id ORDER BY source_id) AS source_ids,"
    " array(SELECT weight FROM pool_member m WHERE m.pool_id = pool.pool_id ORDER BY source_id) AS weights"
)
_RULE = (
    "rule_id, position, tenant_id, stream, sender_domain, recipient_domain, mx_suffix, pool_id, provider_tenant_id,"
    " provider_id, suspended, connections, messages_per_connection, messages_per_minute, note"
)
_RULE_ALL = f"{_RULE}, created_at, updated_at, version"


@dataclass(frozen=True, slots=True)
class Source:
    """An address that mail goes out from. ``state`` is one of those in the schema."""

    source_id: str
    address: str
    ehlo_name: str
    state: str = "active"
    warm_up_start: date | None = None
    warm_up_limits: tuple[int, ...] = ()
    daily_limit: int = 0
    note: str = ""
    allotted_to: str | None = None
    """The tenant that may use it, with those below."""
    released: bool = False
    auto_warm_up: bool = False
    usage_day: date = date.min
    usage_count: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 0
    number: int = 0

    def limit(self, today: date) -> int:
        """The limit in force on a day; 0: none."""
        return quotas.limit_today(self.warm_up_start, self.warm_up_limits, self.daily_limit, today)

    def warm_up_day(self, today: date) -> int:
        """Day of the warm-up plan, from 1; 0: not in warm-up."""
        return quotas.warm_up_day(self.warm_up_start, self.warm_up_limits, today)

    def used(self, today: date) -> int:
        """Recipients that count for today."""
        return self.usage_count if self.usage_day == today else 0


@dataclass(frozen=True, slots=True)
class Pool:
    """Sources with their weights. ``owner`` is the tenant that made it, whose messages call it ``folded_name``."""

    pool_id: str
    display_name: str
    members: tuple[tuple[str, int], ...]
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 0
    number: int = 0
    owner: str | None = None
    folded_name: str | None = None
    overflow_pool_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An egress rule; conditions that are empty or None hold for all mail."""

    rule_id: str
    position: int = 0
    tenant_id: str | None = None
    stream: str = ""
    sender_domain: str = ""
    recipient_domain: str = ""
    mx_suffix: str = ""
    pool_id: str | None = None
    provider_tenant_id: str | None = None
    provider_id: str | None = None
    suspended: bool = False
    connections: int = 0
    messages_per_connection: int = 0
    messages_per_minute: int = 0
    note: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """The pool of a tenant."""

    tenant_id: str
    pool_id: str


# -- sources -----------------------------------------------------------------------------------------------------------


async def create_source(connection: Connection, source: Source) -> Source:
    """Make a source. ALREADY_EXISTS if the id or the address is taken."""
    try:
        await connection.execute(
            "INSERT INTO source (source_id, address, ehlo_name, state, warm_up_start, warm_up_limits, daily_limit,"
            " note, allotted_to, released, auto_warm_up) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            *_source_values(source),
        )
    except asyncpg.UniqueViolationError as error:
        raise _source_taken(source, error) from error
    except asyncpg.ForeignKeyViolationError as error:
        raise not_found("tenant", source.allotted_to or "") from error
    await _log(connection, Kind.SOURCE, source.source_id)
    return await get_source(connection, source.source_id)


async def update_source(connection: Connection, source: Source) -> Source:
    """Write a source that was read under lock in this transaction. ALREADY_EXISTS if another has the address."""
    try:
        await connection.execute(
            "UPDATE source SET address = $2, ehlo_name = $3, state = $4, warm_up_start = $5, warm_up_limits = $6,"
            " daily_limit = $7, note = $8, allotted_to = $9, released = $10, auto_warm_up = $11, updated_at = now(),"
            " version = version + 1 WHERE source_id = $1",
            *_source_values(source),
        )
    except asyncpg.UniqueViolationError as error:
        raise _source_taken(source, error) from error
    except asyncpg.ForeignKeyViolationError as error:
        raise not_found("tenant", source.allotted_to or "") from error
    await _log(connection, Kind.SOURCE, source.source_id)
    return await get_source(connection, source.source_id)


async def get_source(connection: Connection, source_id: str, *, lock: bool = False) -> Source:
    """A source. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {SOURCE_COLUMNS} FROM source WHERE source_id = $1{' FOR UPDATE' if lock else ''}", source_id
    )
    if row is None:
        raise not_found("source", source_id)
    return source_of(row)


async def page_sources(connection: Connection, after: str, limit: int) -> list[Source]:
    """Sources, by id; also for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {SOURCE_COLUMNS} FROM source WHERE source_id > $1 ORDER BY source_id LIMIT $2", after, limit
    )
    return [source_of(row) for row in rows]


async def some_sources(connection: Connection, source_ids: Sequence[str]) -> list[Source]:
    """Those of the sources that exist."""
    rows = await connection.fetch(f"SELECT {SOURCE_COLUMNS} FROM source WHERE source_id = ANY ($1)", source_ids)
    return [source_of(row) for row in rows]


async def delete_source(connection: Connection, source_id: str) -> None:
    """Remove a source. FAILED_PRECONDITION if a pool has it."""
    try:
        await connection.execute("DELETE FROM source WHERE source_id = $1", source_id)
    except asyncpg.ForeignKeyViolationError as error:
        raise in_use("source", source_id, "a pool has it; take it out there first") from error
    await _log(connection, Kind.SOURCE, source_id)


async def use_source(connection: Connection, source_id: str, today: date, count: int) -> None:
    """Count recipients for today."""
    await connection.execute(
        "UPDATE source SET usage_count = CASE WHEN usage_day = $2 THEN usage_count ELSE 0 END + $3, usage_day = $2"
        " WHERE source_id = $1",
        source_id,
        today,
        count,
    )


# -- pools -------------------------------------------------------------------------------------------------------------


async def create_pool(connection: Connection, pool: Pool) -> Pool:
    """Make a pool. ALREADY_EXISTS if the id is taken, NOT_FOUND if a source is not there."""
    made = await connection.fetchval(
        "INSERT INTO pool (pool_id, display_name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
        pool.pool_id,
        pool.display_name,
    )
    if not made:
        raise _taken("pool", pool.pool_id)
    await _write_members(connection, pool)
    await _log(connection, Kind.POOL, pool.pool_id)
    return await get_pool(connection, pool.pool_id)


async def update_pool(connection: Connection, pool: Pool) -> Pool:
    """Write a pool that was read under lock in this transaction. NOT_FOUND if a source is not there."""
    await connection.execute(
        "UPDATE pool SET display_name = $2, updated_at = now(), version = version + 1 WHERE pool_id = $1",
        pool.pool_id,
        pool.display_name,
    )
    await connection.execute("DELETE FROM pool_member WHERE pool_id = $1", pool.pool_id)
    await _write_members(connection, pool)
    await _log(connection, Kind.POOL, pool.pool_id)
    return await get_pool(connection, pool.pool_id)


async def get_pool(connection: Connection, pool_id: str, *, lock: bool = False) -> Pool:
    """A pool. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_POOL} FROM pool WHERE pool_id = $1{' FOR UPDATE' if lock else ''}", pool_id
    )
    if row is None:
        raise not_found("pool", pool_id)
    return _pool(row)


async def page_pools(connection: Connection, after: str, limit: int) -> list[Pool]:
    """Pools, by id; also for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_POOL} FROM pool WHERE pool_id > $1 ORDER BY pool_id LIMIT $2", after, limit
    )
    return [_pool(row) for row in rows]


async def some_pools(connection: Connection, pool_ids: Sequence[str]) -> list[Pool]:
    """Those of the pools that exist."""
    return [
        _pool(row) for row in await connection.fetch(f"SELECT {_POOL} FROM pool WHERE pool_id = ANY ($1)", pool_ids)
    ]


async def delete_pool(connection: Connection, pool_id: str) -> None:
    """Remove a pool. FAILED_PRECONDITION if a rule or a tenant has it."""
    try:
        await connection.execute("DELETE FROM pool WHERE pool_id = $1", pool_id)
    except asyncpg.ForeignKeyViolationError as error:
        raise in_use("pool", pool_id, "an egress rule, a tenant or another pool has it; change that first") from error
    await _log(connection, Kind.POOL, pool_id)


# -- rules -------------------------------------------------------------------------------------------------------------


async def create_rule(connection: Connection, rule: Rule) -> Rule:
    """Make a rule. ALREADY_EXISTS if the id is taken, NOT_FOUND if what it names is not there."""
    places = ", ".join(f"${number}" for number in range(1, 16))
    try:
        made = await connection.fetchrow(
            f"INSERT INTO egress_rule ({_RULE}) VALUES ({places}) ON CONFLICT DO NOTHING RETURNING {_RULE_ALL}",
            *_rule_values(rule),
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise _missing(rule, error) from error
    if made is None:
        raise _taken("egress rule", rule.rule_id)
    await _log(connection, Kind.EGRESS_RULE, rule.rule_id)
    return _rule(made)


async def update_rule(connection: Connection, rule: Rule) -> Rule:
    """Write a rule that was read under lock in this transaction. NOT_FOUND if what it names is not there."""
    columns = [column.strip() for column in _RULE.split(",")][1:]
    changes = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, 2))
    try:
        row = await connection.fetchrow(
            f"UPDATE egress_rule SET {changes}, updated_at = now(), version = version + 1 WHERE rule_id = $1"
            f" RETURNING {_RULE_ALL}",
            *_rule_values(rule),
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise _missing(rule, error) from error
    assert row is not None, "it is locked"
    await _log(connection, Kind.EGRESS_RULE, rule.rule_id)
    return _rule(row)


async def get_rule(connection: Connection, rule_id: str, *, lock: bool = False) -> Rule:
    """A rule. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_RULE_ALL} FROM egress_rule WHERE rule_id = $1{' FOR UPDATE' if lock else ''}", rule_id
    )
    if row is None:
        raise not_found("egress rule", rule_id)
    return _rule(row)


async def page_rules(connection: Connection, after: str, limit: int) -> list[Rule]:
    """Rules in their order, after a place that ``rule_place`` gave."""
    position, _, rule_id = after.partition("/")
    rows = await connection.fetch(
        f"SELECT {_RULE_ALL} FROM egress_rule WHERE (position, rule_id) > ($1, $2) ORDER BY position, rule_id LIMIT $3",
        int(position) if after else -(2**31),
        rule_id,
        limit,
    )
    return [_rule(row) for row in rows]


def rule_place(rule: Rule) -> str:
    """Where a rule stands in the order."""
    return f"{rule.position}/{rule.rule_id}"


async def some_rules(connection: Connection, rule_ids: Sequence[str]) -> list[Rule]:
    """Those of the rules that exist."""
    rows = await connection.fetch(f"SELECT {_RULE_ALL} FROM egress_rule WHERE rule_id = ANY ($1)", rule_ids)
    return [_rule(row) for row in rows]


async def delete_rule(connection: Connection, rule_id: str) -> None:
    """Remove a rule."""
    await connection.execute("DELETE FROM egress_rule WHERE rule_id = $1", rule_id)
    await _log(connection, Kind.EGRESS_RULE, rule_id)


# -- assignments -------------------------------------------------------------------------------------------------------


async def assign(connection: Connection, tenant_id: str, pool_id: str) -> None:
    """Give a tenant a pool, "": none of its own. NOT_FOUND if there is no such pool."""
    if pool_id:
        await get_pool(connection, pool_id)
        await connection.execute(
            "INSERT INTO pool_assignment VALUES ($1, $2)"
            " ON CONFLICT (tenant_id) DO UPDATE SET pool_id = excluded.pool_id",
            tenant_id,
            pool_id,
        )
    else:
        await connection.execute("DELETE FROM pool_assignment WHERE tenant_id = $1", tenant_id)
    await _log(connection, Kind.POOL_ASSIGNMENT, tenant_id)


async def assigned(connection: Connection, path: Sequence[str]) -> list[str]:
    """The pools of the tenants on a path, in its order; "" where there is none."""
    rows = await connection.fetch(
        "SELECT tenant_id, pool_id FROM pool_assignment WHERE tenant_id = ANY ($1)", list(path)
    )
    found = {row["tenant_id"]: row["pool_id"] for row in rows}
    return [found.get(tenant_id, "") for tenant_id in path]


async def page_assignments(connection: Connection, after: str, limit: int) -> list[Assignment]:
    """All assignments, by tenant, for a snapshot."""
    rows = await connection.fetch(
        "SELECT tenant_id, pool_id FROM pool_assignment WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2", after, limit
    )
    return [Assignment(row["tenant_id"], row["pool_id"]) for row in rows]


async def some_assignments(connection: Connection, tenant_ids: Sequence[str]) -> list[Assignment]:
    """The assignments of those of the tenants that have one."""
    rows = await connection.fetch(
        "SELECT tenant_id, pool_id FROM pool_assignment WHERE tenant_id = ANY ($1)", tenant_ids
    )
    return [Assignment(row["tenant_id"], row["pool_id"]) for row in rows]


async def addresses_of_pool(connection: Connection, pool_id: str, after: str, limit: int) -> list[str]:
    """Addresses of a pool's sources that are not disabled, as texts in their order."""
    rows = await connection.fetch(
        'SELECT host(address) COLLATE "C" AS address FROM source JOIN pool_member USING (source_id)'
        " WHERE pool_id = $1 AND state <> 'disabled' AND host(address) COLLATE \"C\" > $2 ORDER BY 1 LIMIT $3",
        pool_id,
        after,
        limit,
    )
    return [row["address"] for row in rows]


async def _write_members(connection: Connection, pool: Pool) -> None:
    try:
        await connection.execute(
            "INSERT INTO pool_member SELECT $1, * FROM unnest($2::text[], $3::integer[])",
            pool.pool_id,
            [source_id for source_id, _ in pool.members],
            [weight for _, weight in pool.members],
        )
    except asyncpg.ForeignKeyViolationError as error:
        missing = str(error.detail or "").partition("(source_id)=(")[2].partition(")")[0]
        raise not_found("source", missing) from error


async def _log(connection: Connection, kind: Kind, key: str) -> None:
    await policy_log.note(connection, [Key(kind, key)])


def _taken(what: str, id_: str) -> Refusal:
    return Refusal(Reason.ALREADY_EXISTS, f'the {what} id "{id_}" is taken', metadata={what.replace(" ", "_"): id_})


def _source_taken(source: Source, error: asyncpg.UniqueViolationError) -> Refusal:
    if error.constraint_name == "source_pkey":
        return _taken("source", source.source_id)
    message = f"another source has the address {source.address}"
    return Refusal(Reason.ALREADY_EXISTS, message, field="source.address", metadata={"address": source.address})


def in_use(what: str, id_: str, why: str) -> Refusal:
    """The refusal to remove something that is needed."""
    return Refusal(Reason.FAILED_PRECONDITION, f'the {what} "{id_}" is in use: {why}', metadata={what: id_})


def _missing(rule: Rule, error: asyncpg.ForeignKeyViolationError) -> Refusal:
    constraint = error.constraint_name or ""
    if "provider" in constraint:
        return not_found("SMTP provider", f"{rule.provider_tenant_id}/{rule.provider_id}")
    return not_found("pool", rule.pool_id or "") if "pool" in constraint else not_found("tenant", rule.tenant_id or "")


def _source_values(source: Source) -> tuple[object, ...]:
    return (
        source.source_id,
        source.address,
        source.ehlo_name,
        source.state,
        source.warm_up_start,
        list(source.warm_up_limits),
        source.daily_limit,
        source.note,
        source.allotted_to,
        source.released,
        source.auto_warm_up,
    )


def _rule_values(rule: Rule) -> tuple[object, ...]:
    return tuple(getattr(rule, column.strip()) for column in _RULE.split(","))


def source_of(row: Row) -> Source:
    """A source; its row has SOURCE_COLUMNS."""
    values = {name: row[name] for name in Source.__dataclass_fields__}
    return Source(**(values | {"warm_up_limits": tuple(row["warm_up_limits"])}))


def _pool(row: Row) -> Pool:
    members = tuple(zip(row["source_ids"], row["weights"], strict=True))
    values = {name: row[name] for name in Pool.__dataclass_fields__ if name != "members"}
    return Pool(**values, members=members)


def _rule(row: Row) -> Rule:
    return Rule(**{name: row[name] for name in Rule.__dataclass_fields__})
