"""Credit leases: credits of a tenant that one holder (a spool) may spend without asking.

The epoch of a holder is a fencing token: each start of the holder has a higher one, and only the latest may acquire.
A lease's rest is ``amount - spent - returned``. Only the journal (``store.journal``) spends and returns, and
``open_holder`` returns what never reached its holder; nothing returns a lease on a timer: its holder may have spent it.

``recall`` can hold an account: until ``let_go``, and for ``HOLD_SECONDS`` at most, nothing is leased of it. A pause
follows each hold, so that transfers one after another cannot keep a sender without credits for longer than it waits.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from control.database import Connection, Row
from control.model.credits import Account, Movement, lease_amount
from control.store import ledger
from control.store.ledger import CreditsHeld, CreditsLeased, Posting
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

RECALL_CHANNEL = "barua_recall"
"""NOTIFY channel that asks nodes for leases back; the payload is the tenant id."""
RETURNED_CHANNEL = "barua_returned"
"""NOTIFY channel that tells of leases that came back or may be had again; the payload is the tenant id."""
HOLD_SECONDS = 2.0
"""Longest hold: workers wait five seconds for a lease."""
PAUSE_SECONDS = 1.0
"""After a hold, before the next."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it is on record."""

    lease_id: int
    holder: uuid.UUID
    tenant_id: str
    amount: int
    spent: int
    returned: int

    @property
    def rest(self) -> int:
        """Credits that the holder may still have."""
        return self.amount - self.spent - self.returned


async def open_holder(connection: Connection, holder: uuid.UUID, epoch: int, known: Sequence[int]) -> int:
    """Begin a run of a holder and fence the earlier ones; the number of leases returned.

    Leases of earlier runs that are not in ``known`` never reached the holder and are returned. Idempotent: a late
    repeat cannot touch a lease of the run itself. FAILED_PRECONDITION if a later epoch was seen.
    """
    await connection.execute("INSERT INTO holder (holder_id) VALUES ($1) ON CONFLICT DO NOTHING", holder)
    seen = await connection.fetchval("SELECT epoch FROM holder WHERE holder_id = $1 FOR UPDATE", holder)
    if epoch < seen:
        raise _stale(epoch, seen)
    await connection.execute("UPDATE holder SET epoch = $2 WHERE holder_id = $1", holder, epoch)
    unknown = (
        "SELECT lease_id, tenant_id, holder_id, amount, spent, returned FROM lease"
        " WHERE holder_id = $1 AND spent + returned < amount AND epoch < $2 AND lease_id <> ALL ($3)"
    )
    tenants = {row["tenant_id"] for row in await connection.fetch(unknown, holder, epoch, known)}
    await ledger.lock(connection, list(tenants))
    lost = [_lease(row) for row in await connection.fetch(unknown + " FOR UPDATE", holder, epoch, known)]
    await settle(connection, {}, {lease.lease_id: lease.rest for lease in lost}, lost)
    return len(lost)


async def acquire(
    connection: Connection, holder: uuid.UUID, epoch: int, tenant_id: str, wanted: int, request_id: uuid.UUID
) -> Lease:
    """Reserve up to ``wanted`` credits; the same request id gets the same lease.

    Raises CreditsHeld while the account is held, CreditsLeased if all there are belong to other holders' leases or are
    coming back from this one's, INSUFFICIENT_CREDITS if there are none.
    """
    seen = await connection.fetchval("SELECT epoch FROM holder WHERE holder_id = $1 FOR KEY SHARE", holder)
    if seen is None or epoch != seen:
        raise _stale(epoch, seen or 0)
    balances = await ledger.lock(connection, [tenant_id])
    if tenant_id not in balances:
        raise not_found("tenant", tenant_id)
    earlier = await _earlier(connection, holder, tenant_id, request_id)
    if earlier is not None:
        return earlier
    held, called_back = await _hold(connection, tenant_id)
    if held:
        raise CreditsHeld(tenant_id)
    amount = lease_amount(wanted, balances[tenant_id].available)
    if amount == 0:
        if (called_back and balances[tenant_id].reserved) or await _others_have(connection, holder, tenant_id):
            raise CreditsLeased(tenant_id)
        raise ledger.insufficient(balances[tenant_id], wanted)
    return await _grant(connection, holder, epoch, tenant_id, amount, request_id)


async def locked(connection: Connection, lease_ids: Sequence[int]) -> list[Lease]:
    """Leases, locked until the transaction ends. The accounts of their tenants must be locked before."""
    rows = await connection.fetch(
        "SELECT lease_id, tenant_id, holder_id, amount, spent, returned FROM lease"
        " WHERE lease_id = ANY ($1) ORDER BY lease_id FOR UPDATE",
        lease_ids,
    )
    return [_lease(row) for row in rows]


async def settle(
    connection: Connection, spent: dict[int, int], returned: dict[int, int], leases: Sequence[Lease]
) -> None:
    """Post what was spent and returned of ``leases``, which are locked and have that much left; wake those who wait."""
    usage: list[Posting] = []
    release: list[Posting] = []
    for lease in leases:
        for amounts, postings, account in (
            (spent, usage, Account.CONSUMED),
            (returned, release, Account.AVAILABLE),
        ):
            amount = amounts.get(lease.lease_id, 0)
            if amount:
                postings.append(Posting(lease.tenant_id, Account.RESERVED, -amount, lease.lease_id))
                postings.append(Posting(lease.tenant_id, account, amount, lease.lease_id))
    if usage:
        await ledger.post(connection, Movement.USAGE, usage)
    if release:
        await ledger.post(connection, Movement.RELEASE, release)
    await connection.execute(
        "UPDATE lease SET spent = lease.spent + change.spent, returned = lease.returned + change.returned"
        " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS change (lease_id, spent, returned)"
        " WHERE lease.lease_id = change.lease_id",
        [lease.lease_id for lease in leases],
        [spent.get(lease.lease_id, 0) for lease in leases],
        [returned.get(lease.lease_id, 0) for lease in leases],
    )
    for tenant_id in {posting.tenant_id for posting in release if posting.tenant_id}:
        await _tell_returned(connection, tenant_id)


async def recall(connection: Connection, tenant_id: str, *, hold: bool = False) -> None:
    """Ask all nodes, through every control program, to have a tenant's unspent leases given back.

    With ``hold`` none is granted from this transaction on, unless one hold is too close after another.
    """
    if hold:
        await connection.execute(
            "UPDATE account SET held_until = now() + make_interval(secs => $2)"
            " WHERE tenant_id = $1 AND held_until < now() - make_interval(secs => $3)",
            tenant_id,
            HOLD_SECONDS,
            PAUSE_SECONDS,
        )
    await connection.execute("SELECT pg_notify($1, $2)", RECALL_CHANNEL, tenant_id)


async def let_go(connection: Connection, tenant_id: str) -> None:
    """End a hold before its time; wake those who wait."""
    await connection.execute(
        "UPDATE account SET held_until = now() WHERE tenant_id = $1 AND held_until > now()", tenant_id
    )
    await _tell_returned(connection, tenant_id)


async def _tell_returned(connection: Connection, tenant_id: str) -> None:
    await connection.execute("SELECT pg_notify($1, $2)", RETURNED_CHANNEL, tenant_id)


async def _hold(connection: Connection, tenant_id: str) -> tuple[bool, bool]:
    """Whether an account is held, and whether it was a moment ago, so that leases are still coming back."""
    row = await connection.fetchrow(
        "SELECT held_until > now() AS held, held_until > now() - make_interval(secs => $2) AS called_back"
        " FROM account WHERE tenant_id = $1",
        tenant_id,
        PAUSE_SECONDS,
    )
    assert row is not None, "the account is locked"
    return row["held"], row["called_back"]


async def _earlier(connection: Connection, holder: uuid.UUID, tenant_id: str, request_id: uuid.UUID) -> Lease | None:
    row = await connection.fetchrow(
        "SELECT lease_id, tenant_id, holder_id, amount, spent, returned FROM lease"
        " WHERE holder_id = $1 AND request_id = $2",
        holder,
        request_id,
    )
    if row is None:
        return None
    lease = _lease(row)
    if lease.tenant_id != tenant_id:
        raise Refusal(
            Reason.REQUEST_ID_REUSED,
            "request_id was used before for another tenant; take a new one",
            field="request_id",
            metadata={"request_id": str(request_id)},
        )
    if lease.spent or lease.returned:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f"lease {lease.lease_id} of this request_id is in use or was given back; take a new request_id",
            metadata={"lease_id": str(lease.lease_id)},
        )
    return lease


async def _others_have(connection: Connection, holder: uuid.UUID, tenant_id: str) -> bool:
    found = await connection.fetchval(
        "SELECT true FROM lease WHERE tenant_id = $1 AND holder_id <> $2 AND spent + returned < amount LIMIT 1",
        tenant_id,
        holder,
    )
    return bool(found)


async def _grant(
    connection: Connection, holder: uuid.UUID, epoch: int, tenant_id: str, amount: int, request_id: uuid.UUID
) -> Lease:
    lease_id = await connection.fetchval(
        "INSERT INTO lease (holder_id, tenant_id, epoch, request_id, amount) VALUES ($1, $2, $3, $4, $5)"
        " RETURNING lease_id",
        holder,
        tenant_id,
        epoch,
        request_id,
        amount,
    )
    postings = [
        Posting(tenant_id, Account.AVAILABLE, -amount, lease_id),
        Posting(tenant_id, Account.RESERVED, amount, lease_id),
    ]
    await ledger.post(connection, Movement.LEASE, postings)
    return Lease(lease_id, holder, tenant_id, amount, 0, 0)


def _stale(epoch: int, seen: int) -> Refusal:
    return Refusal(
        Reason.FAILED_PRECONDITION,
        f"epoch {epoch} is not the holder's current one, {seen}; call OpenHolder first",
        field="epoch",
        metadata={"epoch": str(epoch), "current": str(seen)},
    )


def _lease(row: Row) -> Lease:
    return Lease(row["lease_id"], row["holder_id"], row["tenant_id"], row["amount"], row["spent"], row["returned"])
