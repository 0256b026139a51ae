"""Mail that cannot be delivered in its lifetime is returned, once, and only after it was tried often enough."""

from pathlib import Path

from barua.control.v1.history_service_pb2 import MessageRecord
from barua.journal.v1.event_pb2 import Event

from mta.runtime.options import Options
from tests.integration.mta.accounts import Accounts
from tests.integration.mta.arrivals import one
from tests.support.dns import DnsServer, Failure
from tests.support.sink import RecordingSink
from tests.support.stack import Stack, changed, mail


def short_lived(options: Options) -> Options:
    """Options by which a message is given up after a second and three attempts."""
    return changed(options, "mta.retry", first_seconds=0.3, factor=1.0, lifetime_seconds=1.0, min_attempts=3)


def test_mail_is_returned_when_its_lifetime_has_passed(
    tmp_path: Path, dns_server: DnsServer, sink: RecordingSink
) -> None:
    dns_server.set("nodns.test", "MX", "10 mx.example.net.")
    dns_server.fail("nodns.test", Failure.SERVFAIL)
    dns_server.set("unreachable.test", "A", "127.0.0.9")
    with Stack(tmp_path / "stack", workers=1, dns=dns_server, delivery_port=sink.port, change=short_lived) as stack:
        account = Accounts(stack, dns_server, "mx.example.net").make()
        reasons = {
            "defer-451@example.net": ("5.7.0", "451 4.7.0 scripted for this recipient"),
            "r@unreachable.test": ("5.4.1", "connection refused"),
            "r@nodns.test": ("5.4.3", "the DNS gave no answer for nodns.test"),
        }
        with stack.smtp(account.login) as client:
            for number, recipient in enumerate(reasons):
                client.send_message(mail(recipient, sender=f"{number}@{account.domain}"))
        for number, (recipient, (status, said)) in enumerate(reasons.items()):
            bounce = one(sink, f"{number}@{account.domain}")
            report = " ".join(bounce.content.decode().split())
            assert f"Final-Recipient: rfc822; {recipient}" in report
            assert f"Action: failed Status: {status}" in report
            assert said in report
            record = account.record(recipient)
            assert record.state == MessageRecord.STATE_BOUNCED
            assert [event.kind for event in record.events[-2:]] == [Event.KIND_DEFERRED, Event.KIND_EXPIRED]
            assert record.events[-1].attempt >= 3
            age = record.events[-1].time.ToMilliseconds() - record.receive_time.ToMilliseconds()
            assert age >= 1000
        assert stack.operator.queued(account.tenant) == []
        account.wait_until_charged(3)
