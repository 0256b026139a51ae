"""A message as a remote server got it."""

from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser


@dataclass(frozen=True, slots=True)
class Received:
    """One transaction that a sink answered with 250."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    helo: str
    tls: bool

    @property
    def message(self) -> EmailMessage:
        """The content, parsed by the standard library."""
        return BytesParser(policy=policy.default).parsebytes(self.content)

    def headers(self, name: str) -> list[str]:
        """All values of a header field, in order."""
        return [str(value) for value in self.message.get_all(name, [])]
