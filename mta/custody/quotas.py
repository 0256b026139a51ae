"""Parts of hourly and daily limits, used up without asking: the worker's side of control's QuotaService.

A subject is the resource name of an SMTP provider or a source. ``take`` uses what is here; where that is not enough,
``wait`` asks control, once for all who wait. What is not used when the window ends is void. A limit is never exceeded:
whatever control does not answer for is not used.

Errors: ``wait`` raises Refusal: RATE_LIMITED with the time until the next window, NOT_FOUND, UNAVAILABLE.
Thread rules: the loop's thread.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

REFUSED_SECONDS = 5.0
"""After control gave no quota it is not asked again for this long: another worker may have given none back, a limit may
have been raised, control may be back."""
MAX_SUBJECTS = 10_000
"""Subjects remembered; those whose window has ended are forgotten first."""


class GrantedQuota(NamedTuple):
    """Control's answer: so many recipients, for so long."""

    recipients: int
    seconds: float


Acquire = Callable[[str, int], Awaitable[GrantedQuota]]
"""(subject, count) to at least that many. Raises Refusal."""


class _Subject:
    __slots__ = ("asking", "ends", "left", "refusal", "refused_count", "refused_until", "window")

    def __init__(self) -> None:
        self.left = 0
        self.ends = 0.0
        self.window = 0
        """Number of the window that what is left belongs to."""
        self.asking: asyncio.Task[None] | None = None
        self.refusal: Refusal | None = None
        self.refused_count = 0
        self.refused_until = 0.0


class Quotas:
    """The quotas of one worker."""

    def __init__(self, acquire: Acquire) -> None:
        self._acquire = acquire
        self._subjects: dict[str, _Subject] = {}
        self._tasks = Tasks()

    async def close(self) -> None:
        """Ask no more."""
        await self._tasks.close()

    def take(self, subject: str, count: int) -> bool:
        """Use so many recipients; False if they are not here."""
        known = self._subject(subject)
        if known.ends <= time.monotonic():
            known.left = 0
        if known.left < count:
            return False
        known.left -= count
        return True

    def window(self, subject: str) -> int:
        """Number of the window that ``take`` has taken from, for ``give_back``."""
        return self._subject(subject).window

    def give_back(self, subject: str, count: int, window: int | None = None) -> None:
        """So many were not used after all. In a new window they are void like the rest."""
        known = self._subject(subject)
        if known.ends > time.monotonic() and window in (None, known.window):
            known.left += count

    def refused(self, subject: str, count: int) -> Refusal | None:
        """Why so many cannot be had now, if control has just said so."""
        known = self._subject(subject)
        said = known.refusal
        if said is not None and count >= known.refused_count and known.refused_until > time.monotonic():
            # One of its own for each: an exception that is raised again and again keeps where it was.
            return Refusal(
                said.reason,
                said.message,
                field=said.field,
                retry_after=said.retry_after,
                metadata=dict(said.metadata),
            )
        return None

    async def wait(self, subject: str, count: int) -> None:
        """Return once so many may be here to ``take``. Raises Refusal."""
        if self._has(subject, count):
            return
        refusal = self.refused(subject, count)
        if refusal is not None:
            raise refusal
        known = self._subject(subject)
        while known.asking is not None:  # what it brings may do for us too
            await asyncio.wait({known.asking})
            if self._has(subject, count):
                return
        refusal = self.refused(subject, count)
        if refusal is not None:
            raise refusal
        known.asking = self._tasks.start(self._ask(subject, known, count), "quota")
        await asyncio.wait({known.asking})
        refusal = self.refused(subject, count)
        if refusal is not None:
            raise refusal

    async def _ask(self, subject: str, known: _Subject, count: int) -> None:
        asked = time.monotonic()
        try:
            granted = await self._acquire(subject, count)
            if known.ends <= time.monotonic():
                known.left = 0
                known.window += 1
            known.left += granted.recipients
            # Rather a moment early than late: what is left of a window must not be used in the next one.
            known.ends = asked + granted.seconds
            known.refusal = None
        except Refusal as refusal:
            self._note_refusal(known, count, refusal)
        except Exception:
            log.exception("quota_broke", subject=subject)
            self._note_refusal(known, count, _unknown())
        finally:
            known.asking = None

    @staticmethod
    def _note_refusal(known: _Subject, count: int, refusal: Refusal) -> None:
        if refusal.reason not in (Reason.RATE_LIMITED, Reason.NOT_FOUND):
            refusal = _unknown()
        known.refusal, known.refused_count = refusal, count
        known.refused_until = time.monotonic() + min(REFUSED_SECONDS, refusal.retry_after or REFUSED_SECONDS)

    def _has(self, subject: str, count: int) -> bool:
        known = self._subject(subject)
        return known.left >= count and known.ends > time.monotonic()

    def _subject(self, subject: str) -> _Subject:
        known = self._subjects.get(subject)
        if known is None:
            if len(self._subjects) >= MAX_SUBJECTS:
                now = time.monotonic()
                self._subjects = {
                    name: one for name, one in self._subjects.items() if one.ends > now or one.asking is not None
                }
            known = self._subjects[subject] = _Subject()
        return known


def of_provider(key: str) -> str:
    """The subject of an SMTP provider by its key."""
    tenant_id, _, provider_id = key.partition("/")
    return f"tenants/{tenant_id}/smtpProviders/{provider_id}"


def of_source(source_id: str) -> str:
    """The subject of a source."""
    return f"sources/{source_id}"


def _unknown() -> Refusal:
    text = "the sending limit could not be checked now; try again"
    return Refusal(Reason.UNAVAILABLE, text, retry_after=REFUSED_SECONDS)
