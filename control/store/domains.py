"""Sender domains: claims, what their tenants set, and what the DNS had of them.

Several tenants may claim a domain; one of them at most has it verified, which the database sees to. A domain is exactly
its name: subdomains are domains of their own, with proofs of their own.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from control.database import Connection, Row
from control.model import checks as check_model
from control.model.caller import ROOT_TENANT
from control.model.checks import Check, CheckKind, CheckState
from control.model.selection import Selection
from control.store import dkim_keys, policy_log, selecting
from control.store.dkim_keys import DkimKey, KeyState, NewKey
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

MAX_PENDING = 100
"""Claims of one tenant that are not proved."""
CHECK_MINUTES = 60
"""Between looks at a domain's DNS."""
OLD_CLAIM_DAYS = 7
OLD_CLAIM_MINUTES = 24 * 60
"""Claims that are not proved for so long are looked at so often."""

_COLUMNS = (
    "domain, tenant_id, number, verified, trusted, signing_off, return_path_host, tracking_host, rotation_days,"
    " signs_for_senders, challenge, verified_at, created_at, updated_at, version, checks, checked_at,"
    " challenge_missing_at"
)
_TABLE = selecting.Table("domain", _COLUMNS, "domain", ("domain",))


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a domain can be changed. Hosts are empty if there are none; ``rotation_days`` 0: by hand."""

    signing_off: bool = False
    return_path_host: str = ""
    tracking_host: str = ""
    rotation_days: int = 0
    signs_for_senders: bool = False


@dataclass(frozen=True, slots=True)
class Domain:
    """A sender domain with its keys."""

    domain: str
    tenant_id: str
    number: int
    verified: bool
    trusted: bool
    settings: Settings
    challenge: str
    verified_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int
    checks: tuple[Check, ...]
    checked_at: datetime | None
    challenge_missing_at: datetime | None
    keys: tuple[DkimKey, ...] = ()

    @property
    def etag(self) -> str:
        """Changes with each change of the settings."""
        return str(self.version)


async def create(
    connection: Connection,
    tenant_id: str,
    domain: str,
    *,
    trusted: bool,
    settings: Settings,
    challenge: str,
    keys: Sequence[NewKey],
) -> Domain:
    """Claim a domain, with keys that are active at once; log it. Raises what ``check_available`` raises."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    await check_available(connection, tenant_id, domain, verified=trusted)
    if settings.signs_for_senders:
        await _stop_signing_for_senders(connection)
    row = await connection.fetchrow(
        "INSERT INTO domain (domain, tenant_id, verified, trusted, verified_at, challenge, signing_off,"
        " return_path_host, tracking_host, rotation_days, signs_for_senders)"
        " VALUES ($1, $2, $3, $3, CASE WHEN $3 THEN now() END, $4, $5, $6, $7, $8, $9)"
        f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
        domain,
        tenant_id,
        trusted,
        challenge,
        *_values(settings),
    )
    if row is None:
        raise _taken(domain)
    made = await dkim_keys.insert(connection, tenant_id, domain, keys, KeyState.ACTIVE)
    await log_change(connection, domain)
    return _domain(row, made)


async def check_available(connection: Connection, tenant_id: str, domain: str, *, verified: bool) -> None:
    """Whether a tenant may claim a domain.

    Raises ALREADY_EXISTS if it has claimed it before or another has it verified, FAILED_PRECONDITION for an unproved
    claim too many.
    """
    if await connection.fetchval(
        "SELECT domain_is_verified($1) OR EXISTS (SELECT FROM domain WHERE domain = $1 AND tenant_id = $2)",
        domain,
        tenant_id,
    ):
        raise _taken(domain)
    pending = "SELECT count(*) FROM domain WHERE tenant_id = $1 AND NOT verified"
    if not verified and await connection.fetchval(pending, tenant_id) >= MAX_PENDING:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'tenant "{tenant_id}" has {MAX_PENDING} domains that are not verified; verify or delete some of them',
            metadata={"tenant": tenant_id, "maximum": str(MAX_PENDING)},
        )


async def name_of(connection: Connection, tenant_id: str, number: int) -> str:
    """The domain that has a number. NOT_FOUND if it is none of the tenant's."""
    name = await connection.fetchval(
        "SELECT domain FROM domain WHERE number = $1 AND tenant_id = $2", number, tenant_id
    )
    if name is None:
        raise not_found("domain", str(number))
    return str(name)


async def get(connection: Connection, tenant_id: str, domain: str, *, lock: bool = False) -> Domain:
    """A tenant's domain; ``lock`` holds changes by others off until the end. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM domain WHERE domain = $1 AND tenant_id = $2{' FOR UPDATE' if lock else ''}",
        domain,
        tenant_id,
    )
    if row is None:
        raise not_found("domain", domain)
    return (await _with_keys(connection, [row]))[0]


async def page(
    connection: Connection, tenant_id: str, verified: bool | None, wanted: Selection
) -> tuple[list[Domain], int]:
    """A tenant's domains, verified ones or others if so wanted, and how many match."""
    where = "tenant_id = $1 AND ($2::boolean IS NULL OR verified = $2)"
    rows, total = await selecting.select(connection, _TABLE, wanted, where, tenant_id, verified)
    return await _with_keys(connection, rows), total


async def update(connection: Connection, domain: Domain, settings: Settings) -> Domain:
    """Change the settings of a domain that is locked; log it. FAILED_PRECONDITION if it must sign and has no key."""
    if not settings.signing_off and not dkim_keys.active(domain.keys):
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'the domain "{domain.domain}" has no active DKIM key to sign with; activate one first',
            metadata={"domain": domain.domain},
        )
    if settings.signs_for_senders and not domain.settings.signs_for_senders:
        await _stop_signing_for_senders(connection)
    row = await connection.fetchrow(
        "UPDATE domain SET signing_off = $3, return_path_host = $4, tracking_host = $5, rotation_days = $6,"
        " signs_for_senders = $7, version = version + 1, updated_at = now()"
        f" WHERE domain = $1 AND tenant_id = $2 RETURNING {_COLUMNS}",
        domain.domain,
        domain.tenant_id,
        *_values(settings),
    )
    assert row is not None, "it is locked"
    await log_change(connection, domain.domain)
    return _domain(row, domain.keys)


async def mark_verified(connection: Connection, claim: Domain) -> Domain:
    """The claim is proved; log it.

    NOT_FOUND if it is gone, or was made anew with another challenge; FAILED_PRECONDITION if another tenant has the
    domain verified.
    """
    try:
        row = await connection.fetchrow(
            "UPDATE domain SET verified = true, verified_at = coalesce(verified_at, now()), challenge_missing_at = NULL"
            f" WHERE domain = $1 AND tenant_id = $2 AND challenge = $3 RETURNING {_COLUMNS}",
            claim.domain,
            claim.tenant_id,
            claim.challenge,
        )
    except asyncpg.UniqueViolationError as error:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'another tenant has verified the domain "{claim.domain}"; it has to give it up first',
            metadata={"domain": claim.domain},
        ) from error
    if row is None:
        raise not_found("domain", claim.domain)
    found = (await _with_keys(connection, [row]))[0]
    await log_change(connection, claim.domain)
    return found


async def delete(connection: Connection, tenant_id: str, domain: str) -> None:
    """Give a domain up and destroy its keys; log it. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM domain WHERE domain = $1 AND tenant_id = $2 RETURNING domain", domain, tenant_id
    )
    if gone is None:
        raise not_found("domain", domain)
    await log_change(connection, domain)


async def claim_due(connection: Connection, limit: int) -> list[Domain]:
    """Domains whose DNS is to be looked at now. They are not due again for a while, whatever becomes of this look."""
    rows = await connection.fetch(
        "UPDATE domain SET check_due_at = now() + random() * interval '5 minutes'"
        "   + make_interval(mins => CASE WHEN verified OR created_at > now() - make_interval(days => $2)"
        "                                THEN $3::integer ELSE $4 END)"
        " WHERE (tenant_id, domain) IN (SELECT tenant_id, domain FROM domain WHERE check_due_at <= now()"
        "                               ORDER BY check_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)"
        f" RETURNING {_COLUMNS}",
        limit,
        OLD_CLAIM_DAYS,
        CHECK_MINUTES,
        OLD_CLAIM_MINUTES,
    )
    return await _with_keys(connection, rows)


async def keep_checks(connection: Connection, domain: Domain, found: Sequence[Check]) -> Domain:
    """Keep what the DNS had. NOT_FOUND if the claim is gone, or was made anew."""
    state = check_model.state_of(found, CheckKind.CHALLENGE)
    row = await connection.fetchrow(
        "UPDATE domain SET checks = $4, checked_at = now(), challenge_missing_at ="
        " CASE WHEN NOT verified OR $5 THEN NULL WHEN $6 THEN coalesce(challenge_missing_at, now())"
        "      ELSE challenge_missing_at END"
        f" WHERE domain = $1 AND tenant_id = $2 AND challenge = $3 RETURNING {_COLUMNS}",
        domain.domain,
        domain.tenant_id,
        domain.challenge,
        check_model.to_text(found),
        state in (CheckState.OK, None),
        state in (CheckState.MISSING, CheckState.MISMATCH),
    )
    if row is None:
        raise not_found("domain", domain.domain)
    return (await _with_keys(connection, [row]))[0]


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


async def log_change(connection: Connection, domain: str) -> None:
    """Have the nodes look at a domain again. Called last in a transaction."""
    await policy_log.note(connection, [Key(Kind.DOMAIN, domain)])


async def _stop_signing_for_senders(connection: Connection) -> None:
    """Take that from the domain which has it; log it."""
    rows = await connection.fetch(
        "UPDATE domain SET signs_for_senders = false, version = version + 1, updated_at = now()"
        " WHERE tenant_id = $1 AND signs_for_senders RETURNING domain",
        ROOT_TENANT,
    )
    for row in rows:
        await log_change(connection, row["domain"])


async def _with_keys(connection: Connection, rows: Sequence[Row]) -> list[Domain]:
    keys = await dkim_keys.of(connection, [(row["tenant_id"], row["domain"]) for row in rows])
    return [_domain(row, keys[row["tenant_id"], row["domain"]]) for row in rows]


def with_key(domain: Domain, changed: Sequence[DkimKey]) -> Domain:
    """The domain with these keys in the place of those with the same selectors."""
    selectors = {key.selector for key in changed}
    return replace(domain, keys=(*changed, *(key for key in domain.keys if key.selector not in selectors)))


def _values(settings: Settings) -> tuple[bool, str, str, int, bool]:
    return (
        settings.signing_off,
        settings.return_path_host,
        settings.tracking_host,
        settings.rotation_days,
        settings.signs_for_senders,
    )


def _taken(domain: str) -> Refusal:
    return Refusal(Reason.ALREADY_EXISTS, f'the domain "{domain}" is claimed already', metadata={"domain": domain})


def _domain(row: Row, keys: Sequence[DkimKey]) -> Domain:
    return Domain(
        domain=row["domain"],
        tenant_id=row["tenant_id"],
        number=row["number"],
        verified=row["verified"],
        trusted=row["trusted"],
        settings=Settings(
            row["signing_off"],
            row["return_path_host"],
            row["tracking_host"],
            row["rotation_days"],
            row["signs_for_senders"],
        ),
        challenge=row["challenge"],
        verified_at=row["verified_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
        checks=check_model.from_text(row["checks"]),
        checked_at=row["checked_at"],
        challenge_missing_at=row["challenge_missing_at"],
        keys=tuple(keys),
    )
