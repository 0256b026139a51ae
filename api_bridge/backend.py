"""The programs behind the bridge: control and the MTA's workers, over gRPC.

Every call has a deadline and carries the client's own credentials; every failure comes out as a ``Refusal``, and one
that never got a considered answer (no connection, a lost connection, the deadline) as UNAVAILABLE with a text that
names no addresses.

Messages go to the MTA's workers as ``workers`` says. Calls to control that change something carry a ``request_id``, so
one that was cut off is repeated once.

Loop rules: made and used on one running loop. Limits: the constants below and ``bridge.timeout_seconds``.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from barua.control.v1 import credit_service_pb2, tenant_pb2, tenant_service_pb2
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest as Submission
from barua.mta.v1.injection_service_pb2 import SubmitMessageResponse as Submitted

from api_bridge.workers import PEER_KEY, RETRY_SECONDS, IdempotencyKey, Workers
from barua_client import ControlClient, Unreachable
from mta.runtime import rpc
from mta.runtime.log import get_logger
from mta.runtime.options import Options
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

PROBE_SECONDS = 2.0
"""Time for the answer of a health check."""
JUDGE_SECONDS = 2.0
"""Time to say whether credentials are anybody's, for a request that will be refused in any case."""
UNKNOWN = frozenset({Reason.UNAUTHENTICATED})
"""What is said of credentials that are nobody's."""
UNFIT = UNKNOWN | {Reason.PERMISSION_DENIED}
"""What a worker says of credentials that cannot be used to send."""

__all__ = ["UNFIT", "UNKNOWN", "Backend", "IdempotencyKey", "Readiness", "Submission", "Submitted"]

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
        self._workers = Workers(targets, options.node_client, self._timeout, nodes=bool(bridge.mta_addresses))

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

    async def ask(self, service: str, method: str, request: Any, *, authorization: str, peer: str) -> Any:
        """One call to control with the client's credentials: ``ask("domains", "GetDomain", request, ...)``.

        ``service`` is an attribute of ``barua_client.ControlClient``. A call that changes something is repeated after a
        lost answer only if its request has a ``request_id``. Raises Refusal.
        """
        return await self._ask_control(getattr(getattr(self._control, service), method), authorization, request, peer)

    async def ask_pages(
        self, service: str, method: str, request: Any, *, authorization: str, peer: str
    ) -> AsyncIterator[Any]:
        """All items of a List method, page by page; the request's own ``page_token`` is where to begin.

        Raises Refusal.
        """
        asked = type(request)()
        asked.CopyFrom(request)
        while True:
            answer = await self.ask(service, method, asked, authorization=authorization, peer=peer)
            for item in getattr(answer, _items(answer)):
                yield item
            if not answer.next_page_token:
                return
            asked.page_token = answer.next_page_token
            if "skip" in asked.DESCRIPTOR.fields_by_name:
                asked.ClearField("skip")  # it would count anew from the token's place

    async def submit(
        self,
        submissions: Sequence[Submission],
        *,
        authorization: str,
        peer: str,
        key: IdempotencyKey | None = None,
        together: bool = False,
    ) -> list[Submitted | Refusal]:
        """Give messages to a worker, and hear of each, in their order; an answer that is no Refusal means durable.

        ``peer`` is the client's IP address. With a ``key`` all of it is done once, and the answers of the first time
        are given again. With ``together``, credits or limits that do not suffice for all mean that none is taken; what
        is more than one call can hold goes in several. Raises Refusal if nothing of it could be tried, or nobody knows
        what became of it.
        """
        return await self._workers.submit(submissions, authorization, peer, key, together=together)

    async def check_key(self, authorization: str, peer: str) -> None:
        """Ask a worker whether the API key in ``authorization`` may be used to send, from ``peer``. Raises Refusal."""
        try:
            await self.check_sender(authorization, peer)
        except Refusal as refusal:
            if refusal.reason is not Reason.SENDER_NOT_ALLOWED:  # told of a message that has no better sender
                raise

    async def check_sender(self, authorization: str, peer: str) -> None:
        """As ``check_key``; an account without any address to send from is refused, too: SENDER_NOT_ALLOWED."""
        nothing = injection_service_pb2.SubmitMessageRequest(validate_only=True)
        try:
            [answer] = await self.submit([nothing], authorization=authorization, peer=peer)
            if isinstance(answer, Refusal):
                raise answer
        except Refusal as refusal:
            # The MTA judges the caller first, then the sender; that the recipients are missing comes after both.
            if refusal.reason is not Reason.INVALID_ARGUMENT or refusal.field != "recipients":
                raise

    async def check_known(
        self, authorization: str, peer: str, *, sends: bool, reasons: Collection[Reason] = UNKNOWN
    ) -> None:
        """Raise Refusal if the credentials are refused for one of ``reasons``; any other answer, or none, is well.

        Whoever judges the request they come with is asked: a worker if it ``sends``, otherwise control. They may know
        of changes at different times.
        """
        try:
            async with asyncio.timeout(JUDGE_SECONDS):
                if sends:
                    await self.check_key(authorization, peer)
                else:
                    own = tenant_service_pb2.GetTenantRequest(name="tenants/me")
                    await self.ask("tenants", "GetTenant", own, authorization=authorization, peer=peer)
        except TimeoutError:
            pass
        except Refusal as refusal:
            if refusal.reason in reasons:
                raise

    async def readiness(self) -> Readiness:
        """Ask control and the workers whether they can work."""
        control, mta = await asyncio.gather(
            rpc.is_serving(self._control.channel, PROBE_SECONDS), self._workers.is_serving(PROBE_SECONDS)
        )
        return Readiness(control, mta)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self._control.close(), self._workers.close())

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


def _items(answer: Any) -> str:
    """The name of the field that holds the items of a List method's answer (AIP-132)."""
    fields: Sequence[FieldDescriptor] = answer.DESCRIPTOR.fields
    return next(field.name for field in fields if field.is_repeated and field.type == FieldDescriptor.TYPE_MESSAGE)


def _metadata(authorization: str, peer: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", authorization), *(((PEER_KEY, peer),) if peer else ()))
