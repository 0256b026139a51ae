"""OAuth clients. Their secrets are kept as hashes only; tokens are not kept at all.

Every change is logged as a change of policy: nodes judge the tokens of a client by what they know of it.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection, Row
from control.model.apikeys import KeptSecret, NewKey
from control.model.selection import Selection
from control.store import policy_log, selecting
from control.store.credentials import KeySettings, check_room, kept_secret, key_settings
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found

_COLUMNS = (
    "client_id, tenant_id, display_name, scopes, secret_sha256, last_four, previous_secret_sha256, previous_expires_at,"
    " token_generation, allowed_networks, expires_at, created_at, updated_at, last_used_at, version, number"
)
_TABLE = selecting.Table("oauth_client", _COLUMNS, "client_id", ("client_id", "display_name"))


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A client without its secret. Tokens of another generation than ``token_generation`` are no longer valid."""

    client_id: str
    tenant_id: str
    settings: KeySettings
    secret: KeptSecret
    token_generation: int
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    version: int
    number: int


async def create(connection: Connection, tenant_id: str, key: NewKey, settings: KeySettings) -> OAuthClient:
    """Keep a new client, and log it. FAILED_PRECONDITION for one too many."""
    await check_room(connection, "oauth_client", tenant_id)
    row = await connection.fetchrow(
        "INSERT INTO oauth_client (client_id, tenant_id, display_name, scopes, secret_sha256, last_four,"
        f" allowed_networks, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_COLUMNS}",
        key.key_id,
        tenant_id,
        settings.display_name,
        settings.scopes,
        key.secret_sha256,
        key.last_four,
        settings.allowed_networks,
        settings.expires_at,
    )
    assert row is not None, "INSERT RETURNING gives its row"
    await policy_log.note(connection, [_change(key.key_id)])
    return _client(row)


async def find(connection: Connection, client_id: str) -> OAuthClient | None:
    """The client of that id, for authentication."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM oauth_client WHERE client_id = $1", client_id)
    return None if row is None else _client(row)


async def get(connection: Connection, tenant_id: str, client_id: str, lock: bool = False) -> OAuthClient:
    """A tenant's client; ``lock``: to change it. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM oauth_client WHERE client_id = $1 AND tenant_id = $2{' FOR UPDATE' if lock else ''}",
        client_id,
        tenant_id,
    )
    if row is None:
        raise not_found("OAuth client", client_id)
    return _client(row)


async def page(connection: Connection, tenant_id: str, wanted: Selection) -> tuple[list[OAuthClient], int]:
    """A tenant's clients, and how many match."""
    rows, total = await selecting.select(connection, _TABLE, wanted, "tenant_id = $1", tenant_id)
    return [_client(row) for row in rows], total


async def save(
    connection: Connection, client_id: str, settings: KeySettings, secret: KeptSecret, ends_tokens: bool = False
) -> OAuthClient:
    """Give a client that exists these settings and this secret, and log it; ``ends_tokens``: its tokens end."""
    row = await connection.fetchrow(
        "UPDATE oauth_client SET display_name = $2, scopes = $3, allowed_networks = $4, expires_at = $5,"
        " secret_sha256 = $6, last_four = $7, previous_secret_sha256 = $8, previous_expires_at = $9,"
        " token_generation = token_generation + $10, updated_at = now(), version = version + 1"
        f" WHERE client_id = $1 RETURNING {_COLUMNS}",
        client_id,
        settings.display_name,
        settings.scopes,
        settings.allowed_networks,
        settings.expires_at,
        secret.sha256,
        secret.last_four,
        secret.previous_sha256,
        secret.previous_expires_at,
        int(ends_tokens),
    )
    assert row is not None, "the caller has locked it"
    await policy_log.note(connection, [_change(client_id)])
    return _client(row)


async def delete(connection: Connection, tenant_id: str, client_id: str) -> None:
    """Revoke a client, and log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM oauth_client WHERE client_id = $1 AND tenant_id = $2 RETURNING client_id", client_id, tenant_id
    )
    if gone is None:
        raise not_found("OAuth client", client_id)
    await policy_log.note(connection, [_change(client_id)])


async def everyone(connection: Connection, after: str, limit: int) -> list[OAuthClient]:
    """All clients, by id, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM oauth_client WHERE client_id > $1 ORDER BY client_id LIMIT $2", after, limit
    )
    return [_client(row) for row in rows]


async def some(connection: Connection, client_ids: Sequence[str]) -> list[OAuthClient]:
    """Those of the clients that exist."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM oauth_client WHERE client_id = ANY ($1)", client_ids)
    return [_client(row) for row in rows]


def _change(client_id: str) -> Key:
    return Key(Kind.OAUTH_CLIENT, client_id)


def _client(row: Row) -> OAuthClient:
    return OAuthClient(
        client_id=row["client_id"],
        tenant_id=row["tenant_id"],
        settings=key_settings(row),
        secret=kept_secret(row),
        token_generation=row["token_generation"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_used_at=row["last_used_at"],
        version=row["version"],
        number=row["number"],
    )
