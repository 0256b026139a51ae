"""InjectionService: messages over gRPC, under the rules of SMTP submission.

The messages of a call are drafted one by one, each with its own credentials if it has some, and those that pass are
given to the intake together, which stores them with one change. Requests with an idempotency key are run by tasks of
the service's own: a caller that goes away must not leave a key without its answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import grpc

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc as services

from mta.custody.answers import Answers, Asked, Key
from mta.custody.intake import Intake
from mta.custody.submission import Taken
from mta.rpc.authentication import Caller, CallerAuthentication, peer_of
from mta.rpc.drafts import Draft, Drafts, peer_address
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import status_of
from mta.spool.records import AnswerRow

log = get_logger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]

MAX_SUBMISSIONS = 1000
"""Messages of one call."""
MAX_RECIPIENTS = 10_000
"""Recipients of one call with several messages: what is one transaction must not keep all other mail waiting."""
MAX_KEY = 200
"""Characters of an idempotency key."""
_WHOLE = b"\x01"
TURN = 50
"""Messages that are judged before others have a turn."""
FINGERPRINT_OCTETS = 32


class _Entry:
    """One submission of a call, and what becomes of it."""

    __slots__ = ("asked", "draft", "refusal", "rendered", "taken", "tenant")

    def __init__(self) -> None:
        self.tenant = ""
        """Whose key it has, if it has one; empty: the caller may not send for anybody."""
        self.draft: Draft | None = None
        self.refusal: Refusal | None = None
        self.taken: Taken | None = None
        self.asked: Asked | None = None
        self.rendered: pb.SubmissionResult | None = None

    def result(self) -> pb.SubmissionResult:
        """What the caller hears of it."""
        if self.rendered is None:
            if self.refusal is not None:
                self.rendered = pb.SubmissionResult(status=status_of(self.refusal))
            else:
                assert self.draft is not None
                self.rendered = pb.SubmissionResult(response=self.draft.response(self.taken))
        return self.rendered


class _Caller(NamedTuple):
    """Whom a call comes from, by its metadata."""

    authorization: str
    peer: str | None


class InjectionService(services.InjectionServiceServicer):
    """Serves ``barua.mta.v1.InjectionService``."""

    def __init__(self, intake: Intake, drafts: Drafts, authentication: CallerAuthentication, answers: Answers) -> None:
        self._intake = intake
        self._drafts = drafts
        self._authentication = authentication
        self._answers = answers
        self._tasks = Tasks()

    async def close(self) -> None:
        """Give up on calls that still wait."""
        await self._tasks.close()

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        services.add_InjectionServiceServicer_to_server(self, server)
        return pb.DESCRIPTOR.services_by_name["InjectionService"].full_name

    async def SubmitMessage(self, request: pb.SubmitMessageRequest, context: Context) -> pb.SubmitMessageResponse:
        """Accept one message; see the proto."""
        said = _said(context)
        caller = self._authentication.judge(said.authorization, said.peer)
        draft = self._drafts.draft(request, caller.tenant_id, peer_address(said.peer))
        if draft.validate_only:
            self._intake.check(draft.submission)
            return draft.response(None)
        [result] = await self._intake.submit_all([draft.submission])
        if isinstance(result, Refusal):
            raise result
        return draft.response(result)

    async def SubmitMessages(self, request: pb.SubmitMessagesRequest, context: Context) -> pb.SubmitMessagesResponse:
        """Accept messages; see the proto."""
        said = _said(context)
        if not 1 <= len(request.submissions) <= MAX_SUBMISSIONS:
            text = f"give 1 to {MAX_SUBMISSIONS} submissions; there are {len(request.submissions)}"
            raise Refusal(Reason.INVALID_ARGUMENT, text, field="submissions")
        recipients = sum(len(submission.message.recipients) for submission in request.submissions)
        if recipients > MAX_RECIPIENTS and len(request.submissions) > 1:
            text = f"the submissions of a call have at most {MAX_RECIPIENTS} recipients; there are {recipients}"
            raise Refusal(Reason.INVALID_ARGUMENT, text, field="submissions")
        if request.idempotency_key:
            return await self._owned(self._whole_once(request, said))
        if not any(submission.authorization or submission.peer for submission in request.submissions):
            self._authentication.judge(said.authorization, said.peer)
        if any(submission.idempotency_key for submission in request.submissions):
            return await self._owned(self._each(request, said))
        return await self._each(request, said)

    async def _owned(self, work: "Awaitable[pb.SubmitMessagesResponse]") -> pb.SubmitMessagesResponse:
        answer: pb.SubmitMessagesResponse | Refusal = await asyncio.shield(self._tasks.start(_run(work), "submit-once"))
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def _whole_once(self, request: pb.SubmitMessagesRequest, said: _Caller) -> pb.SubmitMessagesResponse:
        """A call that is made once as a whole."""
        tenant = self._authentication.judge(said.authorization, said.peer).tenant_id
        for number, submission in enumerate(request.submissions):
            if submission.authorization or submission.idempotency_key:
                text = "with a key of the call, submissions have neither credentials nor keys of their own"
                raise Refusal(Reason.INVALID_ARGUMENT, text, field=f"submissions[{number}]")
        tenant = tenant or _only_tenant(request.submissions)
        key = _key(tenant, request.idempotency_key, request.fingerprint)
        key = key._replace(fingerprint=_WHOLE + key.fingerprint)  # its answer is none for a single message
        [asked] = await self._answers.ask([key])
        if not asked.first or asked.settled:
            answer = await asked.answer()
            if isinstance(answer, Refusal):
                raise answer
            return pb.SubmitMessagesResponse.FromString(answer)
        answer = _interrupted()
        try:
            entries = await self._entries(request.submissions, said)

            def remember() -> Sequence[AnswerRow]:
                return [Answers.row(key, _response(entries).SerializeToString())]

            await self._store(entries, remember, request.together)
            response = _response(entries)
            answer = response.SerializeToString()
            return response
        except Refusal as refusal:
            answer = refusal
            raise
        finally:
            self._answers.settle(asked, answer)

    async def _each(self, request: pb.SubmitMessagesRequest, said: _Caller) -> pb.SubmitMessagesResponse:
        """A call whose submissions are each for itself, with or without a key."""
        entries = await self._entries(request.submissions, said)
        keyed = self._keyed(request.submissions, entries)
        if not keyed:
            await self._store(entries, None, request.together)
            return _response(entries)
        mine: list[_Entry] = []
        known: list[_Entry] = []
        for (entry, _), asked in zip(keyed, await self._answers.ask([key for _, key in keyed]), strict=True):
            entry.asked = asked
            if asked.first and not asked.settled:
                mine.append(entry)
            else:
                entry.draft = None  # another is, or was, made
                known.append(entry)

        def remember() -> Sequence[AnswerRow]:
            return [
                Answers.row(entry.asked.key, entry.result().SerializeToString())
                for entry in mine
                if entry.asked is not None and entry.taken is not None
            ]

        try:
            await self._store(entries, remember, request.together)
        except Refusal as refusal:
            for entry in mine:
                entry.refusal = entry.refusal or refusal
            raise
        finally:
            for entry in mine:
                assert entry.asked is not None
                answer = entry.refusal or (entry.result().SerializeToString() if entry.taken else _interrupted())
                self._answers.settle(entry.asked, answer)
        await self._answered(known)
        return _response(entries)

    def _keyed(self, submissions: Sequence[pb.Submission], entries: Sequence[_Entry]) -> list[tuple[_Entry, Key]]:
        """The entries with a key, also those that are refused now: the first time they may have been taken."""
        keyed: list[tuple[_Entry, Key]] = []
        for submission, entry in zip(submissions, entries, strict=True):
            if submission.idempotency_key and entry.tenant and not submission.message.validate_only:
                try:
                    key = _key(entry.tenant, submission.idempotency_key, submission.fingerprint)
                except Refusal as refusal:
                    entry.refusal = refusal
                    continue
                keyed.append((entry, key))
        return keyed

    @staticmethod
    async def _answered(known: Sequence[_Entry]) -> None:
        """Give those that were asked before, or elsewhere at the same time, their answer."""
        for entry in known:
            assert entry.asked is not None
            answer = await entry.asked.answer()
            if isinstance(answer, Refusal):
                entry.refusal, entry.rendered = answer, None
            else:
                entry.rendered = pb.SubmissionResult.FromString(answer)

    async def _entries(self, submissions: Sequence[pb.Submission], said: _Caller) -> list[_Entry]:
        """Each submission judged by its credentials and by everything but its content."""
        callers: dict[tuple[str, str | None], Caller | Refusal] = {}
        entries: list[_Entry] = []
        for number, submission in enumerate(submissions, 1):
            if number % TURN == 0:
                await asyncio.sleep(0)  # others want the loop, too
            entry = _Entry()
            entries.append(entry)
            who = (submission.authorization or said.authorization, submission.peer or said.peer)
            try:
                if who not in callers:
                    callers[who] = self._judged(*who)
                caller = callers[who]
                if isinstance(caller, Refusal):
                    entry.refusal = caller
                else:
                    entry.tenant = caller.tenant_id or submission.message.tenant_id
                    entry.draft = self._drafts.draft(submission.message, caller.tenant_id, peer_address(who[1]))
            except Refusal as refusal:
                entry.refusal = refusal
            except Exception:  # a mistake of ours with one message must not be the end of those beside it
                log.exception("draft_broke", tenant=entry.tenant)
                entry.refusal = Refusal(Reason.INTERNAL, "the message could not be taken; try again later")
        return entries

    def _judged(self, authorization: str, peer: str | None) -> Caller | Refusal:
        try:
            return self._authentication.judge(authorization, peer)
        except Refusal as refusal:
            return refusal

    async def _store(
        self, entries: Sequence[_Entry], remember: Callable[[], Sequence[AnswerRow]] | None, together: bool
    ) -> None:
        """Have the drafts of entries taken that have not been refused. Raises Refusal if none could be tried."""
        wanted: list[tuple[_Entry, Draft]] = []
        for entry in entries:
            if entry.draft is None or entry.refusal is not None:
                continue
            if entry.draft.validate_only:
                try:
                    self._intake.check(entry.draft.submission)
                except Refusal as refusal:
                    entry.refusal = refusal
                await asyncio.sleep(0)  # others want the loop, too
            else:
                wanted.append((entry, entry.draft))
        if not wanted:
            return

        def note(results: Sequence[Taken | Refusal]) -> None:
            for (entry, _), result in zip(wanted, results, strict=True):
                entry.rendered = None
                entry.taken = result if isinstance(result, Taken) else None
                entry.refusal = result if isinstance(result, Refusal) else None

        def kept(results: Sequence[Taken | Refusal]) -> Sequence[AnswerRow]:
            note(results)
            return remember() if remember is not None else ()

        try:
            submissions = [draft.submission for _, draft in wanted]
            note(await self._intake.submit_all(submissions, kept, together=together))
        except BaseException:
            for entry, _ in wanted:  # what was to be answered was not stored
                entry.taken = entry.rendered = None
            raise


async def _run(work: "Awaitable[pb.SubmitMessagesResponse]") -> pb.SubmitMessagesResponse | Refusal:
    """A refusal is no failure of a task, so it is returned."""
    try:
        return await work
    except Refusal as refusal:
        return refusal


def _said(context: Context) -> _Caller:
    return _Caller(*peer_of(context))


def _response(entries: Sequence[_Entry]) -> pb.SubmitMessagesResponse:
    return pb.SubmitMessagesResponse(results=[entry.result() for entry in entries])


def _key(tenant: str, text: str, fingerprint: bytes) -> Key:
    if len(text) > MAX_KEY or not text.isprintable():
        reason = f"an idempotency key has 1 to {MAX_KEY} printable characters"
        raise Refusal(Reason.INVALID_ARGUMENT, reason, field="idempotency_key")
    if len(fingerprint) not in (0, FINGERPRINT_OCTETS):
        reason = f"a fingerprint has {FINGERPRINT_OCTETS} octets"
        raise Refusal(Reason.INVALID_ARGUMENT, reason, field="fingerprint")
    return Key(tenant, text, fingerprint)


def _only_tenant(submissions: Sequence[pb.Submission]) -> str:
    """The tenant that the operator's submissions are for."""
    tenants = {submission.message.tenant_id for submission in submissions}
    if len(tenants) != 1 or tenants == {""}:
        reason = "with a key of the call, all submissions must name the same tenant"
        raise Refusal(Reason.INVALID_ARGUMENT, reason, field="submissions")
    return tenants.pop()


def _interrupted() -> Refusal:
    return Refusal(Reason.UNAVAILABLE, "the service is stopping; try again soon", retry_after=5.0)
