"""When a deferred recipient is tried again, and when it is given up.

Exponential back-off with jitter, so that what failed together does not come back together. A recipient is given up when
it is older than its lifetime *and* was tried often enough, so that a clock that jumped cannot bounce a queue by itself.
Pure: time and chance come in as arguments.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """The pauses, in milliseconds."""

    first_ms: int
    factor: float
    max_ms: int
    jitter: float
    """Share by which a pause varies either way, 0 to 0.5."""
    lifetime_ms: int
    min_attempts: int

    def pause_ms(self, attempts: int, chance: float) -> int:
        """Pause after ``attempts`` failed attempts (at least 1); ``chance`` is uniform in [0, 1)."""
        # The exponent is bounded because the pause is: without it a large count would overflow a float.
        grown = self.first_ms * self.factor ** min(attempts - 1, 64)
        pause = min(grown, float(self.max_ms))
        return max(1, round(pause * (1 + self.jitter * (2 * chance - 1))))

    def given_up(self, attempts: int, age_ms: int) -> bool:
        """Whether a recipient that failed again is not to be tried any more."""
        return attempts >= self.min_attempts and age_ms >= self.lifetime_ms
