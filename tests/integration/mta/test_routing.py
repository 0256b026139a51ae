"""Where mail goes: by MX, to the next host when one is down, by address, by fixed route, or back to its sender."""

import smtplib
from collections import Counter

import pytest

from tests.integration.mta.accounts import Account
from tests.integration.mta.arrivals import arrived, one
from tests.support.dns import DnsServer, Failure
from tests.support.ports import is_listening
from tests.support.sink import RecordingSink
from tests.support.smtpsink import SmtpSink
from tests.support.stack import Stack, mail
from tests.support.waiting import wait_until

NOBODY_LISTENS = "127.0.0.9"


def send(account: Account, *recipients: str, subject: str = "hello") -> None:
    """One message over a connection of its own."""
    message = mail(", ".join(recipients), sender=account.sender, subject=subject)
    with account.stack.smtp(account.login) as client:
        assert client.send_message(message, to_addrs=list(recipients)) == {}


def returned(account: Account, sink: RecordingSink) -> str:
    """Wait for the one bounce message to an account; its report for machines."""
    message = one(sink, account.sender).message
    (report,) = [part for part in message.walk() if part.get_content_type() == "message/delivery-status"]
    return " ".join(report.as_string().split())


def test_the_mx_of_least_preference_is_used_alone(
    account: Account, sink: RecordingSink, second_sink: RecordingSink, dns_server: DnsServer
) -> None:
    domain = f"order.{account.domain}"
    dns_server.set(domain, "MX", "20 mx.example.net.", "5 mx.second.test.", "100 unused.second.test.")
    for number in range(3):
        send(account, f"r{number}@{domain}")
    for number in range(3):
        one(second_sink, f"r{number}@{domain}")
    assert not any(recipient.endswith(domain) for recipient in sink.recipients)


def test_domains_with_the_same_hosts_keep_orders_of_their_own(
    account: Account, sink: RecordingSink, second_sink: RecordingSink, dns_server: DnsServer
) -> None:
    first, second = f"first.{account.domain}", f"second.{account.domain}"
    dns_server.set(first, "MX", "10 mx.example.net.", "20 mx.second.test.")
    dns_server.set(second, "MX", "20 mx.example.net.", "10 mx.second.test.")
    for _ in range(4):  # both workers
        send(account, f"r@{first}")
        send(account, f"r@{second}")
    assert len(arrived(sink, f"r@{first}", 4)) == 4
    assert len(arrived(second_sink, f"r@{second}", 4)) == 4


def test_the_next_mx_is_tried_when_the_first_refuses_connections(
    account: Account, sink: RecordingSink, stack: Stack, dns_server: DnsServer
) -> None:
    domain = f"fallback.{account.domain}"
    dns_server.set(f"down.{account.domain}", "A", NOBODY_LISTENS)
    dns_server.set(domain, "MX", f"10 down.{account.domain}.", f"20 missing.{account.domain}.", "30 mx.example.net.")
    assert not is_listening(sink.port, NOBODY_LISTENS)
    send(account, f"r@{domain}")
    one(sink, f"r@{domain}")
    record = account.record(f"r@{domain}")
    assert [event.remote_host for event in record.events] == ["", "mx.example.net"]


def test_the_next_address_of_a_host_is_tried(account: Account, sink: RecordingSink, dns_server: DnsServer) -> None:
    domain = f"addresses.{account.domain}"
    dns_server.set(f"multi.{account.domain}", "A", NOBODY_LISTENS, "127.0.0.1", "127.0.0.10")
    dns_server.set(domain, "MX", f"10 multi.{account.domain}.")
    send(account, f"r@{domain}")
    one(sink, f"r@{domain}")


def test_a_domain_with_an_address_alone_is_its_own_mail_host(
    account: Account, second_sink: RecordingSink, dns_server: DnsServer
) -> None:
    domain = f"implicit.{account.domain}"
    dns_server.set(domain, "A", "127.0.0.2")
    send(account, f"r@{domain}")
    one(second_sink, f"r@{domain}")
    assert account.record(f"r@{domain}").events[1].remote_host == domain


def test_an_mx_may_be_an_alias_and_a_domain_may_be_international(
    account: Account, sink: RecordingSink, dns_server: DnsServer
) -> None:
    dns_server.set(f"alias.{account.domain}", "CNAME", "mx.example.net.")
    dns_server.set(f"xn--bcher-kva.{account.domain}", "MX", f"10 alias.{account.domain}.")
    send(account, f"r@bücher.{account.domain}")
    one(sink, f"r@xn--bcher-kva.{account.domain}")


def test_a_null_mx_is_returned_at_once(account: Account, sink: RecordingSink, dns_server: DnsServer) -> None:
    domain = f"null.{account.domain}"
    dns_server.set(domain, "MX", "0 .")
    dns_server.set(domain, "A", "127.0.0.1")
    send(account, f"r@{domain}")
    report = returned(account, sink)
    assert "Status: 5.1.10" in report
    assert f"Final-Recipient: rfc822; r@{domain}" in report
    assert account.record(f"r@{domain}").last_reply.startswith("556 5.1.10 ")


def test_a_domain_that_does_not_exist_is_returned_at_once(account: Account, sink: RecordingSink) -> None:
    domain = "no-such-domain.invalid"
    send(account, f"r@{domain}")
    report = returned(account, sink)
    assert "Status: 5.1.2" in report and "does not exist" in report
    assert account.record(f"r@{domain}").last_reply.startswith("550 5.1.2 ")


def test_a_domain_without_mail_host_and_address_is_returned_at_once(
    account: Account, sink: RecordingSink, dns_server: DnsServer
) -> None:
    domain = f"empty.{account.domain}"
    dns_server.set(domain, "TXT", '"here is no mail"')
    send(account, f"r@{domain}")
    assert "Status: 5.1.2" in returned(account, sink)


def test_mail_waits_while_the_dns_is_broken_and_arrives_when_it_works_again(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer
) -> None:
    failures = {
        f"servfail.{account.domain}": Failure.SERVFAIL,
        f"refused.{account.domain}": Failure.REFUSED,
        f"silent.{account.domain}": Failure.DROP,
    }
    for domain, failure in failures.items():
        dns_server.set(domain, "MX", "10 mx.example.net.")
        dns_server.fail(domain, failure)
        send(account, f"r@{domain}")

    def reasons() -> list[str]:
        return [queued.reason for queued in stack.operator.queued(account.tenant) if queued.attempt_count]

    wait_until(lambda: len(reasons()) == 3, "all three were tried")
    assert all(reason.startswith("451 4.4.3 ") for reason in reasons()), reasons()
    for domain in failures:
        dns_server.fail(domain, None)
    for domain in failures:
        one(sink, f"r@{domain}")
    assert not any(received.recipients == (account.sender,) for received in sink.received)


def test_a_truncated_answer_is_asked_again_over_tcp(
    account: Account, sink: RecordingSink, dns_server: DnsServer
) -> None:
    domain = f"truncated.{account.domain}"
    dns_server.set(domain, "MX", "10 mx.example.net.")
    dns_server.fail(domain, Failure.TRUNCATE)
    send(account, f"r@{domain}")
    one(sink, f"r@{domain}")


def test_a_static_route_goes_before_the_dns(account: Account, smtp_sink: SmtpSink, dns_server: DnsServer) -> None:
    before = smtp_sink.count
    for _ in range(5):
        send(account, "r@relay.test")
    smtp_sink.wait(before + 5)
    assert dns_server.count("relay.test", "MX") == 0
    assert account.wait_for_records(5)[0].last_reply.startswith("250 ")


def test_one_refused_recipient_of_several_is_returned_alone(
    account: Account, stack: Stack, sink: RecordingSink, second_sink: RecordingSink, smtp_sink: SmtpSink
) -> None:
    tenant, before = account.tenant, smtp_sink.count
    refused = f"reject-550-{tenant}@example.net"
    good = [f"a-{tenant}@example.net", f"b-{tenant}@example.net", f"c-{tenant}@second.test", f"d-{tenant}@relay.test"]
    send(account, good[0], refused, *good[1:])
    assert one(sink, good[0]).recipients == (good[0], good[1])
    one(second_sink, good[2])
    smtp_sink.wait(before + 1)
    report = returned(account, sink)
    assert report.count("Final-Recipient:") == 1 and f"Final-Recipient: rfc822; {refused}" in report
    account.wait_for_records(6)  # the bounce message is the sixth
    states = Counter(record.state for record in stack.operator.history(tenant))
    assert states == {2: 5, 3: 1}
    account.wait_until_charged(5)


def test_a_message_for_many_recipients_is_split_into_transactions_of_a_hundred(
    account: Account, sink: RecordingSink
) -> None:
    recipients = [f"r{number}-{account.tenant}@example.net" for number in range(250)]
    send(account, *recipients)
    arrived(sink, recipients[-1])
    wait_until(lambda: set(recipients) <= set(sink.recipients), "all 250 have arrived")
    copies = [received.recipients for received in sink.received if received.recipients[0] in recipients]
    assert sorted(map(len, copies)) == [50, 100, 100]
    assert sorted(recipient for copy in copies for recipient in copy) == sorted(recipients)
    assert " for <" not in arrived(sink, recipients[0])[0].headers("Received")[0]
    account.wait_until_charged(250)


def test_mail_to_an_address_literal_is_refused(account: Account, stack: Stack) -> None:
    with stack.smtp(account.login) as client, pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        client.send_message(mail("r@[127.0.0.1]", sender=account.sender))
    code, text = refused.value.recipients["r@[127.0.0.1]"]
    assert code == 553 and b"write a domain name" in text
