"""Prices: what credits cost, and how many a sum of money buys.

A price is for 1,000 credits, in millionths of a currency's unit (micros), as is customary where one piece costs less
than the smallest coin. All sums are whole micros.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from control.model.fields import invalid

MAX_MICROS = 10**15
"""Bound of prices and spend limits: a billion (10^9) units of a currency."""

_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True)
class Price:
    """What 1,000 credits cost. ``currency`` is a code of ISO 4217."""

    currency: str
    micros_per_thousand: int

    def cost(self, credits: int) -> int:
        """Micros for so many credits, rounded up."""
        return -(-credits * self.micros_per_thousand // 1000)

    def affordable(self, micros: int) -> int | None:
        """Credits that cost at most so many micros; None: they cost nothing."""
        if not self.micros_per_thousand:
            return None
        return micros * 1000 // self.micros_per_thousand


def checked(currency: str, micros: int, field: str) -> Price:
    """A price as a request gives it. Raises the INVALID_ARGUMENT Refusal."""
    if not _CURRENCY.fullmatch(currency):
        raise invalid(f"{field}.currency_code", f"{field}.currency_code must be three capitals, such as EUR")
    if not 0 <= micros <= MAX_MICROS:
        name = f"{field}.micros_per_thousand"
        raise invalid(name, f"{name} must be 0 to {MAX_MICROS}; it is {micros}")
    return Price(currency, micros)


def nearest(line: Iterable[tuple[str, Price | None]]) -> tuple[str, Price] | None:
    """The price that holds for the first of these tenants, and whose it is: the nearest one, upwards."""
    return next(((tenant_id, price) for tenant_id, price in line if price is not None), None)
