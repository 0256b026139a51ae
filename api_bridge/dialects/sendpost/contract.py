"""Which of SendPost's two response contracts an answer is written in, and the header fields that say so.

A client asks with ``X-SendPost-Public-Contract: v1`` or ``legacy``; without it, and with any other value, the default
of the operator applies. Every answer names the one that was applied; answers in ``legacy`` carry the header fields of a
deprecated interface, too. Pure.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from enum import StrEnum

HEADER = "x-sendpost-public-contract"
"""The field of requests and answers."""


class Contract(StrEnum):
    """How answers are written."""

    V1 = "v1"
    LEGACY = "legacy"


def applied(wanted: str | None, default: Contract) -> Contract:
    """The contract for a request whose header field is ``wanted``."""
    text = (wanted or "").strip().lower()
    return Contract(text) if text in (Contract.V1, Contract.LEGACY) else default


def fields(contract: Contract, sunset: date) -> Mapping[str, str]:
    """The header fields of an answer; ``legacy`` ends after ``sunset``."""
    if contract is Contract.V1:
        return {HEADER: contract.value}
    end = datetime.combine(sunset, time(23, 59, 59), UTC)
    return {
        HEADER: contract.value,
        "deprecation": "true",
        "sunset": format_datetime(end, usegmt=True),
        "link": '</docs/sendpost>; rel="deprecation"',
    }
