"""The programs behind the bridge: control and the MTA's workers, over gRPC.

Every call has a deadline and carries the client's own credentials; every failure comes out as a ``Refusal``, and one
that never got a considered answer (no connection, a lost connection, the deadline) as UNAVAILABLE with a text that
names no addresses.

Messages go to the workers in turn. A call is made only on a connection that stands; while none does, the next worker
is tried, which is safe because nothing was sent. A worker that answers that it cannot take mail now (it stops, its disk
is full) has stored nothing, so the next one is tried. Without an answer the fate of a message is open: the client gets
a temporary error and decides itself, since a second try here could send the message twice. Calls to control carry a
``request_id``, so one that was cut off is repeated once.

Loop rules: made and used on one running loop. Limits: the constants below and ``bridge.timeout_seconds``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from barua.control.v1 import credit_service_pb2, tenant_pb2, tenant_service_pb2
from barua.mta.v1 import injection_service_pb2, injection_service_pb2_grpc

from barua_client import ControlClient, Unreachable
from mta.runtime import rpc
from mta.runtime.log import get_logger
from mta.runtime.options import ClientTlsOptions, Options
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

CONNECT_SECONDS = 2.0
"""Wait for a connection to any worker when there is none."""
PROBE_SECONDS = 2.0
"""Time for the answer of a health check."""
RETRY_SECONDS = 5.0
"""What clients are asked to wait after an outage."""
PEER_KEY = "x-barua-peer"
"""Metadata that tells who asked the bridge: for the Received field, and for credentials that hold for some networks."""

_NOT_STORED = frozenset({Reason.NOT_STORED, Reason.SPOOL_FULL})
_Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Which of the programs behind can do their work."""

    control: bool
    mta: bool

    @property
    def ready(self) -> bool:
        """Whether all can."""
        return self.control and self.mta


class Backend:
    """Connections to control and to the workers. Make it on the running loop; ``close`` it there."""

    def __init__(self, options: Options) -> None:
        bridge = options.bridge
        self._timeout = bridge.timeout_seconds
        # The first connection may have died unnoticed while idle; more than one repeat would keep HTTP clients waiting.
        control = rpc.channel(bridge.control_address, options.control_client)
        self._control = ControlClient(
            bridge.control_address, channel=control, deadline_seconds=self._timeout, attempts=2
        )
        targets = bridge.mta_addresses or [
            f"unix:{options.path('run', f'worker-{index}.sock')}" for index in range(options.mta.workers)
        ]
        self._workers = [_Worker(target, options.node_client) for target in targets]
        # A node that passes calls on says UNAVAILABLE, too, when it lost a worker half-way: that may have been stored.
        self._moves_on = _NOT_STORED if bridge.mta_addresses else _NOT_STORED | {Reason.UNAVAILABLE}
        self._turn = 0

    async def create_tenant(
        self, authorization: str, request: tenant_service_pb2.CreateTenantRequest, peer: str
    ) -> tenant_pb2.Tenant:
        """Make a tenant as the login in ``authorization``, from ``peer``. It must have a request_id. Raises Refusal."""
        call = self._control.tenants.CreateTenant
        answer: tenant_pb2.Tenant = await self._ask_control(call, authorization, request, peer)
        return answer

    async def transfer_credits(
        self, authorization: str, request: credit_service_pb2.TransferCreditsRequest, peer: str
    ) -> credit_service_pb2.TransferCreditsResponse:
        """Move credits as the login in ``authorization``, from ``peer``. It must have a request_id. Raises Refusal."""
        answer: credit_service_pb2.TransferCreditsResponse = await self._ask_control(
            self._control.credits.TransferCredits, authorization, request, peer
        )
        return answer

    async def submit_message(
        self, authorization: str, request: injection_service_pb2.SubmitMessageRequest, peer: str
    ) -> injection_service_pb2.SubmitMessageResponse:
        """Give a message to a worker; OK means durable. ``peer`` is the client's IP address. Raises Refusal."""
        metadata = _metadata(authorization, peer)
        worker, *others = await self._workers_in_turn()
        until = asyncio.get_running_loop().time() + self._timeout
        while True:
            timeout = max(0.0, until - asyncio.get_running_loop().time())
            try:
                answer: injection_service_pb2.SubmitMessageResponse = await worker.injection.SubmitMessage(
                    request, timeout=timeout, metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                refusal = _refusal(error)
                others = [other for other in others if other.connected()]
                if not others or refusal.reason not in self._moves_on or not rpc.is_considered(error):
                    raise refusal from None
                worker = others.pop(0)
            else:
                return answer

    async def check_key(self, authorization: str, peer: str) -> None:
        """Ask a worker whether the API key in ``authorization`` may send at all, from ``peer``. Raises Refusal."""
        nothing = injection_service_pb2.SubmitMessageRequest(validate_only=True)
        try:
            await self.submit_message(authorization, nothing, peer)
        except Refusal as refusal:
            # The MTA judges the caller first, then the sender; that the recipients are missing comes after both.
            if refusal.reason is not Reason.INVALID_ARGUMENT or refusal.field != "recipients":
                raise

    async def readiness(self) -> Readiness:
        """Ask control and the workers whether they can work."""
        control, *workers = await asyncio.gather(
            rpc.is_serving(self._control.channel, PROBE_SECONDS),
            *(rpc.is_serving(worker.channel, PROBE_SECONDS) for worker in self._workers),
        )
        return Readiness(control, any(workers))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self._control.close(), *(worker.channel.close() for worker in self._workers))

    async def _ask_control(self, call: _Call, authorization: str, request: Any, peer: str) -> Any:
        try:
            return await call(request, metadata=_metadata(authorization, peer))
        except Unreachable as error:
            log.warning("call_unanswered", to="control", details=error.message)
            raise Refusal(Reason.UNAVAILABLE, "the service cannot be reached", retry_after=RETRY_SECONDS) from None
        except Refusal as refusal:
            if refusal.reason is Reason.INTERNAL:
                log.error("call_failed", to="control", details=refusal.message)
            raise

    async def _workers_in_turn(self) -> list["_Worker"]:
        """One with a connection, and the others. Raises Refusal."""
        count = len(self._workers)
        self._turn = (self._turn + 1) % count
        in_turn = [self._workers[(self._turn + step) % count] for step in range(count)]
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
        log.warning("no_worker_reachable", workers=count)
        raise Refusal(Reason.UNAVAILABLE, "no worker of the MTA is reachable", retry_after=RETRY_SECONDS)


def _metadata(authorization: str, peer: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", authorization), *(((PEER_KEY, peer),) if peer else ()))


class _Worker:
    """One worker of the MTA."""

    __slots__ = ("channel", "injection")

    def __init__(self, target: str, tls: ClientTlsOptions) -> None:
        self.channel = rpc.channel(target, tls)
        self.injection = injection_service_pb2_grpc.InjectionServiceStub(self.channel)

    def connected(self) -> bool:
        """Whether a connection stands; if none does, one is begun."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connect(self) -> "_Worker":
        """Wait for a connection."""
        await self.channel.channel_ready()
        return self


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    refusal = rpc.refusal_of(error)
    if refusal.reason is Reason.UNAVAILABLE and not rpc.is_considered(error):
        log.warning("call_unanswered", to="mta", code=error.code().name, details=error.details())
        return Refusal(Reason.UNAVAILABLE, "the service cannot be reached", retry_after=RETRY_SECONDS)
    if refusal.reason is Reason.INTERNAL:
        log.error("call_failed", to="mta", code=error.code().name, details=error.details())
    return refusal
