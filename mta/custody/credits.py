"""Spending credits without asking: the leases of this spool.

A lease is a number of credits that control has reserved for this spool. ``take`` spends from leases in memory; the new
count goes into the same transaction as the message it pays for, so after any crash the file says exactly what is spent.
Leases are renewed in the background before they run out, in sizes that follow the rate of spending; while control is
away, what is leased goes on being spent. ``recall`` gives back what is not spent.

Control may refuse a lease because a limit on recipients or spending is reached. Senders hear its words (RATE_LIMITED);
it is asked again every few seconds, so that a raised limit takes effect. Near a limit leases are small, and then no
more than that is kept in stock: what is here at the end of a limit's window may be spent in the next one.

A lease's row stays until control has recorded everything that was spent of it: a lease that this spool does not know at
its next start counts as never spent.

Thread rules: the loop's thread.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from prometheus_client import Counter

from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import Change, EventKind, LeaseRow, OutboxRow, Receipt, SpoolError, Store

log = get_logger(__name__)

FIRST_AMOUNT = 5_000
"""Credits asked for at first: ten seconds of a fast sender."""
MAX_AMOUNT = 200_000
"""Credits asked for at most."""
FAST_SECONDS = 60.0
"""A lease that was half spent within this time is followed by one twice as large."""
SLOW_SECONDS = 600.0
"""One that lasted longer is followed by one half as large."""
LEAST_AMOUNT = 100
"""After a lease that was smaller than wanted no more than it, but this much, is asked for next."""
REFUSED_SECONDS = 1.0
"""After "no credits" control is not asked again for this long."""
LIMITED_SECONDS = 3.0
"""After "a limit is reached" control is not asked again for this long, or until the limit's window ends."""
WAIT_SECONDS = 5.0
"""How long an intake waits for a lease."""

LEASES = Counter("barua_credit_leases_total", "Answers to requests for credit leases.", ["result"])


class GrantedLease(NamedTuple):
    """Control's answer to a request."""

    lease_id: int
    amount: int


Acquire = Callable[[str, int, str], Awaitable[GrantedLease]]
"""(tenant, amount, request id) to a lease. Raises Refusal."""


class _Lease:
    __slots__ = ("amount", "last_sequence", "lease_id", "used")

    def __init__(self, lease_id: int, amount: int, used: int, last_sequence: int) -> None:
        self.lease_id = lease_id
        self.amount = amount
        self.used = used
        self.last_sequence = last_sequence
        """Outbox sequence of the last event that names this lease."""


class _Account:
    """What is known of one tenant's credits here."""

    __slots__ = (
        "amount", "granted", "leases", "left", "recalls", "refill", "refusal", "refused_until", "request_id", "since"
    )  # fmt: skip

    def __init__(self) -> None:
        self.leases: list[_Lease] = []
        self.left = 0
        self.amount = FIRST_AMOUNT
        self.granted = False
        """A lease has come since the amount was last adapted."""
        self.since = time.monotonic()
        self.recalls = 0
        self.refused_until = 0.0
        self.refusal: Refusal | None = None
        """Why, until then."""
        self.refill: asyncio.Task[None] | None = None
        self.request_id = ""


class Credits:
    """The credit leases of one spool."""

    def __init__(self, store: Store, rows: Iterable[LeaseRow], acquire: Acquire) -> None:
        self._store = store
        self._acquire = acquire
        self._tasks = Tasks()
        self._accounts: dict[str, _Account] = {}
        self._finished: list[_Lease] = []
        for row in rows:
            lease = _Lease(row.lease_id, row.amount, row.used, store.last_sequence)
            account = self._account(row.tenant)
            account.leases.append(lease)
            account.left += row.amount - row.used
        for account in self._accounts.values():
            self._retire(account)

    async def close(self) -> None:
        """Stop renewing."""
        await self._tasks.close()

    def take(self, tenant: str, change: Change, count: int, last_sequence: int) -> list[int] | None:
        """Spend ``count`` credits: the lease id for each, with the new state of the leases added to ``change``.

        ``last_sequence`` is the highest outbox sequence of the events in ``change`` that will tell of it.
        None if the leases here do not suffice; then ``wait`` may help.
        """
        account = self._account(tenant)
        if account.left < count:
            return None
        spent: list[int] = []
        for lease in account.leases:
            share = min(count - len(spent), lease.amount - lease.used)
            if share:
                lease.used += share
                lease.last_sequence = last_sequence
                spent += [lease.lease_id] * share
                change.leases.append(LeaseRow(lease.lease_id, tenant, lease.amount, lease.used))
            if len(spent) == count:
                break
        account.left -= count
        self._retire(account)
        if account.left < account.amount // 2 and time.monotonic() >= account.refused_until:
            self._renew(tenant, account)
        return spent

    def give_back(self, tenant: str, spent: Iterable[int]) -> None:
        """The message was not stored: nothing is spent."""
        account = self._account(tenant)
        known = {lease.lease_id: lease for lease in (*account.leases, *self._finished)}
        corrected: dict[int, _Lease] = {}
        for lease_id in spent:
            lease = corrected[lease_id] = known[lease_id]
            self._reopen(account, lease)
            lease.used -= 1
            account.left += 1
        self._correct(tenant, corrected.values())

    async def wait(self, tenant: str, count: int) -> None:
        """Wait until ``count`` credits are here. Raises Refusal when they cannot be had, or not in time."""
        account = self._account(tenant)
        deadline = time.monotonic() + WAIT_SECONDS
        while account.left < count:
            if time.monotonic() < account.refused_until:
                raise _refused(account.refusal)
            remaining = deadline - time.monotonic()
            refill = self._renew(tenant, account, count)
            done, _ = await asyncio.wait({refill}, timeout=max(0.0, remaining))
            if account.left >= count or time.monotonic() < account.refused_until:
                continue
            # Others may take what comes faster than it comes: that, too, has an end.
            if not done or refill.exception() is not None or remaining < 0:
                raise Refusal(Reason.CREDITS_UNAVAILABLE, "credits cannot be checked now; try again", retry_after=5.0)

    async def recall(self, tenant: str) -> int:
        """Give back what is not spent of a tenant's leases; durable on return. Raises SpoolError."""
        account = self._account(tenant)
        returned: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        released = account.left
        if not released:
            return 0
        # What goes back can be had again: that there was nothing more than this to be had no longer counts.
        account.recalls += 1
        account.refused_until = 0.0
        undo: list[tuple[_Lease, int]] = []

        def on_done(result: Receipt | SpoolError) -> None:
            if isinstance(result, SpoolError):  # whether or not the caller still waits
                self._keep(tenant, account, undo)
                if not returned.done():
                    returned.set_exception(result)
            elif not returned.done():
                returned.set_result(released)

        change = Change(on_done)
        now_ms = time.time_ns() // 1_000_000
        for lease in account.leases:
            rest = lease.amount - lease.used
            undo.append((lease, rest))
            lease.amount = lease.used
            lease.last_sequence = self._store.next_sequence()
            change.leases.append(LeaseRow(lease.lease_id, tenant, lease.amount, lease.used))
            change.outbox.append(_released(lease, tenant, rest, now_ms))
        account.left = 0
        self._retire(account)
        self._store.write(change)
        return await returned

    def acknowledged(self, sequence: int) -> None:
        """Control has recorded the outbox up to here: finished leases it has heard all about are forgotten."""
        done = [lease for lease in self._finished if lease.last_sequence <= sequence]
        if done:
            self._finished = [lease for lease in self._finished if lease.last_sequence > sequence]
            change = Change()
            change.done_leases = [(lease.lease_id,) for lease in done]
            self._store.write(change)

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account

    def _retire(self, account: _Account) -> None:
        finished = [lease for lease in account.leases if lease.used == lease.amount]
        if finished:
            self._finished += finished
            account.leases = [lease for lease in account.leases if lease.used < lease.amount]

    def _keep(self, tenant: str, account: _Account, undo: Iterable[tuple[_Lease, int]]) -> None:
        """A recall was not stored: what it was to give back is here as before."""
        for lease, rest in undo:
            lease.amount += rest
            self._reopen(account, lease)
            account.left += rest
        self._correct(tenant, [lease for lease, _ in undo])

    def _correct(self, tenant: str, leases: Iterable[_Lease]) -> None:
        """Put leases on record as they are: a commit that failed may have left other figures in the file."""
        change = Change()
        change.leases += [LeaseRow(lease.lease_id, tenant, lease.amount, lease.used) for lease in leases]
        if change.leases:
            self._store.write(change)

    def _reopen(self, account: _Account, lease: _Lease) -> None:
        if lease in self._finished:
            self._finished.remove(lease)
            account.leases.append(lease)

    def _renew(self, tenant: str, account: _Account, count: int = 1) -> "asyncio.Task[None]":
        """Ask for a lease in the background, once at a time."""
        if account.refill is None or account.refill.done():
            if account.granted:
                account.granted = False
                self._adapt(account)
            name = f"lease-{tenant}"
            account.refill = self._tasks.start(self._refill(tenant, account, max(count, account.amount)), name)
        return account.refill

    @staticmethod
    def _adapt(account: _Account) -> None:
        lasted = time.monotonic() - account.since
        if account.leases and lasted < FAST_SECONDS:
            account.amount = min(MAX_AMOUNT, account.amount * 2)
        elif lasted > SLOW_SECONDS:
            account.amount = max(FIRST_AMOUNT, account.amount // 2)
        account.since = time.monotonic()

    async def _refill(self, tenant: str, account: _Account, amount: int) -> None:
        if time.monotonic() < account.refused_until:
            return
        # The same request id until there is an answer: a lost answer is the same lease again, not a second one.
        account.request_id = account.request_id or str(uuid.uuid4())
        recalls = account.recalls
        try:
            granted = await self._acquire(tenant, amount, account.request_id)
        except Refusal as refusal:
            LEASES.labels(refusal.reason.value).inc()
            if refusal.reason is Reason.FAILED_PRECONDITION:
                account.request_id = ""  # it stands for a lease that cannot be had any more
            if refusal.reason in (Reason.INSUFFICIENT_CREDITS, Reason.RATE_LIMITED):
                account.request_id = ""
                if account.recalls == recalls:
                    account.refusal = refusal
                    account.refused_until = time.monotonic() + _believed_seconds(refusal)
                return
            log.warning("lease_not_renewed", tenant=tenant, left=account.left, reason=refusal.message)
            account.refused_until = 0.0
            await asyncio.sleep(min(1.0, WAIT_SECONDS / 5))
            return
        LEASES.labels("granted").inc()
        await self._record(tenant, account, granted)
        if granted.amount < amount:
            account.amount = min(account.amount, max(LEAST_AMOUNT, granted.amount))

    async def _record(self, tenant: str, account: _Account, granted: GrantedLease) -> None:
        """Put a lease on record before anything is spent of it. If that fails it is asked for again."""
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_done(result: Receipt | SpoolError) -> None:
            if not recorded.done():
                recorded.set_result(None)
            if isinstance(result, SpoolError):
                log.error("lease_not_recorded", lease_id=granted.lease_id, error=str(result))
                return
            account.request_id = ""
            account.granted = True
            account.leases.append(_Lease(granted.lease_id, granted.amount, 0, 0))
            account.left += granted.amount

        change = Change(on_done)
        change.leases.append(LeaseRow(granted.lease_id, tenant, granted.amount, 0))
        self._store.write(change)
        await recorded


def _believed_seconds(refusal: Refusal) -> float:
    if refusal.reason is Reason.RATE_LIMITED:
        return min(LIMITED_SECONDS, refusal.retry_after or LIMITED_SECONDS)
    return REFUSED_SECONDS


def _refused(refusal: Refusal | None) -> Refusal:
    """What a sender hears of control's refusal."""
    if refusal is not None and refusal.reason is Reason.RATE_LIMITED:
        return Refusal(
            refusal.reason, refusal.message, retry_after=refusal.retry_after, metadata=dict(refusal.metadata)
        )
    return Refusal(Reason.INSUFFICIENT_CREDITS, "not enough credits; add credits and send again")


def _released(lease: _Lease, tenant: str, credits_: int, now_ms: int) -> OutboxRow:
    return OutboxRow(
        lease.last_sequence,
        EventKind.LEASE_RELEASED,
        now_ms,
        tenant,
        lease_id=lease.lease_id,
        credits=credits_,
    )
