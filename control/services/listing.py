"""Pages of lists: what a request asks for, and where the next page starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from control.model import fields, paging, selection
from control.model.paging import Place
from control.model.selection import Order, Selection

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Place]):
    """A wanted page: at most ``size`` entries after the place ``after``."""

    size: int
    after: Place
    query: tuple[str, ...]

    @property
    def limit(self) -> int:
        """Entries to read: one more than wanted shows whether there is a next page."""
        return self.size + 1

    def cut(self, found: Sequence[Item], place: Callable[[Item], str | int]) -> tuple[Sequence[Item], str]:
        """The entries of this page, and the token for the next one ("" if there is none)."""
        if len(found) <= self.size:
            return found, ""
        entries = found[: self.size]
        return entries, paging.encode(place(entries[-1]), self.query)


def page_of(request: Any, start: Place, *conditions: str) -> Page[Place]:
    """The page a request asks for. ``conditions`` decide what the list holds, beside the method."""
    query = (request.DESCRIPTOR.full_name, *conditions)
    return Page(fields.page_size(request.page_size), paging.decode(request.page_token, query, start), query)


class _Numbered(Protocol):
    """A thing that has a number."""

    @property
    def number(self) -> int:
        """Its number."""


NumberedItem = TypeVar("NumberedItem", bound=_Numbered)


@dataclass(frozen=True, slots=True)
class Listing:
    """A wanted part of a list of numbered things: what to read, and the page to make of it."""

    wanted: Selection
    page: Page[str] | Page[int]

    def cut(
        self, found: Sequence[NumberedItem], name: Callable[[NumberedItem], str]
    ) -> tuple[Sequence[NumberedItem], str]:
        """The entries of this page, and the token for the next one. ``name``: what the list is sorted by, by name."""
        if self.wanted.order is Order.NAME:
            return self.page.cut(found, name)
        return self.page.cut(found, lambda item: item.number)


def listing_of(request: Any, *conditions: str, default: Order = Order.NAME) -> Listing:
    """What a request for a list of numbered things asks for; ``conditions`` as for ``page_of``."""
    wanted = Selection(
        search=selection.search(request.search),
        number=selection.number(request.number),
        order=selection.order(request.order_by, default),
        skip=selection.skip(request.skip),
        count_total=request.count_total,
    )
    query = (*conditions, *wanted.conditions())
    page: Page[str] | Page[int]
    match wanted.start:
        case str(name):
            page = page_of(request, name, *query)
        case number:
            page = page_of(request, number, *query)
    return Listing(replace(wanted, after=page.after, limit=page.limit), page)
