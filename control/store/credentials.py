"""Logins and API keys. Their secrets are kept as hashes only."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from control.database import Connection, Row
from control.model.apikeys import NewKey
from control.store import policy_log
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

_LOGIN = "username, tenant_id, password_hash, created_at"
_API_KEY = "key_id, tenant_id, display_name, scopes, secret_sha256, last_four, created_at"


@dataclass(frozen=True, slots=True)
class Login:
    """A login; ``password_hash`` is argon2id in PHC string form."""

    username: str
    tenant_id: str
    password_hash: str = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret."""

    key_id: str
    tenant_id: str
    display_name: str
    scopes: tuple[str, ...]
    secret_sha256: bytes = field(repr=False)
    last_four: str
    created_at: datetime


async def create_login(connection: Connection, tenant_id: str, username: str, password_hash: str) -> Login:
    """Make a login. ALREADY_EXISTS if the username is taken. The caller logs the change."""
    row = await connection.fetchrow(
        "INSERT INTO login (username, tenant_id, password_hash) VALUES ($1, $2, $3)"
        f" ON CONFLICT (username) DO NOTHING RETURNING {_LOGIN}",
        username,
        tenant_id,
        password_hash,
    )
    if row is None:
        raise Refusal(Reason.ALREADY_EXISTS, f'the username "{username}" is taken', metadata={"username": username})
    return _login(row)


def login_change(username: str) -> Key:
    """The key of a login in the policy log."""
    return Key(Kind.LOGIN, username)


async def find_login(connection: Connection, username: str) -> Login | None:
    """The login of that name, for authentication."""
    row = await connection.fetchrow(f"SELECT {_LOGIN} FROM login WHERE username = $1", username)
    return None if row is None else _login(row)


async def list_logins(connection: Connection, tenant_id: str, after: str, limit: int) -> list[Login]:
    """A tenant's logins, by username."""
    rows = await connection.fetch(
        f"SELECT {_LOGIN} FROM login WHERE tenant_id = $1 AND username > $2 ORDER BY username LIMIT $3",
        tenant_id,
        after,
        limit,
    )
    return [_login(row) for row in rows]


async def delete_login(connection: Connection, tenant_id: str, username: str) -> None:
    """Remove a login, and log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM login WHERE username = $1 AND tenant_id = $2 RETURNING username", username, tenant_id
    )
    if gone is None:
        raise not_found("login", username)
    await policy_log.note(connection, [login_change(username)])


async def every_login(connection: Connection, after: str, limit: int) -> list[Login]:
    """All logins, by username, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_LOGIN} FROM login WHERE username > $1 ORDER BY username LIMIT $2", after, limit
    )
    return [_login(row) for row in rows]


async def some_logins(connection: Connection, usernames: Sequence[str]) -> list[Login]:
    """Those of the logins that exist."""
    rows = await connection.fetch(f"SELECT {_LOGIN} FROM login WHERE username = ANY ($1)", usernames)
    return [_login(row) for row in rows]


async def create_api_key(
    connection: Connection, tenant_id: str, key: NewKey, display_name: str, scopes: Sequence[str]
) -> ApiKey:
    """Keep a new key, and log it."""
    row = await connection.fetchrow(
        "INSERT INTO api_key (key_id, tenant_id, display_name, scopes, secret_sha256, last_four)"
        f" VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_API_KEY}",
        key.key_id,
        tenant_id,
        display_name,
        scopes,
        key.secret_sha256,
        key.last_four,
    )
    assert row is not None, "INSERT RETURNING gives its row"
    await policy_log.note(connection, [Key(Kind.API_KEY, key.key_id)])
    return _api_key(row)


async def list_api_keys(connection: Connection, tenant_id: str, after: str, limit: int) -> list[ApiKey]:
    """A tenant's API keys, by id."""
    rows = await connection.fetch(
        f"SELECT {_API_KEY} FROM api_key WHERE tenant_id = $1 AND key_id > $2 ORDER BY key_id LIMIT $3",
        tenant_id,
        after,
        limit,
    )
    return [_api_key(row) for row in rows]


async def delete_api_key(connection: Connection, tenant_id: str, key_id: str) -> None:
    """Revoke a key, and log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM api_key WHERE key_id = $1 AND tenant_id = $2 RETURNING key_id", key_id, tenant_id
    )
    if gone is None:
        raise not_found("API key", key_id)
    await policy_log.note(connection, [Key(Kind.API_KEY, key_id)])


async def every_api_key(connection: Connection, after: str, limit: int) -> list[ApiKey]:
    """All API keys, by id, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_API_KEY} FROM api_key WHERE key_id > $1 ORDER BY key_id LIMIT $2", after, limit
    )
    return [_api_key(row) for row in rows]


async def some_api_keys(connection: Connection, key_ids: Sequence[str]) -> list[ApiKey]:
    """Those of the API keys that exist."""
    rows = await connection.fetch(f"SELECT {_API_KEY} FROM api_key WHERE key_id = ANY ($1)", key_ids)
    return [_api_key(row) for row in rows]


def _login(row: Row) -> Login:
    return Login(row["username"], row["tenant_id"], row["password_hash"], row["created_at"])


def _api_key(row: Row) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        display_name=row["display_name"],
        scopes=tuple(row["scopes"]),
        secret_sha256=row["secret_sha256"],
        last_four=row["last_four"],
        created_at=row["created_at"],
    )
