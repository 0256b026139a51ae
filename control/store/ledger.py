"""The credit ledger: double-entry and append-only.

A ledger transaction is a set of postings that sum to zero. The database itself refuses any other, keeps the balances of
``account`` as the sums of the postings, refuses a negative one, and refuses to change or delete an entry (triggers in
the migration). Whoever posts locks the accounts first with ``lock``, which orders them so that two cannot deadlock.

Errors: INSUFFICIENT_CREDITS; ``CreditsLeased`` if the credits are there but out with workers, ``CreditsHeld`` if they
are being called back from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection, Row
from control.model.credits import MAX_BALANCE, Account, Balance, Movement
from mta.runtime.refusals import Reason, Refusal


class CreditsLeased(Exception):
    """The tenant has enough credits, but only together with those that workers have leased."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(tenant_id)
        self.tenant_id = tenant_id


class CreditsHeld(CreditsLeased):
    """The tenant's credits wait for a transfer and are not leased now."""


@dataclass(frozen=True, slots=True)
class Posting:
    """A change of one account. ``tenant_id`` is None for issuance; ``lease_id`` names the lease it is about."""

    tenant_id: str | None
    account: Account
    amount: int
    lease_id: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A posting as it is on record. ``posting_id`` rises with time within a tenant."""

    posting_id: int
    transaction_id: int
    account: str
    amount: int
    kind: Movement
    note: str
    created_at: datetime


async def balance(connection: Connection, tenant_id: str) -> Balance:
    """A tenant's credits now."""
    row = await connection.fetchrow(
        "SELECT tenant_id, available, reserved, consumed FROM account WHERE tenant_id = $1", tenant_id
    )
    assert row is not None, "every tenant has an account"
    return _balance(row)


async def lock(connection: Connection, tenant_ids: Sequence[str]) -> dict[str, Balance]:
    """Lock accounts until the transaction ends; their balances. Tenants that do not exist are left out."""
    rows = await connection.fetch(
        "SELECT tenant_id, available, reserved, consumed FROM account"
        " WHERE tenant_id = ANY ($1) ORDER BY tenant_id FOR NO KEY UPDATE",
        tenant_ids,
    )
    return {row["tenant_id"]: _balance(row) for row in rows}


async def post(connection: Connection, movement: Movement, postings: Sequence[Posting], note: str = "") -> None:
    """Record a ledger transaction. Its postings sum to zero and none of them is zero."""
    await connection.execute(
        "WITH head AS (INSERT INTO ledger_transaction (kind, note) VALUES ($1, $2) RETURNING transaction_id)"
        " INSERT INTO ledger_posting (transaction_id, tenant_id, account, amount, lease_id)"
        " SELECT transaction_id, posting.*"
        " FROM head, unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[])"
        " AS posting (tenant_id, account, amount, lease_id)",
        movement,
        note,
        [posting.tenant_id for posting in postings],
        [posting.account for posting in postings],
        [posting.amount for posting in postings],
        [posting.lease_id for posting in postings],
    )


async def grant(connection: Connection, tenant_id: str, amount: int, note: str) -> Balance:
    """Issue new credits; the balance after it."""
    before = (await lock(connection, [tenant_id]))[tenant_id]
    _check_room(before, amount)
    postings = [Posting(None, Account.ISSUANCE, -amount), Posting(tenant_id, Account.AVAILABLE, amount)]
    await post(connection, Movement.GRANT, postings, note)
    return await balance(connection, tenant_id)


async def transfer(
    connection: Connection, source: str, destination: str, amount: int, note: str
) -> tuple[Balance, Balance]:
    """Move credits between two tenants; their balances after it.

    Raises INSUFFICIENT_CREDITS, and CreditsLeased if what workers have leased would suffice.
    """
    before = await lock(connection, [source, destination])
    if before[source].available < amount:
        if before[source].spendable >= amount:
            raise CreditsLeased(source)
        raise insufficient(before[source], amount)
    _check_room(before[destination], amount)
    postings = [Posting(source, Account.AVAILABLE, -amount), Posting(destination, Account.AVAILABLE, amount)]
    await post(connection, Movement.TRANSFER, postings, note)
    return await balance(connection, source), await balance(connection, destination)


def insufficient(has: Balance, needed: int) -> Refusal:
    """The refusal for too few credits."""
    return Refusal(
        Reason.INSUFFICIENT_CREDITS,
        f'tenant "{has.tenant_id}" has {has.spendable} credits, but {needed} are needed',
        metadata={"tenant": has.tenant_id, "balance": str(has.spendable), "needed": str(needed)},
    )


async def entries(connection: Connection, tenant_id: str, before: int, limit: int) -> list[Entry]:
    """A tenant's postings with an id below ``before``, newest first."""
    rows = await connection.fetch(
        "SELECT posting_id, transaction_id, account, amount, kind, note, created_at"
        " FROM ledger_posting JOIN ledger_transaction USING (transaction_id)"
        " WHERE tenant_id = $1 AND posting_id < $2 ORDER BY posting_id DESC LIMIT $3",
        tenant_id,
        before,
        limit,
    )
    return [
        Entry(
            posting_id=row["posting_id"],
            transaction_id=row["transaction_id"],
            account=row["account"],
            amount=row["amount"],
            kind=Movement(row["kind"]),
            note=row["note"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


def _check_room(has: Balance, amount: int) -> None:
    if has.spendable + has.consumed + amount > MAX_BALANCE:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f'tenant "{has.tenant_id}" would have had more than {MAX_BALANCE} credits in its life',
            metadata={"tenant": has.tenant_id, "maximum": str(MAX_BALANCE)},
        )


def _balance(row: Row) -> Balance:
    return Balance(row["tenant_id"], row["available"], row["reserved"], row["consumed"])
