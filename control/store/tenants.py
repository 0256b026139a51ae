"""Tenants: the tree, and who sees what of it."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection, Row
from control.model.names import LoginAlias
from control.store.policy_log import Key, Kind
from mta.runtime.refusals import Reason, Refusal

MAX_DEPTH = 16
"""Levels of the tree, the root included, as in the schema."""

_COLUMNS = (
    "tenant_id, parent_id, path, display_name, first_name, surname, organization, phone, suspended, default_sender,"
    " created_at, updated_at, version"
)


@dataclass(frozen=True, slots=True)
class Contact:
    """Who to talk to."""

    first_name: str = ""
    surname: str = ""
    organization: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as it is kept. ``path`` leads from the root to it, both included."""

    tenant_id: str
    parent_id: str | None
    path: tuple[str, ...]
    display_name: str
    contact: Contact
    suspended: bool
    default_sender: str
    created_at: datetime
    updated_at: datetime
    version: int


def not_found(what: str, name: str) -> Refusal:
    """The refusal for a thing that is not there, or not for this caller: both sound the same."""
    return Refusal(Reason.NOT_FOUND, f'there is no {what} "{name}"', metadata={what.replace(" ", "_"): name})


async def create(
    connection: Connection, tenant_id: str, parent: Tenant, display_name: str, contact: Contact, default_sender: str
) -> Tenant:
    """Make a tenant below ``parent``, with an empty account. ALREADY_EXISTS if the id is taken.

    The caller logs the change: it may come together with others.
    """
    if len(parent.path) >= MAX_DEPTH:
        message = f"the tree of tenants has at most {MAX_DEPTH} levels"
        raise Refusal(Reason.FAILED_PRECONDITION, message, metadata={"levels": str(MAX_DEPTH)})
    row = await connection.fetchrow(
        "INSERT INTO tenant (tenant_id, parent_id, path, display_name, first_name, surname, organization, phone,"
        " default_sender) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        f" ON CONFLICT (tenant_id) DO NOTHING RETURNING {_COLUMNS}",
        tenant_id,
        parent.tenant_id,
        [*parent.path, tenant_id],
        display_name,
        contact.first_name,
        contact.surname,
        contact.organization,
        contact.phone,
        default_sender,
    )
    if row is None:
        raise Refusal(Reason.ALREADY_EXISTS, f'the tenant id "{tenant_id}" is taken', metadata={"tenant": tenant_id})
    await connection.execute("INSERT INTO account (tenant_id) VALUES ($1)", tenant_id)
    return _tenant(row)


async def visible(connection: Connection, caller_tenant: str, tenant_id: str) -> Tenant:
    """The tenant, if it is the caller's or below it. NOT_FOUND otherwise."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM tenant WHERE tenant_id = $1 AND $2 = ANY (path)", tenant_id, caller_tenant
    )
    if row is None:
        raise not_found("tenant", tenant_id)
    return _tenant(row)


async def resolve(connection: Connection, caller_tenant: str, named: str | LoginAlias) -> Tenant:
    """The tenant that is named by its id or by one of its logins. NOT_FOUND if the caller does not see it."""
    if isinstance(named, str):
        return await visible(connection, caller_tenant, named)
    tenant_id = await connection.fetchval("SELECT tenant_id FROM login WHERE username = $1", named.username)
    try:
        return await visible(connection, caller_tenant, tenant_id or "")
    except Refusal:
        raise not_found("login", named.username) from None


async def children(connection: Connection, parent_id: str, after: str, limit: int) -> list[Tenant]:
    """Tenants directly below one, by id."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM tenant WHERE parent_id = $1 AND tenant_id > $2 ORDER BY tenant_id LIMIT $3",
        parent_id,
        after,
        limit,
    )
    return [_tenant(row) for row in rows]


async def everyone(connection: Connection, after: str, limit: int) -> list[Tenant]:
    """All tenants, by id, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM tenant WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2", after, limit
    )
    return [_tenant(row) for row in rows]


async def some(connection: Connection, tenant_ids: Sequence[str]) -> list[Tenant]:
    """Those of the tenants that exist."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM tenant WHERE tenant_id = ANY ($1)", tenant_ids)
    return [_tenant(row) for row in rows]


def change(tenant_id: str) -> Key:
    """The key of a tenant in the policy log."""
    return Key(Kind.TENANT, tenant_id)


def _tenant(row: Row) -> Tenant:
    return Tenant(
        tenant_id=row["tenant_id"],
        parent_id=row["parent_id"],
        path=tuple(row["path"]),
        display_name=row["display_name"],
        contact=Contact(row["first_name"], row["surname"], row["organization"], row["phone"]),
        suspended=row["suspended"],
        default_sender=row["default_sender"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
