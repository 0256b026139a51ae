"""A message that has passed all checks, on its way into the spool: what is written of it, queued, answered and logged.

Made by ``intake``, which pays for it and hands it to the spool. No I/O.
"""

import json

from mta.custody.providers import Choice
from mta.custody.submission import Submission, Taken
from mta.message.address import Address
from mta.message.headers import Headers, subject
from mta.spool.records import (
    Change,
    EventKind,
    MessageFlag,
    MessageRow,
    OutboxRow,
    QueuedRecipient,
    RecipientRow,
)


class Completed:
    """A message as it will be stored, with the ids of its recipients."""

    __slots__ = (
        "content",
        "dropped_ids",
        "flags",
        "headers",
        "now_ms",
        "parked",
        "pool",
        "provider",
        "recipient_ids",
        "sender",
        "stream",
        "submission",
    )

    def __init__(
        self,
        submission: Submission,
        headers: Headers,
        content: bytes,
        stream: str,
        ids: tuple[int, ...],
        now_ms: int,
        provider: Choice,
        pool: str,
    ) -> None:
        """``ids`` are those of the recipients and, after them, of those that are recorded only."""
        count = len(submission.recipients)
        self.submission = submission
        self.provider = provider
        self.pool = pool
        self.headers = headers
        self.content = content
        self.stream = stream
        self.recipient_ids = ids[:count]
        self.dropped_ids = ids[count:]
        self.now_ms = now_ms
        self.parked = False
        self.sender = submission.sender.mailbox if submission.sender is not None else ""
        self.flags = self._flags()

    @property
    def tenant(self) -> str:
        """Id of the tenant it is charged to."""
        return self.submission.line[0].tenant_id

    @property
    def id(self) -> int:
        """Its id: that of its first recipient."""
        return (self.recipient_ids or self.dropped_ids)[0]

    def _flags(self) -> int:
        flags = 0 if self.content.isascii() else MessageFlag.EIGHT_BIT
        sender = self.submission.sender
        # Raw 8-bit header fields of clients that know nothing of SMTPUTF8 go out as they came. A recipient that needs
        # it needs it for itself: delivery sees that.
        international = self.submission.smtputf8 and not self.headers.is_ascii
        if international or (sender is not None and sender.needs_smtputf8):
            flags |= MessageFlag.SMTPUTF8
        return int(flags)

    def taken(self) -> Taken:
        """What it will be answered with."""
        return Taken(self.recipient_ids, self.dropped_ids, self.message_id_header())

    def message_id_header(self) -> str:
        """The Message-ID field's value."""
        value = self.headers.first(b"message-id")
        return value.decode("ascii", "replace") if value is not None else ""

    def facts(self) -> dict[str, object]:
        """For the log: who, whom, how much; no content."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "sender": self.sender,
            "recipients": len(self.recipient_ids),
            "dropped": len(self.dropped_ids),
            "size": len(self.content),
            "source": self.submission.origin.source.value,
            "stream": self.stream,
            "peer": self.submission.origin.address,
        }

    def fill(self, change: Change, sequences: list[int], spent: list[int]) -> None:
        """Put the rows of this message into ``change``: a sequence for each recipient, and for those recorded only."""
        tenant, sender, now_ms, parked, first = self.tenant, self.sender, self.now_ms, int(self.parked), self.id
        told = self._told()
        if self.recipient_ids:
            change.messages.append(
                MessageRow(
                    first,
                    self.recipient_ids[-1],
                    tenant,
                    sender,
                    now_ms,
                    len(self.content),
                    self.flags,
                    self.content,
                    self.stream,
                    self.provider.key,
                    self.pool,
                )
            )
        for index, address in enumerate(self.submission.recipients):
            recipient_id, mailbox = self.recipient_ids[index], address.mailbox
            change.recipients.append(
                RecipientRow(recipient_id, first, tenant, mailbox, address.domain, 0, now_ms, parked, "received")
            )
            change.outbox.append(told(sequences[index], EventKind.RECEIVED, recipient_id, address, spent[index], None))
        for recipient_id, sequence, (address, why) in zip(
            self.dropped_ids, sequences[len(spent) :], self.submission.dropped, strict=True
        ):
            change.outbox.append(told(sequence, EventKind.DROPPED, recipient_id, address, 0, why))

    def _told(self) -> "_Told":
        submission = self.submission
        return _Told(
            self,
            subject(self.headers),
            json.dumps(submission.tags, ensure_ascii=False) if submission.tags else None,
        )

    def queued(self) -> list[QueuedRecipient]:
        """The recipients as the queues know them."""
        tenant, sender, first, last = self.tenant, self.sender, self.id, self.recipient_ids[-1]
        flags, size, now_ms, stream = self.flags, len(self.content), self.now_ms, self.stream
        via, pool = self.provider.key, self.pool
        return [
            QueuedRecipient(
                id_,
                first,
                last,
                tenant,
                sender,
                to.mailbox,
                to.domain,
                0,
                now_ms,
                now_ms,
                size,
                flags,
                stream,
                via,
                pool,
            )
            for id_, to in zip(self.recipient_ids, self.submission.recipients, strict=True)
        ]


class _Told:
    """Makes the events of one message that tell control of it."""

    __slots__ = ("_message", "_properties", "_reference", "_size", "_source", "_tags", "_title")

    def __init__(self, message: Completed, title: str, tags: str | None) -> None:
        self._message = message
        self._title = title
        self._tags = tags
        self._properties = message.submission.properties or None
        self._reference = message.submission.reference or None
        self._size = len(message.content)
        self._source = message.submission.origin.source.value

    def __call__(
        self, sequence: int, kind: EventKind, recipient_id: int, address: Address, lease_id: int, why: str | None
    ) -> OutboxRow:
        message = self._message
        return OutboxRow(
            sequence,
            kind,
            message.now_ms,
            message.tenant,
            recipient_id,
            message.id,
            sender=message.sender,
            recipient=address.mailbox,
            subject=self._title,
            size=self._size,
            source=self._source,
            text=why,
            lease_id=lease_id,
            credits=0 if kind is EventKind.DROPPED else 1,
            stream=message.stream,
            tags=self._tags,
            properties=self._properties,
            reference=self._reference,
        )
