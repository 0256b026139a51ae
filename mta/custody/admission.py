"""Who may send what: the rules for sender, recipient and content, the same for SMTP and gRPC.

Each function answers from the policy in force, without I/O, and raises ``Refusal`` with a text that says what is wrong
and how to mend it.
"""

from functools import lru_cache

from mta.message.address import Address, AddressError, parse_path
from mta.message.headers import Headers
from mta.message.mailboxes import parse_header_address
from mta.policy.lookup import Policy, default_sender, lineage, may_send_from, suppressed
from mta.policy.records import SenderDomain, Tenant
from mta.runtime.refusals import Reason, Refusal

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


def sender(policy: Policy, line: tuple[Tenant, ...], address: Address) -> SenderDomain:
    """The verified domain of a sender address."""
    found = may_send_from(policy, line, address.domain)
    if found is None:
        raise Refusal(
            Reason.SENDER_NOT_ALLOWED,
            f"the sender domain {address.domain} is not verified for this account; add and verify it first",
            field="sender",
            metadata={"domain": address.domain},
        )
    return found


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


def recipient(policy: Policy, line: tuple[Tenant, ...], address: Address) -> None:
    """A recipient that is not suppressed for this account, its resellers or the platform."""
    found = suppressed(policy, line, address.canonical)
    if found is None:
        return
    scope = _scope(line, found.tenant_id)
    raise Refusal(
        Reason.RECIPIENT_SUPPRESSED,
        f"{address.mailbox} is on the suppression list (scope: {scope}, reason: {found.reason.replace('_', ' ')})",
        field="recipients",
        metadata={"address": address.mailbox, "scope": scope, "reason": found.reason},
    )


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
