"""DKIM keys of sender domains: pending, active, retired.

A domain has at most one active key of each algorithm, and one that must sign keeps at least one of any. Changes are
made with the domain's row locked (``domains.get`` with ``lock``), so that these rules hold; they are logged for the
nodes, which get active keys only.

Errors: the Refusals named with each function.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from control.database import Connection, Row
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

MAX_KEYS = 20
"""Of one domain, retired ones included."""
RETIRED_DAYS = 30
"""A retired key is destroyed after this; mail signed with it has long arrived or expired."""

_COLUMNS = (
    "tenant_id, domain, selector, algorithm, bits, public_key, sealed_private_key, state, imported, rotation,"
    " created_at, activated_at, retired_at"
)


class KeyState(StrEnum):
    """What a key is used for."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to keep; ``algorithm`` is "rsa" or "ed25519", ``public_key`` is what "p=" encodes."""

    selector: str
    algorithm: str
    bits: int
    public_key: bytes
    sealed_private_key: bytes = field(repr=False)
    imported: bool = False
    rotation: bool = False


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A key as it is kept."""

    tenant_id: str
    domain: str
    selector: str
    algorithm: str
    bits: int
    public_key: bytes
    sealed_private_key: bytes = field(repr=False)
    state: KeyState
    imported: bool
    rotation: bool
    created_at: datetime
    activated_at: datetime | None
    retired_at: datetime | None


def active(keys: Iterable[DkimKey]) -> list[DkimKey]:
    """The keys that messages are signed with."""
    return [key for key in keys if key.state is KeyState.ACTIVE]


def awaited(keys: Iterable[DkimKey]) -> list[DkimKey]:
    """The keys of a rotation that is not through."""
    return [key for key in keys if key.state is KeyState.PENDING and key.rotation]


async def insert(
    connection: Connection, tenant_id: str, domain: str, keys: Sequence[NewKey], state: KeyState = KeyState.PENDING
) -> list[DkimKey]:
    """Keep keys. Raises what ``check_room`` raises."""
    await check_room(connection, tenant_id, domain, keys)
    rows = await connection.fetch(
        "INSERT INTO dkim_key (tenant_id, domain, state, activated_at, selector, algorithm, bits, public_key,"
        " sealed_private_key, imported, rotation)"
        " SELECT $1, $2, $3, CASE WHEN $3 = 'active' THEN now() END, *"
        " FROM unnest($4::text[], $5::text[], $6::integer[], $7::bytea[], $8::bytea[], $9::boolean[], $10::boolean[])"
        f" RETURNING {_COLUMNS}",
        tenant_id,
        domain,
        state,
        [key.selector for key in keys],
        [key.algorithm for key in keys],
        [key.bits for key in keys],
        [key.public_key for key in keys],
        [key.sealed_private_key for key in keys],
        [key.imported for key in keys],
        [key.rotation for key in keys],
    )
    return _sorted(rows)


async def check_room(connection: Connection, tenant_id: str, domain: str, keys: Sequence[NewKey]) -> None:
    """Whether keys can be added. ALREADY_EXISTS for a selector or key twice, FAILED_PRECONDITION for too many keys."""
    there = await of(connection, [(tenant_id, domain)])
    found = there[tenant_id, domain]
    for key in keys:
        for other in found:
            if key.selector == other.selector:
                raise _exists(domain, f'the domain has a key with the selector "{key.selector}"', key.selector)
            if key.public_key == other.public_key:
                text = f'the domain has this key, with the selector "{other.selector}"'
                raise _exists(domain, text, other.selector)
    if len(found) + len(keys) > MAX_KEYS:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'the domain "{domain}" would have more than {MAX_KEYS} keys; delete retired or pending ones first',
            metadata={"domain": domain, "maximum": str(MAX_KEYS)},
        )


async def get(connection: Connection, tenant_id: str, domain: str, selector: str) -> DkimKey:
    """One key. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM dkim_key WHERE tenant_id = $1 AND domain = $2 AND selector = $3",
        tenant_id,
        domain,
        selector,
    )
    if row is None:
        raise not_found("DKIM key", selector)
    return _key(row)


async def page(connection: Connection, tenant_id: str, domain: str, after: str, limit: int) -> list[DkimKey]:
    """A domain's keys, by selector."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM dkim_key WHERE tenant_id = $1 AND domain = $2 AND selector > $3"
        " ORDER BY selector LIMIT $4",
        tenant_id,
        domain,
        after,
        limit,
    )
    return [_key(row) for row in rows]


async def of(connection: Connection, claims: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[DkimKey, ...]]:
    """The keys of claims (tenant id, domain): RSA first, the newest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM dkim_key JOIN unnest($1::text[], $2::text[]) AS claim (tenant_id, domain)"
        " USING (tenant_id, domain)",
        [tenant_id for tenant_id, _ in claims],
        [domain for _, domain in claims],
    )
    keys: dict[tuple[str, str], list[DkimKey]] = {claim: [] for claim in claims}
    for key in _sorted(rows):
        keys[key.tenant_id, key.domain].append(key)
    return {claim: tuple(some) for claim, some in keys.items()}


async def activate(connection: Connection, tenant_id: str, domain: str, selectors: Sequence[str]) -> list[DkimKey]:
    """Sign with these keys; the active keys of their algorithms are retired. They exist, each of its own algorithm."""
    await connection.execute(
        "UPDATE dkim_key SET state = 'retired', retired_at = now()"
        " WHERE tenant_id = $1 AND domain = $2 AND state = 'active' AND NOT selector = ANY ($3) AND algorithm IN"
        " (SELECT algorithm FROM dkim_key WHERE tenant_id = $1 AND domain = $2 AND selector = ANY ($3))",
        tenant_id,
        domain,
        selectors,
    )
    rows = await connection.fetch(
        "UPDATE dkim_key SET state = 'active', rotation = false, retired_at = NULL,"
        " activated_at = CASE WHEN state = 'active' THEN activated_at ELSE now() END"
        f" WHERE tenant_id = $1 AND domain = $2 AND selector = ANY ($3) RETURNING {_COLUMNS}",
        tenant_id,
        domain,
        selectors,
    )
    return _sorted(rows)


async def retire(connection: Connection, tenant_id: str, domain: str, selector: str) -> DkimKey:
    """Stop signing with a key, which exists."""
    row = await connection.fetchrow(
        "UPDATE dkim_key SET state = 'retired', rotation = false, retired_at = now()"
        f" WHERE tenant_id = $1 AND domain = $2 AND selector = $3 RETURNING {_COLUMNS}",
        tenant_id,
        domain,
        selector,
    )
    assert row is not None, "the caller has found it with its domain locked"
    return _key(row)


async def delete(connection: Connection, tenant_id: str, domain: str, selector: str) -> None:
    """Destroy a key."""
    await connection.execute(
        "DELETE FROM dkim_key WHERE tenant_id = $1 AND domain = $2 AND selector = $3", tenant_id, domain, selector
    )


async def delete_old(connection: Connection) -> None:
    """Destroy keys that were retired long ago."""
    await connection.execute(
        "DELETE FROM dkim_key WHERE state = 'retired' AND retired_at < now() - make_interval(days => $1)", RETIRED_DAYS
    )


def _exists(domain: str, text: str, selector: str) -> Refusal:
    return Refusal(Reason.ALREADY_EXISTS, text, field="selector", metadata={"domain": domain, "selector": selector})


def _sorted(rows: Iterable[Row]) -> list[DkimKey]:
    keys = sorted(map(_key, rows), key=lambda key: (key.created_at, key.selector), reverse=True)
    return sorted(keys, key=lambda key: key.algorithm, reverse=True)


def _key(row: Row) -> DkimKey:
    values = dict(row)
    values["state"] = KeyState(values["state"])
    return DkimKey(**values)
