"""Tenants: the tree, who sees what of it, and what holds for whom.

A deleted tenant keeps its row, which the ledger and the history name; nothing here finds it any more, and its id is not
given again.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from enum import StrEnum

from control.database import Connection, Row
from control.model.limits import NO_LIMITS, Limits
from control.model.names import LoginAlias
from control.model.prices import Price
from control.model.selection import Selection
from control.store import selecting
from control.store.policy_log import Key, Kind
from mta.runtime.refusals import Reason, Refusal

MAX_DEPTH = 16
"""Levels of the tree, the root included, as in the schema."""

_LIMITS = (
    "max_hourly, max_daily, max_monthly, max_monthly_spend, max_tenants, max_message_bytes, max_message_recipients"
)
_COLUMNS = (
    "tenant_id, parent_id, path, display_name, first_name, surname, organization, phone, suspended, default_sender,"
    f" created_at, updated_at, version, kind, suspended_reason, suspended_at, suspended_by, {_LIMITS}, price_currency,"
    " price_micros, refunds, shares_balance, number"
)
_TABLE = selecting.Table("tenant", _COLUMNS, "tenant_id", ("tenant_id", "display_name"))


class TenantKind(StrEnum):
    """What a tenant may have below it."""

    OPERATOR = "operator"
    """The root."""
    RESELLER = "reseller"
    """Other tenants."""
    ACCOUNT = "account"
    """None."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Who to talk to."""

    first_name: str = ""
    surname: str = ""
    organization: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True)
class Suspension:
    """That a tenant may not send: why, since when, and the tenant whose credentials said so."""

    reason: str
    since: datetime | None
    by: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a tenant can be changed. ``refunds`` are outcomes whose credit comes back; None: as above."""

    kind: TenantKind = TenantKind.ACCOUNT
    display_name: str = ""
    contact: Contact = field(default_factory=Contact)
    default_sender: str = ""
    limits: Limits = NO_LIMITS
    price: Price | None = None
    refunds: frozenset[str] | None = None
    shares_balance: bool = False


@dataclass(frozen=True, slots=True)
class Below:
    """Which tenants below one: directly or all of them, with that one, in a state, and so on. None says nothing."""

    parent_id: str
    recursive: bool = False
    include_parent: bool = False
    suspended: bool | None = None
    kind: TenantKind | None = None
    display_name: str = ""
    shares_balance: bool | None = None

    def conditions(self) -> tuple[str, ...]:
        """What page tokens are bound to."""
        return tuple(map(str, astuple(self)))


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as it is kept. ``path`` leads from the root to it, both included."""

    tenant_id: str
    number: int
    parent_id: str | None
    path: tuple[str, ...]
    settings: Settings
    suspension: Suspension | None
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def kind(self) -> TenantKind:
        """What it may have below it."""
        return self.settings.kind

    @property
    def suspended(self) -> bool:
        """Whether it was suspended itself."""
        return self.suspension is not None

    @property
    def default_sender(self) -> str:
        """Its From address for messages without one."""
        return self.settings.default_sender

    @property
    def limits(self) -> Limits:
        """Its own limits."""
        return self.settings.limits

    @property
    def price(self) -> Price | None:
        """Its own price."""
        return self.settings.price


def not_found(what: str, name: str) -> Refusal:
    """The refusal for a thing that is not there, or not for this caller: both sound the same."""
    return Refusal(Reason.NOT_FOUND, f'there is no {what} "{name}"', metadata={what.replace(" ", "_"): name})


async def create(connection: Connection, tenant_id: str, parent: Tenant, settings: Settings) -> Tenant:
    """Make a tenant below ``parent``, with an empty account. ALREADY_EXISTS if the id is taken.

    ``parent`` is locked (``below``). The caller logs the change: it may come together with others.
    """
    if len(parent.path) >= MAX_DEPTH:
        message = f"the tree of tenants has at most {MAX_DEPTH} levels"
        raise Refusal(Reason.FAILED_PRECONDITION, message, metadata={"levels": str(MAX_DEPTH)})
    row = await connection.fetchrow(
        "INSERT INTO tenant (tenant_id, parent_id, path, kind, display_name, first_name, surname, organization, phone,"
        f" default_sender, {_LIMITS}, price_currency, price_micros, refunds, shares_balance)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)"
        f" ON CONFLICT (tenant_id) DO NOTHING RETURNING {_COLUMNS}",
        tenant_id,
        parent.tenant_id,
        [*parent.path, tenant_id],
        *_values(settings),
    )
    if row is None:
        raise Refusal(Reason.ALREADY_EXISTS, f'the tenant id "{tenant_id}" is taken', metadata={"tenant": tenant_id})
    await connection.execute(
        "INSERT INTO account (tenant_id, shared) VALUES ($1, $2)", tenant_id, settings.shares_balance
    )
    await connection.execute("INSERT INTO lease_count (tenant_id) VALUES ($1)", tenant_id)
    return _tenant(row)


async def update(connection: Connection, tenant_id: str, settings: Settings) -> Tenant:
    """Give a tenant, which is locked, these settings. The caller logs the change."""
    row = await connection.fetchrow(
        "UPDATE tenant SET kind = $2, display_name = $3, first_name = $4, surname = $5, organization = $6, phone = $7,"
        f" default_sender = $8, ({_LIMITS}) = ($9, $10, $11, $12, $13, $14, $15), price_currency = $16,"
        " price_micros = $17, refunds = $18, shares_balance = $19, updated_at = now(), version = version + 1"
        f" WHERE tenant_id = $1 RETURNING {_COLUMNS}",
        tenant_id,
        *_values(settings),
    )
    assert row is not None, "it is locked"
    return _tenant(row)


async def set_suspension(connection: Connection, tenant_id: str, suspension: Suspension | None) -> Tenant:
    """Suspend a tenant, which is locked, from now on, or let it send again. The caller logs the change."""
    row = await connection.fetchrow(
        "UPDATE tenant SET suspended = $2, suspended_reason = $3, suspended_by = $4,"
        " suspended_at = CASE WHEN $2 THEN now() END, updated_at = now(), version = version + 1"
        f" WHERE tenant_id = $1 RETURNING {_COLUMNS}",
        tenant_id,
        suspension is not None,
        suspension.reason if suspension else "",
        suspension.by if suspension else None,
    )
    assert row is not None, "it is locked"
    return _tenant(row)


async def mark_deleted(connection: Connection, tenant_id: str) -> None:
    """Hide a tenant, which is locked, for good. The caller logs the change."""
    await connection.execute(
        "UPDATE tenant SET deleted_at = now(), updated_at = now(), version = version + 1 WHERE tenant_id = $1",
        tenant_id,
    )


async def visible(connection: Connection, caller_tenant: str, tenant_id: str, *, lock: bool = False) -> Tenant:
    """The tenant, if it is the caller's or below it; NOT_FOUND otherwise. ``lock``: until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM tenant WHERE tenant_id = $1 AND $2 = ANY (path) AND deleted_at IS NULL"
        + (" FOR NO KEY UPDATE" if lock else ""),
        tenant_id,
        caller_tenant,
    )
    if row is None:
        raise not_found("tenant", tenant_id)
    return _tenant(row)


async def lock(connection: Connection, tenant_ids: Iterable[str]) -> None:
    """Keep tenants as they are until the transaction ends. From the top downwards, so that two cannot deadlock."""
    await connection.execute(
        "SELECT FROM tenant WHERE tenant_id = ANY ($1) ORDER BY cardinality(path), tenant_id FOR NO KEY UPDATE",
        list(tenant_ids),
    )


async def resolve(connection: Connection, caller_tenant: str, named: str | LoginAlias) -> Tenant:
    """The tenant that is named by its id or by one of its logins. NOT_FOUND if the caller does not see it."""
    if isinstance(named, str):
        return await visible(connection, caller_tenant, named)
    tenant_id = await connection.fetchval("SELECT tenant_id FROM login WHERE username = $1", named.username)
    try:
        return await visible(connection, caller_tenant, tenant_id or "")
    except Refusal:
        raise not_found("login", named.username) from None


async def line(connection: Connection, tenant_id: str) -> list[Tenant]:
    """A tenant and those above it, nearest first, the root last; empty if there is no such tenant."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM tenant WHERE deleted_at IS NULL AND tenant_id = ANY"
        " ((SELECT path FROM tenant WHERE tenant_id = $1 AND deleted_at IS NULL)::text[])"
        " ORDER BY cardinality(path) DESC",
        tenant_id,
    )
    return [_tenant(row) for row in rows]


async def lines(connection: Connection, found: Iterable[Tenant]) -> dict[str, list[Tenant]]:
    """For each of some tenants itself and those above it, nearest first."""
    wanted = list(found)
    above = await some(connection, sorted({tenant_id for tenant in wanted for tenant_id in tenant.path}))
    by_id = {tenant.tenant_id: tenant for tenant in (*above, *wanted)}
    return {tenant.tenant_id: [by_id[above_id] for above_id in reversed(tenant.path)] for tenant in wanted}


async def page(connection: Connection, below: Below, wanted: Selection) -> tuple[list[Tenant], int]:
    """Tenants below one, and how many match."""
    scope = "path @> ARRAY[$1]::text[] AND tenant_id <> $1" if below.recursive else "parent_id = $1"
    if below.include_parent:
        scope = f"({scope} OR tenant_id = $1)"
    rows, total = await selecting.select(
        connection,
        _TABLE,
        wanted,
        f"{scope} AND deleted_at IS NULL AND ($2::boolean IS NULL OR $2 = EXISTS (SELECT FROM tenant AS above"
        " WHERE above.tenant_id = ANY (tenant.path) AND above.suspended))"
        " AND ($3::text IS NULL OR kind = $3) AND ($4 = '' OR display_name = $4)"
        " AND ($5::boolean IS NULL OR shares_balance = $5)",
        below.parent_id,
        below.suspended,
        below.kind,
        below.display_name,
        below.shares_balance,
    )
    return [_tenant(row) for row in rows], total


async def check_display_name(connection: Connection, parent_id: str, display_name: str, tenant_id: str) -> None:
    """ALREADY_EXISTS if a tenant or another one directly below it has a display name. ``parent_id`` is locked."""
    if display_name and await connection.fetchval(
        "SELECT true FROM tenant WHERE (parent_id = $1 OR tenant_id = $1) AND display_name = $2 AND tenant_id <> $3"
        " AND deleted_at IS NULL LIMIT 1",
        parent_id,
        display_name,
        tenant_id,
    ):
        raise Refusal(
            Reason.ALREADY_EXISTS,
            f'there is a tenant with the display name "{display_name}"; take another one',
            field="tenant.display_name",
            metadata={"display_name": display_name},
        )


async def share_balance(connection: Connection, tenant_id: str, shares: bool) -> None:
    """Have a tenant's mail, whose account is locked and empty, paid by one above, or by itself again."""
    await connection.execute("UPDATE account SET shared = $2 WHERE tenant_id = $1", tenant_id, shares)


def payer(line: Sequence[Tenant]) -> Tenant:
    """Whose credits pay for the mail of the first tenant of a line (nearest first): the nearest that does not share."""
    return next(tenant for tenant in line if not tenant.settings.shares_balance)


async def count_below(connection: Connection, tenant_id: str, *, at_most: int) -> int:
    """How many tenants are below one, at any depth; counting stops at ``at_most``."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM (SELECT FROM tenant WHERE path @> ARRAY[$1]::text[] AND tenant_id <> $1"
        " AND deleted_at IS NULL LIMIT $2) AS below",
        tenant_id,
        at_most,
    )
    return found


async def may_act(connection: Connection, tenant_id: str) -> bool:
    """Whether neither the tenant nor one above it is suspended, and it is there at all."""
    answer = await connection.fetchval(
        "SELECT deleted_at IS NULL AND NOT EXISTS (SELECT FROM tenant AS above"
        " WHERE above.tenant_id = ANY (tenant.path) AND above.suspended) FROM tenant WHERE tenant_id = $1",
        tenant_id,
    )
    return bool(answer)


async def everyone(connection: Connection, after: str, limit: int) -> list[Tenant]:
    """All tenants, by id, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM tenant WHERE tenant_id > $1 AND deleted_at IS NULL ORDER BY tenant_id LIMIT $2",
        after,
        limit,
    )
    return [_tenant(row) for row in rows]


async def some(connection: Connection, tenant_ids: Sequence[str]) -> list[Tenant]:
    """Those of the tenants that exist."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM tenant WHERE tenant_id = ANY ($1) AND deleted_at IS NULL", tenant_ids
    )
    return [_tenant(row) for row in rows]


def change(tenant_id: str) -> Key:
    """The key of a tenant in the policy log."""
    return Key(Kind.TENANT, tenant_id)


def _values(settings: Settings) -> list[object]:
    contact, price = settings.contact, settings.price
    return [
        settings.kind,
        settings.display_name,
        contact.first_name,
        contact.surname,
        contact.organization,
        contact.phone,
        settings.default_sender,
        *astuple(settings.limits),
        price.currency if price else None,
        price.micros_per_thousand if price else None,
        None if settings.refunds is None else sorted(settings.refunds),
        settings.shares_balance,
    ]


def _tenant(row: Row) -> Tenant:
    suspension = Suspension(row["suspended_reason"], row["suspended_at"], row["suspended_by"] or "")
    price = None if row["price_currency"] is None else Price(row["price_currency"], row["price_micros"])
    return Tenant(
        tenant_id=row["tenant_id"],
        number=row["number"],
        parent_id=row["parent_id"],
        path=tuple(row["path"]),
        settings=Settings(
            kind=TenantKind(row["kind"]),
            display_name=row["display_name"],
            contact=Contact(row["first_name"], row["surname"], row["organization"], row["phone"]),
            default_sender=row["default_sender"],
            limits=Limits(*(row[name] for name in _LIMITS.split(", "))),
            price=price,
            refunds=None if row["refunds"] is None else frozenset(row["refunds"]),
            shares_balance=row["shares_balance"],
        ),
        suspension=suspension if row["suspended"] else None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
