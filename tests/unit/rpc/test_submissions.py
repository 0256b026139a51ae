"""Many messages with one call, and messages that are sent once: the worker's side."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import code_pb2

from barua.mta.v1 import injection_service_pb2 as pb

from mta.custody import answers
from mta.custody.credits import REFUSED_SECONDS
from mta.custody.submission import Submission
from mta.policy.records import ApiKey, OAuthClient, Suppression
from mta.rpc import injection
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import refusal_in, refusal_of
from mta.spool.records import EventKind
from tests.unit.custody.parts import MESSAGE
from tests.unit.rpc.service import KEY, OPERATOR, TOKEN_KEY, Worker, serving
from tests.unit.spool.rows import counts, full_disk, rows

PRINT = bytes(32)


def submission(*recipients: str, key: str = "", fingerprint: bytes = PRINT, **fields: Any) -> pb.Submission:
    values = {"sender": "news@acme.test", "content": MESSAGE, "recipients": recipients or ["x@example.net"]} | fields
    return pb.Submission(
        message=pb.SubmitMessageRequest(**values), idempotency_key=key, fingerprint=fingerprint if key else b""
    )


def id_of(result: object) -> int:
    assert isinstance(result, pb.SubmitMessageResponse), result
    return result.message_id


def reason_of(result: object) -> Reason:
    assert isinstance(result, Refusal), result
    return result.reason


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)


async def failure(worker: Worker, *submissions: pb.Submission, **fields: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.submit_all(*submissions, **fields)
    return refusal_of(caught.value)


async def test_each_message_has_its_own_answer(worker: Worker) -> None:
    found = await worker.submit_all(
        submission("x@example.net", "y@example.net"),
        submission("gone@example.net"),
        submission("z@example.net", content=b"no header\rat all"),
        submission("z@example.net", content=MESSAGE),
        submission("z@example.net", sender="a@rival.test"),
        submission("z@example.net", validate_only=True),
    )
    assert [reason_of(found[place]) for place in (1, 2, 4)] == [
        Reason.RECIPIENT_SUPPRESSED,
        Reason.BAD_CONTENT,
        Reason.SENDER_NOT_ALLOWED,
    ]
    assert 0 < id_of(found[0]) < id_of(found[3])
    assert id_of(found[5]) == 0
    assert counts(worker.parts.path) == {"message": 2, "recipient": 3, "outbox": 3, "lease": 1}
    assert len(worker.parts.delivery.recipient_ids) == 3


async def test_many_are_one_commit(worker: Worker) -> None:
    """They are one change, so they are all there after a crash, or none is."""
    before = worker.parts.store.last_sequence
    found = await worker.submit_all(*[submission(f"r{number}@example.net") for number in range(200)])
    assert len({id_of(one) for one in found}) == 200
    assert worker.parts.store.last_sequence == before + 200
    times = rows(worker.parts.path, "SELECT used FROM lease")
    assert times == [(200,)]


async def test_credits_for_some_only(worker: Worker) -> None:
    worker.parts.bank.credits = 3
    found = await worker.submit_all(*[submission(f"r{number}@example.net") for number in range(5)])
    assert [isinstance(one, Refusal) for one in found] == [False, False, False, True, True]
    assert {reason_of(one) for one in found[3:]} == {Reason.INSUFFICIENT_CREDITS}
    assert rows(worker.parts.path, "SELECT amount, used FROM lease") == [(3, 3)]


async def test_a_spool_that_fails_refuses_all_of_them(worker: Worker) -> None:
    await worker.submit()
    with full_disk():
        found = await worker.submit_all(
            submission(content=MESSAGE + b"x" * 100_000 + b"\r\n"), submission(key="k"), submission("gone@example.net")
        )
    assert [reason_of(one) for one in found] == [Reason.NOT_STORED, Reason.NOT_STORED, Reason.RECIPIENT_SUPPRESSED]
    await until(lambda: worker.parts.store.healthy)
    [again] = await worker.submit_all(submission(key="k"))
    assert id_of(again)
    assert counts(worker.parts.path)["message"] == 2
    assert rows(worker.parts.path, "SELECT sum(used) FROM lease") == [(2,)]


async def test_a_message_that_breaks_us_is_the_end_of_no_other(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Submission.__init__

    def broken(self: Submission, **fields: Any) -> None:
        if "broken" in fields["sender_name"]:
            raise ZeroDivisionError
        answer(self, **fields)

    monkeypatch.setattr(Submission, "__init__", broken)
    found = await worker.submit_all(
        submission(), submission(from_display_name="broken", key="k"), submission("y@example.net", key="l")
    )
    assert [isinstance(one, Refusal) for one in found] == [False, True, False]
    assert reason_of(found[1]) is Reason.INTERNAL


async def test_credentials_of_their_own(worker: Worker) -> None:
    worker.parts.change_policy(OAuthClient("client", "acme", ("mail",), 1))
    token = TOKEN_KEY.issue("client", 1, ["mail"], time.time())
    mine, none, wrong, operators = submission(), submission(), submission(), submission(tenant_id="acme")
    mine.authorization, wrong.authorization = f"Bearer {token}", "Bearer bk_wrong"
    operators.authorization = OPERATOR[0][1]
    found = await worker.submit_all(mine, none, wrong, operators)
    assert [isinstance(one, Refusal) for one in found] == [False, False, True, False]
    assert reason_of(found[2]) is Reason.UNAUTHENTICATED
    found = await worker.submit_all(mine, none, metadata=())
    assert id_of(found[0])
    assert reason_of(found[1]) is Reason.UNAUTHENTICATED


async def test_networks_count_for_each(worker: Worker) -> None:
    key = worker.parts.policy.api_key("abcdefabcdef")
    assert key is not None
    worker.parts.change_policy(ApiKey(key.key_id, "acme", key.secret_sha256, ("mail",), ("192.0.2.0/24",)))
    here, there = submission(), submission()
    here.peer, there.peer = "192.0.2.7", "198.51.100.7"
    found = await worker.submit_all(here, there)
    assert id_of(found[0])
    assert reason_of(found[1]) is Reason.PERMISSION_DENIED


async def test_a_call_that_is_wrong_as_a_whole(worker: Worker) -> None:
    assert (await failure(worker)).field == "submissions"
    assert (await failure(worker, *[submission()] * 1001)).field == "submissions"
    many = [f"r{number}@example.net" for number in range(injection.MAX_RECIPIENTS)]
    assert (await failure(worker, submission(*many), submission())).field == "submissions"
    assert (await failure(worker, submission(), metadata=())).reason is Reason.UNAUTHENTICATED
    own = submission(key="k")
    assert (await failure(worker, own, idempotency_key="all")).field == "submissions[0]"
    assert (await failure(worker, submission(), idempotency_key="k" * 201)).field == "idempotency_key"
    assert (await failure(worker, submission(), idempotency_key="k", fingerprint=b"x")).field == "fingerprint"
    assert (await failure(worker, submission(), metadata=OPERATOR, idempotency_key="k")).field == "submissions"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tags": ["t"] * 3 + [f"t{number}" for number in range(20)]}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": ["a\nb"]}, "tags"),
        ({"tags": ["t" * 129]}, "tags"),
        ({"properties": "[]"}, "properties"),
        ({"properties": "{"}, "properties"),
        ({"properties": '{"a": 1e999}'}, "properties"),
        ({"properties": '{"a": "\\u0000"}'}, "properties"),
        ({"properties": '{"a": "\\ud800"}'}, "properties"),
        ({"properties": '{"a":' * 9_000}, "properties"),
        ({"properties": '{"a":' + "[" * 64 + "]" * 64 + "}"}, "properties"),
        ({"properties": '{"a": "%s"}' % ("x" * 32_768)}, "properties"),
        ({"reference": b"short"}, "reference"),
    ],
)
async def test_bad_fields(worker: Worker, fields: dict[str, Any], field: str) -> None:
    [refusal] = await worker.submit_all(submission(**fields))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field) == (Reason.INVALID_ARGUMENT, field)


async def test_what_is_told_of_a_message(worker: Worker) -> None:
    fields: dict[str, Any] = {
        "tags": ["news", "März", "news"],
        "properties": '{"a": "\\\\u0000"}',
        "reference": b"r" * 16,
    }
    await worker.submit_all(submission("x@example.net", "y@example.net", **fields))
    found = rows(worker.parts.path, "SELECT tags, properties, reference FROM outbox")
    assert found == [(json.dumps(["news", "März"], ensure_ascii=False), '{"a": "\\\\u0000"}', b"r" * 16)] * 2


async def test_suppressed_recipients_may_be_recorded(worker: Worker) -> None:
    [found] = await worker.submit_all(submission("gone@example.net", "x@example.net", "nobody", record_suppressed=True))
    assert isinstance(found, pb.SubmitMessageResponse)
    ids = {result.recipient: result.recipient_id for result in found.results}
    assert found.message_id == ids["x@example.net"] < ids["gone@example.net"]
    assert ids["nobody"] == 0
    assert refusal_in(found.results[0].status).reason is Reason.RECIPIENT_SUPPRESSED
    told = rows(worker.parts.path, "SELECT kind, recipient_id, message_id, recipient, credits, lease_id FROM outbox")
    assert told == [
        (EventKind.RECEIVED, found.message_id, found.message_id, "x@example.net", 1, 1),
        (EventKind.DROPPED, ids["gone@example.net"], found.message_id, "gone@example.net", 0, 0),
    ]
    assert worker.parts.delivery.recipient_ids == [found.message_id]


async def test_nothing_but_suppressed_recipients(worker: Worker) -> None:
    [found] = await worker.submit_all(submission("gone@example.net", "law@example.net", record_suppressed=True))
    assert isinstance(found, pb.SubmitMessageResponse)
    assert [result.recipient_id for result in found.results] == [found.message_id, found.message_id + 1]
    assert counts(worker.parts.path) == {"message": 0, "recipient": 0, "outbox": 2, "lease": 0}
    texts = rows(worker.parts.path, "SELECT text, subject FROM outbox WHERE kind = 7")
    assert len(texts) == 2
    assert "suppression list" in str(texts[0][0])
    again = await worker.submit("gone@example.net", record_suppressed=True)
    assert again.results[0].status.code == code_pb2.FAILED_PRECONDITION
    assert again.message_id > found.message_id


# -- sent once ---------------------------------------------------------------------------------------------------------


async def test_a_key_is_answered_once(worker: Worker) -> None:
    [first] = await worker.submit_all(submission(key="k"))
    [again, other, free] = await worker.submit_all(submission(key="k"), submission(key="l"), submission())
    assert first == again
    assert len({id_of(first), id_of(other), id_of(free)}) == 3
    assert counts(worker.parts.path)["message"] == 3


async def test_a_key_is_answered_again_whatever_has_happened_since(worker: Worker) -> None:
    """A message that bounced at once has its recipient suppressed before a client that heard nothing asks again."""
    [first] = await worker.submit_all(submission(key="k"))
    worker.parts.change_policy(Suppression("acme", "x@example.net", "hard_bounce"))
    [again, new] = await worker.submit_all(submission(key="k"), submission(key="l"))
    assert first == again
    assert reason_of(new) is Reason.RECIPIENT_SUPPRESSED
    [other] = await worker.submit_all(submission(key="k", fingerprint=b"f" * 32))
    assert reason_of(other) is Reason.REQUEST_ID_REUSED


async def test_what_is_only_validated_uses_no_key(worker: Worker) -> None:
    [checked] = await worker.submit_all(submission(key="k", validate_only=True))
    assert id_of(checked) == 0
    [sent] = await worker.submit_all(submission(key="k", fingerprint=b"f" * 32))
    assert id_of(sent)


async def test_a_key_for_something_else_is_refused(worker: Worker) -> None:
    await worker.submit_all(submission(key="k"))
    [refusal] = await worker.submit_all(submission(key="k", fingerprint=b"f" * 32))
    assert reason_of(refusal) is Reason.REQUEST_ID_REUSED


async def test_keys_belong_to_a_tenant(worker: Worker) -> None:
    key = worker.parts.policy.api_key("abcdefabcdef")
    assert key is not None
    worker.parts.change_policy(ApiKey("rivalrivalri", "rival", key.secret_sha256, ("mail",)))
    secret = KEY[0][1].rpartition("_")[2]
    metadata = (("authorization", f"Bearer bk_rivalrivalri_{secret}"),)
    [first] = await worker.submit_all(submission(key="k"))
    theirs = submission(key="k", sender="a@rival.test", content=b"Subject: x\r\n\r\nbody\r\n")
    [second] = await worker.submit_all(theirs, metadata=metadata)
    assert id_of(first) != id_of(second)


async def test_the_same_key_at_the_same_time(worker: Worker) -> None:
    """In one call and in several: all hear of the same message, also where they wait for each other's keys."""
    worker.parts.bank.open.clear()
    calls = [
        asyncio.create_task(worker.submit_all(*[submission(key=key) for key in keys]))
        for keys in (["a", "b", "a"], ["b", "a"], ["c", "b"])
    ]
    await asyncio.sleep(0.05)
    worker.parts.bank.open.set()
    found = await asyncio.gather(*calls)
    a, b, c = id_of(found[0][0]), id_of(found[0][1]), id_of(found[2][0])
    assert [[id_of(one) for one in some] for some in found] == [[a, b, a], [b, a], [c, b]]
    assert counts(worker.parts.path)["message"] == 3


async def test_what_stored_nothing_is_tried_again(worker: Worker) -> None:
    worker.parts.bank.credits = 0
    [refusal] = await worker.submit_all(submission(key="k"))
    assert reason_of(refusal) is Reason.INSUFFICIENT_CREDITS
    worker.parts.bank.credits = 10
    await asyncio.sleep(REFUSED_SECONDS)
    [found] = await worker.submit_all(submission(key="k"))
    assert id_of(found)
    assert counts(worker.parts.path)["message"] == 1


async def test_a_whole_call_is_made_once(worker: Worker) -> None:
    several = [submission("x@example.net"), submission("gone@example.net"), submission("y@example.net")]
    first = await worker.submit_all(*several, idempotency_key="all", fingerprint=PRINT)
    again = await worker.submit_all(*several, idempotency_key="all", fingerprint=PRINT)
    assert [id_of(first[0]), id_of(first[2])] == [id_of(again[0]), id_of(again[2])]
    assert reason_of(again[1]) is Reason.RECIPIENT_SUPPRESSED
    assert counts(worker.parts.path)["message"] == 2
    other = await failure(worker, *several, idempotency_key="all", fingerprint=b"f" * 32)
    assert other.reason is Reason.REQUEST_ID_REUSED
    [single] = await worker.submit_all(submission(key="all"))
    assert reason_of(single) is Reason.REQUEST_ID_REUSED


async def test_a_caller_that_goes_away_leaves_an_answer(worker: Worker) -> None:
    worker.parts.bank.open.clear()
    call = asyncio.create_task(worker.submit_all(submission(key="k")))
    await until(lambda: bool(worker.parts.bank.calls))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    worker.parts.bank.open.set()
    [found] = await worker.submit_all(submission(key="k"))
    assert id_of(found)
    assert counts(worker.parts.path)["message"] == 1


async def test_the_answer_survives_a_restart(tmp_path: Path) -> None:
    with structlog.testing.capture_logs():
        async with serving(tmp_path) as worker:
            [first] = await worker.submit_all(submission(key="k"))
        async with serving(tmp_path) as worker:
            [again] = await worker.submit_all(submission(key="k"))
            assert id_of(first) == id_of(again)
            assert counts(worker.parts.path)["message"] == 1


async def test_keys_are_forgotten(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_MS", 1)
    await worker.submit_all(submission(key="k"))
    await asyncio.sleep(0.01)
    await worker.submit_all(submission(key="k", fingerprint=b"f" * 32))
    assert counts(worker.parts.path)["message"] == 2
    worker.parts.store.forget_answers(2**60)
    await worker.submit_all(submission())
    assert rows(worker.parts.path, "SELECT count(*) FROM answer") == [(0,)]


async def test_keys_are_bounded(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWERS", 1)
    await worker.submit_all(submission(key="k"))
    found = await worker.submit_all(submission(key="k"), submission(key="l"), submission())
    assert [isinstance(one, Refusal) for one in found] == [False, True, False]
    assert reason_of(found[1]) is Reason.RATE_LIMITED
