"""What can go wrong with an HTTP request before any program behind the bridge has a say.

A ``Problem`` is an HTTP status with a text for the client and nothing else; each dialect draws its own error body from
it. What control and the MTA refuse arrives as ``mta.runtime.refusals.Refusal`` and becomes a Problem in the dialect's
``errors`` module. Pure.

``message`` names the field at fault and the mend; it never names internals. A Problem of a dialect's own may have the
``code`` that its error body shows; the frame's have none, and the dialect takes one by the status:

400 malformed body or header field, 404 no such path, 405 (with Allow), 408 too slow, 413 too large, 415 compressed,
429 too many requests of this key (with Retry-After), 500 our mistake, 503 too busy or an outage (with Retry-After).
"""

from collections.abc import Mapping
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})


class Problem(Exception):
    """The request ends with ``status`` and ``message``; ``headers`` are added to the answer."""

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] = _NONE, code: int | str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.code = code


def bad_request(message: str) -> Problem:
    """400: the client has to change its request."""
    return Problem(400, message)


def overloaded(message: str, seconds: int) -> Problem:
    """503: the same request may succeed after ``seconds``."""
    return Problem(503, message, {"retry-after": str(seconds)})
