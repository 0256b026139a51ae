"""When a program that ended is started again: soon at first, then ever later, soon again once it ran well.

Pure: the caller passes how long the program ran. One ``Backoff`` per program.
"""

FIRST_SECONDS = 0.2
"""Pause after the first crash: a worker that is back this soon costs its clients one reconnect."""
FACTOR = 2.0
MAX_SECONDS = 10.0
"""No pause is longer: whoever mends the cause does not wait for us."""
STABLE_SECONDS = 10.0
"""A run this long was a good one; its end is a first crash again."""


class Backoff:
    """The pauses of one program."""

    def __init__(self) -> None:
        self._failures = 0

    @property
    def failures(self) -> int:
        """Short runs in a row so far."""
        return self._failures

    def pause_after(self, run_seconds: float) -> float:
        """Seconds to wait before the next start, after a run of ``run_seconds``."""
        if run_seconds >= STABLE_SECONDS:
            self._failures = 0
        self._failures += 1
        exponent = min(self._failures - 1, 30)
        return min(FIRST_SECONDS * FACTOR**exponent, MAX_SECONDS)
