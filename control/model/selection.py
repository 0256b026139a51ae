"""What a list is asked for beside its filters: a search, a number, an order, how many to skip, whether to count.

Pure. Lists of things that have numbers understand all of it, and in the same way. Errors: the INVALID_ARGUMENT Refusal.
"""

from dataclasses import dataclass
from enum import StrEnum

from control.model import fields
from control.model.fields import invalid

MAX_SKIP = 1_000_000
MAX_SEARCH = 320
"""Characters of a text that is searched for: as long as an address can be."""
MAX_NUMBER = 2**31
"""Numbers are below it, for clients that have 32 bits for them."""


class Order(StrEnum):
    """How a list is sorted; the words of ``order_by``."""

    NAME = "name"
    """By the last part of the resource name."""
    OLDEST = "number"
    """By the number, which rises with the time of making."""
    NEWEST = "number desc"
    """The other way round."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A wanted part of a list. Empty and 0 say nothing."""

    search: str = ""
    number: int = 0
    order: Order = Order.NAME
    skip: int = 0
    count_total: bool = False
    after: str | int = ""
    """The place after which it begins: a name or a number, as the order is."""
    limit: int = 0

    @property
    def start(self) -> str | int:
        """The place before all others."""
        if self.order is Order.NAME:
            return ""
        return 0 if self.order is Order.OLDEST else MAX_NUMBER

    def conditions(self) -> tuple[str, ...]:
        """What page tokens are bound to."""
        return self.search, str(self.number), self.order


def order(text: str, default: Order) -> Order:
    """An order by its words; none: ``default``. Lists whose default is not by name have no order by name."""
    if not text:
        return default
    known = [one for one in Order if default is Order.NAME or one is not Order.NAME]
    found = next((one for one in known if one == " ".join(text.split())), None)
    if found is None:
        words = " or ".join(f'"{one}"' for one in known)
        raise invalid("order_by", f"order_by must be {words}")
    return found


def skip(count: int) -> int:
    """Entries to leave out."""
    if not 0 <= count <= MAX_SKIP:
        raise invalid("skip", f"skip must be 0 to {MAX_SKIP}; it is {count}")
    return count


def number(value: int, field: str = "number") -> int:
    """A number to look for; one that nothing can have finds nothing."""
    if value < 0:
        raise invalid(field, f"{field} must not be negative; 0 asks for all")
    return value


def search(text: str, field: str = "search") -> str:
    """A text to look for."""
    return fields.text(text, field, MAX_SEARCH)
