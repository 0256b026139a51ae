"""Credits: accounts, kinds of ledger transactions, balances, when credits expire, how much a lease may take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_BALANCE = 10**18
"""Bound of available + reserved + consumed of a tenant, as in the schema: far from the end of a 64-bit integer."""
SMALL_LEASE = 100
"""A lease of up to so many credits may take all there is: halving the last few would only cost round trips."""


class Account(StrEnum):
    """Where credits are."""

    AVAILABLE = "available"
    RESERVED = "reserved"
    CONSUMED = "consumed"
    ISSUANCE = "issuance"
    """The world outside, the counterpart of grants; belongs to no tenant."""


class Movement(StrEnum):
    """What moves credits; each is a kind of ledger transaction."""

    GRANT = "grant"
    TRANSFER = "transfer"
    LEASE = "lease"
    USAGE = "usage"
    RELEASE = "release"
    EXPIRE = "expire"
    """Unspent credits whose time is over go back to issuance."""
    REFUND = "refund"
    """A spent credit comes back, for the outcome of its recipient."""
    WRITE_OFF = "write_off"
    """The operator closed the leases of a spool that is lost."""


@dataclass(frozen=True, slots=True)
class Balance:
    """A tenant's credits. ``expiring`` is the part of ``available`` that expires at some time.

    ``shared``: the tenant has none and cannot get any; one above pays for its mail.
    """

    tenant_id: str
    available: int
    reserved: int
    consumed: int
    expiring: int = 0
    shared: bool = False

    @property
    def spendable(self) -> int:
        """Not spent, as far as is known."""
        return self.available + self.reserved


@dataclass(frozen=True, slots=True)
class Portion:
    """Credits that expire at the same time; None: never."""

    expire_at: datetime | None
    amount: int


def draw(lots: Iterable[Portion], amount: int) -> list[Portion]:
    """Which credits to take: those that expire soonest first, then such as never do.

    ``lots`` are the expiring credits that may still be used, soonest first; of the others there are enough.
    """
    drawn: list[Portion] = []
    for lot in lots:
        share = min(lot.amount, amount)
        if share:
            drawn.append(Portion(lot.expire_at, share))
            amount -= share
    return [*drawn, Portion(None, amount)] if amount else drawn


def section(portions: Sequence[Portion], start: int, end: int) -> list[Portion]:
    """The credits number ``start`` up to ``end`` of a lease made of ``portions``.

    A lease is spent from its start, soonest expiry first, and given back from its end; so a place in it says which
    credit is meant, and no credit can be both spent and given back.
    """
    cut: list[Portion] = []
    position = 0
    for portion in portions:
        share = min(end, position + portion.amount) - max(start, position)
        if share > 0:
            cut.append(Portion(portion.expire_at, share))
        position += portion.amount
    return cut


def lease_amount(wanted: int, available: int) -> int:
    """Credits to lease: what is wanted, but at most half of what there is, so that other workers get some too."""
    return min(wanted, max(available // 2, min(available, SMALL_LEASE)))
