"""What comes in: one message that somebody asks us to take, and what is told of how it came. Values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mta.message.address import Address
from mta.policy.records import Tenant
from mta.runtime.refusals import Refusal
from mta.spool.records import AnswerRow, Receipt


class Source(StrEnum):
    """How a message came."""

    SMTP = "smtp"
    GRPC = "grpc"
    BOUNCE = "bounce"


@dataclass(slots=True)
class Origin:
    """Who handed a message over, for its Received field (RFC 5321 §4.4)."""

    source: Source
    protocol: str
    """As in RFC 3848: ESMTP, ESMTPS, ESMTPSA and so on; "gRPC" for injection."""
    helo: str | None
    address: str | None
    """IP address of the peer."""


class Dropped(NamedTuple):
    """A recipient that gets nothing, and is to be on record."""

    address: Address
    why: str


@dataclass(slots=True)
class Submission:
    """One message on its way in. Sender and recipients have passed ``admission``. Not to be changed.

    Not frozen: making a frozen one costs three times as much, and one is made per message.
    """

    line: tuple[Tenant, ...]
    """The tenant it is charged to and those above, nearest first."""
    sender: Address | None
    """Envelope sender; None: the null sender."""
    sender_name: str
    """Display name for a From field that has to be added."""
    recipients: tuple[Address, ...]
    """Each mailbox once."""
    content: bytes
    smtputf8: bool
    """The client asked for SMTPUTF8 (RFC 6531)."""
    origin: Origin
    stream: str = ""
    """The stream it was said to belong to; recipients have passed ``admission`` for it. Empty: the content may say."""
    provider: str = ""
    """Id of the SMTP provider that was asked for; empty: the tenant's default."""
    pool: str = ""
    """Pool of sources that was asked for, as the tenant calls it; empty: the policy says."""
    tags: tuple[str, ...] = ()
    """What the tenant calls mail of this kind."""
    properties: str = ""
    """A JSON object for the record of each recipient, or nothing."""
    reference: bytes = b""
    """An id of the submitter's for the record of each recipient, or nothing."""
    dropped: tuple[Dropped, ...] = ()
    """Recipients that are recorded and get nothing. With one of them there need not be any others."""


class Taken(NamedTuple):
    """What a message will be answered with once it is durable."""

    recipient_ids: tuple[int, ...]
    """In the order of the submission's recipients."""
    dropped_ids: tuple[int, ...]
    """In the order of those that are recorded only."""
    message_id_header: str

    @property
    def message_id(self) -> int:
        """Id of the message: that of its first recipient."""
        return (self.recipient_ids or self.dropped_ids)[0]


class Accepted(NamedTuple):
    """A message is ours now."""

    receipt: Receipt
    recipient_ids: tuple[int, ...]
    """In the order of the submission's recipients."""
    message_id_header: str


Remember = Callable[[Sequence[Taken | Refusal]], Sequence[AnswerRow]]
"""The answers to keep for what is about to be stored, in the transaction that stores it."""

OnAnswer = Callable[[Accepted | Refusal], None]
"""Called once, on the loop's thread, with the answer to a submission."""
