"""Failed authentications, counted: who has too many is refused for the rest of a minute.

A key is what is counted, such as an address or a client id. Counting costs nothing but memory, which is bounded: with
more than ``MAX_COUNTED`` keys those that failed longest ago are forgotten.

Errors: RATE_LIMITED. Thread rules: the loop's thread.
"""

import time
from collections import OrderedDict

from mta.runtime.refusals import Reason, Refusal

WINDOW_SECONDS = 60.0
MAX_COUNTED = 50_000


class FailureLimit:
    """At most ``limit`` failures of one key within ``WINDOW_SECONDS``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Key -> failures and when they are forgotten; in the order of failing.
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, key: str) -> None:
        """Raise Refusal if this key has failed too often."""
        count, until = self._failures.get(key, (0, 0.0))
        left = until - time.monotonic()
        if count >= self._limit and left > 0:
            raise Refusal(
                Reason.RATE_LIMITED, "too many wrong credentials; try again later", retry_after=max(1.0, left)
            )

    def failed(self, key: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        count, until = self._failures.pop(key, (0, 0.0))
        self._failures[key] = (count + 1, until) if until > now else (1, now + WINDOW_SECONDS)
        if len(self._failures) > MAX_COUNTED:
            self._failures.popitem(last=False)
