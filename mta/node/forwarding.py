"""Passing calls on: leases from the workers up to control, injections from clients down to the workers."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from barua.control.v1 import lease_service_pb2 as lease_pb
from barua.control.v1 import lease_service_pb2_grpc as lease_services
from barua.control.v1 import quota_service_pb2 as quota_pb
from barua.control.v1 import quota_service_pb2_grpc as quota_services
from barua.mta.v1 import injection_service_pb2 as injection_pb
from barua.mta.v1 import injection_service_pb2_grpc as injection_services
from barua.mta.v1 import routing_service_pb2 as routing_pb
from barua.mta.v1 import routing_service_pb2_grpc as routing_services

from mta.runtime import networks
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rendezvous import place_of
from mta.runtime.rpc import is_considered, refusal_of, status_of

log = get_logger(__name__)
_Metadata = tuple[tuple[str, str | bytes], ...]
Context = grpc.aio.ServicerContext[Any, Any]

LEASE_SECONDS = 4.0
"""Deadline of a call to control."""
EXPLAIN_SECONDS = 15.0
"""Deadline of a call to a worker that may ask the DNS."""
INJECTION_SECONDS = 30.0
"""Deadline of a call to a worker when the caller has set none."""
CREDENTIALS = "authorization"
"""Metadata that a worker needs of the caller."""
PEER_KEY = "x-barua-peer"
"""Metadata that tells a worker the caller's address: what we see of it, or what a bridge on this machine says."""

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Where peers are believed about the address of their own clients."""

_UP = {grpc.ChannelConnectivity.READY}
_COMING_UP = {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING}


class LeaseForwarder(lease_services.LeaseServiceServicer):
    """Serves control's LeaseService to the workers of this machine, under the node's name."""

    def __init__(self, control: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub: lease_services.LeaseServiceAsyncStub = lease_services.LeaseServiceStub(control)
        self._metadata = metadata

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        lease_services.add_LeaseServiceServicer_to_server(self, server)
        return lease_pb.DESCRIPTOR.services_by_name["LeaseService"].full_name

    async def OpenHolder(self, request: lease_pb.OpenHolderRequest, context: Context) -> lease_pb.OpenHolderResponse:
        """Pass on to control."""
        try:
            return await self._stub.OpenHolder(request, metadata=self._metadata, timeout=LEASE_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error

    async def AcquireLease(self, request: lease_pb.AcquireLeaseRequest, context: Context) -> lease_pb.Lease:
        """Pass on to control."""
        try:
            return await self._stub.AcquireLease(request, metadata=self._metadata, timeout=LEASE_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error


class QuotaForwarder(quota_services.QuotaServiceServicer):
    """Serves control's QuotaService to the workers of this machine, under the node's name."""

    def __init__(self, control: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub: quota_services.QuotaServiceAsyncStub = quota_services.QuotaServiceStub(control)
        self._metadata = metadata

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        quota_services.add_QuotaServiceServicer_to_server(self, server)
        return quota_pb.DESCRIPTOR.services_by_name["QuotaService"].full_name

    async def TakeQuota(self, request: quota_pb.TakeQuotaRequest, context: Context) -> quota_pb.TakeQuotaResponse:
        """Pass on to control."""
        try:
            return await self._stub.TakeQuota(request, metadata=self._metadata, timeout=LEASE_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error


class RoutingForwarder(routing_services.RoutingServiceServicer):
    """Serves RoutingService on the node's address by passing each call to a worker."""

    def __init__(self, workers: Sequence[grpc.aio.Channel]) -> None:
        self._stubs: list[routing_services.RoutingServiceAsyncStub] = [
            routing_services.RoutingServiceStub(channel) for channel in workers
        ]

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        routing_services.add_RoutingServiceServicer_to_server(self, server)
        return routing_pb.DESCRIPTOR.services_by_name["RoutingService"].full_name

    async def ExplainRoute(
        self, request: routing_pb.ExplainRouteRequest, context: Context
    ) -> routing_pb.ExplainRouteResponse:
        """Pass on to the first worker that answers: all work by the same policy."""
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or () if key == CREDENTIALS)
        failure = Refusal(Reason.UNAVAILABLE, "no worker answers now; try again", retry_after=2.0)
        for stub in self._stubs:
            try:
                return await stub.ExplainRoute(request, metadata=metadata, timeout=EXPLAIN_SECONDS)
            except grpc.aio.AioRpcError as error:
                failure = refusal_of(error)
                if failure.reason is not Reason.UNAVAILABLE:
                    break
        raise failure


class InjectionForwarder(injection_services.InjectionServiceServicer):
    """Serves InjectionService on the node's address by passing each call to one of the workers, in turn.

    What has an idempotency key goes to the worker that the key belongs to, and to no other: that one remembers it.
    """

    def __init__(self, workers: Sequence[grpc.aio.Channel], names: Sequence[str]) -> None:
        """``names`` are the workers' targets, as bridges on this machine know them."""
        self._workers = workers
        self._names = list(names)
        self._stubs: list[injection_services.InjectionServiceAsyncStub] = [
            injection_services.InjectionServiceStub(channel) for channel in workers
        ]
        self._turn = itertools.count()

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        injection_services.add_InjectionServiceServicer_to_server(self, server)
        return injection_pb.DESCRIPTOR.services_by_name["InjectionService"].full_name

    async def SubmitMessage(
        self, request: injection_pb.SubmitMessageRequest, context: Context
    ) -> injection_pb.SubmitMessageResponse:
        """Pass on to a worker. A call that failed half-way is not repeated: it may have been stored."""
        metadata, timeout = _passed_on(context)
        try:
            return await self._pick().SubmitMessage(request, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _refusal(error) from error

    async def SubmitMessages(
        self, request: injection_pb.SubmitMessagesRequest, context: Context
    ) -> injection_pb.SubmitMessagesResponse:
        """Pass on to a worker, or in parts to those that the keys of submissions belong to."""
        metadata, timeout = _passed_on(context)
        trusted = networks.allowed(LOOPBACK, networks.address_of(context.peer()) or "")
        if not trusted:  # only a bridge on this machine may say for whom it calls
            for submission in request.submissions:
                submission.peer = ""
        if request.idempotency_key:
            stub = self._stubs[place_of(request.idempotency_key, self._names)]
            return await _submit(stub, request, metadata, timeout)
        parts: dict[int | None, list[int]] = {}
        for index, submission in enumerate(request.submissions):
            key = submission.idempotency_key
            parts.setdefault(place_of(key, self._names) if key else None, []).append(index)
        if len(parts) <= 1:
            [place] = parts or [None]
            stub = self._pick() if place is None else self._stubs[place]
            return await _submit(stub, request, metadata, timeout)
        return await self._in_parts(request, parts, metadata, timeout)

    async def _in_parts(
        self,
        request: injection_pb.SubmitMessagesRequest,
        parts: Mapping[int | None, Sequence[int]],
        metadata: _Metadata,
        timeout: float,
    ) -> injection_pb.SubmitMessagesResponse:
        """Each part to its worker; one that fails has the refusal as the result of all that was in it."""
        results: dict[int, injection_pb.SubmissionResult] = {}

        async def submit(place: int | None, indexes: Sequence[int]) -> None:
            part = injection_pb.SubmitMessagesRequest(
                submissions=[request.submissions[index] for index in indexes], together=request.together
            )
            try:
                stub = self._pick() if place is None else self._stubs[place]
                answers = list((await _submit(stub, part, metadata, timeout)).results)
            except Refusal as refusal:
                answers = [injection_pb.SubmissionResult(status=status_of(refusal))] * len(indexes)
            results.update(zip(indexes, answers, strict=True))

        await asyncio.gather(*(submit(place, indexes) for place, indexes in parts.items()))
        return injection_pb.SubmitMessagesResponse(results=[results[index] for index in sorted(results)])

    def _pick(self) -> "injection_services.InjectionServiceAsyncStub":
        """The next worker whose channel is up; if none is, the next that may be about to."""
        first, count = next(self._turn), len(self._workers)
        in_turn = [(first + step) % count for step in range(count)]
        states = {index: self._workers[index].get_state(try_to_connect=True) for index in in_turn}
        for good in _UP, _COMING_UP:
            for index in in_turn:
                if states[index] in good:
                    return self._stubs[index]
        raise Refusal(Reason.UNAVAILABLE, "no worker can take mail now; try again", retry_after=2.0)


def _passed_on(context: Context) -> tuple[_Metadata, float]:
    """What a worker is told of a call, and how long it may take."""
    metadata = [(key, value) for key, value in context.invocation_metadata() or () if key == CREDENTIALS]
    metadata.append((PEER_KEY, _address(context)))
    return tuple(metadata), min(INJECTION_SECONDS, context.time_remaining() or INJECTION_SECONDS)


async def _submit(
    stub: "injection_services.InjectionServiceAsyncStub",
    request: injection_pb.SubmitMessagesRequest,
    metadata: _Metadata,
    timeout: float,
) -> injection_pb.SubmitMessagesResponse:
    try:
        return await stub.SubmitMessages(request, metadata=metadata, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise _refusal(error) from error


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """What a worker said; of a connection that failed, nothing but that: its text names our files."""
    if is_considered(error):
        return refusal_of(error)
    log.warning("worker_unanswered", code=error.code().name, details=error.details())
    return Refusal(Reason.UNAVAILABLE, "no answer came from a worker; try again", retry_after=2.0)


def _address(context: Context) -> str:
    """The IP address that a call is made for; empty if it is not on a network.

    A peer on this machine, as a bridge is, may say for whom it calls; whoever else says so is not believed.
    """
    address = networks.address_of(context.peer()) or ""
    if networks.allowed(LOOPBACK, address):
        said = dict(context.invocation_metadata() or ()).get(PEER_KEY, "")
        return (networks.canonical(said) if isinstance(said, str) else None) or address
    return address
