"""The credit ledger: double-entry and append-only.

A ledger transaction is a set of postings that sum to zero. The database itself refuses any other, keeps the balances of
``account`` and ``credit_lot`` as the sums of the postings, refuses a negative one, and refuses to change or delete an
entry (triggers in the migrations). Whoever posts locks the accounts first with ``lock``, which orders them so that two
cannot deadlock.

Credits may expire. They are used up before those that do not, the ones that expire soonest first; they keep their time
when they are transferred or come back from a lease. ``expire_due`` takes what is left unspent when the time is over;
until it comes by, such credits can be neither leased nor transferred.

Errors: INSUFFICIENT_CREDITS; ``CreditsLeased`` if the credits are there but out with workers, ``CreditsHeld`` if they
are being called back from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from control.database import Connection, Row
from control.model.credits import MAX_BALANCE, Account, Balance, Movement, Portion, draw
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

SWEEP_TENANTS = 200
"""Tenants whose credits expire in one transaction."""


class CreditsLeased(Exception):
    """The tenant has enough credits, but only together with those that workers have leased.

    ``refusal`` is what to say if they do not come back in time; None: that they did not.
    """

    def __init__(self, tenant_id: str, refusal: Refusal | None = None) -> None:
        super().__init__(tenant_id)
        self.tenant_id = tenant_id
        self.refusal = refusal


class CreditsHeld(CreditsLeased):
    """The tenant's credits wait for a transfer and are not leased now."""


@dataclass(frozen=True, slots=True)
class Posting:
    """A change of one account. ``tenant_id`` is None for issuance; ``lease_id`` names the lease it is about.

    ``expire_at`` is that of the credits, on "available" and "reserved". ``counterparty_id`` is the other tenant of a
    transfer, or of a lease whose mail is that of a tenant that shares this balance.
    """

    tenant_id: str | None
    account: Account
    amount: int
    lease_id: int | None = None
    expire_at: datetime | None = None
    counterparty_id: str | None = None


async def balance(connection: Connection, tenant_id: str) -> Balance:
    """A tenant's credits now."""
    row = await connection.fetchrow(
        "SELECT tenant_id, available, reserved, consumed, expiring, shared FROM account WHERE tenant_id = $1", tenant_id
    )
    assert row is not None, "every tenant has an account"
    return _balance(row)


async def lock(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, Balance]:
    """Lock accounts until the transaction ends; their balances. Tenants that are not there (any more) are left out."""
    rows = await connection.fetch(
        "SELECT tenant_id, available, reserved, consumed, expiring, shared FROM account"
        " WHERE tenant_id = ANY ($1) AND NOT closed ORDER BY tenant_id FOR NO KEY UPDATE",
        tenant_ids,
    )
    return {row["tenant_id"]: _balance(row) for row in rows}


@dataclass(frozen=True, slots=True)
class Pair:
    """The two accounts of a transfer, which are locked, with the paths of their tenants.

    ``moved``: the credits have gone over, and the balances are those after it.
    """

    giver: Balance
    getter: Balance
    giver_path: tuple[str, ...]
    getter_path: tuple[str, ...]
    moved: bool


async def lock_pair(
    connection: Connection, caller_tenant: str, source: str, destination: str, amount: int, note: str, actor: str
) -> Pair:
    """Lock the accounts of a transfer between tenants that the caller sees, and make it if nothing stands against it.

    Look-up, lock and postings are one round trip then. Otherwise nothing was moved, and the caller finds out why, or
    goes on with ``transfer_locked``: the giver has too few credits or some that expire, the getter no room for them, or
    neither tenant is below the other. Raises NOT_FOUND for a tenant that the caller does not see.
    """
    rows = await connection.fetch(
        _LOCK_PAIR, caller_tenant, source, destination, amount, MAX_BALANCE, Movement.TRANSFER, note, actor
    )
    found = {row["tenant_id"]: row for row in rows}
    for tenant_id in (source, destination):
        if tenant_id not in found:
            raise not_found("tenant", tenant_id)
    gives, gets = found[source], found[destination]
    giver, getter, moved = _balance(gives), _balance(gets), bool(gives["moved"])
    if moved:
        giver, getter = _plus(giver, [Portion(None, -amount)]), _plus(getter, [Portion(None, amount)])
    return Pair(giver, getter, tuple(gives["path"]), tuple(gets["path"]), moved)


# What "fit" asks is what transfer_locked and its caller ask, for the plainest case. The join has both rows, and so both
# locks, before it gives one: what is numbered and timed after it rises with the postings of a tenant. No arrays, whose
# lengths are guessed: they would have the statement planned for every call, which costs more than running it.
_LOCK_PAIR = (
    "WITH locked AS MATERIALIZED ("
    "  SELECT tenant_id, path, available, reserved, consumed, expiring, shared"
    "  FROM tenant JOIN account USING (tenant_id)"
    "  WHERE tenant_id IN ($2, $3) AND $1 = ANY (path) AND deleted_at IS NULL AND NOT closed"
    "  ORDER BY tenant_id FOR NO KEY UPDATE OF account),"
    " fit AS (SELECT FROM locked AS giver CROSS JOIN locked AS getter"
    "  WHERE giver.tenant_id = $2 AND getter.tenant_id = $3 AND $2 <> $3"
    "  AND (giver.tenant_id = ANY (getter.path) OR getter.tenant_id = ANY (giver.path))"
    "  AND NOT giver.shared AND NOT getter.shared AND giver.expiring = 0 AND giver.available >= $4"
    "  AND getter.available + getter.reserved + getter.consumed <= $5::bigint - $4),"
    " head AS (INSERT INTO ledger_transaction (kind, note, actor) SELECT $6, $7, $8 FROM fit RETURNING transaction_id),"
    " posted AS (INSERT INTO ledger_posting (transaction_id, tenant_id, account, amount, counterparty_id)"
    "  SELECT transaction_id, posting.* FROM head CROSS JOIN"
    "  (VALUES ($2, 'available', -$4, $3), ($3, 'available', $4, $2)) AS posting)"
    " SELECT *, EXISTS (SELECT FROM head) AS moved FROM locked"
)


async def post(
    connection: Connection, movement: Movement, postings: Sequence[Posting], note: str = "", actor: str = ""
) -> None:
    """Record a ledger transaction. Its postings sum to zero and none of them is zero. ``actor``: who asked for it."""
    await connection.execute(
        "WITH head AS (INSERT INTO ledger_transaction (kind, note, actor) VALUES ($1, $2, $3) RETURNING transaction_id)"
        " INSERT INTO ledger_posting"
        " (transaction_id, tenant_id, account, amount, lease_id, expire_at, counterparty_id)"
        " SELECT transaction_id, posting.* FROM head,"
        " unnest($4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::timestamptz[], $9::text[])"
        " AS posting (tenant_id, account, amount, lease_id, expire_at, counterparty_id)",
        movement,
        note,
        actor,
        [posting.tenant_id for posting in postings],
        [posting.account for posting in postings],
        [posting.amount for posting in postings],
        [posting.lease_id for posting in postings],
        [posting.expire_at for posting in postings],
        [posting.counterparty_id for posting in postings],
    )


async def grant(
    connection: Connection,
    tenant_id: str,
    amount: int,
    note: str,
    *,
    expire_at: datetime | None = None,
    actor: str = "",
) -> Balance:
    """Issue new credits; the balance after it."""
    before = (await _existing(connection, [tenant_id]))[tenant_id]
    _check_own(before)
    _check_room(before, amount)
    postings = [
        Posting(None, Account.ISSUANCE, -amount),
        Posting(tenant_id, Account.AVAILABLE, amount, expire_at=expire_at),
    ]
    await post(connection, Movement.GRANT, postings, note, actor)
    return _plus(before, [Portion(expire_at, amount)])


async def transfer(
    connection: Connection, source: str, destination: str, amount: int, note: str, actor: str = ""
) -> tuple[Balance, Balance]:
    """Move credits between two tenants; their balances after it. Those that expire soonest go first.

    Raises INSUFFICIENT_CREDITS, and CreditsLeased if what workers have leased would suffice.
    """
    before = await _existing(connection, [source, destination])
    return await transfer_locked(connection, before[source], before[destination], amount, note, actor)


async def transfer_locked(
    connection: Connection, giver: Balance, getter: Balance, amount: int, note: str, actor: str
) -> tuple[Balance, Balance]:
    """As ``transfer``, between accounts that are locked and hold this."""
    source, destination = giver.tenant_id, getter.tenant_id
    _check_own(giver, getter)
    lots = await lots_of(connection, source) if giver.expiring else []
    usable = giver.available - expired(giver, lots)
    if usable < amount:
        if usable + giver.reserved >= amount:
            raise CreditsLeased(source)
        raise insufficient(giver, amount, usable + giver.reserved)
    _check_room(getter, amount)
    postings: list[Posting] = []
    parts = draw(lots, amount)
    for part in parts:
        at = part.expire_at
        postings.append(Posting(source, Account.AVAILABLE, -part.amount, None, at, destination))
        postings.append(Posting(destination, Account.AVAILABLE, part.amount, None, at, source))
    await post(connection, Movement.TRANSFER, postings, note, actor)
    # The accounts are locked: what they hold now need not be read.
    return _plus(giver, [Portion(part.expire_at, -part.amount) for part in parts]), _plus(getter, parts)


async def lots_of(connection: Connection, tenant_id: str) -> list[Portion]:
    """A tenant's available credits that expire and have not expired yet, soonest first."""
    rows = await connection.fetch(
        "SELECT expire_at, available FROM credit_lot WHERE tenant_id = $1 AND available > 0 AND expire_at > now()"
        " ORDER BY expire_at",
        tenant_id,
    )
    return [Portion(row["expire_at"], row["available"]) for row in rows]


def expired(has: Balance, lots: Sequence[Portion]) -> int:
    """Available credits whose time is over and that were not taken away yet. ``lots`` are those still good."""
    return has.expiring - sum(lot.amount for lot in lots)


async def expire_due(connection: Connection) -> list[str]:
    """Take available credits away whose time is over, of some tenants; the tenants. Exactly once, whoever runs it."""
    rows = await connection.fetch(
        "SELECT DISTINCT tenant_id FROM"
        " (SELECT tenant_id FROM credit_lot WHERE expire_at <= now() AND available > 0 ORDER BY expire_at LIMIT $1)"
        " AS due",
        SWEEP_TENANTS,
    )
    tenants = [row["tenant_id"] for row in rows]
    if not tenants:
        return []
    await lock(connection, tenants)
    due = await connection.fetch(
        "SELECT tenant_id, expire_at, available FROM credit_lot"
        " WHERE tenant_id = ANY ($1) AND expire_at <= now() AND available > 0 ORDER BY tenant_id, expire_at",
        tenants,
    )
    postings: list[Posting] = []
    for row in due:
        amount = row["available"]
        postings.append(Posting(row["tenant_id"], Account.AVAILABLE, -amount, expire_at=row["expire_at"]))
        postings.append(Posting(None, Account.ISSUANCE, amount))
    if postings:
        await post(connection, Movement.EXPIRE, postings)
    await connection.execute(
        "DELETE FROM credit_lot WHERE tenant_id = ANY ($1) AND expire_at <= now() AND available = 0 AND reserved = 0",
        tenants,
    )
    return tenants


def insufficient(has: Balance, needed: int, usable: int | None = None) -> Refusal:
    """The refusal for too few credits. ``usable`` is what can be used of those it has, if that is less."""
    credits = has.spendable if usable is None else usable
    return Refusal(
        Reason.INSUFFICIENT_CREDITS,
        f'tenant "{has.tenant_id}" has {credits} credits, but {needed} are needed',
        metadata={"tenant": has.tenant_id, "balance": str(credits), "needed": str(needed)},
    )


async def _existing(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, Balance]:
    """Lock accounts. NOT_FOUND if one was closed since its tenant was looked up."""
    found = await lock(connection, tenant_ids)
    for tenant_id in tenant_ids:
        if tenant_id not in found:
            raise not_found("tenant", tenant_id)
    return found


def _plus(before: Balance, parts: Sequence[Portion]) -> Balance:
    """A balance after available credits came, or went if the amounts are negative."""
    return replace(
        before,
        available=before.available + sum(part.amount for part in parts),
        expiring=before.expiring + sum(part.amount for part in parts if part.expire_at is not None),
    )


def _check_own(*accounts: Balance) -> None:
    """FAILED_PRECONDITION for the account of a tenant that shares the balance of one above."""
    for has in accounts:
        if has.shared:
            raise Refusal(
                Reason.FAILED_PRECONDITION,
                f'tenant "{has.tenant_id}" shares the balance of a tenant above it and has no credits of its own',
                metadata={"tenant": has.tenant_id},
            )


def _check_room(has: Balance, amount: int) -> None:
    if has.spendable + has.consumed + amount > MAX_BALANCE:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'tenant "{has.tenant_id}" would have had more than {MAX_BALANCE} credits in its life',
            metadata={"tenant": has.tenant_id, "maximum": str(MAX_BALANCE)},
        )


def _balance(row: Row) -> Balance:
    return Balance(row["tenant_id"], row["available"], row["reserved"], row["consumed"], row["expiring"], row["shared"])
