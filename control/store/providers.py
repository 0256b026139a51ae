"""SMTP providers: the ways out of tenants, their defaults, and what of their limits is used.

The provider ``builtin``, the MTA itself, is there for every tenant; its row is made when it is changed. Rows are read
and written whole. What changes a provider locks its tenant first, so that there is one default and a bounded number.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import asyncpg

from control.database import Connection, Row
from control.model.quotas import Use
from control.store import policy_log
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

BUILT_IN = "builtin"
"""Id of the provider that is the MTA itself."""
MAX_PROVIDERS = 100
"""Providers of one tenant."""

_WRITTEN = (
    "tenant_id, provider_id, display_name, host, port, tls, username, sealed_password, hourly_limit, daily_limit,"
    " waits, shared, allow_private_addresses, allow_invalid_certificate, is_default"
)
_COLUMNS = f"{_WRITTEN}, created_at, updated_at, version"


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as it is kept. ``tls`` is one of those in the schema; ``created_at`` None: there is no row yet."""

    tenant_id: str
    provider_id: str
    display_name: str = ""
    host: str = ""
    port: int = 0
    tls: str = "starttls_required"
    username: str = ""
    sealed_password: bytes | None = field(default=None, repr=False)
    hourly_limit: int = 0
    daily_limit: int = 0
    waits: bool = False
    shared: bool = False
    allow_private_addresses: bool = False
    allow_invalid_certificate: bool = False
    is_default: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 0

    @property
    def built_in(self) -> bool:
        """It is the MTA itself."""
        return self.provider_id == BUILT_IN

    @property
    def limited(self) -> bool:
        """It has a limit."""
        return bool(self.hourly_limit or self.daily_limit)


async def lock(connection: Connection, tenant_id: str) -> None:
    """Keep others from changing this tenant's providers until the end of the transaction."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)


async def create(connection: Connection, provider: Provider) -> Provider:
    """Make a provider; log it. ALREADY_EXISTS if the id is taken, FAILED_PRECONDITION for one too many."""
    await lock(connection, provider.tenant_id)
    count = await connection.fetchval("SELECT count(*) FROM smtp_provider WHERE tenant_id = $1", provider.tenant_id)
    if count >= MAX_PROVIDERS:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'tenant "{provider.tenant_id}" has {MAX_PROVIDERS} SMTP providers; delete some of them',
            metadata={"tenant": provider.tenant_id, "maximum": str(MAX_PROVIDERS)},
        )
    if provider.is_default:
        await _drop_default(connection, provider.tenant_id)
    row = await connection.fetchrow(
        f"INSERT INTO smtp_provider ({_WRITTEN}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,"
        f" $15) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
        *_values(provider),
    )
    if row is None:
        raise Refusal(
            Reason.ALREADY_EXISTS,
            f'the SMTP provider id "{provider.provider_id}" is taken',
            metadata={"smtp_provider": provider.provider_id},
        )
    await _log(connection, provider)
    return _provider(row)


async def update(connection: Connection, provider: Provider) -> Provider:
    """Write a provider that was read in this transaction, under ``lock``; log it."""
    row = await connection.fetchrow(
        f"INSERT INTO smtp_provider ({_WRITTEN}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,"
        " $15) ON CONFLICT (tenant_id, provider_id) DO UPDATE SET display_name = excluded.display_name,"
        " host = excluded.host, port = excluded.port, tls = excluded.tls, username = excluded.username,"
        " sealed_password = excluded.sealed_password, hourly_limit = excluded.hourly_limit,"
        " daily_limit = excluded.daily_limit, waits = excluded.waits, shared = excluded.shared,"
        " allow_private_addresses = excluded.allow_private_addresses,"
        " allow_invalid_certificate = excluded.allow_invalid_certificate, is_default = excluded.is_default,"
        f" updated_at = now(), version = smtp_provider.version + 1 RETURNING {_COLUMNS}",
        *_values(provider),
    )
    assert row is not None, "INSERT RETURNING gives its row"
    await _log(connection, provider)
    return _provider(row)


async def get(connection: Connection, tenant_id: str, provider_id: str) -> Provider:
    """A tenant's own provider. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM smtp_provider WHERE tenant_id = $1 AND provider_id = $2", tenant_id, provider_id
    )
    if row is None:
        if provider_id == BUILT_IN:
            return Provider(tenant_id, BUILT_IN)
        raise not_found("SMTP provider", provider_id)
    return _provider(row)


async def page(connection: Connection, tenant_id: str, after: str, limit: int) -> list[Provider]:
    """A tenant's own providers, by id, ``builtin`` among them."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM smtp_provider WHERE tenant_id = $1 AND provider_id > $2 ORDER BY provider_id LIMIT $3",
        tenant_id,
        after,
        limit,
    )
    found = [_provider(row) for row in rows]
    if after < BUILT_IN and not any(provider.built_in for provider in found):
        found = sorted([*found, Provider(tenant_id, BUILT_IN)], key=lambda provider: provider.provider_id)[:limit]
    return found


async def delete(connection: Connection, provider: Provider) -> None:
    """Remove a provider; log it. FAILED_PRECONDITION if it is the default, or a rule names it."""
    if provider.is_default:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'"{provider.provider_id}" is the default; make another one the default first',
            metadata={"smtp_provider": provider.provider_id},
        )
    try:
        await connection.execute(
            "DELETE FROM smtp_provider WHERE tenant_id = $1 AND provider_id = $2",
            provider.tenant_id,
            provider.provider_id,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'an egress rule sends mail through "{provider.provider_id}"; the operator has to change it first',
            metadata={"smtp_provider": provider.provider_id},
        ) from error
    await _log(connection, provider)


async def remove_all(connection: Connection, tenant_id: str) -> list[Key]:
    """Remove what a tenant that goes has of providers and pools; the changes to log.

    FAILED_PRECONDITION if an egress rule names one of its providers.
    """
    try:
        rows = await connection.fetch("DELETE FROM smtp_provider WHERE tenant_id = $1 RETURNING provider_id", tenant_id)
    except asyncpg.ForeignKeyViolationError as error:
        message = f'an egress rule sends mail through an SMTP provider of tenant "{tenant_id}"; change it first'
        raise Refusal(Reason.FAILED_PRECONDITION, message, metadata={"tenant": tenant_id}) from error
    changes = [Key(Kind.SMTP_PROVIDER, row["provider_id"], tenant_id) for row in rows]
    if await connection.fetchval("DELETE FROM pool_assignment WHERE tenant_id = $1 RETURNING true", tenant_id):
        changes.append(Key(Kind.POOL_ASSIGNMENT, tenant_id))
    return changes


async def set_default(connection: Connection, tenant_id: str, provider_id: str) -> None:
    """Choose the default of a tenant, "" for that of those above; log it. NOT_FOUND if there is no such provider."""
    await lock(connection, tenant_id)
    chosen = await get(connection, tenant_id, provider_id) if provider_id else None
    if chosen is not None and chosen.is_default:
        return
    await _drop_default(connection, tenant_id)
    if chosen is None:
        return
    if chosen.created_at is None:
        await update(connection, chosen)
    await connection.execute(
        "UPDATE smtp_provider SET is_default = true, updated_at = now(), version = version + 1"
        " WHERE tenant_id = $1 AND provider_id = $2",
        tenant_id,
        provider_id,
    )
    await _log(connection, chosen)


async def default_of(connection: Connection, path: Sequence[str]) -> Provider:
    """The default in force for the tenant at the end of a path from the root."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM smtp_provider WHERE is_default AND tenant_id = ANY ($1)", list(path)
    )
    chosen = {row["tenant_id"]: _provider(row) for row in rows}
    for tenant_id in reversed(path):
        provider = chosen.get(tenant_id)
        if provider is not None and (provider.shared or tenant_id == path[-1]):
            return provider
    return Provider(path[-1], BUILT_IN)


async def everything(connection: Connection, after: tuple[str, str], limit: int) -> list[Provider]:
    """All providers, by tenant and id, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM smtp_provider WHERE (tenant_id, provider_id) > ($1, $2)"
        " ORDER BY tenant_id, provider_id LIMIT $3",
        *after,
        limit,
    )
    return [_provider(row) for row in rows]


async def some(connection: Connection, keys: Sequence[tuple[str, str]]) -> list[Provider]:
    """Those of the providers (tenant id, provider id) that exist."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM smtp_provider"
        " WHERE (tenant_id, provider_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
        [tenant_id for tenant_id, _ in keys],
        [provider_id for _, provider_id in keys],
    )
    return [_provider(row) for row in rows]


async def uses(connection: Connection, tenant_id: str, hour: datetime, day: date) -> dict[str, Use]:
    """What of each limit of a tenant's providers is used in this hour and on this day."""
    rows = await connection.fetch(
        "SELECT provider_id, hour, hour_count, day, day_count FROM smtp_provider_usage WHERE tenant_id = $1", tenant_id
    )
    return {
        row["provider_id"]: Use(
            row["hour_count"] if row["hour"] == hour else 0, row["day_count"] if row["day"] == day else 0
        )
        for row in rows
    }


async def lock_use(connection: Connection, provider: Provider, hour: datetime, day: date) -> Use:
    """What of a provider's limits is used now; locked until the end of the transaction."""
    await connection.execute(
        "INSERT INTO smtp_provider_usage VALUES ($1, $2, $3, 0, $4, 0) ON CONFLICT DO NOTHING",
        provider.tenant_id,
        provider.provider_id,
        hour,
        day,
    )
    row = await connection.fetchrow(
        "SELECT hour, hour_count, day, day_count FROM smtp_provider_usage"
        " WHERE tenant_id = $1 AND provider_id = $2 FOR UPDATE",
        provider.tenant_id,
        provider.provider_id,
    )
    assert row is not None, "it was just made"
    return Use(row["hour_count"] if row["hour"] == hour else 0, row["day_count"] if row["day"] == day else 0)


async def write_use(connection: Connection, provider: Provider, hour: datetime, day: date, use: Use) -> None:
    """Keep what is used."""
    await connection.execute(
        "UPDATE smtp_provider_usage SET hour = $3, hour_count = $4, day = $5, day_count = $6"
        " WHERE tenant_id = $1 AND provider_id = $2",
        provider.tenant_id,
        provider.provider_id,
        hour,
        use.hour,
        day,
        use.day,
    )


async def _drop_default(connection: Connection, tenant_id: str) -> None:
    rows = await connection.fetch(
        "UPDATE smtp_provider SET is_default = false, updated_at = now(), version = version + 1"
        " WHERE tenant_id = $1 AND is_default RETURNING provider_id",
        tenant_id,
    )
    if rows:
        await policy_log.note(connection, [Key(Kind.SMTP_PROVIDER, row["provider_id"], tenant_id) for row in rows])


async def _log(connection: Connection, provider: Provider) -> None:
    await policy_log.note(connection, [Key(Kind.SMTP_PROVIDER, provider.provider_id, provider.tenant_id)])


def _values(provider: Provider) -> tuple[object, ...]:
    return tuple(getattr(provider, column.strip()) for column in _WRITTEN.split(","))


def _provider(row: Row) -> Provider:
    return Provider(**{column.strip(): row[column.strip()] for column in _COLUMNS.split(",")})
