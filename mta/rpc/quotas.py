"""The way to quotas: control's QuotaService, reached through the node's Unix socket."""

import grpc

from barua.control.v1 import quota_service_pb2 as pb
from barua.control.v1 import quota_service_pb2_grpc as services

from mta.custody.quotas import GrantedQuota
from mta.runtime.rpc import channel, refusal_of

CALL_SECONDS = 4.0
"""Deadline of a call: shorter than a peer's patience with the message it has just sent."""


class QuotaClient:
    """Takes quotas for one worker."""

    def __init__(self, target: str) -> None:
        self._channel = channel(target)
        self._stub: services.QuotaServiceAsyncStub = services.QuotaServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(None)

    async def acquire(self, subject: str, count: int) -> GrantedQuota:
        """At least ``count`` recipients of a subject's current window. Raises Refusal."""
        if subject.startswith("sources/"):
            request = pb.TakeQuotaRequest(source=subject, count=count)
        else:
            request = pb.TakeQuotaRequest(smtp_provider=subject, count=count)
        try:
            taken = await self._stub.TakeQuota(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error
        return GrantedQuota(taken.granted_count, taken.valid_milliseconds / 1000)
