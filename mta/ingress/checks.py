"""Decisions on what a peer asks over SMTP: the one place where refusals become replies.

``mta.custody.admission`` has the rules for who may send what; here are those of the SMTP conversation, and the
rendering.
"""

from dataclasses import dataclass, field

from mta.custody import admission
from mta.message.address import Address, AddressError, parse_path
from mta.policy.lookup import Policy
from mta.policy.records import Tenant
from mta.runtime.refusals import Reason, Refusal
from mta.smtp.events import MailReceived, RcptReceived
from mta.smtp.reply import Reply, printable_ascii

MAX_TEXT = 400
"""Characters of a reply's text: one line of at most 512 octets with codes (RFC 5321 §4.5.3.1.5)."""


@dataclass(slots=True)
class Transaction:
    """What has been decided between MAIL and the end of data."""

    line: tuple[Tenant, ...]
    sender: Address | None
    smtputf8: bool
    recipients: dict[str, Address] = field(default_factory=dict)
    """By mailbox, so that a recipient named twice gets one copy and costs one credit."""


def mail(policy: Policy, tenant_id: str, event: MailReceived) -> Transaction:
    """Who may begin a transaction, and with what sender. Raises Refusal."""
    line = admission.sending_tenant(policy, tenant_id)
    if not event.path:
        # The null sender is for notifications; the From field is still checked at the end of data.
        return Transaction(line, None, event.smtputf8)
    sender = _address(event.path, Reason.INVALID_ARGUMENT, "sender")
    admission.sender(policy, line, sender)
    return Transaction(line, sender, event.smtputf8)


def recipient(policy: Policy, transaction: Transaction, event: RcptReceived) -> None:
    """Add a recipient to the transaction. Raises Refusal."""
    address = _address(event.path, Reason.INVALID_ARGUMENT, "recipient")
    if address.is_literal:
        raise Refusal(Reason.INVALID_ARGUMENT, "mail to address literals is not accepted; use a domain name")
    admission.recipient(policy, transaction.line, address)
    transaction.recipients.setdefault(address.mailbox, address)


def reply(refusal: Refusal) -> Reply:
    """A refusal as the peer hears it."""
    rendering = refusal.rendering
    return Reply(rendering.smtp_code, rendering.smtp_enhanced, printable_ascii(refusal.message)[:MAX_TEXT])


def malformed_address(refusal: Refusal) -> Reply:
    """A refusal of MAIL or RCPT: a malformed address is 553 (RFC 5321 §4.2.3), everything else as ever."""
    if refusal.reason is Reason.INVALID_ARGUMENT:
        enhanced = "5.1.7" if refusal.field == "sender" else "5.1.3"
        return Reply(553, enhanced, printable_ascii(refusal.message)[:MAX_TEXT])
    return reply(refusal)


def _address(path: str, reason: Reason, what: str) -> Address:
    try:
        return parse_path(path)
    except AddressError as error:
        raise Refusal(reason, f"the {what} address is malformed: {error}", field=what) from error
