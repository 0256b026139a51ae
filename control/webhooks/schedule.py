"""When a webhook's events are tried again, and how long a failing endpoint is left alone.

Two clocks. Each event has its own pauses, a table per payload format; after the last one it is given up. Pauses are
spread a little, except in formats whose service documents them.
Each endpoint has a breaker: from the third failure in a row on it is left alone for a time that doubles, and then asked
with a single request. So an endpoint that is down costs little, and its events do not use up their attempts.

Pure: chance comes in as an argument.
"""

from dataclasses import dataclass

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

JITTER = 0.15
"""Where pauses are spread, each is longer or shorter by up to this share."""
LIFETIME_SECONDS = 4 * DAY
"""A pending event that is older is given up, whatever was in the way of its attempts."""

_FREE_FAILURES = 2
"""Failures in a row without a pause of the endpoint."""
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Schedule:
    """Pauses after the first, second, ... failed attempt of an event, longer or shorter by up to a share of them."""

    pauses: tuple[float, ...]
    jitter: float = JITTER

    def pause(self, attempts: int, chance: float) -> float | None:
        """Seconds until the next attempt after so many; None: there is none. ``chance`` is between 0 and 1."""
        if not 1 <= attempts <= len(self.pauses):
            return None
        return self.pauses[attempts - 1] * (1 + self.jitter * (2 * chance - 1))


NATIVE = Schedule((10.0, MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, DAY, 16 * HOUR))
"""Ten repeats in three days."""
SENDPOST = Schedule((MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, DAY), jitter=0.0)
"""As that service documents it."""
GATHERING_SECONDS = 30.0
"""SendPulse gathers events for so long before it posts them, unless there are enough for a request sooner."""


def endpoint_pause(failures: int) -> float:
    """Seconds for which an endpoint is left alone after so many failures in a row."""
    over = failures - _FREE_FAILURES
    if over <= 0:
        return 0.0
    return min(_FIRST_PAUSE_SECONDS * 2.0 ** min(over - 1, 30), _LONGEST_PAUSE_SECONDS)
