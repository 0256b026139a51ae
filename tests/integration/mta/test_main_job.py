"""The main job, end to end: in by every door, stored, signed, charged, delivered, recorded; nothing else changed."""

import email.utils
import json
import smtplib
import urllib.request
from email.message import EmailMessage
from email.mime.text import MIMEText

import aiosmtplib
import grpc
import pytest

from barua.control.v1.history_service_pb2 import MessageRecord
from barua.journal.v1.event_pb2 import Event
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from tests.integration.mta.accounts import Account, Accounts
from tests.integration.mta.arrivals import Signature, arrived, one, signatures
from tests.integration.mta.wire import Wire, encoded, plain
from tests.support.dns import DnsServer
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.stack import Stack, mail

# Everything that careless code changes: dots, white space at line ends, long lines, octets above 127, empty lines.
AWKWARD_BODY = (
    b"..two dots\r\n.\tone dot and a tab\r\n.one dot\r\n\r\n"
    b"trailing white space \t \r\n" + b"x" * 998 + b"\r\n"
    b"gr\xc3\xbc\xc3\x9fe, and latin-1: \xe9\r\n"
    b"From the start of a line\r\n\r\n\r\n"
)
ADDED_TO_ALL = ["DKIM-Signature", "DKIM-Signature", "Received"]


def added(received: Received, original: bytes) -> list[str]:
    """Names of the fields in front of ``original``, which must follow them unchanged."""
    assert received.content.endswith(original)
    front = received.content.removesuffix(original)
    assert front.endswith(b"\r\n")
    return [line.split(b":")[0].decode() for line in front.split(b"\r\n") if line and line[:1] not in b" \t"]


def both_good(account: Account) -> list[Signature]:
    """What dkimpy must say of an account's message."""
    return [Signature("ed25519-sha256", account.domain, True), Signature("rsa-sha256", account.domain, True)]


def kinds(record: MessageRecord) -> list[Event.Kind.ValueType]:
    """What happened to a message, in order."""
    return [event.kind for event in record.events]


def test_a_message_arrives_unchanged_signed_charged_and_recorded(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    original = (
        f"From: News <{account.sender}>\r\nTo: someone@example.net\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        "X-Folded: one\r\n\ttwo\r\n  three\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    ).encode() + AWKWARD_BODY
    recipient = f"main-{account.tenant}@example.net"
    with stack.smtp(account.login) as client:
        assert client.sendmail(account.sender, [recipient], original, mail_options=["BODY=8BITMIME"]) == {}
    received = one(sink, recipient)
    assert (received.sender, received.recipients) == (account.sender, (recipient,))
    assert received.helo == "mta.barua.test"
    assert added(received, original) == [*ADDED_TO_ALL, "Date", "Message-ID"]
    assert signatures(received, dns_server) == both_good(account)
    (trace,) = received.headers("Received")
    assert "with ESMTPSA" in trace and "by mta.barua.test" in trace and f"for <{recipient}>" in trace
    assert abs(email.utils.parsedate_to_datetime(received.headers("Date")[0]).timestamp() - _date(trace)) <= 1
    assert received.headers("Message-ID")[0].endswith("@mta.barua.test>")

    account.wait_until_charged(1)
    record = account.record(recipient)
    assert record.state == MessageRecord.STATE_DELIVERED
    assert (record.sender, record.subject, record.last_reply) == (account.sender, "Grüße", "250 2.0.0 taken")
    assert kinds(record) == [Event.KIND_RECEIVED, Event.KIND_DELIVERED]
    assert record.events[0].source == "smtp"
    assert record.events[1].remote_host == "mx.example.net"
    assert stack.operator.queued(account.tenant) == []


def test_what_the_message_has_is_not_added_again(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient = f"complete-{account.tenant}@example.net"
    original = (
        f"Received: from before by here; Fri, 21 Nov 2025 22:19:00 +0000\r\nDate: Fri, 21 Nov 2025 22:19:00 +0000\r\n"
        f"Message-ID: <mine@{account.domain}>\r\nFrom: {account.sender}\r\n\r\nText\r\n"
    ).encode()
    with stack.smtp(account.login) as client:
        client.sendmail(account.sender, [recipient], original)
    assert added(one(sink, recipient), original) == ADDED_TO_ALL


def test_private_fields_do_not_leave(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient, hidden = f"open-{account.tenant}@example.net", f"hidden-{account.tenant}@example.net"
    fields = f"Bcc: {hidden},\r\n other@example.net\r\nReturn-Path: <x@y.test>\r\nX-Barua-Secret: 1\r\n"
    content = f"From: {account.sender}\r\n{fields}Subject: s\r\n\r\nText\r\n".encode()
    with stack.smtp(account.login) as client:
        client.sendmail(account.sender, [recipient, hidden], content)
    received = one(sink, hidden)
    assert not any(received.headers(name) for name in ("Bcc", "Return-Path", "X-Barua-Secret"))
    assert hidden.encode() not in received.content
    assert received.headers("Subject") == ["s"]


async def test_a_message_by_aiosmtplib(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    recipient = f"aio-{account.tenant}@example.net"
    context = stack.authority.client_context()
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=stack.smtp_port, start_tls=True, tls_context=context)
    async with client:
        await client.login(account.tenant, account.login.password)
        errors, reply = await client.send_message(mail(recipient, sender=account.sender))
    assert (errors, reply.split()[:3]) == ({}, ["2.0.0", "Accepted", "as"])
    assert signatures(one(sink, recipient), dns_server) == both_good(account)


def test_implicit_tls(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient = f"implicit-{account.tenant}@example.net"
    context = stack.authority.client_context()
    with smtplib.SMTP_SSL("localhost", stack.smtp_tls_port, context=context, timeout=60) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        client.login(account.tenant, account.login.password)
        client.send_message(mail(recipient, sender=account.sender))
    assert "with ESMTPSA" in one(sink, recipient).headers("Received")[0]


def test_auth_login_in_both_its_forms(account: Account, stack: Stack, sink: RecordingSink) -> None:
    user, password = encoded(account.tenant), encoded(account.login.password)
    for lines in (["AUTH LOGIN", user, password], [f"auth login {user}", password]):
        with Wire(stack.smtp_port) as wire:
            offered = wire.start_tls(stack.authority.client_context())
            assert "AUTH PLAIN LOGIN" in offered.text.split("\n")
            answers = [wire.ask(line) for line in lines]
            assert [answer.code for answer in answers[:-1]] == [334] * (len(lines) - 1)
            assert (answers[-1].code, answers[-1].enhanced) == (235, "2.7.0")
    recipient = f"login-{account.tenant}@example.net"
    with smtplib.SMTP("127.0.0.1", stack.smtp_port, timeout=60) as client:
        client.starttls(context=stack.authority.client_context())
        client.ehlo()
        client.user, client.password = account.tenant, account.login.password
        assert client.auth("LOGIN", client.auth_login)[0] == 235
        client.send_message(mail(recipient, sender=account.sender))
    one(sink, recipient)


def test_injection_by_grpc_with_an_api_key(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    first, second = (f"grpc-{n}-{account.tenant}@example.net" for n in (1, 2))
    request = injection_service_pb2.SubmitMessageRequest(
        recipients=[first, "not an address", second, second], content=b"Subject: by gRPC\r\n\r\nText\r\n"
    )
    with grpc.insecure_channel(stack.options.node.listen) as channel:
        stub = InjectionServiceStub(channel)
        key = (("authorization", f"Bearer {account.api_key}"),)
        answer = stub.SubmitMessage(request, timeout=60, metadata=key)
    assert [result.recipient for result in answer.results] == [first, "not an address", second]
    assert [result.status.code for result in answer.results] == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]
    received = one(sink, first)
    assert received.recipients == (first, second)
    assert received.headers("Message-ID") == [answer.message_id_header]
    assert received.headers("From") == [f"noreply@{account.domain}"]
    assert signatures(received, dns_server) == both_good(account)
    account.wait_until_charged(2)
    record = account.record(second)
    assert record.name.endswith(f"/{answer.results[2].recipient_id}")
    assert record.message_id == answer.message_id
    assert record.events[0].source == "grpc"


def test_send_of_the_json_api_as_the_seeds_python_sample_does_it(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    recipient = f"json-{account.tenant}@example.net"
    data = {
        "apiKey": account.api_key,
        "to": recipient,
        "subject": "Hello from MSpace",
        "body": "<h1>HTML Content</h1>",
        "fromName": "MSpace System",
    }
    url = f"{stack.bridge_url}/email/api/send"
    request = urllib.request.Request(url, data=json.dumps(data).encode("utf-8"), method="POST")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    received = one(sink, recipient)
    record = account.record(recipient)
    assert answer == {
        "status": "success",
        "message": "Email queued successfully",
        "messageId": f"msg_{record.name.rpartition('/')[2]}",
    }
    assert received.headers("From") == [f"MSpace System <noreply@{account.domain}>"]
    assert (received.headers("Subject"), received.headers("To")) == (["Hello from MSpace"], [recipient])
    part = received.message.get_body(("html",))
    assert part is not None and part.get_content().strip() == "<h1>HTML Content</h1>"
    assert signatures(received, dns_server) == both_good(account)
    account.wait_until_charged(1)


def test_the_seeds_python_sample(account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer) -> None:
    recipient = f"seed-{account.tenant}@example.net"
    msg = MIMEText("This is the email body.")
    msg["Subject"] = "Hello from MSpace"
    msg["From"] = f"Sender Name <noreply@{account.domain}>"
    msg["To"] = recipient
    with smtplib.SMTP("127.0.0.1", stack.smtp_port) as server:
        server.starttls()
        server.login(account.tenant, account.login.password)
        server.send_message(msg)
    received = one(sink, recipient)
    assert received.message.get_content().strip() == "This is the email body."
    assert signatures(received, dns_server) == both_good(account)


def test_a_conversation_as_nodemailer_has_it(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    recipient = f"nodemailer-{account.tenant}@example.net"
    message = EmailMessage()
    message["From"], message["To"] = f'"Sender Name" <noreply@{account.domain}>', recipient
    message["Subject"], message["Message-ID"] = "Hello from MSpace", f"<a-b@{account.domain}>"
    message.set_content("Hello world?")
    message.add_alternative("<b>Hello world?</b>", subtype="html")
    content = message.as_bytes().replace(b"\n", b"\r\n")
    with Wire(stack.smtp_port) as wire:
        assert wire.ask("EHLO [127.0.0.1]").code == 250
        wire.start_tls(stack.authority.client_context())
        assert wire.ask(f"AUTH PLAIN {plain(account.login)}").code == 235
        wire.begin(f"noreply@{account.domain}", [recipient])
        wire.send(content + b".\r\n")
        assert (answer := wire.reply()).code == 250, answer
        assert wire.ask("QUIT").code == 221
        assert wire.is_closed()
    received = one(sink, recipient)
    assert added(received, content) == [*ADDED_TO_ALL, "Date"]
    assert signatures(received, dns_server) == both_good(account)


def test_the_seeds_go_sample_has_no_from_no_date_and_no_message_id(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    recipient = f"go-{account.tenant}@example.net"
    content = f"To: {recipient}\r\nSubject: Hello from MSpace\r\n\r\nThis is the email body.\r\n".encode()
    with Wire(stack.smtp_port) as wire:
        assert wire.ask("EHLO localhost").code == 250
        wire.start_tls(stack.authority.client_context())
        assert wire.log_in(account.login).code == 235
        assert wire.ask(f"MAIL FROM:<noreply@{account.domain}> BODY=8BITMIME").code == 250
        assert wire.ask(f"RCPT TO:<{recipient}>").code == 250
        assert wire.ask("DATA").code == 354
        wire.send(content + b".\r\n")
        assert wire.reply().code == 250
    received = one(sink, recipient)
    assert added(received, content) == [*ADDED_TO_ALL, "From", "Date", "Message-ID"]
    assert received.headers("From") == [f"noreply@{account.domain}"]
    assert signatures(received, dns_server) == both_good(account)


def test_a_whole_pipelined_conversation_in_one_write(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipients = [f"pipe-{n}-{account.tenant}@example.net" for n in range(20)]
    with Wire(stack.smtp_port) as wire:
        wire.start_tls(stack.authority.client_context())
        wire.log_in(account.login)
        for recipient in recipients:
            wire.send(f"MAIL FROM:<{account.sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
            assert [answer.code for answer in wire.replies(3)] == [250, 250, 354]
            wire.send(b"Subject: piped\r\n\r\n..\r\n.\r\nNOOP\r\n")
            assert [answer.code for answer in wire.replies(2)] == [250, 250]
    for recipient in recipients:
        assert one(sink, recipient).content.endswith(b"Subject: piped\r\n\r\n.\r\n")
    account.wait_until_charged(20)


def test_a_recipient_named_twice_gets_one_copy_and_costs_one_credit(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    recipient = f"twice-{account.tenant}@example.net"
    with stack.smtp(account.login) as client:
        client.sendmail(account.sender, [recipient, recipient.replace("example.net", "EXAMPLE.NET")], b"\r\nText\r\n")
    received = one(sink, recipient)
    assert received.recipients == (recipient,)
    account.wait_until_charged(1)


def test_a_message_of_the_largest_size(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient = f"large-{account.tenant}@example.net"
    limit = stack.options.mta.limits.message_bytes
    head = f"From: {account.sender}\r\n\r\n".encode()
    content = head + (b".dots at the start of each line\r\n" * (limit // 33 - 5))
    content += b"x" * (limit - len(content) - 2) + b"\r\n"  # no line of SMTP may be longer than 998, but some are
    assert len(content) == limit
    with stack.smtp(account.login) as client:
        client.sendmail(account.sender, [recipient], content)
    assert one(sink, recipient).content.endswith(content)


@pytest.mark.parametrize("local", ["пётр", "δοκιμή.test"])
def test_an_internationalised_recipient(account: Account, stack: Stack, sink: RecordingSink, local: str) -> None:
    recipient = f"{local}-{account.tenant}@example.net"
    message = mail(recipient, sender=account.sender)
    with stack.smtp(account.login) as client:
        client.send_message(message)
    assert one(sink, recipient).headers("To") == [recipient]


def test_an_account_sends_from_its_resellers_domain_but_not_from_its_siblings(
    accounts: Accounts, stack: Stack, sink: RecordingSink
) -> None:
    parent = accounts.make()
    child, sibling = accounts.make(parent=parent.tenant), accounts.make(parent=parent.tenant)
    recipient = f"family-{child.tenant}@example.net"
    with stack.smtp(child.login) as client:
        client.send_message(mail(recipient, sender=parent.sender))
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.send_message(mail(recipient, sender=sibling.sender))
    assert refused.value.smtp_code == 550
    assert f"sender domain {sibling.domain} is not verified" in str(refused.value.smtp_error)
    assert one(sink, recipient).sender == parent.sender
    child.wait_until_charged(1)
    assert parent.balance.consumed == 0


def test_a_domain_that_is_not_signed_goes_out_as_it_came(accounts: Accounts, stack: Stack, sink: RecordingSink) -> None:
    account = accounts.make(signing=False)
    recipient = f"unsigned-{account.tenant}@example.net"
    with stack.smtp(account.login) as client:
        client.send_message(mail(recipient, sender=account.sender))
    assert one(sink, recipient).headers("DKIM-Signature") == []


def test_many_messages_on_many_connections_all_arrive(account: Account, stack: Stack, sink: RecordingSink) -> None:
    clients = [stack.smtp(account.login) for _ in range(8)]
    recipients = [f"many-{n}-{account.tenant}@example.net" for n in range(80)]
    for number, recipient in enumerate(recipients):
        clients[number % 8].send_message(mail(recipient, sender=account.sender, subject=recipient))
    for client in clients:
        client.quit()
    for recipient in recipients:
        assert [received.headers("Subject") for received in arrived(sink, recipient)] == [[recipient]]
    account.wait_until_charged(80)


def _date(trace: str) -> float:
    return email.utils.parsedate_to_datetime(trace.rpartition(";")[2].strip()).timestamp()
