"""The single way in for submitted messages: takes responsibility for one.

``submit`` checks the content, completes the header, signs, pays and stores; the answer comes once the message is
durable, as ``Accepted``, which holds the spool's receipt. Until then nothing is promised, and a refusal leaves no
trace: no credit spent, nothing counted, nothing queued.

The way of a message that its tenant has credits for has no await in it. Thread rules: the loop's thread.
"""

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from prometheus_client import Counter

from mta.custody import admission
from mta.custody.completed import Completed
from mta.custody.credits import Credits
from mta.custody.providers import NOTHING, Choice, Providers
from mta.custody.signer import Signer
from mta.custody.submission import Accepted, OnAnswer, Remember, Source, Submission, Taken
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
)
from mta.policy.egress import BUILT_IN
from mta.policy.lookup import Policy
from mta.queues.manager import QueueManager
from mta.runtime.lifecycle import Drain, Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import Change, Receipt, SpoolError, Store

log = get_logger(__name__)

ACCEPTED = Counter("barua_messages_accepted_total", "Messages taken responsibility for.", ["source"])
RECIPIENTS = Counter("barua_recipients_accepted_total", "Recipients taken responsibility for.", ["source"])
REFUSED = Counter("barua_messages_refused_total", "Messages refused once they were complete.", ["reason"])
# Looked up once: finding the child of a label costs more than counting.
_ACCEPTED = {source: ACCEPTED.labels(source.value) for source in Source}
_RECIPIENTS = {source: RECIPIENTS.labels(source.value) for source in Source}

TURN = 16
"""Messages of a batch that are checked and signed before others have a turn."""


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

    async def submit_all(
        self, submissions: Sequence[Submission], remember: Remember | None = None, *, together: bool = False
    ) -> list[Taken | Refusal]:
        """Take messages in one change, with what ``remember`` gives for them; what is Taken is durable on return.

        Each is taken or refused by itself; only a spool that fails refuses all, and with ``together`` credits or limits
        that do not suffice for all. To cancel the call does not end the work. Raises Refusal when no message can be
        taken now.
        """
        work = self._submit_all(submissions, remember, together)
        results = await asyncio.shield(self._tasks.start(work, "intake-batch"))
        if isinstance(results, Refusal):
            raise results
        return cast(list[Taken | Refusal], results)

    async def _submit_all(
        self, submissions: Sequence[Submission], remember: Remember | None, together: bool
    ) -> list[Taken | Refusal] | Refusal:
        """As ``submit_all``; a refusal is no failure of a task, so it is returned."""
        self._drain.begin("intake")
        try:
            self.ready()
            drafts: list[Completed | Refusal] = []
            for number, submission in enumerate(submissions, 1):
                drafts.append(self._try_complete(submission))
                if number % TURN == 0:
                    await asyncio.sleep(0)  # others want the loop, too
            short = await self._provide([draft for draft in drafts if isinstance(draft, Completed)])
            self.ready()
            return await self._store_all(drafts, short, remember, together)
        except Refusal as refusal:
            return refusal
        finally:
            self._drain.end("intake")

    def _try_complete(self, submission: Submission) -> Completed | Refusal:
        try:
            return self._complete(submission)
        except Refusal as refusal:
            return refusal
        except Exception:
            log.exception("intake_broke", tenant=submission.line[0].tenant_id)
            return Refusal(Reason.INTERNAL, "the message could not be taken; try again later")

    async def _provide(self, messages: Sequence[Completed]) -> dict[str, Refusal]:
        """Wait for credits and quotas for all; by tenant and by subject, why there are not enough."""
        short: dict[str, Refusal] = {}
        by_choice: Tally[Choice] = Tally()
        by_tenant: Tally[str] = Tally()
        for message in messages:
            by_choice[message.provider] += len(message.recipient_ids)
            by_tenant[message.tenant] += len(message.recipient_ids)

        async def provided(name: str, wait: Awaitable[None]) -> None:
            try:
                await wait
            except Refusal as refusal:
                short[name] = refusal

        waits = [provided(tenant, self._credits.wait(tenant, wanted)) for tenant, wanted in by_tenant.items()]
        if self._providers is not None:
            for choice, wanted in by_choice.items():
                if choice.subject:
                    waits.append(provided(choice.subject, self._providers.wait_for_most(choice, wanted)))
        if len(waits) == 1:
            await waits[0]  # without tasks: nearly all calls are for one tenant
        else:
            await asyncio.gather(*waits)
        return short

    async def _store_all(
        self,
        drafts: Sequence[Completed | Refusal],
        short: dict[str, Refusal],
        remember: Remember | None,
        together: bool,
    ) -> list[Taken | Refusal]:
        """Pay for all that can be paid and store it. No await between that and writing."""
        stored: asyncio.Future[Receipt | SpoolError] = asyncio.get_running_loop().create_future()
        paid: list[tuple[Completed, list[int]]] = []

        def on_done(result: Receipt | SpoolError) -> None:
            if not stored.done():
                stored.set_result(result)
            if isinstance(result, SpoolError):
                self._unpay_all(paid)
            else:
                self._begin_all([message for message, _ in paid])

        change = Change(on_done)
        try:
            results = [
                draft if isinstance(draft, Refusal) else self._pay(draft, change, paid, short) for draft in drafts
            ]
            unpaid = _unpaid(drafts, results) if together else None
            if unpaid is not None:
                self._unpay_all(paid)
                results = [draft if isinstance(draft, Refusal) else unpaid for draft in drafts]
            if paid and remember is not None:
                change.answers += remember(results)
        except BaseException:
            self._unpay_all(paid)
            raise
        for result in results:
            if isinstance(result, Refusal):
                REFUSED.labels(result.reason.value).inc()
        if not paid:
            return results
        # A lease is on file as the last of the messages leaves it.
        change.leases = list({row.lease_id: row for row in change.leases}.values())
        self._store.write(change)
        if isinstance(await stored, SpoolError):
            return [result if isinstance(result, Refusal) else _not_stored() for result in results]
        return results

    def _pay(
        self, message: Completed, change: Change, paid: list[tuple[Completed, list[int]]], short: dict[str, Refusal]
    ) -> Taken | Refusal:
        """Count a message, spend for it and put it into ``change``; or why not."""
        count = len(message.recipient_ids)
        if self._providers is not None and not self._providers.take(message.provider, count):
            return short.get(message.provider.subject) or _busy()
        sequences = [self._store.next_sequence() for _ in range(count + len(message.dropped_ids))]
        spent = self._spend(message, change, sequences[-1]) if count else []
        if spent is None:
            return short.get(message.tenant) or _busy()
        paid.append((message, spent))
        domains = [address.domain for address in message.submission.recipients]
        message.parked = not self._queue.has_room(len(message.content), domains)
        message.fill(change, sequences, spent)
        return message.taken()

    def _spend(self, message: Completed, change: Change, last_sequence: int) -> list[int] | None:
        """The credits for a message that its provider has counted; where there are none, it is counted no longer."""
        try:
            spent = self._credits.take(message.tenant, change, len(message.recipient_ids), last_sequence)
        except BaseException:
            self._uncount(message)
            raise
        if spent is None:
            self._uncount(message)
        return spent

    def _unpay(self, message: Completed, spent: Sequence[int]) -> None:
        """It was not stored."""
        self._credits.give_back(message.tenant, spent)
        self._uncount(message)

    def _unpay_all(self, paid: list[tuple[Completed, list[int]]]) -> None:
        for message, spent in paid:
            self._unpay(message, spent)
        paid.clear()

    def _begin_all(self, messages: Sequence[Completed]) -> None:
        """They are stored; between some of them and the next ones others have a turn."""
        for message in messages[:TURN]:
            self._begin(message)
        if len(messages) > TURN:
            asyncio.get_running_loop().call_soon(self._begin_all, messages[TURN:])

    def _begin(self, message: Completed) -> None:
        """It is stored: count it, and have it delivered."""
        if message.recipient_ids and not message.parked:
            self._deliver(message)
        source = message.submission.origin.source
        _ACCEPTED[source].inc()
        _RECIPIENTS[source].inc(len(message.recipient_ids))
        log.info("message_received", **message.facts())

    def check(self, submission: Submission) -> None:
        """Everything ``submit`` checks short of storing and paying. Raises Refusal."""
        self.ready()
        self._complete(submission)

    def _complete(self, submission: Submission) -> Completed:
        """Check the content and make the message as it is stored. Raises Refusal."""
        limit = self._rules.message_bytes
        if len(submission.content) > limit:
            raise Refusal(Reason.MESSAGE_TOO_LARGE, f"the message is larger than {limit} bytes", field="content")
        admission.message_limits(submission.line, len(submission.content), len(submission.recipients))
        now_ms = time.time_ns() // 1_000_000
        count = len(submission.recipients) + len(submission.dropped)
        recipient_ids = tuple([self._ids.next(now_ms) for _ in range(count)])
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
        if domain is not None and submission.recipients:
            content = self._signer.signatures(domain, full, now_ms // 1000) + content
        provider, pool = NOTHING, ""
        if self._providers is not None:
            pool = self._providers.pool(submission.line, submission.pool) if submission.pool else ""
            # Pools are ways out of the MTA itself: the account's default provider is not meant then.
            provider = self._providers.choose(submission.line, submission.provider or (BUILT_IN if pool else ""))
        return Completed(submission, full, content, stream, recipient_ids, now_ms, provider, pool)

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

    async def _store_later(self, message: Completed, answer: OnAnswer) -> None:
        """As ``_store_message``, once there are credits and the provider's limits allow it."""
        try:
            tenant = message.tenant
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

    def _store_message(self, message: Completed, answer: OnAnswer) -> bool:
        """Count, pay and store; False if quota or credits here do not suffice. No await between that and writing."""
        spent: list[int] = []

        def on_done(result: Receipt | SpoolError) -> None:
            if isinstance(result, SpoolError):
                self._unpay(message, spent)
                answer(_not_stored())
                return
            self._begin(message)
            answer(Accepted(result, message.recipient_ids, message.message_id_header()))

        if self._providers is not None and not self._providers.take(message.provider, len(message.recipient_ids)):
            return False
        change = Change(on_done)
        sequences = [self._store.next_sequence() for _ in message.recipient_ids]
        taken = self._spend(message, change, sequences[-1])
        if taken is None:
            return False
        spent += taken
        try:
            domains = [address.domain for address in message.submission.recipients]
            message.parked = not self._queue.has_room(len(message.content), domains)
            message.fill(change, sequences, spent)
        except BaseException:
            self._unpay(message, spent)
            raise
        self._store.write(change)
        return True

    def _uncount(self, message: Completed) -> None:
        if self._providers is not None:
            self._providers.give_back(message.provider, len(message.recipient_ids))

    def _deliver(self, message: Completed) -> None:
        try:
            self._queue.add(message.queued(), message.content)
        except Exception:  # it is stored, and whoever sent it has to hear that; the next run delivers it
            log.exception("delivery_not_begun", id=message.id)


def _busy() -> Refusal:
    """Others were faster with the credits or the quota that had come."""
    return Refusal(Reason.CREDITS_UNAVAILABLE, "credits cannot be checked now; try again", retry_after=1.0)


def _unpaid(drafts: Sequence[Completed | Refusal], results: Sequence[Taken | Refusal]) -> Refusal | None:
    """Why a message that could be taken could not be paid for, if there is one."""
    for draft, result in zip(drafts, results, strict=True):
        if isinstance(draft, Completed) and isinstance(result, Refusal):
            return result
    return None


def _not_stored() -> Refusal:
    return Refusal(Reason.NOT_STORED, "the message could not be stored; try again later", retry_after=5.0)
