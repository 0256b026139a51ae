"""The rules of limits, prices and expiring credits."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.model import limits, prices
from control.model.credits import Portion, draw, lease_amount, section
from control.model.limits import CAP_SHARE, Cap, Counted, Level, Limits, Window
from control.model.prices import Price
from mta.runtime.refusals import Refusal

START = datetime(2026, 1, 1, tzinfo=UTC)
EURO = Price("EUR", 500_000)

lots = st.lists(st.integers(1, 50), max_size=6).map(
    lambda amounts: [Portion(START + timedelta(days=day), amount) for day, amount in enumerate(amounts)]
)


@given(lots, st.integers(1, 400))
def test_what_expires_soonest_is_drawn_first(held: list[Portion], amount: int) -> None:
    drawn = draw(held, amount)
    assert sum(portion.amount for portion in drawn) == amount
    assert all(portion.amount > 0 for portion in drawn)
    expiring = [portion for portion in drawn if portion.expire_at is not None]
    assert expiring[:-1] == held[: len(expiring) - 1] if expiring else True
    never = sum(portion.amount for portion in drawn if portion.expire_at is None)
    assert never == max(0, amount - sum(lot.amount for lot in held))


@given(lots, st.integers(0, 100), st.data())
def test_a_lease_is_cut_into_what_is_spent_and_what_comes_back(
    expiring: list[Portion], never: int, data: st.DataObject
) -> None:
    portions = [*expiring, *([Portion(None, never)] if never else [])]
    amount = sum(portion.amount for portion in portions)
    cuts = sorted(data.draw(st.lists(st.integers(0, amount), max_size=5)))
    bounds = [0, *cuts, amount]
    pieces = [piece for start, end in pairwise(bounds) for piece in section(portions, start, end)]
    sums: dict[datetime | None, int] = {}
    for piece in pieces:
        sums[piece.expire_at] = sums.get(piece.expire_at, 0) + piece.amount
    assert sums == {portion.expire_at: portion.amount for portion in portions}


@pytest.mark.parametrize(
    ("window", "now", "end"),
    [
        (Window.HOUR, datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)),
        (Window.DAY, datetime(2028, 2, 29, 12, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        (Window.MONTH, datetime(2026, 12, 31, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (Window.MONTH, datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_windows_end(window: Window, now: datetime, end: datetime) -> None:
    assert window.end(now) == end


def level(counted: Counted = Counted(), price: Price | None = None, **own: int) -> Level:  # noqa: B008 - a value
    return Level("x", Limits(**own), price, counted)


def test_each_cap_of_the_line_holds() -> None:
    held = limits.caps(
        [
            level(Counted(hour=3, day=5), hourly_recipients=10, daily_recipients=5),
            level(Counted(month=30), EURO, monthly_spend_micros=20_000, monthly_recipients=100),
        ]
    )
    assert [(cap.name, cap.credits, cap.left) for cap in held] == [
        ("hourly_recipients", 10, 7),
        ("daily_recipients", 5, 0),
        ("monthly_recipients", 100, 70),
        ("monthly_spend_micros", 40, 10),
    ]
    full = limits.reached(held)
    assert full is not None
    assert full.name == "daily_recipients"
    assert limits.reached(held[:1]) is None


def test_spending_is_free_without_a_price() -> None:
    assert limits.caps([level(monthly_spend_micros=0)]) == []
    assert limits.caps([level(price=Price("EUR", 0), monthly_spend_micros=0)]) == []


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=4),
)
def test_a_lease_fits_every_cap(wanted: int, available: int, given_caps: list[tuple[int, int]]) -> None:
    held = [Cap("x", "c", Window.DAY, max(pair), min(pair)) for pair in given_caps]
    size = limits.lease_size(wanted, available, held)
    assert 0 <= size <= min(wanted, available)
    assert size == lease_amount(wanted, available) or held
    for cap in held:
        assert size <= cap.left
        assert size <= max(100, cap.credits // CAP_SHARE)
    if available and all(cap.left for cap in held):
        assert size > 0


def test_the_strictest_limit_is_named_with_its_nearest_owner() -> None:
    line = [("a", Limits(hourly_recipients=5)), ("b", Limits(hourly_recipients=5, max_tenants=1)), ("c", Limits())]
    assert limits.effective(line) == {"hourly_recipients": (5, "a"), "max_tenants": (1, "b")}


@given(st.integers(1, 10**12), st.integers(1, 10**9))
def test_what_a_sum_buys_costs_at_most_the_sum(micros: int, per_thousand: int) -> None:
    price = Price("EUR", per_thousand)
    credits = price.affordable(micros)
    assert credits is not None
    assert price.cost(credits) <= micros < price.cost(credits + 1)


def test_prices_are_checked_and_inherited() -> None:
    assert prices.checked("EUR", 5, "price") == Price("EUR", 5)
    for currency, micros in ("eur", 5), ("EURO", 5), ("EUR", -1), ("EUR", 10**15 + 1):
        with pytest.raises(Refusal):
            prices.checked(currency, micros, "price")
    assert prices.nearest([("a", None), ("b", EURO), ("c", Price("KES", 1))]) == ("b", EURO)
    assert prices.nearest([("a", None)]) is None
