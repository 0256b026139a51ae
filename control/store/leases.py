"""Credit leases: credits of a tenant that one holder (a spool) may spend without asking.

The epoch of a holder is a fencing token: each start of the holder has a higher one, and only the latest may acquire.
A lease's rest is ``amount - spent - returned``. Only the journal (``store.journal``) spends and returns, and
``open_holder`` returns what never reached its holder; nothing returns a lease on a timer: its holder may have spent it.

``recall`` can hold an account: until ``let_go``, and for ``HOLD_SECONDS`` at most, nothing is leased of it. A pause
follows each hold, so that transfers one after another cannot keep a sender without credits for longer than it waits.

Credits that expire are leased first and spent first; leased, they may be spent until they are called back, which
``recall_expired`` does soon after their time. Caps (``model.limits``) bound what is leased within an hour, a day and a
month. A lease that is out at the end of a window may be spent in the next one: a cap can be passed by that much, which
is one or two leases for each worker, and a lease is at most a twentieth of the smallest cap (or 100 credits).

A lease is of the tenant whose mail it is for, and of the credits of the one that pays for it: mostly the same, and the
nearest tenant above that has a balance of its own where the tenant shares one. Caps count for the first, postings are
of the second. Who pays is settled when the lease is granted.

A spool that is lost for good is written off: ``write_off`` closes its leases and lets it have no others. Should it turn
up again, what its journal tells of those leases is on record, but moves no credits.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from control.database import Connection, Row
from control.model.credits import Account, Movement, Portion, draw, section
from control.model.limits import lease_size
from control.store import caps, ledger, tenants, windows
from control.store.ledger import CreditsHeld, CreditsLeased, Posting
from control.store.tenants import not_found
from control.store.windows import Returned
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
    """Whose mail it is for."""
    payer_id: str
    """Whose credits they are."""
    amount: int
    spent: int
    returned: int
    unheard: int
    """Credits that were written off and of which the holder has not told yet."""
    created_at: datetime
    expiring: tuple[Portion, ...]
    """What of it expires, soonest first."""

    @property
    def rest(self) -> int:
        """Credits that the holder may still have."""
        return self.amount - self.spent - self.returned

    @property
    def portions(self) -> list[Portion]:
        """All it is made of, in the order in which it is spent."""
        return [*self.expiring, Portion(None, self.amount - sum(portion.amount for portion in self.expiring))]


_COLUMNS = "lease_id, tenant_id, payer_id, holder_id, amount, spent, returned, unheard, created_at, expire_at, expiring"


async def open_holder(connection: Connection, holder: uuid.UUID, epoch: int, known: Sequence[int]) -> int:
    """Begin a run of a holder and fence the earlier ones; the number of leases returned.

    Leases of earlier runs that are not in ``known`` never reached the holder and are returned. Idempotent: a late
    repeat cannot touch a lease of the run itself. FAILED_PRECONDITION if a later epoch was seen.
    """
    await connection.execute("INSERT INTO holder (holder_id) VALUES ($1) ON CONFLICT DO NOTHING", holder)
    row = await connection.fetchrow("SELECT epoch, written_off_at FROM holder WHERE holder_id = $1 FOR UPDATE", holder)
    assert row is not None, "it was just made or was there"
    _check_epoch(row, epoch, epoch < row["epoch"])
    await connection.execute("UPDATE holder SET epoch = $2 WHERE holder_id = $1", holder, epoch)
    unknown = (
        f"SELECT {_COLUMNS} FROM lease"
        " WHERE holder_id = $1 AND spent + returned < amount AND epoch < $2 AND lease_id <> ALL ($3)"
    )
    payers = {row["payer_id"] for row in await connection.fetch(unknown, holder, epoch, known)}
    await ledger.lock(connection, list(payers))
    lost = [_lease(row) for row in await connection.fetch(unknown + " FOR UPDATE", holder, epoch, known)]
    await settle(connection, {}, {lease.lease_id: lease.rest for lease in lost}, lost)
    return len(lost)


async def acquire(
    connection: Connection, holder: uuid.UUID, epoch: int, tenant_id: str, wanted: int, request_id: uuid.UUID
) -> Lease:
    """Reserve up to ``wanted`` credits; the same request id gets the same lease.

    Raises CreditsHeld while the account is held, CreditsLeased if all there are belong to other holders' leases or are
    coming back from this one's, INSUFFICIENT_CREDITS if there are none, RATE_LIMITED if a cap is reached.
    """
    row = await connection.fetchrow(
        "SELECT epoch, written_off_at FROM holder WHERE holder_id = $1 FOR KEY SHARE", holder
    )
    if row is None:
        raise _stale(epoch, 0)
    _check_epoch(row, epoch, epoch != row["epoch"])
    line = await tenants.line(connection, tenant_id)
    if not line:
        raise not_found("tenant", tenant_id)
    payer_id = tenants.payer(line).tenant_id
    accounts = await ledger.lock(connection, list({tenant_id, payer_id}))
    if len(accounts) < len({tenant_id, payer_id}):  # deleted just now
        raise not_found("tenant", tenant_id)
    has = accounts[payer_id]
    earlier = await _earlier(connection, holder, tenant_id, request_id)
    if earlier is not None:
        return earlier
    late = _late(tenant_id) if payer_id != tenant_id else None
    held, called_back = await _hold(connection, payer_id)
    if held:
        raise CreditsHeld(payer_id, late)
    held_caps, reached = await caps.held(connection, line)
    if reached is not None:
        if await _others_have(connection, holder, tenant_id):
            raise CreditsLeased(tenant_id, reached)
        raise reached
    lots = await ledger.lots_of(connection, payer_id) if has.expiring else []
    available = has.available - ledger.expired(has, lots)
    amount = lease_size(wanted, available, held_caps)
    if amount == 0:
        if (called_back and has.reserved) or await _elsewhere(connection, holder, tenant_id, payer_id):
            raise CreditsLeased(payer_id, late)
        if payer_id != tenant_id:
            raise _nothing_to_share(tenant_id, wanted)
        raise ledger.insufficient(has, wanted, available + has.reserved)
    await windows.count(connection, caps.counted_path(line), amount)
    return await _grant(connection, holder, epoch, tenant_id, payer_id, draw(lots, amount), request_id)


async def lock_payers(connection: Connection, lease_ids: Sequence[int]) -> None:
    """Lock the accounts whose credits some leases are, until the transaction ends."""
    await connection.execute(
        "SELECT FROM account WHERE tenant_id IN (SELECT payer_id FROM lease WHERE lease_id = ANY ($1))"
        " ORDER BY tenant_id FOR NO KEY UPDATE",
        lease_ids,
    )


async def locked(connection: Connection, lease_ids: Sequence[int]) -> list[Lease]:
    """Leases, locked until the transaction ends. The accounts of those who pay must be locked before."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM lease WHERE lease_id = ANY ($1) ORDER BY lease_id FOR UPDATE", lease_ids
    )
    return [_lease(row) for row in rows]


async def settle(
    connection: Connection, spent: Mapping[int, int], returned: Mapping[int, int], leases: Iterable[Lease]
) -> None:
    """Post what was spent and returned of ``leases``, which are locked; wake those who wait.

    They have that much left, or were written off: then what goes beyond the rest was settled before.
    """
    usage: list[Posting] = []
    release: list[Posting] = []
    came_back: list[_Returned] = []
    changes: list[tuple[int, int, int, int]] = []
    for lease in leases:
        told_spent, told_returned = spent.get(lease.lease_id, 0), returned.get(lease.lease_id, 0)
        used = min(told_spent, lease.rest)
        back = min(told_returned, lease.rest - used)
        usage += _moved(lease, lease.spent, used, Account.CONSUMED)
        release += _moved(lease, lease.amount - lease.returned - back, back, Account.AVAILABLE)
        if back:
            came_back.append(_Returned(lease, back))
        changes.append((lease.lease_id, used, back, told_spent + told_returned - used - back))
    if usage:
        await ledger.post(connection, Movement.USAGE, usage)
    if release:
        await ledger.post(connection, Movement.RELEASE, release)
    await _keep(connection, changes)
    await _take_back(connection, came_back)


async def write_off(
    connection: Connection, holder: uuid.UUID, *, give_back: bool, note: str, actor: str
) -> tuple[int, int]:
    """Close all leases of a lost spool and fence it for good; (leases closed, credits in them).

    ``give_back``: the tenants get the credits back; else they count as spent. NOT_FOUND: there is no such holder.
    FAILED_PRECONDITION: it was written off before.
    """
    row = await connection.fetchrow("SELECT written_off_at FROM holder WHERE holder_id = $1 FOR UPDATE", holder)
    if row is None:
        raise not_found("holder", str(holder))
    if row["written_off_at"] is not None:
        raise _written_off(row["written_off_at"])
    await connection.execute("UPDATE holder SET written_off_at = now() WHERE holder_id = $1", holder)
    open_leases = f"SELECT {_COLUMNS} FROM lease WHERE holder_id = $1 AND spent + returned < amount ORDER BY lease_id"
    payers = {row["payer_id"] for row in await connection.fetch(open_leases, holder)}
    await ledger.lock(connection, list(payers))
    closed = [_lease(row) for row in await connection.fetch(open_leases + " FOR UPDATE", holder)]
    postings: list[Posting] = []
    for lease in closed:
        account = Account.AVAILABLE if give_back else Account.CONSUMED
        postings += _moved(lease, lease.spent, lease.rest, account)
    if not postings:
        return 0, 0
    await ledger.post(connection, Movement.WRITE_OFF, postings, note, actor)
    changes = [(lease.lease_id, 0 if give_back else lease.rest, lease.rest if give_back else 0, 0) for lease in closed]
    await _keep(connection, changes)
    await connection.execute(
        "UPDATE lease SET unheard = kept.rest, given_back = $3"
        " FROM unnest($1::bigint[], $2::bigint[]) AS kept (lease_id, rest) WHERE lease.lease_id = kept.lease_id",
        [lease.lease_id for lease in closed],
        [lease.rest for lease in closed],
        give_back,
    )
    if give_back:
        await _take_back(connection, [_Returned(lease, lease.rest) for lease in closed])
    return len(closed), sum(lease.rest for lease in closed)


async def recall_expired(connection: Connection) -> None:
    """Call back leases in which something has expired, once each; what comes back of that expires then."""
    rows = await connection.fetch(
        "UPDATE lease SET expiry_recalled = true WHERE spent + returned < amount AND cardinality(expire_at) > 0"
        " AND NOT expiry_recalled AND expire_at[1] <= now() RETURNING tenant_id"
    )
    for tenant_id in {row["tenant_id"] for row in rows}:
        await recall(connection, tenant_id)


async def recall(connection: Connection, tenant_id: str, *, hold: bool = False) -> None:
    """Ask all nodes, through every control program, to have a tenant's unspent leases given back.

    Those of tenants for which it pays, too. With ``hold`` none is granted from this transaction on, unless one hold is
    too close after another.
    """
    if hold:
        await connection.execute(
            "UPDATE account SET held_until = now() + make_interval(secs => $2)"
            " WHERE tenant_id = $1 AND held_until < now() - make_interval(secs => $3)",
            tenant_id,
            HOLD_SECONDS,
            PAUSE_SECONDS,
        )
    await connection.execute(
        "SELECT pg_notify($1, lessee) FROM (SELECT $2::text AS lessee UNION"
        " SELECT tenant_id FROM lease WHERE payer_id = $2 AND spent + returned < amount) AS lessees",
        RECALL_CHANNEL,
        tenant_id,
    )


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


def _moved(lease: Lease, start: int, credits: int, account: Account) -> list[Posting]:
    """Postings that move a section of a lease out of the reserved account."""
    postings: list[Posting] = []
    for part in section(lease.portions, start, start + credits):
        at = part.expire_at if account is Account.AVAILABLE else None
        postings += _pair(lease, Account.RESERVED, part, account, at)
    return postings


async def _keep(connection: Connection, changes: Sequence[tuple[int, int, int, int]]) -> None:
    """Put on record what was (lease id, spent, returned, told late)."""
    await connection.execute(
        "UPDATE lease SET spent = lease.spent + change.spent, returned = lease.returned + change.returned,"
        " unheard = lease.unheard - change.late"
        " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])"
        " AS change (lease_id, spent, returned, late) WHERE lease.lease_id = change.lease_id",
        *(list(column) for column in (zip(*changes, strict=True) if changes else ((), (), (), ()))),
    )


def _pair(
    lease: Lease, source: Account, part: Portion, destination: Account, expire_at: datetime | None
) -> list[Posting]:
    """Postings that move credits of a lease between accounts of who pays, with whose mail it is for if that differs."""
    other = lease.tenant_id if lease.tenant_id != lease.payer_id else None
    return [
        Posting(lease.payer_id, source, -part.amount, lease.lease_id, part.expire_at, other),
        Posting(lease.payer_id, destination, part.amount, lease.lease_id, expire_at, other),
    ]


class _Returned(NamedTuple):
    lease: Lease
    credits: int


async def _take_back(connection: Connection, came_back: Sequence[_Returned]) -> None:
    if came_back:
        await windows.uncount(
            connection, [Returned(lease.tenant_id, lease.created_at, credits) for lease, credits in came_back]
        )
    for tenant_id in {whose for lease, _ in came_back for whose in (lease.tenant_id, lease.payer_id)}:
        await _tell_returned(connection, tenant_id)


async def _earlier(connection: Connection, holder: uuid.UUID, tenant_id: str, request_id: uuid.UUID) -> Lease | None:
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM lease WHERE holder_id = $1 AND request_id = $2", holder, request_id
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


async def _elsewhere(connection: Connection, holder: uuid.UUID, tenant_id: str, payer_id: str) -> bool:
    """Whether somebody else has leases of the same credits: another holder, or the same one for another tenant."""
    found = await connection.fetchval(
        "SELECT true FROM lease WHERE payer_id = $1 AND (holder_id <> $2 OR tenant_id <> $3)"
        " AND spent + returned < amount LIMIT 1",
        payer_id,
        holder,
        tenant_id,
    )
    return bool(found)


def _nothing_to_share(tenant_id: str, wanted: int) -> Refusal:
    """Too few credits where another tenant pays: who that is, and what it has, is none of the sender's business."""
    return Refusal(
        Reason.INSUFFICIENT_CREDITS,
        f'the account above, whose balance tenant "{tenant_id}" shares, has too few credits: {wanted} are needed',
        metadata={"tenant": tenant_id, "needed": str(wanted)},
    )


def _late(tenant_id: str) -> Refusal:
    """Credits that another tenant pays with did not come back in time."""
    return Refusal(
        Reason.CREDITS_UNAVAILABLE,
        f'the credits that tenant "{tenant_id}" shares are leased to nodes and did not come back in time; try again',
        retry_after=1.0,
        metadata={"tenant": tenant_id},
    )


async def _grant(
    connection: Connection,
    holder: uuid.UUID,
    epoch: int,
    tenant_id: str,
    payer_id: str,
    portions: Sequence[Portion],
    request_id: uuid.UUID,
) -> Lease:
    expiring = [portion for portion in portions if portion.expire_at is not None]
    row = await connection.fetchrow(
        "INSERT INTO lease (holder_id, tenant_id, epoch, request_id, amount, expire_at, expiring, payer_id)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_COLUMNS}",
        holder,
        tenant_id,
        epoch,
        request_id,
        sum(portion.amount for portion in portions),
        [portion.expire_at for portion in expiring],
        [portion.amount for portion in expiring],
        payer_id,
    )
    assert row is not None, "INSERT RETURNING gives its row"
    lease = _lease(row)
    postings: list[Posting] = []
    for portion in portions:
        postings += _pair(lease, Account.AVAILABLE, portion, Account.RESERVED, portion.expire_at)
    await ledger.post(connection, Movement.LEASE, postings)
    return lease


def _check_epoch(row: Row, epoch: int, stale: bool) -> None:
    if row["written_off_at"] is not None:
        raise _written_off(row["written_off_at"])
    if stale:
        raise _stale(epoch, row["epoch"])


def _written_off(when: datetime) -> Refusal:
    return Refusal(
        Reason.FAILED_PRECONDITION,
        f"the holder was written off on {when:%Y-%m-%d %H:%M} UTC and gets no leases; start with a new spool",
        field="holder",
        metadata={"written_off": when.isoformat()},
    )


def _stale(epoch: int, seen: int) -> Refusal:
    return Refusal(
        Reason.FAILED_PRECONDITION,
        f"epoch {epoch} is not the holder's current one, {seen}; call OpenHolder first",
        field="epoch",
        metadata={"epoch": str(epoch), "current": str(seen)},
    )


def _lease(row: Row) -> Lease:
    return Lease(
        lease_id=row["lease_id"],
        holder=row["holder_id"],
        tenant_id=row["tenant_id"],
        payer_id=row["payer_id"],
        amount=row["amount"],
        spent=row["spent"],
        returned=row["returned"],
        unheard=row["unheard"],
        created_at=row["created_at"],
        expiring=tuple(map(Portion, row["expire_at"], row["expiring"])),
    )
