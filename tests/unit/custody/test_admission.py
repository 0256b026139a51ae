"""Who may send what, the same on every way in."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mta.custody import admission
from mta.message.address import parse_path
from mta.message.headers import scan
from mta.policy.lookup import lineage
from mta.policy.records import Sender, SenderDomain, Tenant
from mta.replica.reader import ReplicaReader
from mta.replica.writer import ReplicaWriter
from mta.runtime.refusals import Reason, Refusal
from tests.unit.custody.parts import tree


class Policy:
    """A replica that can be changed."""

    def __init__(self, folder: Path) -> None:
        self._writer = ReplicaWriter(folder / "policy.db")
        self._writer.replace(tree(), "lineage", 1)
        self.reader = ReplicaReader(folder / "policy.db")

    def put(self, *records: Tenant | SenderDomain | Sender) -> None:
        """Change records."""
        self._writer.apply([(record, False) for record in records], self._writer.position()[1] + 1)
        self.reader.refresh()

    def line(self, tenant: str = "acme") -> tuple[Tenant, ...]:
        """A lineage."""
        return lineage(self.reader, tenant)

    def close(self) -> None:
        """Let go of the file."""
        self.reader.close()
        self._writer.close()


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[Policy]:
    """A small tree of tenants."""
    made = Policy(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("suspended", "sender", "whose"),
    [
        ("acme", "acme", "this account is suspended"),
        ("reseller", "acme", "an account above this one"),
        ("operator", "acme", "an account above this one"),
        ("reseller", "reseller", "this account is suspended"),
    ],
)
def test_suspension_reaches_down(policy: Policy, suspended: str, sender: str, whose: str) -> None:
    tenant = policy.reader.tenant(suspended)
    assert tenant is not None
    policy.put(replace(tenant, suspended=True))
    with pytest.raises(Refusal, match=whose) as caught:
        admission.sending_tenant(policy.reader, sender)
    assert caught.value.reason is Reason.TENANT_SUSPENDED


def test_suspension_does_not_reach_up_or_sideways(policy: Policy) -> None:
    tenant = policy.reader.tenant("acme")
    assert tenant is not None
    policy.put(replace(tenant, suspended=True))
    for name in ("reseller", "operator", "rival"):
        assert admission.sending_tenant(policy.reader, name)[0].tenant_id == name


def test_messages_keep_within_the_limits_of_the_account_and_those_above(policy: Policy) -> None:
    account, above = policy.reader.tenant("acme"), policy.reader.tenant("reseller")
    assert account is not None
    assert above is not None
    policy.put(replace(account, max_message_bytes=1000))
    policy.put(replace(above, max_message_recipients=5))
    line = admission.sending_tenant(policy.reader, "acme")
    admission.message_limits(line, 1000, 5)
    with pytest.raises(Refusal, match="larger than 1000 bytes") as caught:
        admission.message_limits(line, 1001, 5)
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
    with pytest.raises(Refusal, match="5 recipients at most; there are 6") as caught:
        admission.message_limits(line, 1000, 6)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, "recipients")
    admission.message_limits(admission.sending_tenant(policy.reader, "reseller"), 1001, 5)


def test_an_account_that_is_gone_may_not_send(policy: Policy) -> None:
    with pytest.raises(Refusal) as caught:
        admission.sending_tenant(policy.reader, "nobody")
    assert caught.value.reason is Reason.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("tenant", "domain", "allowed"),
    [
        ("acme", "acme.test", True),
        ("acme", "ACME.test", True),
        ("acme", "reseller.test", True),
        ("reseller", "acme.test", False),
        ("acme", "rival.test", False),
        ("acme", "sub.acme.test", False),
        ("acme", "unknown.test", False),
    ],
)
def test_sender_domains_are_inherited(policy: Policy, tenant: str, domain: str, allowed: bool) -> None:
    address = parse_path(f"a@{domain}")
    if allowed:
        assert admission.sender(policy.reader, policy.line(tenant), address).domain == domain.lower()
        return
    with pytest.raises(Refusal) as caught:
        admission.sender(policy.reader, policy.line(tenant), address)
    assert caught.value.reason is Reason.SENDER_NOT_ALLOWED
    assert caught.value.metadata == {"domain": domain.lower()}


PLATFORM = SenderDomain("platform.test", "operator", False, (), True)


@pytest.mark.parametrize(
    ("tenant", "allowed"), [("reseller", True), ("acme", True), ("rival", False), ("operator", False)]
)
def test_a_verified_sender_is_for_its_tenant_and_those_below(policy: Policy, tenant: str, allowed: bool) -> None:
    policy.put(Sender("reseller", "ann@elsewhere.test"), PLATFORM)
    for text in ("ann@elsewhere.test", "ANN@Elsewhere.test"):
        if allowed:
            assert admission.sender(policy.reader, policy.line(tenant), parse_path(text)) == PLATFORM
        else:
            with pytest.raises(Refusal, match="not verified for this account"):
                admission.sender(policy.reader, policy.line(tenant), parse_path(text))
    with pytest.raises(Refusal, match="not verified for this account"):
        admission.sender(policy.reader, policy.line(tenant), parse_path("bob@elsewhere.test"))


@pytest.mark.parametrize(
    "signer",
    [
        None,
        SenderDomain("platform.test", "operator", False, ()),
        SenderDomain("platform.test", "operator", True, (), True),
        SenderDomain("platform.test", "rival", False, (), True),
    ],
)
def test_a_verified_sender_is_never_sent_unsigned(policy: Policy, signer: SenderDomain | None) -> None:
    policy.put(Sender("acme", "ann@elsewhere.test"), *([signer] if signer is not None else []))
    with pytest.raises(Refusal, match="no domain to sign") as refused:
        admission.sender(policy.reader, policy.line(), parse_path("ann@elsewhere.test"))
    assert refused.value.reason is Reason.SENDER_NOT_ALLOWED


def test_a_domain_that_is_here_goes_before_its_addresses(policy: Policy) -> None:
    policy.put(Sender("acme", "ann@rival.test"), Sender("acme", "ann@acme.test"), PLATFORM)
    with pytest.raises(Refusal, match="not verified for this account"):
        admission.sender(policy.reader, policy.line(), parse_path("ann@rival.test"))
    assert admission.sender(policy.reader, policy.line(), parse_path("ann@acme.test")).domain == "acme.test"


def test_the_default_sender_is_the_nearest(policy: Policy) -> None:
    assert admission.default_sender_of(policy.reader, policy.line("acme")).mailbox == "Acme@acme.test"
    assert admission.default_sender_of(policy.reader, policy.line("reseller")).mailbox == "noreply@reseller.test"
    with pytest.raises(Refusal, match="no verified sender domain"):
        admission.default_sender_of(policy.reader, policy.line("operator"))
    policy.put(Tenant("acme", "reseller", False, "not an address"))
    with pytest.raises(Refusal, match="default sender is no address"):
        admission.default_sender_of(policy.reader, policy.line("acme"))


@pytest.mark.parametrize(
    ("address", "scope", "reason"),
    [
        ("gone@example.net", "account", "hard_bounce"),
        ("Gone@Example.NET", "account", "hard_bounce"),
        ('"gone"@example.net', "account", "hard_bounce"),
        ("angry@example.net", "reseller", "complaint"),
        ("law@example.net", "platform", "manual"),
    ],
)
def test_suppressions_name_their_scope(policy: Policy, address: str, scope: str, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        admission.recipient(policy.reader, policy.line(), parse_path(address))
    assert caught.value.reason is Reason.RECIPIENT_SUPPRESSED
    assert (caught.value.metadata["scope"], caught.value.metadata["reason"]) == (scope, reason)
    assert "_" not in caught.value.message.partition("reason")[2]


@pytest.mark.parametrize("address", ["other@example.net", "gone@example.org", "gone+tag@example.net"])
def test_other_recipients_are_free(policy: Policy, address: str) -> None:
    admission.recipient(policy.reader, policy.line(), parse_path(address))


@pytest.mark.parametrize(
    ("header", "domain"),
    [
        (b"From: a@acme.test\r\n", "acme.test"),
        (b"From: A <a@reseller.test>, b@acme.test\r\n", "reseller.test"),
        (b"From: a@acme.test\r\nSender: b@reseller.test\r\n", "acme.test"),
        (b"Subject: x\r\n", None),
    ],
)
def test_the_first_address_of_from_says_whose_message_it_is(policy: Policy, header: bytes, domain: str | None) -> None:
    found = admission.header_from(policy.reader, policy.line(), scan(header + b"\r\nx\r\n"))
    assert (found.domain if found else None) == domain


@pytest.mark.parametrize(
    "header",
    [
        b"From: a@rival.test\r\n",
        b"From: a@acme.test, b@rival.test\r\n",
        b"From: group: a@acme.test, b@rival.test;\r\n",
        b"From: a@acme.test\r\nSender: b@rival.test\r\n",
        b"From: a@acme.test\r\nResent-From: b@acme.test\r\nResent-From: c@rival.test\r\n",
        b"From: a@acme.test\r\nResent-Sender: c@rival.test\r\n",
    ],
)
def test_every_address_that_speaks_for_somebody_has_to_be_allowed(policy: Policy, header: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        admission.header_from(policy.reader, policy.line(), scan(header + b"\r\nx\r\n"))
    assert caught.value.reason is Reason.SENDER_NOT_ALLOWED


@pytest.mark.parametrize(
    "value", [b"", b"a@", b"a@acme.test b@acme.test", b"\xff@acme.test", b"<a@acme.test", b"a@acme.test,"]
)
def test_a_from_field_that_two_readers_could_read_differently_is_refused(policy: Policy, value: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        admission.header_from(policy.reader, policy.line(), scan(b"From: " + value + b"\r\n\r\nx\r\n"))
    assert caught.value.reason is Reason.BAD_CONTENT
    assert caught.value.field == "from"
