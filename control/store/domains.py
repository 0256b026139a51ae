"""Sender domains and their sealed DKIM keys.

Several tenants may claim a domain; one of them at most has it verified, which the database sees to.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from control.database import Connection, Row
from control.store import policy_log
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

MAX_PENDING = 100
"""Claims of one tenant that are not proved."""

_COLUMNS = "domain, tenant_id, verified, signing_off, challenge, created_at"


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A DKIM key; ``algorithm`` is "rsa" or "ed25519", ``public_key`` is what "p=" encodes."""

    selector: str
    algorithm: str
    public_key: bytes
    sealed_private_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Domain:
    """A sender domain with its keys."""

    domain: str
    tenant_id: str
    verified: bool
    signing_off: bool
    challenge: str
    created_at: datetime
    keys: tuple[DkimKey, ...]


async def create(
    connection: Connection,
    tenant_id: str,
    domain: str,
    *,
    verified: bool,
    signing_off: bool,
    challenge: str,
    keys: Sequence[DkimKey],
) -> Domain:
    """Claim a domain; log it. Raises what ``check_available`` raises."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    await check_available(connection, tenant_id, domain, verified=verified)
    row = await connection.fetchrow(
        "INSERT INTO domain (domain, tenant_id, verified, signing_off, challenge) VALUES ($1, $2, $3, $4, $5)"
        f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
        domain,
        tenant_id,
        verified,
        signing_off,
        challenge,
    )
    if row is None:
        raise _taken(domain)
    await connection.execute(
        "INSERT INTO dkim_key (tenant_id, domain, selector, algorithm, public_key, sealed_private_key)"
        " SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::bytea[], $6::bytea[])",
        tenant_id,
        domain,
        [key.selector for key in keys],
        [key.algorithm for key in keys],
        [key.public_key for key in keys],
        [key.sealed_private_key for key in keys],
    )
    await policy_log.note(connection, [Key(Kind.DOMAIN, domain)])
    return _domain(row, keys)


async def check_available(connection: Connection, tenant_id: str, domain: str, *, verified: bool) -> None:
    """Whether a tenant may claim a domain.

    Raises ALREADY_EXISTS if it has claimed it before or another has it verified, FAILED_PRECONDITION for an unproved
    claim too many.
    """
    if await connection.fetchval(
        "SELECT true FROM domain WHERE domain = $1 AND (verified OR tenant_id = $2) LIMIT 1", domain, tenant_id
    ):
        raise _taken(domain)
    pending = "SELECT count(*) FROM domain WHERE tenant_id = $1 AND NOT verified"
    if not verified and await connection.fetchval(pending, tenant_id) >= MAX_PENDING:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'tenant "{tenant_id}" has {MAX_PENDING} domains that are not verified; verify or delete some of them',
            metadata={"tenant": tenant_id, "maximum": str(MAX_PENDING)},
        )


async def get(connection: Connection, tenant_id: str, domain: str) -> Domain:
    """A tenant's domain. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM domain WHERE domain = $1 AND tenant_id = $2", domain, tenant_id
    )
    if row is None:
        raise not_found("domain", domain)
    return (await _with_keys(connection, [row]))[0]


async def page(connection: Connection, tenant_id: str, after: str, limit: int) -> list[Domain]:
    """A tenant's domains, by name."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM domain WHERE tenant_id = $1 AND domain > $2 ORDER BY domain LIMIT $3",
        tenant_id,
        after,
        limit,
    )
    return await _with_keys(connection, rows)


async def mark_verified(connection: Connection, tenant_id: str, domain: str) -> Domain:
    """The claim is proved; log it.

    NOT_FOUND if there is no such domain any more, FAILED_PRECONDITION if another tenant has it verified.
    """
    try:
        row = await connection.fetchrow(
            f"UPDATE domain SET verified = true WHERE domain = $1 AND tenant_id = $2 RETURNING {_COLUMNS}",
            domain,
            tenant_id,
        )
    except asyncpg.UniqueViolationError as error:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'another tenant has verified the domain "{domain}"; it has to give it up first',
            metadata={"domain": domain},
        ) from error
    if row is None:
        raise not_found("domain", domain)
    found = (await _with_keys(connection, [row]))[0]
    await policy_log.note(connection, [Key(Kind.DOMAIN, domain)])
    return found


async def delete(connection: Connection, tenant_id: str, domain: str) -> None:
    """Give a domain up and destroy its keys; log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM domain WHERE domain = $1 AND tenant_id = $2 RETURNING domain", domain, tenant_id
    )
    if gone is None:
        raise not_found("domain", domain)
    await policy_log.note(connection, [Key(Kind.DOMAIN, domain)])


async def every_verified(connection: Connection, after: str, limit: int) -> list[Domain]:
    """All verified domains, by name, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM domain WHERE verified AND domain > $1 ORDER BY domain LIMIT $2", after, limit
    )
    return await _with_keys(connection, rows)


async def some_verified(connection: Connection, domains: Sequence[str]) -> list[Domain]:
    """Those of the domains that exist and are verified."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM domain WHERE verified AND domain = ANY ($1)", domains)
    return await _with_keys(connection, rows)


async def _with_keys(connection: Connection, rows: Sequence[Row]) -> list[Domain]:
    found = await connection.fetch(
        "SELECT tenant_id, domain, selector, algorithm, public_key, sealed_private_key"
        " FROM dkim_key JOIN unnest($1::text[], $2::text[]) AS claim (tenant_id, domain) USING (tenant_id, domain)"
        " ORDER BY algorithm DESC, selector",
        [row["tenant_id"] for row in rows],
        [row["domain"] for row in rows],
    )
    keys: dict[tuple[str, str], list[DkimKey]] = {(row["tenant_id"], row["domain"]): [] for row in rows}
    for row in found:
        key = DkimKey(row["selector"], row["algorithm"], row["public_key"], row["sealed_private_key"])
        keys[row["tenant_id"], row["domain"]].append(key)
    return [_domain(row, keys[row["tenant_id"], row["domain"]]) for row in rows]


def _taken(domain: str) -> Refusal:
    return Refusal(Reason.ALREADY_EXISTS, f'the domain "{domain}" is claimed already', metadata={"domain": domain})


def _domain(row: Row, keys: Sequence[DkimKey]) -> Domain:
    return Domain(
        domain=row["domain"],
        tenant_id=row["tenant_id"],
        verified=row["verified"],
        signing_off=row["signing_off"],
        challenge=row["challenge"],
        created_at=row["created_at"],
        keys=tuple(keys),
    )
