"""Messages that are taken together: what does not suffice for all of them is used for none."""

import asyncio

import pytest

from mta.runtime.refusals import Reason, Refusal
from tests.unit.rpc.service import OPERATOR, Worker
from tests.unit.rpc.test_submissions import id_of, reason_of, submission, until
from tests.unit.spool.rows import counts, rows


async def test_credits_that_do_not_suffice_for_all_are_spent_on_none(worker: Worker) -> None:
    worker.parts.bank.credits = 3
    batch = [submission(f"r{number}@example.net") for number in range(5)]
    found = await worker.submit_all(*batch, submission("gone@example.net"), together=True)
    assert [reason_of(one) for one in found[:5]] == [Reason.INSUFFICIENT_CREDITS] * 5
    assert reason_of(found[5]) is Reason.RECIPIENT_SUPPRESSED
    assert counts(worker.parts.path).get("message", 0) == 0
    assert worker.parts.delivery.recipient_ids == []
    fewer = await worker.submit_all(*batch[:3], together=True)
    assert all(id_of(one) for one in fewer)
    assert rows(worker.parts.path, "SELECT sum(used) FROM lease") == [(3,)]


@pytest.mark.parametrize("key", ["", "k"])
async def test_what_cannot_be_taken_anyway_stands_in_nobodys_way(worker: Worker, key: str) -> None:
    found = await worker.submit_all(
        submission("x@example.net"),
        submission("gone@example.net"),
        together=True,
        idempotency_key=key,
    )
    assert id_of(found[0])
    assert reason_of(found[1]) is Reason.RECIPIENT_SUPPRESSED


async def test_a_key_may_be_used_again_when_nothing_was_taken(worker: Worker) -> None:
    worker.parts.bank.credits = 1
    batch = [submission("x@example.net"), submission("y@example.net")]
    found = await worker.submit_all(*batch, together=True, idempotency_key="k")
    assert all(isinstance(one, Refusal) for one in found)
    [less] = await worker.submit_all(batch[0], together=True, idempotency_key="k")
    assert id_of(less)


async def test_a_whole_message_goes_to_its_first_recipient_or_to_nobody(worker: Worker) -> None:
    found = await worker.submit_all(
        submission("gone@example.net", "x@example.net", whole=True),
        submission("x@example.net", "gone@example.net", whole=True, record_suppressed=True),
        submission("x@example.net", "a@[127.0.0.1]", whole=True),
        submission("x@example.net", "a@[127.0.0.1]"),
    )
    assert reason_of(found[0]) is Reason.RECIPIENT_SUPPRESSED
    assert id_of(found[1])
    assert reason_of(found[2]) is Reason.INVALID_ARGUMENT
    assert id_of(found[3])
    assert counts(worker.parts.path)["recipient"] == 2


async def test_the_answer_tells_the_sender(worker: Worker) -> None:
    [given] = await worker.submit_all(submission(sender="news@acme.test"))
    assert not isinstance(given, Refusal)
    assert given.sender == "news@acme.test"


async def test_nobody_waits_for_the_credits_of_another_before_asking_for_their_own(worker: Worker) -> None:
    content = b"Subject: x\r\n\r\nbody\r\n"
    mine, theirs = (
        submission(tenant_id=tenant, sender=f"a@{tenant}.test", content=content) for tenant in ("acme", "rival")
    )
    worker.parts.bank.open.clear()
    call = asyncio.create_task(worker.submit_all(mine, theirs, metadata=OPERATOR))
    await until(lambda: {tenant for tenant, *_ in worker.parts.bank.calls} == {"acme", "rival"})
    worker.parts.bank.open.set()
    assert all(id_of(one) for one in await call)
