"""What a spool holds: rows, and the change that writes a set of them as one transaction.

Rows are plain tuples in the order of the schema's columns because tens of thousands of them are made per second; the
``NamedTuple`` types name the columns. Times are integers, milliseconds since 1970 in UTC. Pure.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

MAX_KEYS = 1000
"""Keys whose answers can be asked for at once."""


class EventKind(IntEnum):
    """What happened; the numbers are those of ``barua.journal.v1.Event.Kind``."""

    RECEIVED = 1
    DELIVERED = 2
    DEFERRED = 3
    BOUNCED = 4
    EXPIRED = 5
    LEASE_RELEASED = 6
    DROPPED = 7


class MessageFlag(IntEnum):
    """Bits of ``MessageRow.flags``."""

    EIGHT_BIT = 1
    """The content has octets above 127."""
    SMTPUTF8 = 2
    """It may only go to servers that offer SMTPUTF8 (RFC 6531); so may a recipient that is not ASCII."""
    BOUNCE = 4
    """It is a bounce message of ours."""


class MessageRow(NamedTuple):
    """One message: everything but its recipients."""

    message_id: int
    last_recipient_id: int
    """The recipients of a message have the ids from message_id to this one, and no other message's are between."""
    tenant: str
    sender: str
    """Envelope sender; empty for a bounce message."""
    received_ms: int
    size: int
    flags: int
    content: bytes
    stream: str = ""
    """The kind of mail it is, as its sender named it."""
    provider: str = ""
    """Key of the SMTP provider it goes through, "tenant/id"; empty: the built-in MTA."""
    pool: str = ""
    """Id of the pool of sources that it asks for; empty: the policy says."""


class RecipientRow(NamedTuple):
    """One recipient that is not finished."""

    recipient_id: int
    message_id: int
    tenant: str
    address: str
    domain: str
    attempts: int
    due_ms: int
    parked: int
    """1: waits on disk for its due time; 0: the run that accepted it has it in memory."""
    reason: str


class OutboxRow(NamedTuple):
    """One event on its way to control; fields as in ``barua.journal.v1.Event``."""

    sequence: int
    kind: int
    time_ms: int
    tenant: str
    recipient_id: int = 0
    message_id: int = 0
    sender: str | None = None
    recipient: str | None = None
    subject: str | None = None
    size: int = 0
    source: str | None = None
    attempt: int = 0
    code: int = 0
    enhanced: str | None = None
    text: str | None = None
    remote_host: str | None = None
    next_ms: int = 0
    lease_id: int = 0
    credits: int = 0
    stream: str | None = None
    provider: str | None = None
    egress_source: str | None = None
    tags: str | None = None
    """A JSON array of strings."""
    properties: str | None = None
    """A JSON object."""
    reference: bytes | None = None


class LeaseRow(NamedTuple):
    """What is known of a credit lease: ``used`` is absolute, so that writing it again changes nothing."""

    lease_id: int
    tenant: str
    amount: int
    used: int


class AnswerRow(NamedTuple):
    """An answer that is given again to whoever asks with the same key of the same tenant."""

    tenant: str
    key: str
    fingerprint: bytes
    expires_ms: int
    answer: bytes


class Receipt(NamedTuple):
    """Proof that a change is durable. Only a spool makes one, and a 250 can only be built from one."""

    message_id: int
    committed_ms: int


class SpoolError(Exception):
    """A change could not be made durable and has been undone; the text is for the log."""


OnDone = Callable[[Receipt | SpoolError], None]
"""Called on the loop's thread once a change is durable, or has failed and left no trace."""

OnStored = Callable[[], None]
"""Called on the loop's thread once a change that cannot fail is durable. Must not raise."""


class Change:
    """Rows written, changed and removed as one unit.

    A change with ``on_done`` may fail: its waiter is told and nothing of it stays. A change without one records what
    has already happened in the world (an outcome) and is retried until it is durable; ``on_stored`` tells when.
    Writing a change twice has the effect of writing it once.
    """

    __slots__ = (
        "answers",
        "done_leases",
        "done_messages",
        "done_recipients",
        "leases",
        "messages",
        "on_done",
        "on_stored",
        "outbox",
        "parked",
        "recipients",
    )

    def __init__(self, on_done: OnDone | None = None, on_stored: OnStored | None = None) -> None:
        self.messages: list[MessageRow] = []
        self.recipients: list[RecipientRow] = []
        self.outbox: list[OutboxRow] = []
        self.leases: list[LeaseRow] = []
        self.answers: list[AnswerRow] = []
        self.parked: list[tuple[int, int, str, int]] = []
        """(attempts, due_ms, reason, recipient_id) of recipients that are to wait on disk."""
        self.done_recipients: list[tuple[int]] = []
        self.done_messages: list[tuple[int]] = []
        """Messages that may have lost their last recipient: they go if they have."""
        self.done_leases: list[tuple[int]] = []
        """Leases that are spent or given back, and of which control has been told everything."""
        self.on_done = on_done
        self.on_stored = on_stored


class QueuedRecipient(NamedTuple):
    """A recipient as the queues load it, with what they need of its message."""

    recipient_id: int
    message_id: int
    last_recipient_id: int
    tenant: str
    sender: str
    address: str
    domain: str
    attempts: int
    due_ms: int
    received_ms: int
    size: int
    flags: int
    stream: str = ""
    provider: str = ""
    pool: str = ""


class Store(Protocol):
    """What custody and the queues need of a spool. All methods are called on the loop's thread and do not block it."""

    @property
    def healthy(self) -> bool:
        """Whether changes can be made durable now. Cheap: no I/O."""

    @property
    def last_sequence(self) -> int:
        """The highest outbox sequence number given out."""

    def next_sequence(self) -> int:
        """A fresh outbox sequence number. Take it in the same turn as ``write``: readers rely on their order."""

    def write(self, change: Change) -> None:
        """Make a change durable, soon, together with others."""

    async def content(self, message_id: int) -> bytes | None:
        """The content of a message; None if it is not there. Raises SpoolError if it cannot be read."""

    @property
    def answers_kept(self) -> int:
        """How many answers are on file, those that are to be forgotten included."""

    async def answers(self, keys: Sequence[tuple[str, str]], now_ms: int) -> list[AnswerRow]:
        """The answers kept for some pairs of tenant and key, at most ``MAX_KEYS``. Raises SpoolError."""

    def forget_answers(self, now_ms: int) -> None:
        """Remove what has expired, part by part."""

    async def due(self, now_ms: int, after: tuple[int, int], limit: int) -> list[QueuedRecipient]:
        """Parked recipients due by ``now_ms`` and after the place (due_ms, recipient_id), in that order."""
