"""What can go wrong with an HTTP request before any program behind the bridge has a say.

A ``Problem`` is an HTTP status with a text for the client and nothing else; each dialect draws its own error body from
it. What control and the MTA refuse arrives as ``mta.runtime.refusals.Refusal`` and becomes a Problem in the dialect's
``errors`` module. Pure.

``message`` names the field at fault and the mend; it never names internals.
"""

from collections.abc import Mapping
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})


class Problem(Exception):
    """The request ends with ``status`` and ``message``; ``headers`` are added to the answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] = _NONE) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def bad_request(message: str) -> Problem:
    """400: the client has to change its request."""
    return Problem(400, message)


def overloaded(message: str, seconds: int) -> Problem:
    """503: the same request may succeed after ``seconds``."""
    return Problem(503, message, {"retry-after": str(seconds)})
