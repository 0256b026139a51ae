"""Verified sender addresses, and the codes that prove them.

A sender is proved by a code that was mailed to it, by the operator's word, or by its domain, as long as the tenant or
one above it has that verified. A domain that is verified for somebody else goes before a code: then the sender may not
be used.

Codes are mailed by ``control.confirmations``, from rows with ``mail_due_at``: so a code is mailed whatever happens to
the program that was asked for it. Only a keyed hash of a code is kept.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from control.database import Connection, Row
from control.model.selection import Selection
from control.store import policy_log, selecting
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

MAX_PENDING = 100
"""Senders of one tenant that are not proved."""
CODE_HOURS = 24
"""A code is good for so long."""
MAX_ATTEMPTS = 10
"""Codes tried against one that was mailed: with eight digits, one in ten million to guess it."""
CODES_A_DAY = 5
"""Codes for one address, whoever asks."""
CODES_OF_TENANT = 100
"""Codes within a day that one tenant asks for, whatever the addresses."""
CODE_PAUSE_SECONDS = 60
"""Between two codes for one sender."""
MAIL_TRIES = 12
"""Attempts to hand a code to the mail server."""

_COLUMNS = (
    "tenant_id, address, domain, number, display_name, proof, proved_at, code_hash, code_expires_at, code_sent_at,"
    " attempts, mail_due_at, mail_tries, mail_trouble, created_at, version, reply_to,"
    " domain_is_inherited(domain, tenant_id) AS inherited, domain_is_verified(domain) AS owned"
)
_VERIFIED = "(domain_is_inherited(domain, tenant_id) OR (proof IS NOT NULL AND NOT domain_is_verified(domain)))"
_TABLE = selecting.Table("sender", _COLUMNS, "address", ("address", "display_name"))


class Proof(StrEnum):
    """How a sender was proved."""

    CODE = "code"
    TRUSTED = "trusted"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class Sender:
    """A sender address in its canonical form. ``proof`` is None while it may not be used."""

    tenant_id: str
    address: str
    domain: str
    number: int
    display_name: str
    proof: Proof | None
    proved_at: datetime | None
    code_hash: bytes | None = field(repr=False)
    code_expires_at: datetime | None
    code_sent_at: datetime | None
    attempts: int
    mail_tries: int
    mail_trouble: str
    created_at: datetime
    version: int
    reply_to: str

    @property
    def etag(self) -> str:
        """Changes with each change of a field."""
        return str(self.version)


async def create(
    connection: Connection, tenant_id: str, address: str, display_name: str, reply_to: str, *, trusted: bool
) -> Sender:
    """Make a sender; log it. A code is asked for if it has to be proved. Raises what ``check_available`` raises."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    await check_available(connection, tenant_id, address, trusted=trusted)
    row = await connection.fetchrow(
        "INSERT INTO sender (tenant_id, address, domain, display_name, proof, proved_at, reply_to)"
        " VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN 'trusted' END, CASE WHEN $5 THEN now() END, $6)"
        f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
        tenant_id,
        address,
        domain_of(address),
        display_name,
        trusted,
        reply_to,
    )
    if row is None:
        raise _taken(address)
    made = _sender(row)
    if made.proof is None:
        made = await request_code(connection, made)
    await _log(connection, made)
    return made


async def check_available(connection: Connection, tenant_id: str, address: str, *, trusted: bool) -> None:
    """Whether a tenant may have a sender.

    ALREADY_EXISTS if it has it; FAILED_PRECONDITION if its domain is verified for another tenant that is not above, or
    for an unproved sender too many.
    """
    if await connection.fetchval("SELECT true FROM sender WHERE tenant_id = $1 AND address = $2", tenant_id, address):
        raise _taken(address)
    inherited, owned = await _owners(connection, tenant_id, domain_of(address))
    if inherited:
        return
    if owned:
        raise foreign(address)
    pending = "SELECT count(*) FROM sender WHERE tenant_id = $1 AND proof IS NULL"
    if not trusted and await connection.fetchval(pending, tenant_id) >= MAX_PENDING:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'tenant "{tenant_id}" has {MAX_PENDING} senders that are not proved; prove or delete some of them',
            metadata={"tenant": tenant_id, "maximum": str(MAX_PENDING)},
        )


async def inherits_domain(connection: Connection, tenant_id: str, address: str) -> bool:
    """Whether the tenant or one above it has the address's domain verified."""
    inherited, _ = await _owners(connection, tenant_id, domain_of(address))
    return inherited


async def check_domain(connection: Connection, sender: Sender) -> None:
    """FAILED_PRECONDITION if the domain is verified for another tenant that is not above."""
    inherited, owned = await _owners(connection, sender.tenant_id, sender.domain)
    if owned and not inherited:
        raise foreign(sender.address)


async def address_of(connection: Connection, tenant_id: str, number: int) -> str:
    """The sender that has a number. NOT_FOUND if it is none of the tenant's."""
    address = await connection.fetchval(
        "SELECT address FROM sender WHERE number = $1 AND tenant_id = $2", number, tenant_id
    )
    if address is None:
        raise not_found("sender", str(number))
    return str(address)


async def get(connection: Connection, tenant_id: str, address: str, *, lock: bool = False) -> Sender:
    """A tenant's sender; ``lock`` holds changes by others off until the end. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM sender WHERE tenant_id = $1 AND address = $2{' FOR UPDATE' if lock else ''}",
        tenant_id,
        address,
    )
    if row is None:
        raise not_found("sender", address)
    return _sender(row)


async def page(
    connection: Connection, tenant_id: str, verified: bool | None, wanted: Selection
) -> tuple[list[Sender], int]:
    """A tenant's senders, verified ones or others if so wanted, and how many match."""
    where = f"tenant_id = $1 AND ($2::boolean IS NULL OR {_VERIFIED} = $2)"
    rows, total = await selecting.select(connection, _TABLE, wanted, where, tenant_id, verified)
    return [_sender(row) for row in rows], total


async def rename(connection: Connection, sender: Sender, display_name: str, reply_to: str) -> Sender:
    """Change the display name of a sender that is locked, and where answers go."""
    return await _change(
        connection, sender, "display_name = $3, reply_to = $4, version = version + 1", display_name, reply_to
    )


async def request_code(connection: Connection, sender: Sender) -> Sender:
    """Have a code mailed; one before it ends. RATE_LIMITED if the address had too many of them."""
    row = await connection.fetchrow(
        "SELECT number, first_at, now() AS now,"
        " (SELECT max(requested_at) FROM sender_code WHERE tenant_id = $2 AND address = $1) AS last_at,"
        " (SELECT count(*) FROM sender_code WHERE tenant_id = $2 AND requested_at > now() - interval '1 day') AS asked"
        " FROM sender_codes_today($1)",
        sender.address,
        sender.tenant_id,
    )
    assert row is not None, "an aggregate has a row"
    pause = timedelta(seconds=CODE_PAUSE_SECONDS)
    if row["last_at"] is not None and row["now"] - row["last_at"] < pause:
        raise _too_soon(sender.address, pause - (row["now"] - row["last_at"]))
    if row["number"] >= CODES_A_DAY:
        raise _too_soon(sender.address, row["first_at"] + timedelta(days=1) - row["now"])
    if row["asked"] >= CODES_OF_TENANT:
        text = f"{CODES_OF_TENANT} codes were asked for within a day; prove the senders that are there, or wait"
        raise Refusal(Reason.RATE_LIMITED, text, retry_after=3600.0, metadata={"maximum": str(CODES_OF_TENANT)})
    await connection.execute(
        "INSERT INTO sender_code (tenant_id, address) VALUES ($1, $2)", sender.tenant_id, sender.address
    )
    return await _change(
        connection, sender, "code_hash = NULL, attempts = 0, mail_due_at = now(), mail_tries = 0, mail_trouble = ''"
    )


async def count_attempt(connection: Connection, sender: Sender) -> Sender:
    """Count that a code is tried, whatever comes of it."""
    return await _change(connection, sender, "attempts = attempts + 1")


async def mark_proved(connection: Connection, sender: Sender) -> Sender:
    """The code was right; log it. The sender is locked."""
    proved = await _change(
        connection, sender, "proof = 'code', proved_at = now(), code_hash = NULL, mail_due_at = NULL, mail_trouble = ''"
    )
    await _log(connection, proved)
    return proved


async def delete(connection: Connection, tenant_id: str, address: str) -> None:
    """Give a sender up; log it. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        "DELETE FROM sender WHERE tenant_id = $1 AND address = $2 RETURNING address", tenant_id, address
    )
    if row is None:
        raise not_found("sender", address)
    await policy_log.note(connection, [Key(Kind.SENDER, address, tenant_id)])


async def claim_mail(connection: Connection, limit: int) -> list[Sender]:
    """Senders that are to be mailed a code now. They are due again later, unless somebody says that it is done."""
    rows = await connection.fetch(
        "UPDATE sender SET mail_tries = mail_tries + 1,"
        " mail_due_at = now() + make_interval(secs => least(3600, 15 * 2 ^ mail_tries))"
        " WHERE (tenant_id, address) IN (SELECT tenant_id, address FROM sender WHERE mail_due_at <= now()"
        "                                ORDER BY mail_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)"
        f" RETURNING {_COLUMNS}",
        limit,
    )
    return [_sender(row) for row in rows]


async def set_code(connection: Connection, sender: Sender, code_hash: bytes) -> None:
    """A code is about to be mailed."""
    await connection.execute(
        "UPDATE sender SET code_hash = $3, attempts = 0, code_expires_at = now() + make_interval(hours => $4)"
        " WHERE tenant_id = $1 AND address = $2",
        sender.tenant_id,
        sender.address,
        code_hash,
        CODE_HOURS,
    )


async def mail_done(connection: Connection, sender: Sender, code_hash: bytes) -> None:
    """The mail server has the code."""
    await connection.execute(
        "UPDATE sender SET mail_due_at = NULL, mail_trouble = '', code_sent_at = now()"
        " WHERE tenant_id = $1 AND address = $2 AND code_hash = $3",
        sender.tenant_id,
        sender.address,
        code_hash,
    )


async def mail_failed(connection: Connection, sender: Sender, code_hash: bytes, trouble: str, *, again: bool) -> None:
    """The mail server did not take the code; ``again``: it is tried again later."""
    await connection.execute(
        "UPDATE sender SET mail_trouble = $4, mail_due_at = CASE WHEN $5 THEN mail_due_at END"
        " WHERE tenant_id = $1 AND address = $2 AND code_hash = $3",
        sender.tenant_id,
        sender.address,
        code_hash,
        trouble,
        again and sender.mail_tries < MAIL_TRIES,
    )


async def forget_codes(connection: Connection) -> None:
    """Forget when codes were asked for, once that no longer counts."""
    await connection.execute("DELETE FROM sender_code WHERE requested_at < now() - interval '1 day'")


async def every_proved(connection: Connection, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """All senders that nodes know (tenant id, address), in order, for a snapshot."""
    rows = await connection.fetch(
        "SELECT tenant_id, address FROM sender WHERE proof IS NOT NULL AND (tenant_id, address) > ($1, $2)"
        " ORDER BY tenant_id, address LIMIT $3",
        *after,
        limit,
    )
    return [(row["tenant_id"], row["address"]) for row in rows]


async def some_proved(connection: Connection, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the senders (tenant id, address) that exist and nodes know."""
    rows = await connection.fetch(
        "SELECT tenant_id, address FROM sender WHERE proof IS NOT NULL"
        " AND (tenant_id, address) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
        [tenant_id for tenant_id, _ in keys],
        [address for _, address in keys],
    )
    return [(row["tenant_id"], row["address"]) for row in rows]


def domain_of(address: str) -> str:
    """The domain of a canonical address."""
    return address.rpartition("@")[2]


def foreign(address: str) -> Refusal:
    """The refusal for an address whose domain is somebody else's."""
    domain = domain_of(address)
    text = f'the domain "{domain}" is verified for another account, whose say its addresses are'
    return Refusal(Reason.FAILED_PRECONDITION, text, field="address", metadata={"domain": domain})


async def _owners(connection: Connection, tenant_id: str, domain: str) -> tuple[bool, bool]:
    row = await connection.fetchrow(
        "SELECT domain_is_inherited($1, $2) AS inherited, domain_is_verified($1) AS owned", domain, tenant_id
    )
    assert row is not None, "it has no FROM"
    return row["inherited"], row["owned"]


async def _change(connection: Connection, sender: Sender, assignments: str, *values: object) -> Sender:
    row = await connection.fetchrow(
        f"UPDATE sender SET {assignments} WHERE tenant_id = $1 AND address = $2 RETURNING {_COLUMNS}",
        sender.tenant_id,
        sender.address,
        *values,
    )
    if row is None:
        raise not_found("sender", sender.address)
    return _sender(row)


async def _log(connection: Connection, sender: Sender) -> None:
    await policy_log.note(connection, [Key(Kind.SENDER, sender.address, sender.tenant_id)])


def _taken(address: str) -> Refusal:
    return Refusal(Reason.ALREADY_EXISTS, f'there is a sender "{address}" already', metadata={"address": address})


def _too_soon(address: str, wait: timedelta) -> Refusal:
    seconds = max(1.0, wait.total_seconds())
    text = f"{address} has been sent enough codes for now; look for the last one, or ask again in {seconds:.0f} seconds"
    return Refusal(Reason.RATE_LIMITED, text, retry_after=seconds, metadata={"address": address})


def _sender(row: Row) -> Sender:
    proof = Proof(row["proof"]) if row["proof"] is not None and not row["owned"] else None
    return Sender(
        tenant_id=row["tenant_id"],
        address=row["address"],
        domain=row["domain"],
        number=row["number"],
        display_name=row["display_name"],
        proof=Proof.DOMAIN if row["inherited"] else proof,
        proved_at=row["proved_at"],
        code_hash=row["code_hash"],
        code_expires_at=row["code_expires_at"],
        code_sent_at=row["code_sent_at"],
        attempts=row["attempts"],
        mail_tries=row["mail_tries"],
        mail_trouble=row["mail_trouble"],
        created_at=row["created_at"],
        version=row["version"],
        reply_to=row["reply_to"],
    )
