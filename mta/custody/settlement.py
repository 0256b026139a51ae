"""The single way out: records what became of each recipient of a job, and decides what is next.

Outcome, next attempt or removal, the events for control and the bounce message that an outcome causes are rows of one
change, so they are durable together or not at all. An outcome is a fact: its change has no waiter and is retried until
it is stored.
"""

import random
import time
from collections.abc import Callable, Sequence

from prometheus_client import Counter

from mta.custody.bounce import BounceMaker
from mta.message.outcome import Outcome, OutcomeKind
from mta.queues.jobs import Job, JobRecipient
from mta.queues.retry import RetrySchedule
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.spool.records import Change, EventKind, OutboxRow, Store

log = get_logger(__name__)

CLOSE_SECONDS = 5.0
"""Settling that still reads a message when the worker stops may take this long."""
JUMP_SECONDS = 60.0
"""A clock that moves so far against the monotonic one has jumped."""
MAX_TEXT = 1000
"""Characters of a remote server's words that are kept."""

OUTCOMES = Counter("barua_outcomes_total", "Outcomes of delivery attempts, one per recipient.", ["kind"])

_KINDS = {
    OutcomeKind.DELIVERED: EventKind.DELIVERED,
    OutcomeKind.DEFERRED: EventKind.DEFERRED,
    OutcomeKind.BOUNCED: EventKind.BOUNCED,
}
_COUNTED = {kind: OUTCOMES.labels(kind.name.lower()) for kind in EventKind}
_GIVEN_UP = frozenset({EventKind.BOUNCED, EventKind.EXPIRED})


class Settlement:
    """Settles the jobs of one worker."""

    def __init__(
        self, store: Store, schedule: RetrySchedule, bounces: BounceMaker, release: Callable[[int], None]
    ) -> None:
        self._store = store
        self._schedule = schedule
        self._bounces = bounces
        self._release = release
        self._tasks = Tasks()
        self._clock_offset = time.time() - time.monotonic()
        self._keep_until = 0.0

    async def close(self) -> None:
        """Finish what is being settled, then stop."""
        await self._tasks.wait(CLOSE_SECONDS)
        await self._tasks.close()

    def settle(self, job: Job, outcomes: Sequence[tuple[JobRecipient, Outcome]]) -> None:
        """Record the outcomes of an attempt at the given recipients of a job."""
        now_ms = time.time_ns() // 1_000_000
        self._watch_clock()
        kinds = [self._decide(job, recipient, outcome, now_ms) for recipient, outcome in outcomes]
        gives_up = any(kind in _GIVEN_UP for kind in kinds)
        if gives_up and job.content is None and self._bounces.owed(job):
            self._tasks.start(self._settle_with_content(job, outcomes, kinds), "settle-with-content")
        else:
            self._record(job, outcomes, kinds)

    def postpone(self, job: Job, seconds: float, why: str) -> bool:
        """Have a job wait in the spool: no attempt was made. False if it is too old for that, and is to be settled."""
        now_ms = time.time_ns() // 1_000_000
        due_ms = now_ms + max(1, round(seconds * 1000))
        if now_ms - job.received_ms >= self._schedule.lifetime_ms:
            return False
        change = Change(on_stored=lambda: self._release_job(job))
        for recipient in job.recipients:
            change.parked.append((recipient.attempts, due_ms, why[:MAX_TEXT], recipient.recipient_id))
        self._store.write(change)
        log.info(
            "delivery_postponed",
            id=job.message_id,
            tenant=job.tenant,
            domain=job.domain,
            recipients=len(job.recipients),
            seconds=round(seconds),
            reason=why,
        )
        return True

    def _decide(self, job: Job, recipient: JobRecipient, outcome: Outcome, now_ms: int) -> EventKind:
        kind = _KINDS[outcome.kind]
        if kind is not EventKind.DEFERRED or time.monotonic() < self._keep_until:
            return kind
        given_up = self._schedule.given_up(recipient.attempts + 1, now_ms - job.received_ms)
        return EventKind.EXPIRED if given_up else kind

    def _watch_clock(self) -> None:
        """After the clock has jumped, nothing is given up for the length of a pause: every age may be wrong."""
        offset = time.time() - time.monotonic()
        if abs(offset - self._clock_offset) > JUMP_SECONDS:
            log.warning("clock_jumped", seconds=round(offset - self._clock_offset))
            self._keep_until = time.monotonic() + self._schedule.max_ms / 1000
        self._clock_offset = offset

    async def _settle_with_content(
        self, job: Job, outcomes: Sequence[tuple[JobRecipient, Outcome]], kinds: Sequence[EventKind]
    ) -> None:
        """The bounce message repeats the header, and the content is not at hand."""
        try:
            job.content = await self._store.content(job.message_id)
        except Exception as error:  # whatever it is: the outcome has to be recorded
            log.error("content_unreadable", id=job.message_id, error=str(error))
        self._record(job, outcomes, kinds)

    def _record(self, job: Job, outcomes: Sequence[tuple[JobRecipient, Outcome]], kinds: Sequence[EventKind]) -> None:
        now_ms = time.time_ns() // 1_000_000
        # Released when it is durable: until then the queue would find on file that they are still to be tried.
        change = Change(on_stored=lambda: self._release_all(outcomes))
        failed: list[tuple[JobRecipient, Outcome]] = []
        for (recipient, outcome), kind in zip(outcomes, kinds, strict=True):
            attempt, next_ms = recipient.attempts + 1, 0
            if kind is EventKind.DEFERRED:
                next_ms = now_ms + self._schedule.pause_ms(attempt, random.random())  # noqa: S311 (jitter, no secret)
                change.parked.append((attempt, next_ms, _words(outcome), recipient.recipient_id))
            else:
                change.done_recipients.append((recipient.recipient_id,))
            if kind in _GIVEN_UP:
                failed.append((recipient, outcome))
            change.outbox.append(self._event(job, recipient, outcome, kind, next_ms, now_ms))
            _COUNTED[kind].inc()
            _log_outcome(job, recipient, outcome, kind)
        if change.done_recipients:
            change.done_messages.append((job.message_id,))
        if failed and self._bounces.owed(job):
            try:
                self._bounces.add(change, job, failed, now_ms)
            except Exception:  # a mistake of ours must not cost the record of what was delivered
                log.exception("bounce_broke", id=job.message_id)
        self._store.write(change)

    def _release_job(self, job: Job) -> None:
        for recipient in job.recipients:
            self._release(recipient.recipient_id)

    def _release_all(self, outcomes: Sequence[tuple[JobRecipient, Outcome]]) -> None:
        for recipient, _ in outcomes:
            self._release(recipient.recipient_id)

    def _event(
        self, job: Job, recipient: JobRecipient, outcome: Outcome, kind: EventKind, next_ms: int, now_ms: int
    ) -> OutboxRow:
        return OutboxRow(
            self._store.next_sequence(),
            kind,
            now_ms,
            job.tenant,
            recipient.recipient_id,
            job.message_id,
            attempt=recipient.attempts + 1,
            code=outcome.code or 0,
            enhanced=outcome.enhanced,
            text=outcome.text[:MAX_TEXT],
            remote_host=outcome.remote_host,
            next_ms=next_ms,
            provider=job.via or None,
            egress_source=job.source or None,
        )


def _words(outcome: Outcome) -> str:
    """What was said, with its codes, for people."""
    code = "" if outcome.code is None else f"{outcome.code} "
    return f"{code}{outcome.enhanced} {outcome.text}"[:MAX_TEXT]


def _log_outcome(job: Job, recipient: JobRecipient, outcome: Outcome, kind: EventKind) -> None:
    log.info(
        "attempt_settled",
        outcome=kind.name.lower(),
        id=recipient.recipient_id,
        message=job.message_id,
        tenant=job.tenant,
        recipient=recipient.address,
        attempt=recipient.attempts + 1,
        host=outcome.remote_host,
        reply=_words(outcome),
        stage=outcome.stage.value,
    )
