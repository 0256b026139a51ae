"""What tenants send as, end to end: keys that rotate under the workers, and senders that are proved by mail."""

import re
import smtplib
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from barua.control.v1 import dkim_key_service_pb2, domain_pb2, domain_service_pb2, sender_pb2, sender_service_pb2
from barua.control.v1.dkim_key_service_pb2_grpc import DkimKeyServiceStub
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.sender_service_pb2_grpc import SenderServiceStub
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from tests.integration.mta.accounts import Account, socket
from tests.integration.mta.arrivals import Signature, arrived, one, signatures
from tests.integration.mta.test_operator_verbs import run, told
from tests.support.dns import DnsServer
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

PLATFORM = "platform.test"


def submit(stack: Stack, account: Account, worker: int, recipient: str) -> None:
    """Hand a message to one worker."""
    content = f"From: {account.sender}\r\nTo: {recipient}\r\nSubject: s\r\n\r\nText\r\n".encode()
    request = injection_service_pb2.SubmitMessageRequest(
        tenant_id=account.tenant, sender=account.sender, recipients=[recipient], content=content
    )
    with grpc.insecure_channel(f"unix:{socket(stack, worker)}") as channel:
        metadata = (("authorization", f"Bearer {stack.token}"),)
        InjectionServiceStub(channel).SubmitMessage(request, timeout=60, metadata=metadata)


def selectors(received: Received) -> set[str]:
    """The selectors of a message's signatures."""
    return {match[1] for field in received.headers("DKIM-Signature") if (match := re.search(r"s=([^;\s]+);", field))}


def rotate(stack: Stack, account: Account) -> dkim_key_service_pb2.RotateDkimKeysResponse:
    request = dkim_key_service_pb2.RotateDkimKeysRequest(
        name=f"tenants/{account.tenant}/domains/{account.domain}", request_id=str(uuid.uuid4())
    )
    answer: dkim_key_service_pb2.RotateDkimKeysResponse = stack.operator.call(
        DkimKeyServiceStub(stack.operator.control).RotateDkimKeys, request
    )
    return answer


def test_workers_sign_with_new_keys_once_they_are_published(
    account: Account,
    stack: Stack,
    sink: RecordingSink,
    dns_server: DnsServer,
    measured: Callable[[str], None],
) -> None:
    def deliver(mark: str) -> list[Received]:
        """A message from each worker."""
        recipient = f"{mark}-{account.tenant}@example.net"
        for worker in range(len(stack.workers)):
            submit(stack, account, worker, recipient)
        return arrived(sink, recipient, len(stack.workers))

    before = deliver("before")
    made = rotate(stack, account)
    assert made.phase == made.PHASE_PUBLISH
    new = {key.name.rpartition("/")[2] for key in made.dkim_keys}
    assert all(selectors(received).isdisjoint(new) for received in deliver("pending"))
    for key in made.dkim_keys:
        dns_server.set_text(key.dns_record.owner, key.dns_record.data)
    assert rotate(stack, account).phase == made.PHASE_SWITCHED
    switched = time.monotonic()
    # Under a second on a quiet machine; the limit here is for a busy one.
    after, attempt = deliver("after0"), 0
    while any(selectors(received) != new for received in after):
        assert time.monotonic() < switched + 60
        attempt += 1
        after = deliver(f"after{attempt}")
    measured(f"all workers sign with new DKIM keys {time.monotonic() - switched:.2f} s after the switch")
    both = [Signature("ed25519-sha256", account.domain, True), Signature("rsa-sha256", account.domain, True)]
    for received in (*before, *after):
        assert signatures(received, dns_server) == both
    assert selectors(before[0]).isdisjoint(new)


@pytest.fixture
def platform_domain(stack: Stack, dns_server: DnsServer) -> str:
    """A domain of the operator with credits to send; its name."""
    made = stack.operator.create_domain("operator", PLATFORM)
    for record in made.dns_records:
        dns_server.set_text(record.owner, record.data)
    stack.operator.grant("operator", 100)
    return made.name


def test_a_sender_is_proved_by_mail_and_signed_for(
    account: Account, stack: Stack, sink: RecordingSink, dns_server: DnsServer, platform_domain: str
) -> None:
    operator = stack.operator
    senders = SenderServiceStub(operator.control)
    address, recipient = f"person-{account.tenant}@example.net", f"reader-{account.tenant}@example.net"
    content = f"From: A Person <{address}>\r\nSubject: s\r\n\r\nText\r\n".encode()

    def refusal() -> str:
        """Why a message from the address is refused; empty: it is taken."""
        with stack.smtp(account.login) as client:
            try:
                client.sendmail(address, [recipient], content)
            except smtplib.SMTPSenderRefused as error:
                return str(error.smtp_error)
            return ""

    assert "is not verified for this account" in refusal()
    parent = f"tenants/{account.tenant}"
    create = sender_service_pb2.CreateSenderRequest(parent=parent, address=address)
    made: Any = operator.call(senders.CreateSender, create)
    assert made.state == sender_pb2.Sender.STATE_PENDING
    confirmation = one(sink, address)
    assert confirmation.sender == f"noreply@{PLATFORM}"
    found = re.search(rb"code: (\d{8})", confirmation.content)
    assert found is not None
    prove = sender_service_pb2.VerifySenderRequest(name=made.name, code=found[1].decode())
    assert operator.call(senders.VerifySender, prove).state == sender_pb2.Sender.STATE_VERIFIED
    wait_until(lambda: "no domain to sign its messages" in refusal(), "the workers know the sender")

    sign = domain_service_pb2.UpdateDomainRequest(
        domain=domain_pb2.Domain(name=platform_domain, signs_for_senders=True)
    )
    operator.call(DomainServiceStub(operator.control).UpdateDomain, sign)
    wait_until(lambda: refusal() == "", "the workers know the domain that signs")
    received = arrived(sink, recipient)[0]
    assert received.headers("From") == [f"A Person <{address}>"]
    assert {(signature.domain, signature.good) for signature in signatures(received, dns_server)} == {(PLATFORM, True)}
    operator.call(senders.DeleteSender, sender_service_pb2.DeleteSenderRequest(name=made.name))
    wait_until(lambda: "is not verified for this account" in refusal(), "the workers have forgotten the sender")


def test_the_command_shows_checks_and_templates(account: Account, stack: Stack, tmp_path: Path) -> None:
    checked = run(stack, "domain", "check", account.tenant, account.domain)
    assert checked.returncode == 0, checked.stderr
    assert re.search(r"^dkim barua-\w+-rsa: ok$", checked.stdout, re.MULTILINE)
    assert re.search(r"^spf: \w+$", checked.stdout, re.MULTILINE)
    selectors_ = {
        key["name"].rpartition("/")[2] for key in told(stack, "domain", "keys", account.tenant, account.domain)
    }
    refused = run(stack, "domain", "key-retire", account.tenant, account.domain, "nonsense")
    assert (refused.returncode, "no DKIM key" in refused.stderr) == (1, True)
    assert len(selectors_) == 2
    html = tmp_path / "welcome.html"
    html.write_text("<p>{{name}}</p>")
    put = ("template", "put", account.tenant, "welcome", "--html", str(html))
    assert told(stack, *put)["version"] == "1"
    assert told(stack, *put, "--subject", "Hello {{name}}")["version"] == "2"
    rendered = told(stack, "template", "render", account.tenant, "welcome", "name=Ann & Bob")
    assert (rendered["subject"], rendered["html"]) == ("Hello Ann & Bob", "<p>Ann &amp; Bob</p>")
    senders = told(stack, "sender", "add", account.tenant, "boss@elsewhere.test", "--trusted")
    assert senders["proof"] == "PROOF_TRUSTED"
