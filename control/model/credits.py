"""Credits: accounts, kinds of ledger transactions, balances, and how much of a balance a lease may take."""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Balance:
    """A tenant's credits."""

    tenant_id: str
    available: int
    reserved: int
    consumed: int

    @property
    def spendable(self) -> int:
        """Not spent, as far as is known."""
        return self.available + self.reserved


def lease_amount(wanted: int, available: int) -> int:
    """Credits to lease: what is wanted, but at most half of what there is, so that other workers get some too."""
    return min(wanted, max(available // 2, min(available, SMALL_LEASE)))
