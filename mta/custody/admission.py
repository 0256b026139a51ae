"""Who may send what: the rules for sender, recipient and content, the same for SMTP and gRPC.

Each function answers from the policy in force, without I/O, and raises ``Refusal`` with a text that says what is wrong
and how to mend it.
"""

import time
from functools import lru_cache

from mta.message.address import Address, AddressError, parse_path
from mta.message.headers import Headers
from mta.message.mailboxes import parse_header_address
from mta.policy.lookup import (
    Policy,
    default_sender,
    is_verified_sender,
    lineage,
    may_send_from,
    signer_for_senders,
    suppressed,
)
from mta.policy.records import SenderDomain, Tenant
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.streams import stream_name

STREAM_FIELD = b"x-barua-stream"
"""The header field, in lower case, by which a message names its stream."""
_PLATFORM = "platform"


def sending_tenant(policy: Policy, tenant_id: str) -> tuple[Tenant, ...]:
    """The lineage of a tenant that may send now."""
    line = lineage(policy, tenant_id)
    if not line:
        raise Refusal(Reason.PERMISSION_DENIED, "this account does not exist (any more)")
    for tenant in line:
        if tenant.suspended:
            whose = "this account" if tenant is line[0] else "an account above this one"
            raise Refusal(Reason.TENANT_SUSPENDED, f"{whose} is suspended; contact your provider")
    return line


def message_limits(line: tuple[Tenant, ...], size: int, recipients: int) -> None:
    """A message within the limits of an account and of those above it."""
    for tenant in line:
        if 0 < tenant.max_message_bytes < size:
            raise Refusal(
                Reason.MESSAGE_TOO_LARGE,
                f"the message is larger than {tenant.max_message_bytes} bytes, the limit of this account",
                field="content",
                metadata={"limit": str(tenant.max_message_bytes)},
            )
        if 0 < tenant.max_message_recipients < recipients:
            raise Refusal(
                Reason.INVALID_ARGUMENT,
                f"this account may send a message to {tenant.max_message_recipients} recipients at most; there are"
                f" {recipients}: send it in parts",
                field="recipients",
                metadata={"limit": str(tenant.max_message_recipients)},
            )


def sender(policy: Policy, line: tuple[Tenant, ...], address: Address) -> SenderDomain:
    """The domain that signs for a sender address: its own, verified for this lineage.

    For a verified sender whose domain is not here it is the operator's that signs for such senders. Without one the
    message is refused: unsigned, under a name whose SPF does not know us, it would be taken for forged.
    """
    found = may_send_from(policy, line, address.domain)
    if found is not None:
        return found
    if not is_verified_sender(policy, line, address.domain, address.canonical):
        raise Refusal(
            Reason.SENDER_NOT_ALLOWED,
            f"the sender domain {address.domain} is not verified for this account; add and verify it first",
            field="sender",
            metadata={"domain": address.domain},
        )
    signer = signer_for_senders(policy, line)
    if signer is None:
        raise Refusal(
            Reason.SENDER_NOT_ALLOWED,
            f"{address.mailbox} is verified, but there is no domain to sign its messages with; ask your provider",
            field="sender",
            metadata={"domain": address.domain},
        )
    return signer


def default_sender_of(policy: Policy, line: tuple[Tenant, ...]) -> Address:
    """The sender of an account's messages that name none."""
    text = default_sender(policy, line)
    if text is None:
        raise Refusal(
            Reason.SENDER_NOT_ALLOWED, "this account has no verified sender domain; add and verify one", field="sender"
        )
    try:
        return parse_path(text)
    except AddressError as error:
        raise Refusal(Reason.SENDER_NOT_ALLOWED, f"the account's default sender is no address: {error}") from error


def recipient(policy: Policy, line: tuple[Tenant, ...], address: Address, stream: str = "") -> None:
    """A recipient that is not suppressed, now, for this account, its resellers or the platform.

    ``stream`` is that of the message: suppressions for it count beside those for all streams.
    """
    found = suppressed(policy, line, address.canonical, stream, time.time())
    if found is None:
        return
    scope = _scope(line, found.tenant_id)
    said = f"scope: {scope}, reason: {found.reason.replace('_', ' ')}"
    if found.stream:
        said = f"{said}, stream: {found.stream}"
    raise Refusal(
        Reason.RECIPIENT_SUPPRESSED,
        f"{address.mailbox} is on the suppression list ({said})",
        field="recipients",
        metadata={"address": address.mailbox, "scope": scope, "reason": found.reason, "stream": found.stream},
    )


def header_stream(headers: Headers) -> str:
    """The stream that the content names in its X-Barua-Stream field, which does not leave; "" if it names none."""
    values = headers.values(STREAM_FIELD)
    if not values:
        return ""
    try:
        names = {stream_name(value.decode("ascii", "replace")) for value in values}
    except ValueError as error:
        raise Refusal(
            Reason.BAD_CONTENT, f"the X-Barua-Stream field cannot be used: {error}", field="stream"
        ) from error
    if len(names) > 1:
        raise Refusal(Reason.BAD_CONTENT, "the message names more than one stream in X-Barua-Stream", field="stream")
    return names.pop()


def header_from(policy: Policy, line: tuple[Tenant, ...], headers: Headers) -> SenderDomain | None:
    """The verified domain of the From field, each address of which must be allowed; None if there is no From field."""
    value = headers.first(b"from")
    if value is None:
        return None
    domains = [sender(policy, line, address) for address in _addresses("From", value)]
    for name in (b"sender", b"resent-from", b"resent-sender"):
        for other in headers.values(name):
            for address in _addresses(name.decode().title(), other):
                sender(policy, line, address)
    return domains[0]


@lru_cache(maxsize=4096)
def _parsed(value: bytes) -> tuple[Address, ...]:
    """The addresses of a field. Kept, because those who send much send from few addresses."""
    return tuple(mailbox.address for mailbox in parse_header_address(value))


def _addresses(field: str, value: bytes) -> tuple[Address, ...]:
    try:
        return _parsed(value)
    except AddressError as error:
        raise Refusal(Reason.BAD_CONTENT, f"the {field} field cannot be used: {error}", field=field.lower()) from error


def _scope(line: tuple[Tenant, ...], tenant_id: str) -> str:
    if tenant_id == line[0].tenant_id:
        return "account"
    return _PLATFORM if tenant_id == line[-1].tenant_id else "reseller"
