"""Bounce messages: who is told that recipients were given up, and with what (RFC 3461 §6.2, RFC 3464, RFC 5321 §6.1).

The sender of the envelope is told, with a null sender, so that a bounce never causes another. The rows are added to the
change that records the outcomes: the notification is owed exactly when they are durable. It costs no credits.
"""

import secrets
from collections.abc import Sequence

from mta.custody.submission import Source
from mta.message import ids
from mta.message.address import AddressError, parse_path
from mta.message.dsn import Bounce, Failure, build
from mta.message.headers import MessageError, format_date, scan
from mta.message.outcome import Outcome
from mta.queues.jobs import Job, JobRecipient
from mta.runtime.log import get_logger
from mta.spool.records import Change, EventKind, MessageFlag, MessageRow, OutboxRow, RecipientRow, Store

log = get_logger(__name__)

SUBJECT = "Undelivered mail returned to sender"


class BounceMaker:
    """Makes the bounce messages of one worker."""

    def __init__(self, store: Store, id_maker: ids.IdMaker, hostname: str) -> None:
        self._store = store
        self._ids = id_maker
        self._hostname = hostname

    @staticmethod
    def owed(job: Job) -> bool:
        """Whether anybody is told when recipients of this job are given up."""
        return bool(job.sender) and not job.flags & MessageFlag.BOUNCE

    def add(self, change: Change, job: Job, failed: Sequence[tuple[JobRecipient, Outcome]], now_ms: int) -> None:
        """Add the rows of a notification about ``failed`` to ``change``."""
        try:
            sender = parse_path(job.sender, allow_literal=True, allow_single_label=True)
            failures = [
                Failure(
                    parse_path(recipient.address, allow_literal=True, allow_single_label=True),
                    outcome,
                    format_date(now_ms / 1000),
                )
                for recipient, outcome in failed
            ]
        except AddressError as error:
            log.error("bounce_not_made", id=job.message_id, error=str(error))
            return
        bounce_id = self._ids.next(now_ms)
        header, message_id = _original(job.content or b"")
        content = build(
            Bounce(
                hostname=self._hostname,
                recipient=sender,
                message_id=ids.message_id(bounce_id, self._hostname),
                date=format_date(now_ms / 1000),
                boundary=f"bounce-{secrets.token_hex(16)}",
                arrival_date=format_date(job.received_ms / 1000),
                queue_id=str(job.message_id),
                original_message_id=message_id,
                original_header=header,
                failures=failures,
            )
        )
        flags = MessageFlag.BOUNCE | (0 if content.isascii() else MessageFlag.EIGHT_BIT)
        if sender.needs_smtputf8:
            flags |= MessageFlag.SMTPUTF8
        # Parked and due now: the queue manager finds it once the change is durable.
        change.messages.append(
            MessageRow(bounce_id, bounce_id, job.tenant, "", now_ms, len(content), int(flags), content)
        )
        change.recipients.append(
            RecipientRow(bounce_id, bounce_id, job.tenant, sender.mailbox, sender.domain, 0, now_ms, 1, "bounce")
        )
        change.outbox.append(
            OutboxRow(
                self._store.next_sequence(),
                EventKind.RECEIVED,
                now_ms,
                job.tenant,
                bounce_id,
                bounce_id,
                sender="",
                recipient=sender.mailbox,
                subject=SUBJECT,
                size=len(content),
                source=Source.BOUNCE.value,
            )
        )
        log.info("bounce_made", id=bounce_id, about=job.message_id, recipients=len(failures), to=sender.mailbox)


def _original(content: bytes) -> tuple[bytes, str | None]:
    """Header fields and Message-ID of the original, as far as they are fit to repeat."""
    try:
        headers = scan(content)
    except MessageError:
        return b"", None
    value = headers.first(b"message-id")
    plain = value is not None and value.isascii() and value.startswith(b"<") and value.endswith(b">")
    return content[: headers.end], value.decode("ascii") if value is not None and plain else None
