"""The MTA's workers, or nodes before them, as the bridge gives messages to them.

One call is much of what a single message costs, so messages that clients with the same credentials send at the same
time share calls: while ``CALLS`` of them are under way, what comes waits and goes with the next one, at most
``GATHERED`` messages and ``GATHERED_BYTES``. With nothing under way a message goes at once. Larger ones, and several of
one client, have calls of their own. Clients with other credentials never share a call: one that waits for its credits
makes nobody else wait. While calls hang, who has waited for ``bridge.timeout_seconds`` is told to try again.

Messages go to the workers in turn. A call is made only on a connection that stands; while none does, the next worker
is tried, which is safe because nothing was sent. A worker that answers that it cannot take mail now (it stops, its disk
is full) has stored nothing, so the next one is tried. Without an answer the fate of a message is open: the client gets
a temporary error and decides itself, since a second try here could send the message twice.

What has an idempotency key belongs to one worker, which remembers it, and is never given to another: while that one is
away, the client is told to try again.

Loop rules: made and used on one running loop. Errors: ``Refusal``.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc as services

from mta.runtime import rpc
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.options import ClientTlsOptions
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rendezvous import place_of

log = get_logger(__name__)

CONNECT_SECONDS = 2.0
"""Wait for a connection to any worker when there is none."""
RETRY_SECONDS = 5.0
"""What clients are asked to wait after an outage."""
PEER_KEY = "x-barua-peer"
"""Metadata that tells who asked the bridge: for the Received field, and for credentials that hold for some networks."""
CALLS = 4
"""Calls under way, for one worker and one client's credentials, that make others wait to go together."""
GATHERED = 64
"""Messages that share a call."""
GATHERED_BYTES = 1_048_576
"""Octets of messages that share a call; a larger message goes alone."""
CALL_SUBMISSIONS = 1000
"""Messages of one call at most, whoever they are from; the MTA's own limit."""
CALL_BYTES = 33_554_432
"""Octets of messages in one call; more go in several. Half of what gRPC takes."""
CALL_RECIPIENTS = 10_000
"""Recipients of the messages of one call; the MTA's own limit."""

_NOT_STORED = frozenset({Reason.NOT_STORED, Reason.SPOOL_FULL})
_OF_THE_CLIENT = frozenset({Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED, Reason.REQUEST_ID_REUSED})
"""Refusals that are not of this message but of all that the client could send so."""

_Answer: TypeAlias = "asyncio.Future[pb.SubmitMessageResponse | Refusal]"
_Waiting: TypeAlias = "tuple[pb.Submission, int, _Answer, float]"
"""A message, its octets, who waits for the answer, and until when it can be sent."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Makes a request be done once for its tenant within 24 hours."""

    text: str
    """What the client calls the request: 1 to 200 characters."""
    fingerprint: bytes
    """SHA-256 of what it asks for, so that the same key for something else is noticed."""


class Workers:
    """All workers of this bridge."""

    def __init__(self, targets: Sequence[str], tls: ClientTlsOptions, timeout_seconds: float, *, nodes: bool) -> None:
        """``nodes``: the targets are not workers but nodes, which pass calls on."""
        self._targets = list(targets)
        self._workers = [Worker(target, tls) for target in targets]
        self._timeout = timeout_seconds
        # A node that passes calls on says UNAVAILABLE, too, when it lost a worker half-way: that may have been stored.
        self._moves_on = _NOT_STORED if nodes else _NOT_STORED | {Reason.UNAVAILABLE}
        self._turn = 0
        self._lanes: dict[tuple[int | None, str], _Lane] = {}
        self._tasks = Tasks()

    async def submit(
        self,
        submissions: Sequence[pb.SubmitMessageRequest],
        authorization: str,
        peer: str,
        key: IdempotencyKey | None,
        *,
        together: bool = False,
    ) -> list[pb.SubmitMessageResponse | Refusal]:
        """What became of each, in their order. Raises Refusal if nothing was tried, or nobody knows what became."""
        if len(submissions) == 1 and len(submissions[0].content) <= GATHERED_BYTES:
            return [await self._gathered(submissions[0], authorization, peer, key)]
        answers: list[pb.SubmitMessageResponse | Refusal] = []
        for number, part in enumerate(_parts(submissions)):
            request = pb.SubmitMessagesRequest(
                submissions=[pb.Submission(message=one) for one in part], together=together
            )
            place = None
            if key is not None:
                keyed = request if len(submissions) > 1 else request.submissions[0]  # as if it were gathered
                keyed.idempotency_key = key.text if not number else _of_part(key.text, number)
                keyed.fingerprint = key.fingerprint
                place = place_of(key.text, self._targets)
            try:
                answers += await self._call(request, authorization, peer, place)
            except Refusal as refusal:
                if not number:
                    raise
                # What went before is stored, and the client has to hear of it; the rest would fare no better.
                answers += [refusal] * (len(submissions) - len(answers))
                break
        return answers

    async def is_serving(self, timeout_seconds: float) -> bool:
        """Whether any worker says that it can work."""
        asked = (rpc.is_serving(worker.channel, timeout_seconds) for worker in self._workers)
        return any(await asyncio.gather(*asked))

    async def close(self) -> None:
        """Close all connections; who still waits is told to try again."""
        await self._tasks.close()
        await asyncio.gather(*(worker.channel.close() for worker in self._workers))

    async def _gathered(
        self, message: pb.SubmitMessageRequest, authorization: str, peer: str, key: IdempotencyKey | None
    ) -> pb.SubmitMessageResponse | Refusal:
        """Put a message into its lane, and have the lane driven."""
        submission, place = pb.Submission(message=message, peer=peer), None
        if key is not None:
            submission.idempotency_key, submission.fingerprint = key.text, key.fingerprint
            place = place_of(key.text, self._targets)
        name = (place, authorization)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane()
        loop = asyncio.get_running_loop()
        answer: _Answer = loop.create_future()
        lane.waiting.append((submission, len(message.content), answer, loop.time() + self._timeout))
        if lane.calls < CALLS:
            lane.calls += 1
            self._tasks.start(self._drive(name, lane), "submit")
        found = await answer
        if isinstance(found, Refusal) and found.reason in _OF_THE_CLIENT:
            raise found
        return found

    async def _drive(self, name: tuple[int | None, str], lane: "_Lane") -> None:
        """Make calls until nobody waits."""
        place, authorization = name
        try:
            while lane.waiting:
                taken = lane.take(asyncio.get_running_loop().time())
                if taken:
                    await self._share(taken, authorization, place)
        finally:
            lane.calls -= 1
            if not lane.calls:
                del self._lanes[name]
                for _, _, answer, _ in lane.waiting:  # only when this was cut short
                    if not answer.done():
                        answer.set_exception(_unanswered())

    async def _share(self, taken: Sequence["_Waiting"], authorization: str, place: int | None) -> None:
        """One call for all of them; each gets its own answer."""
        request = pb.SubmitMessagesRequest(submissions=[submission for submission, *_ in taken])
        try:
            answers = await self._call(request, authorization, "", place)  # each has its own peer
        except BaseException as error:
            refusal = error if isinstance(error, Refusal) else _unanswered()
            for _, _, answer, _ in taken:
                if not answer.done():
                    answer.set_exception(_again(refusal))
            if not isinstance(error, Refusal):
                raise
        else:
            for (_, _, answer, _), found in zip(taken, answers, strict=True):
                if not answer.done():
                    answer.set_result(found)

    async def _call(
        self, request: pb.SubmitMessagesRequest, authorization: str, peer: str, place: int | None
    ) -> list[pb.SubmitMessageResponse | Refusal]:
        """Make a call and, where that is safe, make it to another worker if it stored nothing. Raises Refusal."""
        metadata = (("authorization", authorization), *(((PEER_KEY, peer),) if peer else ()))
        clock = asyncio.get_running_loop().time
        until = clock() + self._timeout
        worker, *others = await self._in_turn(place)
        while True:
            try:
                answer = await worker.injection.SubmitMessages(
                    request, timeout=max(0.0, until - clock()), metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                failure, considered = _refusal(error), rpc.is_considered(error)
            else:
                results = [_result(result) for result in answer.results]
                if len(results) != len(request.submissions):
                    raise _otherwise_made()
                first = results[0]
                if not all(isinstance(one, Refusal) and one.reason in self._moves_on for one in results):
                    return results
                assert isinstance(first, Refusal)
                failure, considered = first, True
            others = [other for other in others if other.connected()]
            if not others or failure.reason not in self._moves_on or not considered:
                raise failure
            worker = others.pop(0)

    async def _in_turn(self, place: int | None) -> list["Worker"]:
        """One with a connection, and the others; only the one at ``place``, if that is given. Raises Refusal."""
        if place is None:
            count = len(self._workers)
            self._turn = (self._turn + 1) % count
            in_turn = [self._workers[(self._turn + step) % count] for step in range(count)]
        else:
            in_turn = [self._workers[place]]
        for worker in in_turn:
            if worker.connected():
                return [worker, *(other for other in in_turn if other is not worker)]
        worker_ready = [asyncio.ensure_future(worker.connect()) for worker in in_turn]
        try:
            done, _ = await asyncio.wait(worker_ready, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in worker_ready:
                task.cancel()
        for task in done:
            return [task.result(), *(other for other in in_turn if other is not task.result())]
        log.warning("no_worker_reachable", workers=len(in_turn))
        raise Refusal(Reason.UNAVAILABLE, "no worker of the MTA is reachable", retry_after=RETRY_SECONDS)


class Worker:
    """One worker of the MTA."""

    __slots__ = ("channel", "injection")

    def __init__(self, target: str, tls: ClientTlsOptions) -> None:
        self.channel = rpc.channel(target, tls)
        self.injection: services.InjectionServiceAsyncStub = services.InjectionServiceStub(self.channel)

    def connected(self) -> bool:
        """Whether a connection stands; if none does, one is begun."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connect(self) -> "Worker":
        """Wait for a connection."""
        await self.channel.channel_ready()
        return self


class _Lane:
    """What clients with the same credentials send to the same worker, or to any."""

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.calls = 0

    def take(self, now: float) -> list["_Waiting"]:
        """Those that go with the next call. Who has waited too long, since calls hang, is told so: nothing was sent."""
        taken: list[_Waiting] = []
        room = GATHERED_BYTES
        while self.waiting and len(taken) < GATHERED and (not taken or self.waiting[0][1] <= room):
            one = self.waiting.popleft()
            _, size, answer, until = one
            if answer.done():  # nobody wants to know any more
                continue
            if until < now:
                answer.set_exception(_unanswered())
                continue
            taken.append(one)
            room -= size
        return taken


def _parts(submissions: Sequence[pb.SubmitMessageRequest]) -> Iterator[list[pb.SubmitMessageRequest]]:
    """In parts that calls can hold."""
    part: list[pb.SubmitMessageRequest] = []
    room, seats = CALL_BYTES, CALL_RECIPIENTS
    for submission in submissions:
        size, recipients = submission.ByteSize(), len(submission.recipients)
        if part and (len(part) == CALL_SUBMISSIONS or size > room or recipients > seats):
            yield part
            part, room, seats = [], CALL_BYTES, CALL_RECIPIENTS
        part.append(submission)
        room -= size
        seats -= recipients
    if part:
        yield part


def _of_part(key: str, number: int) -> str:
    """The key of a later part of a request."""
    return hashlib.sha256(f"{number}\0{key}".encode()).hexdigest()


def _result(result: pb.SubmissionResult) -> pb.SubmitMessageResponse | Refusal:
    return rpc.refusal_in(result.status) if result.status.code else result.response


def _unanswered() -> Refusal:
    return Refusal(Reason.UNAVAILABLE, "the service cannot be reached", retry_after=RETRY_SECONDS)


def _otherwise_made() -> Refusal:
    """The answers that are kept for a key are to other messages: what those are made from has changed since."""
    text = "this idempotency key was used for a request that had another number of messages; take a new one"
    return Refusal(Reason.REQUEST_ID_REUSED, text, field="idempotency_key")


def _again(refusal: Refusal) -> Refusal:
    """The same for somebody else: what is raised keeps where it was."""
    return Refusal(
        refusal.reason,
        refusal.message,
        field=refusal.field,
        retry_after=refusal.retry_after,
        metadata=dict(refusal.metadata),
    )


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    refusal = rpc.refusal_of(error)
    if refusal.reason is Reason.UNAVAILABLE and not rpc.is_considered(error):
        log.warning("call_unanswered", to="mta", code=error.code().name, details=error.details())
        return _unanswered()
    if refusal.reason is Reason.INTERNAL:
        log.error("call_failed", to="mta", code=error.code().name, details=error.details())
    return refusal
