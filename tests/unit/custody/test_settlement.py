"""The way out: what is on file after each outcome, who is told, and when it is tried again."""

import asyncio
import time
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from mta.message.outcome import Outcome, OutcomeKind, SaidBy, Stage
from mta.queues.jobs import Job
from mta.spool.records import EventKind, MessageFlag
from tests.unit.custody.parts import HOSTNAME, MESSAGE, SCHEDULE, Parts, open_parts
from tests.unit.spool.rows import counts, full_disk, rows, settled


def outcome(kind: OutcomeKind, code: int = 250, text: str = "words", enhanced: str | None = None) -> Outcome:
    """What a server said."""
    return Outcome(kind, code, enhanced or f"{code // 100}.0.0", text, SaidBy.REMOTE, Stage.MESSAGE, "mx.example.net")


DELIVERED = outcome(OutcomeKind.DELIVERED)
DEFERRED = outcome(OutcomeKind.DEFERRED, 451)
BOUNCED = outcome(OutcomeKind.BOUNCED, 550, "no such user", "5.1.1")


async def job_of(parts: Parts, *recipients: str, content: bytes = MESSAGE) -> Job:
    """An accepted message as delivery gets it."""
    await parts.accepted(parts.submission(content, *(recipients or ("x@example.net",))))
    return parts.delivery.jobs[-1]


async def settle(parts: Parts, job: Job, *outcomes: Outcome) -> None:
    """Settle a job and wait until that is durable."""
    parts.settlement.settle(job, list(zip(job.recipients, outcomes, strict=True)))
    await parts.settlement._tasks.wait(5)
    await settled(parts.store)


def events(parts: Parts) -> list[tuple[object, ...]]:
    """What control will hear, after the receipt."""
    query = "SELECT kind, recipient_id, attempt, code, enhanced, text, remote_host, next_ms FROM outbox WHERE kind > 1"
    return rows(parts.path, query + " ORDER BY sequence")


async def bounce(parts: Parts) -> Message:
    """The only bounce message."""
    ((message_id,),) = rows(parts.path, "SELECT message_id FROM message WHERE sender = ''")
    content = await parts.store.content(int(str(message_id)))
    assert content is not None
    return message_from_bytes(content)


async def test_a_delivered_message_leaves_the_spool(parts: Parts) -> None:
    job = await job_of(parts)
    await settle(parts, job, DELIVERED)
    assert counts(parts.path) == {"message": 0, "recipient": 0, "outbox": 2, "lease": 1}
    id_ = job.recipients[0].recipient_id
    assert events(parts) == [(EventKind.DELIVERED, id_, 1, 250, "2.0.0", "words", "mx.example.net", 0)]


async def test_a_recipient_is_free_for_the_queue_once_that_is_durable(parts: Parts) -> None:
    job = await job_of(parts)
    parts.settlement.settle(job, [(job.recipients[0], DELIVERED)])
    assert parts.queue.active == 1
    await settled(parts.store)
    assert parts.queue.active == 0


async def test_each_recipient_goes_its_own_way(parts: Parts) -> None:
    job = await job_of(parts, "a@example.net", "b@example.net", "c@example.net")
    await settle(parts, job, DELIVERED, DEFERRED, BOUNCED)
    a, b, c = (recipient.recipient_id for recipient in job.recipients)
    assert rows(
        parts.path,
        "SELECT recipient_id, attempts, parked, reason FROM recipient WHERE message_id = ?1".replace("?1", str(a)),
    ) == [(b, 1, 1, "451 4.0.0 words")]
    assert [(row[0], row[1]) for row in events(parts)] == [
        (EventKind.DELIVERED, a),
        (EventKind.DEFERRED, b),
        (EventKind.BOUNCED, c),
    ]
    report = await bounce(parts)
    assert report["To"] == "<bounces@acme.test>"
    text = report.as_string()
    assert "c@example.net" in text
    assert "a@example.net" not in text.replace("From: a@", "")
    assert "b@example.net" not in text


@pytest.mark.parametrize("attempts", [0, 1, 2, 3, 7])
async def test_a_deferred_recipient_waits_as_the_schedule_says(parts: Parts, attempts: int) -> None:
    job = await job_of(parts)
    job.recipients[:] = [recipient._replace(attempts=attempts) for recipient in job.recipients]
    before = time.time() * 1000
    await settle(parts, job, DEFERRED)
    ((due_ms, count),) = rows(parts.path, "SELECT due_ms, attempts FROM recipient")
    low, high = (SCHEDULE.pause_ms(attempts + 1, chance) for chance in (0.0, 1.0))
    assert before + low - 1 <= int(str(due_ms)) <= time.time() * 1000 + high
    assert count == attempts + 1
    assert events(parts)[0][7] == due_ms


@pytest.mark.parametrize(
    ("age_ms", "attempts", "expired"), [(60_000, 1, True), (60_000, 0, False), (50_000, 9, False), (-10_000, 9, False)]
)
async def test_it_is_given_up_by_age_and_attempts(parts: Parts, age_ms: int, attempts: int, expired: bool) -> None:
    job = await job_of(parts)
    job.received_ms = int(time.time() * 1000) - age_ms
    job.recipients[:] = [recipient._replace(attempts=attempts) for recipient in job.recipients]
    await settle(parts, job, DEFERRED)
    assert events(parts)[0][0] == (EventKind.EXPIRED if expired else EventKind.DEFERRED)
    if expired:
        report = await bounce(parts)
        assert "Status: 5.0.0" in report.as_string()


async def test_after_a_jump_of_the_clock_nothing_is_given_up(parts: Parts) -> None:
    job = await job_of(parts)
    job.received_ms = int(time.time() * 1000) - 10 * SCHEDULE.lifetime_ms
    job.recipients[:] = [recipient._replace(attempts=5) for recipient in job.recipients]
    parts.settlement._clock_offset -= 864_000  # as if the clock had been set ten days ahead since
    await settle(parts, job, DEFERRED)
    assert events(parts)[0][0] == EventKind.DEFERRED


async def test_a_bounce_message_is_a_message_in_the_spool(parts: Parts) -> None:
    job = await job_of(parts)
    await settle(parts, job, BOUNCED)
    ((id_, sender, tenant, flags),) = rows(parts.path, "SELECT message_id, sender, tenant, flags FROM message")
    assert (sender, tenant, int(str(flags)) & MessageFlag.BOUNCE) == ("", "acme", MessageFlag.BOUNCE)
    assert rows(parts.path, "SELECT message_id, address, parked, attempts FROM recipient") == [
        (id_, "bounces@acme.test", 1, 0)
    ]
    query = "SELECT kind, recipient_id, sender, recipient, source, credits, lease_id FROM outbox ORDER BY sequence DESC"
    assert rows(parts.path, query)[0] == (EventKind.RECEIVED, id_, "", "bounces@acme.test", "bounce", 0, 0)
    report = await bounce(parts)
    assert report.get_content_type() == "multipart/report"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["From"] == f"Mail Delivery System <MAILER-DAEMON@{HOSTNAME}>"
    assert f"The id of your message is {job.message_id}" in report.as_string()
    assert "Subject: Hello" in report.as_string()
    assert "A line." not in report.as_string()


async def test_a_bounce_message_is_found_by_the_queue(parts: Parts) -> None:
    job = await job_of(parts)
    await settle(parts, job, BOUNCED)
    async with asyncio.timeout(60):
        while len(parts.delivery.jobs) < 2:  # noqa: ASYNC110 (the queue manager looks from time to time)
            await asyncio.sleep(0.02)
    notice = parts.delivery.jobs[1]
    assert (notice.sender, notice.recipients[0].address) == ("", "bounces@acme.test")
    assert notice.flags & MessageFlag.BOUNCE


@pytest.mark.parametrize("kind", [BOUNCED, DEFERRED])
async def test_nobody_is_told_of_a_bounce_that_bounces(parts: Parts, kind: Outcome) -> None:
    first = await job_of(parts)
    await settle(parts, first, BOUNCED)
    async with asyncio.timeout(60):
        while len(parts.delivery.jobs) < 2:  # noqa: ASYNC110 (the queue manager looks from time to time)
            await asyncio.sleep(0.02)
    notice = parts.delivery.jobs[1]
    notice.received_ms = 0
    notice.recipients[:] = [recipient._replace(attempts=9) for recipient in notice.recipients]
    await settle(parts, notice, kind)
    assert counts(parts.path)["message"] == 0


async def test_nobody_is_told_when_the_sender_is_null(parts: Parts) -> None:
    await parts.accepted(parts.submission(sender=None))
    await settle(parts, parts.delivery.jobs[0], BOUNCED)
    assert counts(parts.path)["message"] == 0


async def test_the_header_is_read_again_for_a_bounce(parts: Parts) -> None:
    job = await job_of(parts)
    job.content = None
    await settle(parts, job, BOUNCED)
    assert "Subject: Hello" in (await bounce(parts)).as_string()


async def test_an_unreadable_original_is_no_reason_not_to_tell(parts: Parts) -> None:
    job = await job_of(parts)
    job.content = None
    job.message_id += 1  # there is no such message
    await settle(parts, job, BOUNCED)
    assert "no such user" in (await bounce(parts)).as_string()


@pytest.mark.parametrize("content", [b"no header at all", b"From: a@acme.test\r\nMessage-ID: \xff\r\n\r\n"])
async def test_an_odd_original_is_no_trouble(parts: Parts, content: bytes) -> None:
    job = await job_of(parts)
    job.content = content
    await settle(parts, job, BOUNCED)
    assert (await bounce(parts))["Subject"] == "Undelivered mail returned to sender"


async def test_a_sender_that_cannot_be_written_to_is_no_trouble(parts: Parts) -> None:
    job = await job_of(parts)
    job.sender = "nonsense"
    await settle(parts, job, BOUNCED)
    assert counts(parts.path)["message"] == 0
    assert events(parts)[0][0] == EventKind.BOUNCED


async def test_hostile_words_end_no_field(parts: Parts) -> None:
    job = await job_of(parts)
    words = "no\r\nBcc: victim@example.net\r\n\r\n--x " + "y" * 5000
    await settle(parts, job, outcome(OutcomeKind.BOUNCED, 550, words))
    report = await bounce(parts)
    assert report["Bcc"] is None
    ((text,),) = rows(parts.path, "SELECT text FROM outbox WHERE kind = 4")
    assert len(str(text)) <= 1000


async def test_outcomes_survive_a_full_disk(parts: Parts) -> None:
    first = await job_of(parts)
    second = await job_of(parts)
    with full_disk():
        parts.settlement.settle(first, [(first.recipients[0], DELIVERED)])
        parts.settlement.settle(second, [(second.recipients[0], BOUNCED)])
        async with asyncio.timeout(60):
            while parts.store.healthy:  # noqa: ASYNC110 (it has no event of its own)
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert parts.queue.active == 2
    await settled(parts.store)
    assert [row[0] for row in events(parts)] == [EventKind.DELIVERED, EventKind.BOUNCED]
    assert rows(parts.path, "SELECT count(*) FROM message") == [(1,)]


async def test_what_is_not_settled_is_tried_by_the_next_run(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        job = await job_of(parts, "a@example.net", "b@example.net")
        parts.settlement.settle(job, [(job.recipients[0], DELIVERED)])
    async with open_parts(tmp_path) as parts:
        async with asyncio.timeout(60):
            while not parts.delivery.jobs:  # noqa: ASYNC110 (the queue manager looks from time to time)
                await asyncio.sleep(0.02)
        assert parts.delivery.recipient_ids == [job.recipients[1].recipient_id]
        assert parts.delivery.jobs[0].content is None


async def test_closing_finishes_what_reads_its_message(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        job = await job_of(parts)
        job.content = None
        parts.settlement.settle(job, [(job.recipients[0], BOUNCED)])
    assert rows(parts.path, "SELECT kind FROM outbox ORDER BY sequence") == [(1,), (4,), (1,)]
