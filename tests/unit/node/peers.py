"""What a node talks to: control's services for nodes and a worker's, on real gRPC servers, scripted by the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from barua.control.v1 import lease_service_pb2 as lease_pb
from barua.control.v1 import lease_service_pb2_grpc as lease_services
from barua.journal.v1 import event_pb2
from barua.journal.v1 import journal_service_pb2 as journal_pb
from barua.journal.v1 import journal_service_pb2_grpc as journal_services
from barua.mta.v1 import injection_service_pb2 as injection_pb
from barua.mta.v1 import injection_service_pb2_grpc as injection_services
from barua.mta.v1 import worker_service_pb2 as worker_pb
from barua.mta.v1 import worker_service_pb2_grpc as worker_services
from barua.policy.v1 import policy_service_pb2 as policy_pb
from barua.policy.v1 import policy_service_pb2_grpc as policy_services

from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import channel, new_server

TOKEN = (("authorization", "Bearer node-token"),)


def authorised(context: Any) -> None:
    """Nodes show their token."""
    if dict(context.invocation_metadata())["authorization"] != "Bearer node-token":
        raise Refusal(Reason.PERMISSION_DENIED, "for nodes only")


class Control(
    journal_services.JournalServiceServicer, policy_services.PolicyServiceServicer, lease_services.LeaseServiceServicer
):
    """Control: a journal that passes over what it has, a stream of policy, leases."""

    def __init__(self) -> None:
        self.events: list[event_pb2.Event] = []
        self.recorded: dict[str, int] = {}
        self.pushes = 0
        self.lose_answers = 0
        self.streams: list[policy_pb.WatchPolicyRequest] = []
        self.script: Callable[[policy_pb.WatchPolicyRequest], list[policy_pb.WatchPolicyResponse]] = lambda _: []
        self.more: asyncio.Queue[policy_pb.WatchPolicyResponse | None] = asyncio.Queue()
        self.reported: list[int] = []
        self.uses: list[tuple[int, str]] = []
        self.opened: list[lease_pb.OpenHolderRequest] = []
        self.acquired: list[lease_pb.AcquireLeaseRequest] = []
        self.refuse_lease: Refusal | None = None

    async def PushEvents(self, request: journal_pb.PushEventsRequest, context: Any) -> journal_pb.PushEventsResponse:
        authorised(context)
        self.pushes += 1
        known = self.recorded.get(request.holder, 0)
        self.events += [event for event in request.events if event.sequence > known]
        self.recorded[request.holder] = max(known, request.events[-1].sequence)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Refusal(Reason.UNAVAILABLE, "the answer got lost")
        return journal_pb.PushEventsResponse(recorded_sequence=self.recorded[request.holder])

    async def WatchPolicy(
        self, request: policy_pb.WatchPolicyRequest, context: Any
    ) -> AsyncIterator[policy_pb.WatchPolicyResponse]:
        authorised(context)
        self.streams.append(request)
        for step in self.script(request):
            yield step
        while (step_or_end := await self.more.get()) is not None:
            yield step_or_end

    async def ReportRevision(
        self, request: policy_pb.ReportRevisionRequest, context: Any
    ) -> policy_pb.ReportRevisionResponse:
        authorised(context)
        self.reported.append(request.revision)
        return policy_pb.ReportRevisionResponse()

    async def ReportCredentialUses(
        self, request: policy_pb.ReportCredentialUsesRequest, context: Any
    ) -> policy_pb.ReportCredentialUsesResponse:
        authorised(context)
        self.uses += [(use.kind, use.id) for use in request.uses]
        return policy_pb.ReportCredentialUsesResponse()

    async def OpenHolder(self, request: lease_pb.OpenHolderRequest, context: Any) -> lease_pb.OpenHolderResponse:
        authorised(context)
        self.opened.append(request)
        return lease_pb.OpenHolderResponse()

    async def AcquireLease(self, request: lease_pb.AcquireLeaseRequest, context: Any) -> lease_pb.Lease:
        authorised(context)
        self.acquired.append(request)
        if self.refuse_lease is not None:
            raise self.refuse_lease
        return lease_pb.Lease(lease_id=7, tenant_id=request.tenant_id, amount=min(request.amount, 100))


class Worker(worker_services.WorkerServiceServicer, injection_services.InjectionServiceServicer):
    """A worker: hears what was recorded, takes messages."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.acknowledged: list[int] = []
        self.uses: list[policy_pb.CredentialUse] = []
        self.injected: list[tuple[injection_pb.SubmitMessageRequest, dict[str, str]]] = []
        self.refuse: Refusal | None = None
        self.calls: list[injection_pb.SubmitMessagesRequest] = []
        self.open = asyncio.Event()
        self.open.set()
        self.answers: int | None = None
        """So many results, however many submissions there are."""

    async def AcknowledgeOutbox(
        self, request: worker_pb.AcknowledgeOutboxRequest, context: Any
    ) -> worker_pb.AcknowledgeOutboxResponse:
        self.acknowledged.append(request.recorded_sequence)
        return worker_pb.AcknowledgeOutboxResponse()

    async def RecallLeases(
        self, request: worker_pb.RecallLeasesRequest, context: Any
    ) -> worker_pb.RecallLeasesResponse:
        return worker_pb.RecallLeasesResponse(released_credits=1)

    async def TakeCredentialUses(
        self, request: worker_pb.TakeCredentialUsesRequest, context: Any
    ) -> worker_pb.TakeCredentialUsesResponse:
        uses, self.uses = self.uses, []
        return worker_pb.TakeCredentialUsesResponse(uses=uses)

    async def SubmitMessage(
        self, request: injection_pb.SubmitMessageRequest, context: Any
    ) -> injection_pb.SubmitMessageResponse:
        if self.refuse is not None:
            raise self.refuse
        self.injected.append((request, dict(context.invocation_metadata())))
        return injection_pb.SubmitMessageResponse(message_id=len(self.injected))

    async def SubmitMessages(
        self, request: injection_pb.SubmitMessagesRequest, context: Any
    ) -> injection_pb.SubmitMessagesResponse:
        if self.refuse is not None:
            raise self.refuse
        self.calls.append(request)
        metadata = dict(context.invocation_metadata())
        await self.open.wait()
        results = []
        for submission in request.submissions:
            self.injected.append((submission.message, metadata | {"x-barua-peer": submission.peer}))
            header = f"<{submission.message.content.decode()}@{self.name}>"
            answer = injection_pb.SubmitMessageResponse(message_id=len(self.injected), message_id_header=header)
            results.append(injection_pb.SubmissionResult(response=answer))
        return injection_pb.SubmitMessagesResponse(results=results[: self.answers])


@asynccontextmanager
async def served(peer: Control | Worker, socket: Path) -> AsyncIterator[None]:
    """Serve a peer on a Unix socket."""
    server = new_server()
    if isinstance(peer, Control):
        journal_services.add_JournalServiceServicer_to_server(peer, server)
        policy_services.add_PolicyServiceServicer_to_server(peer, server)
        lease_services.add_LeaseServiceServicer_to_server(peer, server)
    else:
        worker_services.add_WorkerServiceServicer_to_server(peer, server)
        injection_services.add_InjectionServiceServicer_to_server(peer, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@asynccontextmanager
async def channel_to(socket: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that is closed at the end."""
    opened = channel(f"unix:{socket}")
    try:
        yield opened
    finally:
        await opened.close(None)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something to become true."""
    try:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 (what it waits for has no events)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not in time: {what}") from None
