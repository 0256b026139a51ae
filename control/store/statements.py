"""Reading the ledger: entries, statements of a period, audits.

All figures are sums of the raw entries. Times are those of the ledger transactions, which rise with a tenant's entries.
Limits: a statement or an audit reads every entry of the tenant; an audit goes through the tenants in groups of
``AUDITED_AT_ONCE``, each read in one statement and so at one moment.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from control.database import Connection, Row
from control.model.credits import Movement

AUDITED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A posting as it is on record. ``posting_id`` rises with time within a tenant.

    ``balance`` is what the tenant had not spent, available and reserved, after it.
    """

    posting_id: int
    transaction_id: int
    account: str
    amount: int
    kind: Movement
    note: str
    actor: str
    created_at: datetime
    balance: int
    counterparty_id: str | None
    expire_at: datetime | None


@dataclass(frozen=True, slots=True)
class Totals:
    """What moved on an account; every figure is positive."""

    granted: int = 0
    transferred_in: int = 0
    transferred_out: int = 0
    consumed: int = 0
    refunded: int = 0
    expired: int = 0
    written_off: int = 0

    @property
    def net(self) -> int:
        """Change of the credits that are not spent."""
        came = self.granted + self.transferred_in + self.refunded
        return came - self.transferred_out - self.consumed - self.expired - self.written_off

    def plus(self, other: "Totals") -> "Totals":
        """The sums of both."""
        return Totals(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Totals)))


@dataclass(frozen=True, slots=True)
class Statement:
    """A period of an account: what it had before, what moved, what it had after."""

    opening: int
    moved: Totals
    closing: int


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Two figures that should be the same. ``tenant_id`` is empty for the ledger as a whole."""

    tenant_id: str
    subject: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit of one tenant found."""

    tenant_id: str
    entries: int
    moved: Totals
    available: int
    reserved: int
    discrepancies: list[Discrepancy]


async def entries(
    connection: Connection,
    tenant_id: str,
    *,
    before: int,
    limit: int,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Sequence[Movement] = (),
) -> list[Entry]:
    """A tenant's postings with an id below ``before``, newest first, of these kinds and in this time."""
    rows = await connection.fetch(
        "WITH page AS (SELECT posting_id, transaction_id, account, amount, kind, note, actor, created_at,"
        "  counterparty_id, expire_at"
        "  FROM ledger_posting JOIN ledger_transaction USING (transaction_id)"
        "  WHERE tenant_id = $1 AND posting_id < $2 AND ($4::timestamptz IS NULL OR created_at >= $4)"
        "  AND ($5::timestamptz IS NULL OR created_at < $5) AND (cardinality($6::text[]) = 0 OR kind = ANY ($6))"
        "  ORDER BY posting_id DESC LIMIT $3),"
        # The balance after an entry is the balance now less all that came later: one scan back to the oldest shown.
        " later AS (SELECT posting_id, coalesce(sum(amount) FILTER (WHERE account <> 'consumed')"
        "  OVER (ORDER BY posting_id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS amount"
        "  FROM ledger_posting WHERE tenant_id = $1 AND posting_id >= (SELECT min(posting_id) FROM page))"
        " SELECT page.*, (SELECT available + reserved FROM account WHERE tenant_id = $1) - later.amount AS balance"
        " FROM page JOIN later USING (posting_id) ORDER BY posting_id DESC",
        tenant_id,
        before,
        limit,
        since,
        until,
        list(kinds),
    )
    return [_entry(row) for row in rows]


async def statement(
    connection: Connection, tenant_id: str, since: datetime | None, until: datetime | None
) -> tuple[Statement, datetime]:
    """What moved from ``since`` on and before ``until``, or up to now; and the time up to which it goes."""
    end: datetime = until or await connection.fetchval("SELECT clock_timestamp()")
    rows = await connection.fetch(
        "SELECT kind, account, amount > 0 AS came, sum(amount)::bigint AS amount,"
        " ($2::timestamptz IS NULL OR created_at >= $2) AS within"
        " FROM ledger_posting JOIN ledger_transaction USING (transaction_id)"
        " WHERE tenant_id = $1 AND created_at < $3 GROUP BY kind, account, came, within",
        tenant_id,
        since,
        end,
    )
    opening = sum(row["amount"] for row in rows if not row["within"] and row["account"] != "consumed")
    moved = sum(row["amount"] for row in rows if row["within"] and row["account"] != "consumed")
    return Statement(opening, _totals([row for row in rows if row["within"]]), opening + moved), end


async def audit(connection: Connection, root: str, after: str) -> list[Audited]:
    """Audit the next tenants at and below ``root`` whose id is above ``after``, deleted ones too; none: it is done."""
    rows = await connection.fetch(
        "WITH audited AS (SELECT tenant_id FROM tenant WHERE path @> ARRAY[$1]::text[] AND tenant_id > $2"
        "  ORDER BY tenant_id LIMIT $3)"
        " SELECT tenant_id, account.available, account.reserved, account.consumed, account.expiring,"
        " posted.entries, posted.moves,"
        " (SELECT coalesce(sum(amount - spent - returned), 0)::bigint FROM lease"
        "  WHERE lease.payer_id = audited.tenant_id AND spent + returned < amount) AS leased,"
        " (SELECT count(*) FROM (SELECT expire_at, available, reserved FROM credit_lot"
        "  WHERE credit_lot.tenant_id = audited.tenant_id AND available + reserved > 0) AS lot"
        "  FULL JOIN (SELECT expire_at, coalesce(sum(amount) FILTER (WHERE account = 'available'), 0) AS available,"
        "  coalesce(sum(amount) FILTER (WHERE account = 'reserved'), 0) AS reserved FROM ledger_posting"
        "  WHERE ledger_posting.tenant_id = audited.tenant_id AND expire_at IS NOT NULL GROUP BY expire_at"
        "  HAVING sum(amount) <> 0) AS entry USING (expire_at)"
        "  WHERE lot.available IS DISTINCT FROM entry.available OR lot.reserved IS DISTINCT FROM entry.reserved)"
        "  AS wrong_lots"
        " FROM audited JOIN account USING (tenant_id) CROSS JOIN LATERAL"
        " (SELECT coalesce(sum(entries), 0)::bigint AS entries,"
        "  coalesce(json_agg(json_build_array(kind, account, came, amount)), '[]') AS moves FROM"
        "  (SELECT kind, posting.account, amount > 0 AS came, sum(amount)::bigint AS amount, count(*) AS entries"
        "   FROM ledger_posting AS posting JOIN ledger_transaction USING (transaction_id)"
        "   WHERE posting.tenant_id = audited.tenant_id GROUP BY kind, posting.account, came) AS move) AS posted"
        " ORDER BY tenant_id",
        root,
        after,
        AUDITED_AT_ONCE,
    )
    return [_audited(row) for row in rows]


async def audit_world(connection: Connection) -> list[Discrepancy]:
    """What is wrong with the ledger as a whole: entries of a transaction, and all entries, sum to zero."""
    row = await connection.fetchrow(
        "SELECT coalesce(sum(sum), 0)::bigint AS total, count(*) FILTER (WHERE sum <> 0) AS unbalanced"
        " FROM (SELECT sum(amount) AS sum FROM ledger_posting GROUP BY transaction_id) AS transactions"
    )
    assert row is not None, "an aggregate gives a row"
    figures = {"sum of all entries": row["total"], "transactions that do not sum to zero": row["unbalanced"]}
    return [Discrepancy("", subject, 0, found) for subject, found in figures.items() if found]


def _audited(row: Row) -> Audited:
    moves = [
        {"kind": kind, "account": account, "came": came, "amount": amount}
        for kind, account, came, amount in json.loads(row["moves"])
    ]
    moved = _totals(moves)
    sums = {
        name: sum(move["amount"] for move in moves if move["account"] == name)
        for name in ("available", "reserved", "consumed")
    }
    spent = moved.consumed + moved.written_off - moved.refunded
    came = moved.granted + moved.transferred_in - moved.transferred_out - moved.expired
    compared = [
        *((f"balance: {name}", sums[name], row[name]) for name in sums),
        ("credits on lease", sums["reserved"], row["leased"]),
        ("credits by time of expiry that are not as entered", 0, row["wrong_lots"]),
        ("what came in, against what is there and what was spent", came, sums["available"] + sums["reserved"] + spent),
    ]
    tenant_id = row["tenant_id"]
    wrong = [Discrepancy(tenant_id, subject, should, found) for subject, should, found in compared if should != found]
    return Audited(tenant_id, row["entries"], moved, row["available"], row["reserved"], wrong)


def _totals(moves: Sequence[Row]) -> Totals:
    def moved(kind: Movement, account: str, came: bool) -> int:
        return sum(
            abs(move["amount"])
            for move in moves
            if (move["kind"], move["account"], move["came"]) == (kind, account, came)
        )

    return Totals(
        granted=moved(Movement.GRANT, "available", True),
        transferred_in=moved(Movement.TRANSFER, "available", True),
        transferred_out=moved(Movement.TRANSFER, "available", False),
        consumed=moved(Movement.USAGE, "consumed", True),
        refunded=moved(Movement.REFUND, "available", True),
        expired=moved(Movement.EXPIRE, "available", False),
        written_off=moved(Movement.WRITE_OFF, "consumed", True),
    )


def _entry(row: Row) -> Entry:
    return Entry(
        posting_id=row["posting_id"],
        transaction_id=row["transaction_id"],
        account=row["account"],
        amount=row["amount"],
        kind=Movement(row["kind"]),
        note=row["note"],
        actor=row["actor"],
        created_at=row["created_at"],
        balance=row["balance"],
        counterparty_id=row["counterparty_id"],
        expire_at=row["expire_at"],
    )
