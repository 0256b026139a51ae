"""Checks of single fields. Each returns the value in its kept form or raises the INVALID_ARGUMENT Refusal."""

import re
import unicodedata
import uuid
from collections.abc import Collection, Sequence

from control.model.names import is_tenant_id
from mta.runtime.refusals import Reason, Refusal

MAX_AMOUNT = 10**15
"""Credits moved at once: a slip of the finger cannot reach the bounds of the ledger."""
MAX_TEXT = 200
"""Characters of names, contact fields and notes on credits."""
MAX_SUPPRESSION_NOTE = 500
"""Characters of the evidence for a suppression."""
MIN_PASSWORD, MAX_PASSWORD = 8, 256
MAX_USERNAME = 128
DEFAULT_PAGE, MAX_PAGE = 50, 1000
MAIL_SCOPE = "mail"
"""Scope of keys and tokens that may send."""

_PHONE = re.compile(r"\+?[0-9]{3,32}")


def invalid(field: str, message: str) -> Refusal:
    """The refusal of a field's value. ``message`` says what is wrong and how to mend it."""
    return Refusal(Reason.INVALID_ARGUMENT, message, field=field, metadata={"field": field})


def tenant_id(value: str, field: str = "tenant_id") -> str:
    """An id for a new tenant."""
    if not is_tenant_id(value):
        raise invalid(
            field, f'{field} must be 1 to 63 of a-z, 0-9 and "-", start with a letter or digit, and not be "me"'
        )
    return value


def text(value: str, field: str, limit: int = MAX_TEXT) -> str:
    """A line for people: no control characters, at most ``limit`` characters."""
    if len(value) > limit:
        raise invalid(field, f"{field} must have at most {limit} characters; it has {len(value)}")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise invalid(field, f"{field} must not contain control characters")
    return value


def phone(value: str, field: str) -> str:
    """A telephone number in international form, or nothing."""
    if value and not _PHONE.fullmatch(value):
        raise invalid(field, f'{field} must be 3 to 32 digits, with "+" before them if wanted')
    return value


def username(value: str, field: str = "username") -> str:
    """The name of a login."""
    if not 1 <= len(value) <= MAX_USERNAME:
        raise invalid(field, f"{field} must have 1 to {MAX_USERNAME} characters")
    if ":" in value or any(char.isspace() or not char.isprintable() for char in value):
        raise invalid(field, f'{field} must consist of printable characters without spaces and ":"')
    return value


def password(value: str, field: str = "password") -> str:
    """The password of a login: no control characters, which forms and protocols drop or change (RFC 8265 §4.2)."""
    if not MIN_PASSWORD <= len(value) <= MAX_PASSWORD:
        raise invalid(field, f"{field} must have {MIN_PASSWORD} to {MAX_PASSWORD} characters")
    if any(unicodedata.category(char) == "Cc" for char in value):
        raise invalid(field, f"{field} must not contain control characters")
    return value


def amount(value: int, field: str = "amount") -> int:
    """Credits to move."""
    if not 1 <= value <= MAX_AMOUNT:
        raise invalid(field, f"{field} must be 1 to {MAX_AMOUNT}; it is {value}")
    return value


def scopes(values: Sequence[str], field: str, known: Collection[str]) -> list[str]:
    """What a key or token may do: some of ``known``, or "mail"; nothing given: "mail"."""
    for value in values:
        if value != MAIL_SCOPE and value not in known:
            choice = ", ".join(sorted({MAIL_SCOPE, *known}))
            raise invalid(field, f'{field} has the unknown scope "{value[:64]}"; known are: {choice}')
    return sorted(set(values)) or [MAIL_SCOPE]


def page_size(value: int) -> int:
    """Entries of a page: 0 is the default, more than the maximum is lowered."""
    if value < 0:
        raise invalid("page_size", f"page_size must not be negative; it is {value}")
    return min(value or DEFAULT_PAGE, MAX_PAGE)


def identifier(value: str, field: str) -> uuid.UUID:
    """A UUID."""
    try:
        return uuid.UUID(value)
    except ValueError:
        raise invalid(field, f"{field} must be a UUID, such as {uuid.UUID(int=0)}") from None
