"""A job: the recipients of one message that are bound for one site, ready to be delivered in one transaction."""

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import NamedTuple

from mta.spool.records import QueuedRecipient

MAX_RECIPIENTS = 100
"""Recipients of one transaction: every server takes that many (RFC 5321 §4.5.3.1.8)."""


class JobRecipient(NamedTuple):
    """One recipient of a job."""

    recipient_id: int
    address: str
    attempts: int
    """Attempts before this one."""


class Job:
    """Work for one transaction. ``content`` is None when it has to be read from the spool.

    ``via`` and ``source`` say which SMTP provider and which source it was filed under, as events name them; ``counted``
    names the quotas that have been taken for this attempt, each with its window.
    """

    __slots__ = (
        "content",
        "counted",
        "domain",
        "flags",
        "last_recipient_id",
        "message_id",
        "pool",
        "provider",
        "received_ms",
        "recipients",
        "sender",
        "size",
        "source",
        "stream",
        "tenant",
        "via",
    )

    def __init__(self, of: QueuedRecipient, recipients: list[JobRecipient], content: bytes | None) -> None:
        self.message_id = of.message_id
        self.last_recipient_id = of.last_recipient_id
        self.tenant = of.tenant
        self.sender = of.sender
        self.domain = of.domain
        self.received_ms = of.received_ms
        self.size = of.size
        self.flags = of.flags
        self.stream = of.stream
        self.provider = of.provider
        self.pool = of.pool
        self.via = ""
        self.source = ""
        self.counted: tuple[tuple[str, int], ...] = ()
        self.recipients = recipients
        self.content = content

    def split(self, count: int) -> "Job":
        """Keep the first ``count`` recipients; the others, in a job of their own."""
        rest = copy(self)
        self.recipients, rest.recipients = self.recipients[:count], self.recipients[count:]
        return rest


def jobs_of(recipients: Sequence[QueuedRecipient], content: bytes | None) -> Iterator[Job]:
    """Group queued recipients by message and domain, at most ``MAX_RECIPIENTS`` to a job.

    ``content`` is that of the message when it is at hand; then all recipients must be of that one message.
    """
    if len(recipients) == 1:
        yield _job(recipients, content)
        return
    ordered = sorted(recipients, key=_together)
    for _, group in groupby(ordered, key=_together):
        members = list(group)
        for start in range(0, len(members), MAX_RECIPIENTS):
            yield _job(members[start : start + MAX_RECIPIENTS], content)


def _job(members: Sequence[QueuedRecipient], content: bytes | None) -> Job:
    recipients = [JobRecipient(member.recipient_id, member.address, member.attempts) for member in members]
    return Job(members[0], recipients, content)


def _together(recipient: QueuedRecipient) -> tuple[int, str, bool]:
    # Addresses that need SMTPUTF8 go apart: a server without it must not make their ASCII neighbours bounce.
    return recipient.message_id, recipient.domain, recipient.address.isascii()
