"""What lists are asked for: orders, bounds, and what page tokens are bound to."""

import pytest

from control.model import selection
from control.model.selection import MAX_NUMBER, MAX_SEARCH, MAX_SKIP, Order, Selection
from mta.runtime.refusals import Reason, Refusal


def test_an_order_is_one_of_its_words() -> None:
    assert selection.order("", Order.NAME) is Order.NAME
    assert selection.order("", Order.NEWEST) is Order.NEWEST
    assert selection.order("name", Order.NAME) is Order.NAME
    assert selection.order("number", Order.NAME) is Order.OLDEST
    assert selection.order("number  desc", Order.NAME) is Order.NEWEST


@pytest.mark.parametrize(
    ("text", "default"), [("number asc", Order.NAME), ("NAME", Order.NAME), ("name", Order.NEWEST)]
)
def test_another_order_is_refused_with_those_there_are(text: str, default: Order) -> None:
    with pytest.raises(Refusal, match='"number" or "number desc"') as refused:
        selection.order(text, default)
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "order_by")


def test_bounds() -> None:
    assert (selection.skip(0), selection.skip(MAX_SKIP), selection.number(0)) == (0, MAX_SKIP, 0)
    assert selection.number(2**63 - 1) == 2**63 - 1  # nothing has it
    assert selection.search("x" * MAX_SEARCH)
    for attempt in (
        lambda: selection.skip(-1),
        lambda: selection.skip(MAX_SKIP + 1),
        lambda: selection.number(-1),
        lambda: selection.search("x" * (MAX_SEARCH + 1)),
        lambda: selection.search("a\0b"),
    ):
        with pytest.raises(Refusal):
            attempt()


def test_a_list_begins_before_everything_in_its_order() -> None:
    assert Selection(order=Order.NAME).start == ""
    assert Selection(order=Order.OLDEST).start == 0
    assert Selection(order=Order.NEWEST).start == MAX_NUMBER


def test_tokens_are_bound_to_what_decides_the_list_and_not_to_the_page() -> None:
    assert Selection().conditions() == Selection(skip=5, count_total=True, after="x", limit=7).conditions()
    different = [Selection(), Selection(search="x"), Selection(number=1), Selection(order=Order.OLDEST)]
    assert len({one.conditions() for one in different}) == len(different)
