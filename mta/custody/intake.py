"""The single way in for submitted messages: takes responsibility for one.

``submit`` checks the content, completes the header, signs, pays and stores; the answer comes once the message is
durable, as ``Accepted``, which holds the spool's receipt. Until then nothing is promised, and a refusal leaves no
trace: no credit spent, nothing counted, nothing queued.

The way of a message that its tenant has credits for has no await in it. Thread rules: the loop's thread.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from mta.custody import admission
from mta.custody.credits import Credits
from mta.custody.providers import NOTHING, Choice, Providers
from mta.custody.signer import Signer
from mta.custody.submission import Accepted, OnAnswer, Source, Submission
from mta.message import ids
from mta.message.address import AddressError
from mta.message.headers import (
    Headers,
    MessageError,
    check_body,
    format_date,
    prepare,
    received_field,
    scan,
    subject,
)
from mta.policy.lookup import Policy
from mta.queues.manager import QueueManager
from mta.runtime.lifecycle import Drain, Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import (
    Change,
    EventKind,
    MessageFlag,
    MessageRow,
    OutboxRow,
    QueuedRecipient,
    Receipt,
    RecipientRow,
    SpoolError,
    Store,
)

log = get_logger(__name__)

ACCEPTED = Counter("barua_messages_accepted_total", "Messages taken responsibility for.", ["source"])
RECIPIENTS = Counter("barua_recipients_accepted_total", "Recipients taken responsibility for.", ["source"])
REFUSED = Counter("barua_messages_refused_total", "Messages refused once they were complete.", ["reason"])
# Looked up once: finding the child of a label costs more than counting.
_ACCEPTED = {source: ACCEPTED.labels(source.value) for source in Source}
_RECIPIENTS = {source: RECIPIENTS.labels(source.value) for source in Source}


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """Settings of the intake."""

    hostname: str
    message_bytes: int
    received_fields: int
    free_bytes: int
    """Room the spool's file system must have."""


class Intake:
    """Takes messages for one worker."""

    def __init__(
        self,
        rules: IntakeRules,
        store: Store,
        queue: QueueManager,
        policy: Policy,
        credits_: Credits,
        signer: Signer,
        id_maker: ids.IdMaker,
        drain: Drain,
        free_bytes: Callable[[], int],
        providers: Providers | None = None,
    ) -> None:
        self._rules = rules
        self._store = store
        self._queue = queue
        self._policy = policy
        self._credits = credits_
        self._signer = signer
        self._ids = id_maker
        self._drain = drain
        self._free_bytes = free_bytes
        self._providers = providers
        self._tasks = Tasks()

    async def close(self) -> None:
        """Give up on submissions that still wait for credits or quota."""
        await self._tasks.close()

    def ready(self) -> None:
        """Raises Refusal when no message can be taken now. Cheap: asked at connect, at MAIL and at the end."""
        if self._drain.stopping:
            raise Refusal(Reason.UNAVAILABLE, "the service is stopping; try again soon", retry_after=5.0)
        if not self._store.healthy:
            raise Refusal(Reason.NOT_STORED, "mail cannot be stored now; try again later", retry_after=5.0)
        if self._free_bytes() < self._rules.free_bytes:
            raise Refusal(Reason.SPOOL_FULL, "there is no room for mail now; try again later", retry_after=30.0)

    def submit(self, submission: Submission, on_answer: OnAnswer) -> None:
        """Take a message; ``on_answer`` gets the answer, perhaps before this returns."""
        self._drain.begin("intake")

        def answer(result: Accepted | Refusal) -> None:
            self._drain.end("intake")
            if isinstance(result, Refusal):
                REFUSED.labels(result.reason.value).inc()
            on_answer(result)

        try:
            self.ready()
            message = self._complete(submission)
            stored = self._store_message(message, answer)
        except Refusal as refusal:
            answer(refusal)
            return
        except Exception:
            # A mistake of ours must not leave the peer without an answer, nor a stop waiting for one.
            log.exception("intake_broke", tenant=submission.line[0].tenant_id)
            answer(Refusal(Reason.INTERNAL, "the message could not be taken; try again later"))
            return
        if not stored:
            self._tasks.start(self._store_later(message, answer), "intake-waits")

    def check(self, submission: Submission) -> None:
        """Everything ``submit`` checks short of storing and paying. Raises Refusal."""
        self.ready()
        self._complete(submission)

    def _complete(self, submission: Submission) -> "_Message":
        """Check the content and make the message as it is stored. Raises Refusal."""
        limit = self._rules.message_bytes
        if len(submission.content) > limit:
            raise Refusal(Reason.MESSAGE_TOO_LARGE, f"the message is larger than {limit} bytes", field="content")
        admission.message_limits(submission.line, len(submission.content), len(submission.recipients))
        now_ms = time.time_ns() // 1_000_000
        recipient_ids = tuple(self._ids.next(now_ms) for _ in submission.recipients)
        try:
            headers = scan(submission.content)
            if submission.origin.source is Source.GRPC:
                check_body(headers)  # the SMTP session has done that for its own
            if headers.received > self._rules.received_fields:
                raise Refusal(Reason.MAIL_LOOP, "the message has been handed on too often: it goes round in a loop")
            domain = admission.header_from(self._policy, submission.line, headers)
            stream = submission.stream or self._stream(submission, headers)
            full = self._prepare(submission, headers, recipient_ids[0], now_ms)
        except MessageError as error:
            raise Refusal(Reason.BAD_CONTENT, str(error), field="content") from error
        except AddressError as error:  # of the From field that is made
            raise Refusal(Reason.INVALID_ARGUMENT, str(error), field="from_display_name") from error
        if domain is None and submission.sender is not None:
            domain = admission.sender(self._policy, submission.line, submission.sender)
        content = full.content
        if domain is not None:
            content = self._signer.signatures(domain, full, now_ms // 1000) + content
        provider = NOTHING
        if self._providers is not None:
            provider = self._providers.choose(submission.line, submission.provider)
        return _Message(submission, full, content, stream, recipient_ids, now_ms, provider)

    def _stream(self, submission: Submission, headers: Headers) -> str:
        """The stream that the content names. Its suppressions are looked at here: before, nobody knew of it."""
        stream = admission.header_stream(headers)
        if stream:
            for address in submission.recipients:
                admission.recipient(self._policy, submission.line, address, stream)
        return stream

    def _prepare(self, submission: Submission, headers: Headers, message_id: int, now_ms: int) -> Headers:
        date = format_date(now_ms / 1000)
        origin = submission.origin
        received = received_field(
            helo=origin.helo,
            peer=origin.address,
            by=self._rules.hostname,
            protocol=origin.protocol,
            id_=str(message_id),
            recipient=submission.recipients[0] if len(submission.recipients) == 1 else None,
            date=date,
        )
        return prepare(
            headers,
            received=received,
            date=date,
            message_id=ids.message_id(message_id, self._rules.hostname),
            sender=submission.sender,
            sender_name=submission.sender_name,
        )

    async def _store_later(self, message: "_Message", answer: OnAnswer) -> None:
        """As ``_store_message``, once there are credits and the provider's limits allow it."""
        try:
            tenant = message.submission.line[0].tenant_id
            while True:
                if self._providers is not None:
                    await self._providers.wait(message.provider, len(message.recipient_ids))
                await self._credits.wait(tenant, len(message.recipient_ids))
                self.ready()
                if self._store_message(message, answer):
                    return
        except Refusal as refusal:
            answer(refusal)
        except BaseException:
            answer(Refusal(Reason.UNAVAILABLE, "the service is stopping; try again soon", retry_after=5.0))
            raise

    def _store_message(self, message: "_Message", answer: OnAnswer) -> bool:
        """Count, pay and store; False if quota or credits here do not suffice. No await between that and writing."""
        tenant = message.submission.line[0].tenant_id
        spent: list[int] = []

        def on_done(result: Receipt | SpoolError) -> None:
            if isinstance(result, SpoolError):
                self._credits.give_back(tenant, spent)
                self._uncount(message)
                answer(Refusal(Reason.NOT_STORED, "the message could not be stored; try again later", retry_after=5.0))
                return
            if not message.parked:
                self._deliver(message)
            source = message.submission.origin.source
            _ACCEPTED[source].inc()
            _RECIPIENTS[source].inc(len(message.recipient_ids))
            log.info("message_received", **message.facts())
            answer(Accepted(result, message.recipient_ids, message.message_id_header()))

        if self._providers is not None and not self._providers.take(message.provider, len(message.recipient_ids)):
            return False
        change = Change(on_done)
        sequences = [self._store.next_sequence() for _ in message.recipient_ids]
        taken = self._credits.take(tenant, change, len(sequences), sequences[-1])
        if taken is None:
            self._uncount(message)
            return False
        spent += taken
        try:
            domains = [address.domain for address in message.submission.recipients]
            message.parked = not self._queue.has_room(len(message.content), domains)
            message.fill(change, sequences, spent)
        except BaseException:
            self._credits.give_back(tenant, spent)
            self._uncount(message)
            raise
        self._store.write(change)
        return True

    def _uncount(self, message: "_Message") -> None:
        if self._providers is not None:
            self._providers.give_back(message.provider, len(message.recipient_ids))

    def _deliver(self, message: "_Message") -> None:
        try:
            self._queue.add(message.queued(), message.content)
        except Exception:  # it is stored, and whoever sent it has to hear that; the next run delivers it
            log.exception("delivery_not_begun", id=message.recipient_ids[0])


class _Message:
    """A completed message on its way into the spool."""

    __slots__ = (
        "content",
        "flags",
        "headers",
        "now_ms",
        "parked",
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
        recipient_ids: tuple[int, ...],
        now_ms: int,
        provider: Choice,
    ) -> None:
        self.submission = submission
        self.provider = provider
        self.headers = headers
        self.content = content
        self.stream = stream
        self.recipient_ids = recipient_ids
        self.now_ms = now_ms
        self.parked = False
        self.sender = submission.sender.mailbox if submission.sender is not None else ""
        self.flags = self._flags()

    def _flags(self) -> int:
        flags = 0 if self.content.isascii() else MessageFlag.EIGHT_BIT
        sender = self.submission.sender
        # Raw 8-bit header fields of clients that know nothing of SMTPUTF8 go out as they came. A recipient that needs
        # it needs it for itself: delivery sees that.
        international = self.submission.smtputf8 and not self.headers.is_ascii
        if international or (sender is not None and sender.needs_smtputf8):
            flags |= MessageFlag.SMTPUTF8
        return int(flags)

    def message_id_header(self) -> str:
        """The Message-ID field's value."""
        value = self.headers.first(b"message-id")
        return value.decode("ascii", "replace") if value is not None else ""

    def facts(self) -> dict[str, object]:
        """For the log: who, whom, how much; no content."""
        return {
            "id": self.recipient_ids[0],
            "tenant": self.submission.line[0].tenant_id,
            "sender": self.sender,
            "recipients": len(self.recipient_ids),
            "size": len(self.content),
            "source": self.submission.origin.source.value,
            "stream": self.stream,
            "peer": self.submission.origin.address,
        }

    def fill(self, change: Change, sequences: list[int], spent: list[int]) -> None:
        """Put the rows of this message into ``change``."""
        tenant, sender, first, last = self._key()
        flags, size, parked = self.flags, len(self.content), int(self.parked)
        title, source = subject(self.headers), self.submission.origin.source.value
        stream = self.stream
        provider = self.provider.key
        change.messages.append(
            MessageRow(first, last, tenant, sender, self.now_ms, size, flags, self.content, stream, provider)
        )
        for index, address in enumerate(self.submission.recipients):
            recipient_id, mailbox = self.recipient_ids[index], address.mailbox
            change.recipients.append(
                RecipientRow(recipient_id, first, tenant, mailbox, address.domain, 0, self.now_ms, parked, "received")
            )
            change.outbox.append(
                OutboxRow(
                    sequences[index],
                    EventKind.RECEIVED,
                    self.now_ms,
                    tenant,
                    recipient_id,
                    first,
                    sender=sender,
                    recipient=mailbox,
                    subject=title,
                    size=size,
                    source=source,
                    lease_id=spent[index],
                    credits=1,
                    stream=stream,
                )
            )

    def queued(self) -> list[QueuedRecipient]:
        """The recipients as the queues know them."""
        tenant, sender, first, last = self._key()
        flags, size, now_ms, stream = self.flags, len(self.content), self.now_ms, self.stream
        via = self.provider.key
        return [
            QueuedRecipient(
                id_, first, last, tenant, sender, to.mailbox, to.domain, 0, now_ms, now_ms, size, flags, stream, via
            )
            for id_, to in zip(self.recipient_ids, self.submission.recipients, strict=True)
        ]

    def _key(self) -> tuple[str, str, int, int]:
        return self.submission.line[0].tenant_id, self.sender, self.recipient_ids[0], self.recipient_ids[-1]
