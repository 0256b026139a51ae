"""What becomes of mail that cannot be delivered at once: it is tried again or returned to its sender, never lost."""

import itertools
import socket
import time
from email.message import EmailMessage

import pytest

from barua.control.v1.history_service_pb2 import MessageRecord
from barua.journal.v1.event_pb2 import Event

from tests.integration.mta.accounts import Account, known
from tests.integration.mta.arrivals import one
from tests.support.dns import DnsServer
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.smtpsink import SmtpSink
from tests.support.stack import Stack, mail
from tests.support.waiting import in_time, wait_until


def send(account: Account, *recipients: str, sender: str = "") -> None:
    """One message over a connection of its own."""
    with account.stack.smtp(account.login) as client:
        message = mail(", ".join(recipients), sender=sender or account.sender)
        assert client.send_message(message, to_addrs=list(recipients)) == {}


def wait_for_attempt(account: Account, recipient: str, attempts: int = 1) -> str:
    """Wait until a recipient was tried in vain; why."""

    def reasons() -> list[str]:
        queued = account.stack.operator.queued(account.tenant)
        return [item.reason for item in queued if item.recipient == recipient and item.attempt_count >= attempts]

    return wait_until(reasons, f"{recipient} was tried {attempts} times")[0]


def parts(received: Received) -> tuple[EmailMessage, list[dict[str, str]], EmailMessage]:
    """Of a bounce message: the text, the groups of the report as dicts, the returned header."""
    text, report, original = received.message.iter_parts()
    groups = [dict(group.items()) for group in report.get_payload()]  # type: ignore[union-attr]
    assert isinstance(text, EmailMessage) and isinstance(original, EmailMessage)
    return text, groups, original


def kinds(record: MessageRecord) -> list[Event.Kind.ValueType]:
    return [event.kind for event in record.events]


def test_a_temporary_refusal_is_tried_again_until_the_message_is_taken(account: Account, sink: RecordingSink) -> None:
    recipient = f"greylist-2-{account.tenant}@example.net"
    send(account, recipient)
    one(sink, recipient)
    record = account.record(recipient)
    assert kinds(record) == [Event.KIND_RECEIVED, Event.KIND_DEFERRED, Event.KIND_DEFERRED, Event.KIND_DELIVERED]
    assert [event.attempt for event in record.events] == [0, 1, 2, 3]
    first, second = record.events[1:3]
    assert (first.code, first.enhanced_code, first.text) == (450, "4.2.0", "greylisted, try again later")
    pauses = [event.next_attempt_time.ToMilliseconds() - event.time.ToMilliseconds() for event in (first, second)]
    assert 450 <= pauses[0] <= 550 < 675 <= pauses[1] <= 825  # 0.5 s, then 1.5 times that, a tenth either way
    account.wait_until_charged(1)


def test_others_are_delivered_while_one_waits(account: Account, sink: RecordingSink, stack: Stack) -> None:
    waiting, good = f"defer-451-{account.tenant}@example.net", f"good-{account.tenant}@example.net"
    send(account, waiting, good)
    one(sink, good)
    assert wait_for_attempt(account, waiting, 2).startswith("451 4.7.0 ")
    (queued,) = stack.operator.queued(account.tenant)
    assert (queued.recipient, queued.sender, queued.tenant_id) == (waiting, account.sender, account.tenant)
    assert queued.next_attempt_time.ToMilliseconds() > queued.receive_time.ToMilliseconds()
    assert sink.attempts(good) == 1


def test_a_permanent_refusal_is_returned_to_the_sender(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    recipient = f"reject-550-{account.tenant}@example.net"
    send(account, recipient)
    bounce = one(sink, account.sender)
    assert bounce.sender == ""
    message = bounce.message
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert (message["To"], message["Auto-Submitted"]) == (account.sender, "auto-replied")
    assert message["From"] and message["Date"] and message["Message-ID"] and not message.defects
    text, groups, original = parts(bounce)
    told = " ".join(text.get_content().split())
    assert f"<{recipient}>: mx.example.net said: 550 5.1.1 scripted for this recipient" in told
    assert groups[0]["Reporting-MTA"] == "dns; mta.barua.test"
    (report,) = groups[1:]
    assert {name: " ".join(report[name].split()) for name in report if name != "Last-Attempt-Date"} == {
        "Final-Recipient": f"rfc822; {recipient}",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 scripted for this recipient",
    }
    assert original.get_content_type() == "text/rfc822-headers"
    assert f"To: {recipient}" in original.get_content() and "A line." not in original.get_content()
    record = account.record(recipient)
    assert kinds(record) == [Event.KIND_RECEIVED, Event.KIND_BOUNCED]
    assert record.last_reply == "550 5.1.1 scripted for this recipient"
    assert sink.attempts(recipient) == 1
    notice = account.record(account.sender)
    assert (notice.sender, notice.events[0].source, notice.events[0].credits) == ("", "bounce", 0)
    account.wait_until_charged(1)


def test_a_refusal_after_the_data_is_returned_too(account: Account, sink: RecordingSink) -> None:
    recipient = f"data-554-{account.tenant}@example.net"
    send(account, recipient)
    _, groups, _ = parts(one(sink, account.sender))
    assert groups[1]["Diagnostic-Code"].split()[1] == "554"
    assert sink.attempts(recipient, "DATA") == 1


def test_a_bounce_message_that_cannot_be_delivered_causes_no_other(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    sender = f"reject-550-sender@{account.domain}"
    recipient = f"reject-550-{account.tenant}@example.net"
    send(account, recipient, sender=sender)
    records = account.wait_for_records(2)
    assert {(record.recipient, record.sender, record.state) for record in records} == {
        (recipient, sender, MessageRecord.STATE_BOUNCED),
        (sender, "", MessageRecord.STATE_BOUNCED),
    }
    assert stack.operator.queued(account.tenant) == []
    assert sender not in sink.recipients
    account.wait_until_charged(1)


def test_mail_from_the_null_sender_is_not_returned(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient = f"reject-550-{account.tenant}@example.net"
    with stack.smtp(account.login) as client:
        client.sendmail("", [recipient], f"From: {account.sender}\r\n\r\nText\r\n".encode())
    (record,) = account.wait_for_records()
    assert (record.recipient, record.state) == (recipient, MessageRecord.STATE_BOUNCED)
    assert stack.operator.queued(account.tenant) == []


def test_mail_waits_while_the_server_is_down_and_arrives_once_when_it_is_back(
    account: Account, stack: Stack, second_sink: RecordingSink
) -> None:
    second_sink.stop()
    try:
        recipients = [f"down-{number}-{account.tenant}@second.test" for number in range(20)]
        for recipient in recipients:
            send(account, recipient)
        assert wait_for_attempt(account, recipients[-1]).startswith("4.4.1 ")
        assert len(stack.operator.queued(account.tenant)) == 20
    finally:
        second_sink.start()
    for recipient in recipients:
        one(second_sink, recipient)
    account.wait_for_records(20)
    assert stack.operator.queued(account.tenant) == []
    assert [second_sink.attempts(recipient) for recipient in recipients] == [1] * 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-q", "DATA"), "connection was lost"),
        (("-q", "."), "connection was lost"),
        (("-q", "RCPT"), "connection was lost"),
        (("-Q", "MAIL"), "421"),
        (("-q", "CONNECT"), "connection was lost"),
        (("-r", "EHLO,HELO"), "450"),
        (("-f", "CONNECT"), "500 5.3.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_server_that_misbehaves_is_tried_again(
    account: Account, dropping_port: int, options: tuple[str, ...], said: str
) -> None:
    recipient = f"r-{account.tenant}@dropping.test"
    with SmtpSink(*options, port=dropping_port):
        send(account, recipient)
        reason = wait_for_attempt(account, recipient)
        assert said in reason, reason
    with SmtpSink(port=dropping_port) as good:
        good.wait(1)
        assert account.record(recipient).state == MessageRecord.STATE_DELIVERED
        assert good.count == 1


def test_a_server_that_is_no_mail_server_is_tried_again(account: Account, dropping_port: int) -> None:
    recipient = f"r-{account.tenant}@dropping.test"
    with socket.create_server(("127.0.0.1", dropping_port)) as listener:
        send(account, recipient)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100_000)
            wait_for_attempt(account, recipient)
    with SmtpSink(port=dropping_port) as good:
        good.wait(1)
        # The sink counts before it answers: leave it running until the outcome is known.
        assert account.record(recipient).state == MessageRecord.STATE_DELIVERED


def test_a_connection_lost_after_the_final_dot_is_tried_again(account: Account, sink: RecordingSink) -> None:
    recipient = f"drop-1-{account.tenant}@example.net"
    send(account, recipient)
    one(sink, recipient)
    record = account.record(recipient)
    assert kinds(record) == [Event.KIND_RECEIVED, Event.KIND_DEFERRED, Event.KIND_DELIVERED]
    assert sink.attempts(recipient, "DATA") == 2


def test_a_suppression_is_in_force_within_a_second(account: Account, stack: Stack) -> None:
    recipients = (f"suppressed{number}-{account.tenant}@example.net" for number in itertools.count())
    with stack.smtp(account.login) as client:
        client.mail(account.sender)

        def seconds() -> float:
            recipient = next(recipients)
            assert client.rcpt(recipient)[0] == 250
            started = time.monotonic()
            stack.operator.suppress(account.tenant, recipient)
            wait_until(lambda: client.rcpt(recipient)[0] == 550, "the suppression is in force")
            return time.monotonic() - started

        in_time(seconds, 1.0)
        assert known(stack, account.tenant)  # nothing else has changed


def test_delivery_uses_tls_where_it_is_offered_and_goes_on_without_where_it_fails(
    account: Account, stack: Stack, dns_server: DnsServer, sink: RecordingSink
) -> None:
    good, bad = f"tls.{account.domain}", f"brokentls.{account.domain}"
    context = stack.authority.issue("mx.other.test").server_context()
    # A server that knows no protocol version of ours: the handshake fails.
    broken = stack.authority.issue("mx.broken.test").server_context()
    broken.set_ciphers("AES256-SHA256")
    broken.maximum_version = broken.minimum_version
    for domain, address in ((good, "127.0.0.3"), (bad, "127.0.0.4")):
        dns_server.set(domain, "MX", f"10 mx.{domain}.")
        dns_server.set(f"mx.{domain}", "A", address)
    with (
        RecordingSink(host="127.0.0.3", port=sink.port, tls=context, require_tls=True) as secure,
        RecordingSink(host="127.0.0.4", port=sink.port, tls=broken) as insecure,
    ):
        send(account, f"r@{good}")
        send(account, f"r@{bad}")
        assert one(secure, f"r@{good}").tls
        assert not one(insecure, f"r@{bad}").tls
