"""The way in: accepted means durable, refused means no trace, and what goes out is complete and signed."""

import asyncio
import base64
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client import REGISTRY

from mta.custody.submission import Accepted, Origin, Source
from mta.message.address import parse_path
from mta.message.ids import from_message_id
from mta.policy.records import KeyAlgorithm, SenderDomain
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import EventKind, MessageFlag
from tests.unit.custody.parts import MESSAGE, Bank, Parts, open_parts, private_key, signed_domain
from tests.unit.spool.rows import counts, full_disk, rows

INTERNATIONAL = MESSAGE.replace(b"Hello", "Grüße".encode())


async def test_an_accepted_message_is_on_file_when_the_answer_comes(parts: Parts) -> None:
    seen: list[dict[str, int]] = []
    done = asyncio.Event()

    def answered(answer: Accepted | Refusal) -> None:
        assert isinstance(answer, Accepted)
        seen.append(counts(parts.path))
        done.set()

    parts.intake.submit(parts.submission(MESSAGE, "x@example.net", "y@example.net"), answered)
    assert not done.is_set()
    await asyncio.wait_for(done.wait(), 60)
    assert seen == [{"message": 1, "recipient": 2, "outbox": 2, "lease": 1}]


async def test_the_rows_say_what_was_accepted(parts: Parts) -> None:
    accepted = await parts.accepted(parts.submission(MESSAGE, "x@example.net", "y@example.org"))
    first, second = accepted.recipient_ids
    assert accepted.receipt.message_id == first < second
    assert rows(parts.path, "SELECT recipient_id, message_id, tenant, address, domain, attempts FROM recipient") == [
        (first, first, "acme", "x@example.net", "example.net", 0),
        (second, first, "acme", "y@example.org", "example.org", 0),
    ]
    query = "SELECT kind, tenant, recipient_id, message_id, sender, recipient, subject, source, credits FROM outbox"
    assert rows(parts.path, query) == [
        (EventKind.RECEIVED, "acme", first, first, "bounces@acme.test", "x@example.net", "Hello", "smtp", 1),
        (EventKind.RECEIVED, "acme", second, first, "bounces@acme.test", "y@example.org", "Hello", "smtp", 1),
    ]
    assert rows(parts.path, "SELECT lease_id, used FROM lease") == [(1, 2)]


async def test_the_message_is_completed_and_its_body_left_alone(parts: Parts) -> None:
    accepted = await parts.accepted()
    content = await parts.store.content(accepted.receipt.message_id)
    assert content is not None
    message = message_from_bytes(content)
    assert message["Message-ID"] == accepted.message_id_header
    assert from_message_id(accepted.message_id_header)[0] == accepted.receipt.message_id
    assert message["Date"]
    received = " ".join(message["Received"].split())
    assert received.startswith("from client.test ([192.0.2.7]) by mta1.barua.test with ESMTPSA id ")
    assert "for <x@example.net>" in received
    assert content.endswith(b"\r\n\r\nA line.\r\n")


async def test_a_message_of_its_own_id_keeps_it(parts: Parts) -> None:
    content = b"Message-ID: <mine@acme.test>\r\nDate: Fri, 21 Nov 2025 22:19:00 +0000\r\n" + MESSAGE
    accepted = await parts.accepted(parts.submission(content))
    assert accepted.message_id_header == "<mine@acme.test>"


async def test_several_recipients_do_not_learn_of_each_other(parts: Parts) -> None:
    content = b"Bcc: z@example.net\r\n" + MESSAGE
    accepted = await parts.accepted(parts.submission(content, "x@example.net", "z@example.net"))
    stored = await parts.store.content(accepted.receipt.message_id)
    assert stored is not None
    assert b"z@example.net" not in stored


async def test_it_goes_straight_to_delivery(parts: Parts) -> None:
    accepted = await parts.accepted(parts.submission(MESSAGE, "x@example.net", "y@example.net", "z@example.org"))
    assert parts.delivery.recipient_ids == list(accepted.recipient_ids)
    assert {job.domain for job in parts.delivery.jobs} == {"example.net", "example.org"}
    assert all(job.content == parts.delivery.jobs[0].content for job in parts.delivery.jobs)
    assert rows(parts.path, "SELECT DISTINCT parked FROM recipient") == [(0,)]


async def test_without_room_it_waits_on_disk_and_is_read_later(parts: Parts) -> None:
    parts.delivery.active_bytes = 1 << 40
    accepted = await parts.accepted()
    assert not parts.delivery.jobs
    assert rows(parts.path, "SELECT parked FROM recipient") == [(1,)]
    async with asyncio.timeout(60):
        while not parts.delivery.jobs:  # noqa: ASYNC110 (the queue manager looks from time to time)
            await asyncio.sleep(0.02)
    assert parts.delivery.recipient_ids == list(accepted.recipient_ids)
    assert parts.delivery.jobs[0].content is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"From: a@rival.test\r\n\r\nx\r\n", Reason.SENDER_NOT_ALLOWED),
        (b"From: a@acme.test, b@rival.test\r\n\r\nx\r\n", Reason.SENDER_NOT_ALLOWED),
        (b"From: a@acme.test\r\nSender: b@rival.test\r\n\r\nx\r\n", Reason.SENDER_NOT_ALLOWED),
        (b"From: a@acme.test\r\nResent-From: b@rival.test\r\n\r\nx\r\n", Reason.SENDER_NOT_ALLOWED),
        (b"From: nobody\r\n\r\nx\r\n", Reason.BAD_CONTENT),
        (b"From: a@acme.test\r\nFrom: a@acme.test\r\n\r\nx\r\n", Reason.BAD_CONTENT),
        (b"From: a@acme.test\r\nBad line\r\n\r\nx\r\n", Reason.BAD_CONTENT),
        (b"Received: x\r\n" * 21 + MESSAGE, Reason.MAIL_LOOP),
        (MESSAGE + b"x" * 1_100_000 + b"\r\n", Reason.MESSAGE_TOO_LARGE),
    ],
)
async def test_what_is_not_right_is_refused_without_a_trace(parts: Parts, content: bytes, reason: Reason) -> None:
    refusal = await parts.refused(parts.submission(content))
    assert refusal.reason is reason
    assert counts(parts.path) == {"message": 0, "recipient": 0, "outbox": 0, "lease": 0}
    assert not parts.delivery.jobs
    assert not parts.bank.calls


async def test_twenty_hops_are_not_a_loop(parts: Parts) -> None:
    await parts.accepted(parts.submission(b"Received: x\r\n" * 20 + MESSAGE))


@pytest.mark.parametrize("body", [b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n"])
async def test_content_that_no_smtp_session_has_checked_is_checked(parts: Parts, body: bytes) -> None:
    origin = Origin(Source.GRPC, "gRPC", None, None)
    refusal = await parts.refused(parts.submission(b"From: a@acme.test\r\n\r\n" + body, origin=origin))
    assert refusal.reason is Reason.BAD_CONTENT


async def test_a_null_sender_needs_an_allowed_from_field(parts: Parts) -> None:
    await parts.accepted(parts.submission(sender=None))
    assert rows(parts.path, "SELECT sender FROM message") == [("",)]
    refusal = await parts.refused(parts.submission(b"Subject: x\r\n\r\nx\r\n", sender=None))
    assert refusal.reason is Reason.BAD_CONTENT


async def test_a_missing_from_field_is_made(parts: Parts) -> None:
    accepted = await parts.accepted(parts.submission(b"Subject: x\r\n\r\nx\r\n", sender_name="Bücher"))
    stored = await parts.store.content(accepted.receipt.message_id)
    assert stored is not None
    assert b"From: =?utf-8?b?QsO8Y2hlcg==?= <bounces@acme.test>\r\n" in stored


def _look_up(name: bytes, timeout: int = 5) -> bytes | None:
    selector = name.decode().partition(".")[0]
    if selector == "ed":
        public = private_key(KeyAlgorithm.ED25519_SHA256).public_key()
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        kind = "ed25519"
    else:
        public = private_key(KeyAlgorithm.RSA_SHA256).public_key()
        raw = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        kind = "rsa"
    return f"v=DKIM1; k={kind}; p={base64.b64encode(raw).decode()}".encode()


async def test_a_foreign_verifier_agrees_with_each_signature(parts: Parts) -> None:
    parts.change_policy(signed_domain("acme", "acme.test"))
    accepted = await parts.accepted()
    content = await parts.store.content(accepted.receipt.message_id)
    assert content is not None
    assert content.count(b"DKIM-Signature:") == 2
    for index in range(2):
        assert dkim.DKIM(content).verify(index, dnsfunc=_look_up)
    assert content in [job.content for job in parts.delivery.jobs]


async def test_the_domain_of_the_from_field_signs(parts: Parts) -> None:
    parts.change_policy(signed_domain("reseller", "reseller.test"))
    content = MESSAGE.replace(b"acme.test", b"reseller.test")
    accepted = await parts.accepted(parts.submission(content))
    stored = await parts.store.content(accepted.receipt.message_id)
    assert stored is not None
    assert stored.count(b"d=reseller.test") == 2


@pytest.mark.parametrize("wrong", ["sealing key", "no keys", "moved", "damaged"])
async def test_what_cannot_be_signed_is_refused_for_now_and_never_sent_unsigned(parts: Parts, wrong: str) -> None:
    domain = signed_domain("acme", "acme.test", sealing_key=bytes(32) if wrong == "sealing key" else bytes(range(32)))
    if wrong == "no keys":
        domain = SenderDomain("acme.test", "acme", False, ())
    elif wrong == "moved":
        domain = replace(domain, keys=signed_domain("rival", "acme.test").keys)
    elif wrong == "damaged":
        domain = replace(domain, keys=tuple(replace(key, sealed_private_key=b"short") for key in domain.keys))
    parts.change_policy(domain)
    refusal = await parts.refused()
    assert refusal.temporary
    assert "key" not in refusal.message
    assert counts(parts.path)["message"] == 0


async def test_it_waits_for_credits_and_then_stores(parts: Parts) -> None:
    parts.bank.open.clear()
    taking = asyncio.create_task(parts.take())
    await asyncio.sleep(0.05)
    assert not taking.done()
    assert counts(parts.path)["message"] == 0
    parts.bank.open.set()
    assert isinstance(await taking, Accepted)


async def test_without_credits_it_is_refused(tmp_path: Path) -> None:
    async with open_parts(tmp_path, bank=Bank(3)) as parts:
        refusal = await parts.refused(parts.submission(MESSAGE, *(f"r{number}@example.net" for number in range(4))))
        assert refusal.reason is Reason.INSUFFICIENT_CREDITS
        assert counts(parts.path) == {"message": 0, "recipient": 0, "outbox": 0, "lease": 1}
        await parts.accepted(parts.submission(MESSAGE, *(f"r{number}@example.net" for number in range(3))))


async def test_a_spool_that_cannot_store_costs_nothing(parts: Parts) -> None:
    await parts.accepted()
    before = rows(parts.path, "SELECT lease_id, amount, used FROM lease")
    with full_disk():
        refusal = await parts.refused(parts.submission(MESSAGE + b"x" * 100_000 + b"\r\n"))
        assert refusal.reason is Reason.NOT_STORED
        assert (await parts.refused()).reason is Reason.NOT_STORED
    async with asyncio.timeout(60):
        while not parts.store.healthy:  # noqa: ASYNC110 (it has no event of its own)
            await asyncio.sleep(0.01)
    assert rows(parts.path, "SELECT lease_id, amount, used FROM lease") == before
    await parts.accepted()
    assert rows(parts.path, "SELECT lease_id, used FROM lease") == [(1, 2)]


async def test_it_takes_nothing_while_it_cannot(parts: Parts) -> None:
    parts.free_bytes[0] = 10
    assert (await parts.refused()).reason is Reason.SPOOL_FULL
    parts.free_bytes[0] = 1 << 30
    parts.drain.stop()
    assert (await parts.refused()).reason is Reason.UNAVAILABLE


async def test_a_stop_waits_for_answers_that_are_owed(parts: Parts) -> None:
    answers: list[Accepted | Refusal] = []
    parts.intake.submit(parts.submission(), answers.append)
    assert not await parts.drain.idle(0)
    assert await parts.drain.idle(60)
    assert len(answers) == 1


async def test_who_waits_for_credits_at_the_stop_is_told(parts: Parts) -> None:
    parts.bank.open.clear()
    taking = asyncio.create_task(parts.take())
    await asyncio.sleep(0.02)
    await parts.intake.close()
    answer = await taking
    assert isinstance(answer, Refusal)
    assert answer.temporary


async def test_a_mistake_of_ours_is_answered_too(parts: Parts) -> None:
    submission = parts.submission()
    parts.policy.close()  # a look-up that fails in a way nobody thought of
    parts.policy._domains.clear()
    refusal = await parts.refused(submission)
    assert refusal.reason is Reason.INTERNAL
    assert "sqlite" not in refusal.message.lower()
    assert await parts.drain.idle(60)


async def test_checking_stores_and_costs_nothing(parts: Parts) -> None:
    parts.intake.check(parts.submission())
    with pytest.raises(Refusal):
        parts.intake.check(parts.submission(b"From: a@rival.test\r\n\r\nx\r\n"))
    assert counts(parts.path) == {"message": 0, "recipient": 0, "outbox": 0, "lease": 0}


@pytest.mark.parametrize(
    ("content", "recipient", "smtputf8", "flags"),
    [
        (MESSAGE, "x@example.net", False, 0),
        (MESSAGE + "ü\r\n".encode(), "x@example.net", False, MessageFlag.EIGHT_BIT),
        (MESSAGE, "ü@example.net", True, MessageFlag.EIGHT_BIT | MessageFlag.SMTPUTF8),
        (INTERNATIONAL, "x@example.net", False, MessageFlag.EIGHT_BIT),
        (INTERNATIONAL, "x@example.net", True, MessageFlag.EIGHT_BIT | MessageFlag.SMTPUTF8),
    ],
)
async def test_what_the_next_server_must_be_able_to_do_is_on_record(
    parts: Parts, content: bytes, recipient: str, smtputf8: bool, flags: int
) -> None:
    await parts.accepted(parts.submission(content, recipient, smtputf8=smtputf8))
    assert rows(parts.path, "SELECT flags FROM message") == [(flags,)]


async def test_ids_rise_and_are_the_messages_own(parts: Parts) -> None:
    answers = await asyncio.gather(*(parts.accepted() for _ in range(20)))
    ids = [id_ for answer in answers for id_ in answer.recipient_ids]
    assert len(set(ids)) == 20


async def test_accepted_messages_are_counted(parts: Parts) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("barua_recipients_accepted_total", {"source": "smtp"}) or 0.0

    before = count()
    await parts.accepted(parts.submission(MESSAGE, "x@example.net", "y@example.net"))
    assert count() == before + 2


async def test_the_sender_is_checked_when_there_is_no_from_field(parts: Parts) -> None:
    submission = parts.submission(b"Subject: x\r\n\r\nx\r\n", sender=parse_path("a@rival.test"))
    assert (await parts.refused(submission)).reason is Reason.SENDER_NOT_ALLOWED
