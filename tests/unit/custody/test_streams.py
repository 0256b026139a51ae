"""The stream of a message: where it is named, what it holds back, and where it is kept."""

import pytest

from mta.policy.records import Suppression
from mta.runtime.refusals import Reason
from tests.unit.custody.parts import MESSAGE, Parts
from tests.unit.spool.rows import rows

FIELD = b"X-Barua-Stream: News\r\n"


async def test_it_is_kept_with_the_message_and_told_to_the_journal(parts: Parts) -> None:
    accepted = await parts.accepted(parts.submission(FIELD + MESSAGE))
    assert rows(parts.path, "SELECT stream FROM message") == [("news",)]
    assert rows(parts.path, "SELECT stream FROM outbox") == [("news",)]
    assert [job.stream for job in parts.delivery.jobs] == ["news"]
    content = await parts.store.content(accepted.receipt.message_id)
    assert content is not None
    assert b"X-Barua" not in content


async def test_what_the_call_names_goes_before_what_the_content_names(parts: Parts) -> None:
    await parts.accepted(parts.submission(FIELD + MESSAGE, stream="receipts"))
    await parts.accepted()
    assert rows(parts.path, "SELECT stream FROM message ORDER BY message_id") == [("receipts",), ("",)]


async def test_its_suppressions_hold_for_it_alone(parts: Parts) -> None:
    parts.change_policy(Suppression("acme", "x@example.net", "unsubscribe", "news"))
    refusal = await parts.refused(parts.submission(FIELD + MESSAGE, "y@example.net", "x@example.net"))
    assert refusal.reason is Reason.RECIPIENT_SUPPRESSED
    assert "x@example.net" in refusal.message
    assert refusal.metadata["stream"] == "news"
    await parts.accepted(parts.submission(MESSAGE, "x@example.net"))
    await parts.accepted(parts.submission(MESSAGE, "x@example.net", stream="receipts"))


@pytest.mark.parametrize("field", [b"X-Barua-Stream: a b\r\n", FIELD + b"X-Barua-Stream: receipts\r\n"])
async def test_a_stream_that_cannot_be_is_bad_content(parts: Parts, field: bytes) -> None:
    refusal = await parts.refused(parts.submission(field + MESSAGE))
    assert (refusal.reason, refusal.field) == (Reason.BAD_CONTENT, "stream")


async def test_the_same_stream_twice_and_an_empty_one_are_fine(parts: Parts) -> None:
    await parts.accepted(parts.submission(FIELD + FIELD.lower() + MESSAGE))
    await parts.accepted(parts.submission(b"X-Barua-Stream:\r\n" + MESSAGE))
    assert rows(parts.path, "SELECT stream FROM message ORDER BY message_id") == [("news",), ("",)]
