"""Pools of tenants, and the sources that they may have in them. Every change is logged.

For the owner of the schema (``acting_for_platform``): what a tenant may see is decided by the arguments.
"""

# ruff: noqa: S608 - the only text put into statements is the lists of columns below

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from control.database import Connection, Row
from control.store import egress, policy_log
from control.store.egress import Source
from control.store.policy_log import Key, Kind
from control.store.tenants import Tenant, not_found
from mta.runtime.refusals import Reason, Refusal

MAX_POOLS = 1000
"""Of one tenant."""

_COLUMNS = (
    "pool_id, number, owner, display_name, routing_strategy, routing_metadata, overflow, overflow_pool_id, created_at,"
    " updated_at, version,"
    " (SELECT display_name FROM pool AS other WHERE other.pool_id = pool.overflow_pool_id) AS overflow_name,"
    " array(SELECT source_id FROM pool_member m WHERE m.pool_id = pool.pool_id) AS source_ids"
)
_USABLE = "allotted_to = ANY ($1) AND NOT released"
"""A condition on a source: who is on the path $1 may use it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a pool can be changed. ``weights``: by source."""

    display_name: str = ""
    weights: dict[str, int] = field(default_factory=dict)
    routing_strategy: str = "round_robin"
    routing_metadata: str = "{}"
    overflow: bool = False
    overflow_pool_id: str | None = None

    @property
    def folded_name(self) -> str:
        """What messages call it, whatever the case of letters."""
        return self.display_name.casefold()


@dataclass(frozen=True, slots=True)
class TenantPool:
    """A pool of a tenant, with its sources by number."""

    pool_id: str
    number: int
    owner: str
    settings: Settings
    overflow_name: str
    sources: tuple[Source, ...]
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def etag(self) -> str:
        """Changes with each change."""
        return str(self.version)


# -- sources -----------------------------------------------------------------------------------------------------------


async def page_sources(
    connection: Connection, tenant: Tenant, search: str, after: int, skip: int, limit: int
) -> list[Source]:
    """The sources a tenant may use, by number: its own and those of tenants above."""
    rows = await connection.fetch(
        f"SELECT {egress.SOURCE_COLUMNS} FROM source WHERE {_USABLE} AND number > $2"
        " AND ($3 = '' OR strpos(lower(host(address) || ' ' || ehlo_name), lower($3)) > 0)"
        " ORDER BY number OFFSET $4 LIMIT $5",
        list(tenant.path),
        after,
        search,
        skip,
        limit,
    )
    return [egress.source_of(row) for row in rows]


async def get_source(connection: Connection, tenant: Tenant, number: int, *, lock: bool = False) -> Source:
    """A source that a tenant may use. NOT_FOUND if there is none of this number."""
    row = await connection.fetchrow(
        f"SELECT {egress.SOURCE_COLUMNS} FROM source WHERE {_USABLE} AND number = $2{' FOR UPDATE' if lock else ''}",
        list(tenant.path),
        number,
    )
    if row is None:
        raise not_found("source", str(number))
    return egress.source_of(row)


async def allotted(connection: Connection, tenant: Tenant, addresses: Sequence[str]) -> dict[str, Source]:
    """Those of the addresses that are allotted to a tenant, released ones too, or that it may use of tenants above."""
    rows = await connection.fetch(
        f"SELECT {egress.SOURCE_COLUMNS} FROM source"
        " WHERE address = ANY ($2::inet[]) AND allotted_to = ANY ($1) AND (NOT released OR allotted_to = $3)"
        " ORDER BY number FOR UPDATE",
        list(tenant.path),
        list(addresses),
        tenant.tenant_id,
    )
    return {row["address"]: egress.source_of(row) for row in rows}


async def check_unused(connection: Connection, source: Source, tenant_id: str | None) -> None:
    """FAILED_PRECONDITION if a pool of a tenant has the source that could not, were it allotted to ``tenant_id``."""
    pool = await connection.fetchrow(
        "SELECT pool.display_name, owner FROM pool JOIN pool_member USING (pool_id)"
        " JOIN tenant ON tenant.tenant_id = owner WHERE source_id = $1"
        " AND NOT coalesce($2 = ANY (path), false) ORDER BY pool.number LIMIT 1",
        source.source_id,
        tenant_id,
    )
    if pool is not None:
        why = f'the pool "{pool["display_name"]}" of tenant "{pool["owner"]}" has it; take it out there first'
        raise egress.in_use("source", source.address, why)


# -- pools -------------------------------------------------------------------------------------------------------------


async def create(connection: Connection, pool_id: str, tenant: Tenant, settings: Settings) -> TenantPool:
    """Make a pool. ALREADY_EXISTS if the name is taken, FAILED_PRECONDITION for one too many."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant.tenant_id)
    if await connection.fetchval("SELECT count(*) FROM pool WHERE owner = $1", tenant.tenant_id) >= MAX_POOLS:
        text = f'tenant "{tenant.tenant_id}" has {MAX_POOLS} pools; delete some of them'
        raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"maximum": str(MAX_POOLS)})
    try:
        number = await connection.fetchval(
            "INSERT INTO pool (pool_id, owner, display_name, folded_name, routing_strategy, routing_metadata, overflow,"
            " overflow_pool_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING number",
            pool_id,
            tenant.tenant_id,
            *_values(settings),
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(settings) from error
    await _write_members(connection, pool_id, settings)
    return await get(connection, tenant.tenant_id, number)


async def update(connection: Connection, pool: TenantPool, settings: Settings) -> TenantPool:
    """Write a pool that was read under lock in this transaction. ALREADY_EXISTS if the name is taken."""
    try:
        await connection.execute(
            "UPDATE pool SET display_name = $2, folded_name = $3, routing_strategy = $4, routing_metadata = $5,"
            " overflow = $6, overflow_pool_id = $7, updated_at = now(), version = version + 1 WHERE pool_id = $1",
            pool.pool_id,
            *_values(settings),
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(settings) from error
    await connection.execute("DELETE FROM pool_member WHERE pool_id = $1", pool.pool_id)
    await _write_members(connection, pool.pool_id, settings)
    return await get(connection, pool.owner, pool.number)


async def get(connection: Connection, tenant_id: str, number: int, *, lock: bool = False) -> TenantPool:
    """A tenant's pool. NOT_FOUND if there is none of this number."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM pool WHERE owner = $1 AND number = $2{' FOR UPDATE' if lock else ''}",
        tenant_id,
        number,
    )
    if row is None:
        raise not_found("pool", str(number))
    return (await _pools(connection, [row]))[0]


async def named(connection: Connection, tenant_id: str, name: str) -> str | None:
    """The id of a tenant's pool, by the name that messages use."""
    found: str | None = await connection.fetchval(
        "SELECT pool_id FROM pool WHERE owner = $1 AND folded_name = $2", tenant_id, name.casefold()
    )
    return found


async def page(
    connection: Connection, tenant_id: str, search: str, after: int, skip: int, limit: int
) -> list[TenantPool]:
    """A tenant's pools, by number."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM pool WHERE owner = $1 AND number > $2 AND ($3 = '' OR strpos(folded_name, $3) > 0)"
        " ORDER BY number OFFSET $4 LIMIT $5",
        tenant_id,
        after,
        search.casefold(),
        skip,
        limit,
    )
    return await _pools(connection, rows)


async def _pools(connection: Connection, rows: Sequence[Row]) -> list[TenantPool]:
    wanted = sorted({source_id for row in rows for source_id in row["source_ids"]})
    sources = {source.source_id: source for source in await egress.some_sources(connection, wanted)} if wanted else {}
    return [_pool(row, [sources[source_id] for source_id in row["source_ids"]]) for row in rows]


def _pool(row: Row, sources: list[Source]) -> TenantPool:
    settings = Settings(
        display_name=row["display_name"],
        weights=dict.fromkeys(row["source_ids"], 1),
        routing_strategy=row["routing_strategy"],
        routing_metadata=row["routing_metadata"],
        overflow=row["overflow"],
        overflow_pool_id=row["overflow_pool_id"],
    )
    return TenantPool(
        pool_id=row["pool_id"],
        number=row["number"],
        owner=row["owner"],
        settings=settings,
        overflow_name=row["overflow_name"] or "",
        sources=tuple(sorted(sources, key=lambda source: source.number)),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )


async def _write_members(connection: Connection, pool_id: str, settings: Settings) -> None:
    await connection.execute(
        "INSERT INTO pool_member (pool_id, source_id, weight) SELECT $1, unnest($2::text[]), unnest($3::integer[])",
        pool_id,
        list(settings.weights),
        list(settings.weights.values()),
    )
    await policy_log.note(connection, [Key(Kind.POOL, pool_id)])


def _values(settings: Settings) -> tuple[object, ...]:
    return (
        settings.display_name,
        settings.folded_name,
        settings.routing_strategy,
        settings.routing_metadata,
        settings.overflow,
        settings.overflow_pool_id,
    )


def _taken(settings: Settings) -> Refusal:
    text = f'there is a pool "{settings.display_name}" already'
    return Refusal(Reason.ALREADY_EXISTS, text, field="pool.display_name", metadata={"pool": settings.display_name})
