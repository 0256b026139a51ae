"""Pages of lists: what a request asks for, and where the next page starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from control.model import fields, paging
from control.model.paging import Place

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
