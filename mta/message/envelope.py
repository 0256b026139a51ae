"""Who a message is from and to: the envelope, as opposed to the header fields. Pure values."""

from dataclasses import dataclass

from mta.message.address import Address


@dataclass(frozen=True, slots=True)
class Recipient:
    """One address with an outcome of its own."""

    id: int
    """The 63-bit id of `mta.message.ids`."""
    address: Address


@dataclass(frozen=True, slots=True)
class Envelope:
    """Sender and recipients of one message."""

    sender: Address | None
    """Where bounces go; None is the null sender `<>` of bounces themselves (RFC 5321 §4.5.5)."""
    recipients: tuple[Recipient, ...]
    """In the order they were given; at least one."""

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("an envelope has at least one recipient")

    @property
    def reverse_path(self) -> str:
        """The sender as written between the angle brackets of MAIL FROM; empty for the null sender."""
        return "" if self.sender is None else self.sender.mailbox

    @property
    def needs_smtputf8(self) -> bool:
        """Some address has a local part outside ASCII: the next server has to offer SMTPUTF8 (RFC 6531)."""
        if self.sender is not None and self.sender.needs_smtputf8:
            return True
        return any(recipient.address.needs_smtputf8 for recipient in self.recipients)

    def by_domain(self) -> dict[str, tuple[Recipient, ...]]:
        """The recipients grouped by domain, domains in order of first appearance: one transaction each."""
        groups: dict[str, list[Recipient]] = {}
        for recipient in self.recipients:
            groups.setdefault(recipient.address.domain, []).append(recipient)
        return {domain: tuple(group) for domain, group in groups.items()}
