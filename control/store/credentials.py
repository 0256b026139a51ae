"""Logins and API keys. Their secrets are kept as hashes only.

What nodes need to know is logged as a change of policy: every API key, and the logins that may send.
"""

# ruff: noqa: S608 - the only text put into statements are columns and tables that are named in the code

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from control.database import Connection, Row
from control.model.apikeys import KeptSecret, NewKey
from control.model.credentials import LoginRole
from control.model.selection import Selection
from control.store import policy_log, selecting
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

MAX_OF_TENANT = 10_000
"""Logins of one tenant; as many API keys, and OAuth clients. Nodes have to know all of them."""

_LOGIN = (
    "username, tenant_id, password_hash, role, disabled, allowed_networks, expires_at, created_at, updated_at,"
    " last_used_at, version"
)
_API_KEY = (
    "key_id, tenant_id, display_name, scopes, secret_sha256, last_four, previous_secret_sha256, previous_expires_at,"
    " allowed_networks, expires_at, created_at, updated_at, last_used_at, version, number, sealed_secret"
)
_KEYS = selecting.Table("api_key", _API_KEY, "key_id", ("key_id", "display_name"))
_SENDS = "NOT disabled AND role <> 'read_only'"


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """What can be chosen for a login, beside its password."""

    role: LoginRole = LoginRole.ADMIN
    disabled: bool = False
    allowed_networks: tuple[str, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A login; ``password_hash`` is argon2id in PHC string form."""

    username: str
    tenant_id: str
    password_hash: str = field(repr=False)
    settings: LoginSettings
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class KeySettings:
    """What can be chosen for an API key or an OAuth client."""

    display_name: str
    scopes: tuple[str, ...]
    allowed_networks: tuple[str, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret."""

    key_id: str
    tenant_id: str
    settings: KeySettings
    secret: KeptSecret
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    version: int
    number: int
    sealed_secret: bytes | None = field(repr=False)
    """Its secret, sealed; None: only the hash is kept."""


async def check_room(connection: Connection, table: str, tenant_id: str) -> None:
    """FAILED_PRECONDITION if a tenant has ``MAX_OF_TENANT`` credentials in a table of them. The tenant is locked."""
    if await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant_id) < MAX_OF_TENANT:
        return
    message = f'tenant "{tenant_id}" has {MAX_OF_TENANT} credentials of this kind; delete those that are not used'
    metadata = {"tenant": tenant_id, "maximum": str(MAX_OF_TENANT)}
    raise Refusal(Reason.FAILED_PRECONDITION, message, metadata=metadata)


async def create_login(
    connection: Connection,
    tenant_id: str,
    username: str,
    password_hash: str,
    settings: LoginSettings | None = None,
) -> Login:
    """Make a login. The caller logs the change.

    ALREADY_EXISTS if the username is taken, FAILED_PRECONDITION for one too many.
    """
    await check_room(connection, "login", tenant_id)
    chosen = settings or LoginSettings()
    row = await connection.fetchrow(
        "INSERT INTO login (username, tenant_id, password_hash, role, disabled, allowed_networks, expires_at)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (username) DO NOTHING RETURNING {_LOGIN}",
        username,
        tenant_id,
        password_hash,
        chosen.role,
        chosen.disabled,
        chosen.allowed_networks,
        chosen.expires_at,
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


async def get_login(connection: Connection, tenant_id: str, username: str, lock: bool = False) -> Login:
    """A tenant's login; ``lock``: to change it. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_LOGIN} FROM login WHERE username = $1 AND tenant_id = $2{' FOR UPDATE' if lock else ''}",
        username,
        tenant_id,
    )
    if row is None:
        raise not_found("login", username)
    return _login(row)


async def list_logins(connection: Connection, tenant_id: str, after: str, limit: int) -> list[Login]:
    """A tenant's logins, by username."""
    rows = await connection.fetch(
        f"SELECT {_LOGIN} FROM login WHERE tenant_id = $1 AND username > $2 ORDER BY username LIMIT $3",
        tenant_id,
        after,
        limit,
    )
    return [_login(row) for row in rows]


async def save_login(connection: Connection, username: str, password_hash: str, settings: LoginSettings) -> Login:
    """Give a login that exists these settings and this password, and log it."""
    row = await connection.fetchrow(
        "UPDATE login SET password_hash = $2, role = $3, disabled = $4, allowed_networks = $5, expires_at = $6,"
        f" updated_at = now(), version = version + 1 WHERE username = $1 RETURNING {_LOGIN}",
        username,
        password_hash,
        settings.role,
        settings.disabled,
        settings.allowed_networks,
        settings.expires_at,
    )
    assert row is not None, "the caller has locked it"
    await policy_log.note(connection, [login_change(username)])
    return _login(row)


async def delete_login(connection: Connection, tenant_id: str, username: str) -> None:
    """Remove a login, and log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM login WHERE username = $1 AND tenant_id = $2 RETURNING username", username, tenant_id
    )
    if gone is None:
        raise not_found("login", username)
    await policy_log.note(connection, [login_change(username)])


async def every_login(connection: Connection, after: str, limit: int) -> list[Login]:
    """All logins that may send, by username, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_LOGIN} FROM login WHERE username > $1 AND {_SENDS} ORDER BY username LIMIT $2", after, limit
    )
    return [_login(row) for row in rows]


async def some_logins(connection: Connection, usernames: Sequence[str]) -> list[Login]:
    """Those of the logins that exist and may send."""
    rows = await connection.fetch(f"SELECT {_LOGIN} FROM login WHERE username = ANY ($1) AND {_SENDS}", usernames)
    return [_login(row) for row in rows]


async def create_api_key(
    connection: Connection, tenant_id: str, key: NewKey, settings: KeySettings, sealed_secret: bytes | None = None
) -> ApiKey:
    """Keep a new key, with its secret if that is given sealed, and log it. FAILED_PRECONDITION for one too many."""
    await check_room(connection, "api_key", tenant_id)
    row = await connection.fetchrow(
        "INSERT INTO api_key (key_id, tenant_id, display_name, scopes, secret_sha256, last_four, allowed_networks,"
        f" expires_at, sealed_secret) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {_API_KEY}",
        key.key_id,
        tenant_id,
        settings.display_name,
        settings.scopes,
        key.secret_sha256,
        key.last_four,
        settings.allowed_networks,
        settings.expires_at,
        sealed_secret,
    )
    assert row is not None, "INSERT RETURNING gives its row"
    await policy_log.note(connection, [Key(Kind.API_KEY, key.key_id)])
    return _api_key(row)


async def find_api_key(connection: Connection, key_id: str) -> ApiKey | None:
    """The key of that id, for authentication."""
    row = await connection.fetchrow(f"SELECT {_API_KEY} FROM api_key WHERE key_id = $1", key_id)
    return None if row is None else _api_key(row)


async def get_api_key(connection: Connection, tenant_id: str, key_id: str, lock: bool = False) -> ApiKey:
    """A tenant's key; ``lock``: to change it. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_API_KEY} FROM api_key WHERE key_id = $1 AND tenant_id = $2{' FOR UPDATE' if lock else ''}",
        key_id,
        tenant_id,
    )
    if row is None:
        raise not_found("API key", key_id)
    return _api_key(row)


async def list_api_keys(
    connection: Connection, tenant_id: str, include_descendants: bool, wanted: Selection
) -> tuple[list[ApiKey], int]:
    """A tenant's API keys, with those of the tenants below if so wanted, and how many match."""
    below = "tenant_id IN (SELECT tenant_id FROM tenant WHERE path @> ARRAY[$1]::text[] AND deleted_at IS NULL)"
    where = below if include_descendants else "tenant_id = $1"
    rows, total = await selecting.select(connection, _KEYS, wanted, where, tenant_id)
    return [_api_key(row) for row in rows], total


async def save_api_key(
    connection: Connection, key: ApiKey, settings: KeySettings, secret: KeptSecret, sealed_secret: bytes | None
) -> ApiKey:
    """Give a key that is locked these settings and this secret, and log it."""
    row = await connection.fetchrow(
        "UPDATE api_key SET display_name = $2, scopes = $3, allowed_networks = $4, expires_at = $5, secret_sha256 = $6,"
        " last_four = $7, previous_secret_sha256 = $8, previous_expires_at = $9, sealed_secret = $10,"
        f" updated_at = now(), version = version + 1 WHERE key_id = $1 RETURNING {_API_KEY}",
        key.key_id,
        settings.display_name,
        settings.scopes,
        settings.allowed_networks,
        settings.expires_at,
        secret.sha256,
        secret.last_four,
        secret.previous_sha256,
        secret.previous_expires_at,
        sealed_secret,
    )
    assert row is not None, "the caller has locked it"
    await policy_log.note(connection, [Key(Kind.API_KEY, key.key_id)])
    return _api_key(row)


async def delete_api_key(connection: Connection, tenant_id: str, key_id: str) -> None:
    """Revoke a key, and log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM api_key WHERE key_id = $1 AND tenant_id = $2 RETURNING key_id", key_id, tenant_id
    )
    if gone is None:
        raise not_found("API key", key_id)
    await policy_log.note(connection, [Key(Kind.API_KEY, key_id)])


async def newest_recoverable(connection: Connection, tenant_id: str) -> ApiKey | None:
    """The newest key in force that can be read again: of the nearest reseller from a tenant upwards, or its own."""
    row = await connection.fetchrow(
        f"SELECT {', '.join(f'key.{column.strip()}' for column in _API_KEY.split(','))} FROM api_key AS key"
        " JOIN tenant AS above ON above.tenant_id = key.tenant_id"
        " WHERE key.tenant_id = ANY (SELECT unnest(path) FROM tenant WHERE tenant_id = $1)"
        " AND (above.kind = 'reseller' OR above.tenant_id = $1) AND sealed_secret IS NOT NULL"
        " AND (expires_at IS NULL OR expires_at > now())"
        " ORDER BY above.kind = 'reseller' DESC, cardinality(above.path) DESC, key.number DESC LIMIT 1",
        tenant_id,
    )
    return None if row is None else _api_key(row)


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


def key_settings(row: Row) -> KeySettings:
    """The settings in a row of a key or client."""
    return KeySettings(row["display_name"], tuple(row["scopes"]), tuple(row["allowed_networks"]), row["expires_at"])


def kept_secret(row: Row) -> KeptSecret:
    """The secret in a row of a key or client."""
    return KeptSecret(row["secret_sha256"], row["last_four"], row["previous_secret_sha256"], row["previous_expires_at"])


def _login(row: Row) -> Login:
    return Login(
        username=row["username"],
        tenant_id=row["tenant_id"],
        password_hash=row["password_hash"],
        settings=LoginSettings(
            LoginRole(row["role"]), row["disabled"], tuple(row["allowed_networks"]), row["expires_at"]
        ),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_used_at=row["last_used_at"],
        version=row["version"],
    )


def _api_key(row: Row) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        settings=key_settings(row),
        secret=kept_secret(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_used_at=row["last_used_at"],
        version=row["version"],
        number=row["number"],
        sealed_secret=row["sealed_secret"],
    )


async def is_reseller(connection: Connection, tenant_id: str) -> bool | None:
    """Whether credentials of this tenant are a reseller's; None if there is no such tenant."""
    found: bool | None = await connection.fetchval(
        "SELECT kind <> 'account' FROM tenant WHERE tenant_id = $1 AND deleted_at IS NULL", tenant_id
    )
    return found
