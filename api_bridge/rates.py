"""Requests per second and key, for each dialect: off unless its options say otherwise.

A token bucket for each key or login that asks: ``burst`` requests at once, ``requests_per_second`` on average. What a
key is, the dialect says; it is not checked first, so that a wrong one cannot be tried faster than a right one.

Errors: ``Problem`` 429 with Retry-After, which the dialect draws in its own shape. Limits: ``MAX_KEYS`` buckets for
each dialect; the one that was used longest ago goes first, and its key begins with a full bucket again.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from api_bridge.problems import Problem
from mta.runtime.options import DialectOptions, DialectsOptions

MAX_KEYS = 100_000
"""Buckets of one dialect, about 200 octets each."""


class Rates:
    """The buckets of all dialects."""

    def __init__(self, options: DialectsOptions, now: Callable[[], float] = time.monotonic) -> None:
        self._limiters = {
            name: Limiter(dialect, now) for name, dialect in options.named().items() if dialect.requests_per_second > 0
        }

    def admit(self, dialect: str, key: str) -> None:
        """Count one request of ``key``. Raises Problem 429 if it comes too early."""
        limiter = self._limiters.get(dialect)
        if limiter is not None:
            limiter.admit(key)


class Limiter:
    """The buckets of one dialect."""

    def __init__(self, options: DialectOptions, now: Callable[[], float]) -> None:
        self._rate = options.requests_per_second
        self._burst = float(options.burst or max(1, math.ceil(self._rate)))
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, key: str) -> None:
        """Count one request. Raises Problem 429; one that is refused costs nothing."""
        now = self._now()
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        admitted = tokens >= 1
        self._buckets[key] = (tokens - 1 if admitted else tokens, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        if not admitted:
            seconds = max(1, math.ceil((1 - tokens) / self._rate))
            raise Problem(429, "Too many requests; try again later.", {"retry-after": str(seconds)})
