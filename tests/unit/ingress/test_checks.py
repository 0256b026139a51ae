"""Decisions of the conversation and how they sound."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mta.ingress import checks
from mta.replica.reader import ReplicaReader
from mta.replica.writer import ReplicaWriter
from mta.runtime.refusals import RENDERINGS, Reason, Refusal
from mta.smtp.events import MailReceived, RcptReceived
from tests.unit.custody.parts import tree


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[ReplicaReader]:
    """A small tree of tenants."""
    writer = ReplicaWriter(tmp_path / "policy.db")
    writer.replace(tree(), "lineage", 1)
    reader = ReplicaReader(tmp_path / "policy.db")
    yield reader
    reader.close()
    writer.close()


def mail(policy: ReplicaReader, path: str, tenant: str = "acme") -> checks.Transaction:
    """MAIL FROM."""
    return checks.mail(policy, tenant, MailReceived(path, {}))


def test_a_sender_of_its_own_domain_may_begin(policy: ReplicaReader) -> None:
    transaction = mail(policy, "News@ACME.test")
    assert transaction.sender is not None
    assert transaction.sender.mailbox == "News@acme.test"
    assert [tenant.tenant_id for tenant in transaction.line] == ["acme", "reseller", "operator"]


def test_the_null_sender_may_begin(policy: ReplicaReader) -> None:
    assert mail(policy, "").sender is None


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("a@rival.test", (550, "5.7.1")),
        ("a@", (553, "5.1.7")),
        ("a@[192.0.2.1]", (553, "5.1.7")),
        ("a@single", (553, "5.1.7")),
        ("a b@acme.test", (553, "5.1.7")),
    ],
)
def test_other_senders_may_not(policy: ReplicaReader, path: str, reply: tuple[int, str]) -> None:
    with pytest.raises(Refusal) as caught:
        mail(policy, path)
    answer = checks.malformed_address(caught.value)
    assert (answer.code, answer.enhanced) == reply


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("x@[192.0.2.1]", (553, "5.1.3")),
        ("x@", (553, "5.1.3")),
        ("gone@example.net", (550, "5.7.1")),
        ("GONE@EXAMPLE.net", (550, "5.7.1")),
        ('"gone"@example.net', (550, "5.7.1")),
    ],
)
def test_refused_recipients(policy: ReplicaReader, path: str, reply: tuple[int, str]) -> None:
    transaction = mail(policy, "a@acme.test")
    with pytest.raises(Refusal) as caught:
        checks.recipient(policy, transaction, RcptReceived(path, {}))
    answer = checks.malformed_address(caught.value)
    assert (answer.code, answer.enhanced) == reply
    assert not transaction.recipients


def test_a_recipient_is_kept_once_per_mailbox(policy: ReplicaReader) -> None:
    transaction = mail(policy, "a@acme.test")
    for path in ("x@example.net", "x@EXAMPLE.NET", "y@example.net", '"x"@example.net'):
        checks.recipient(policy, transaction, RcptReceived(path, {}))
    assert list(transaction.recipients) == ["x@example.net", "y@example.net"]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_reply_of_its_class(reason: Reason) -> None:
    reply = checks.reply(Refusal(reason, "no, because"))
    rendering = RENDERINGS[reason]
    assert (reply.code, reply.enhanced, reply.text) == (rendering.smtp_code, rendering.smtp_enhanced, "no, because")


def test_a_text_cannot_split_a_reply() -> None:
    reply = checks.reply(Refusal(Reason.BAD_CONTENT, "bad\r\n250 ok \u2028" + "ü" * 600))
    assert reply.render().count(b"\r\n") == 1
    assert len(reply.render()) <= 512
    assert reply.render().isascii()
