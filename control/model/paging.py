"""Opaque page tokens: the place after which the next page starts, bound to the query they came from.

A token is no secret and grants nothing: a forged one only moves the start of a page within what its user may see.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from control.model.fields import invalid

Place = TypeVar("Place", str, int)
"""The sort key of the last entry of a page."""

_BINDING_DIGITS = 16


def encode(place: str | int, query: Sequence[str]) -> str:
    """The token for the entries after ``place``. ``query`` is everything that decides what the list holds."""
    content = msgspec.json.encode((_binding(query), place))
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decode(token: str, query: Sequence[str], start: Place) -> Place:
    """The place in a token, which has the type of ``start``; no token: ``start`` itself. Raises the Refusal."""
    if not token:
        return start
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        binding, place = msgspec.json.decode(content, type=tuple[str, str | int])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        binding, place = "", start
    if binding != _binding(query) or not isinstance(place, type(start)) or not _storable(place):
        raise invalid("page_token", "page_token must be the next_page_token of the same list")
    return place


def _storable(place: str | int) -> bool:
    """Whether the database can compare with it: forged places must not become errors of ours."""
    return "\0" not in place if isinstance(place, str) else abs(place) < 2**63


def _binding(query: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(query).encode()).hexdigest()[:_BINDING_DIGITS]
