"""The way to credit leases: control's LeaseService, reached through the node's Unix socket.

Before the first lease of a run, control is told which leases this spool knows (``OpenHolder``), which fences earlier
runs and returns what was granted and never recorded.
"""

import asyncio
from collections.abc import Sequence

import grpc

from barua.control.v1 import lease_service_pb2 as pb
from barua.control.v1 import lease_service_pb2_grpc as services

from mta.custody.credits import GrantedLease
from mta.runtime.refusals import Reason
from mta.runtime.rpc import channel, refusal_of

CALL_SECONDS = 4.0
"""Deadline of a call: control may call leases of other workers back first."""


class LeaseClient:
    """Acquires leases for one holder."""

    def __init__(self, target: str, holder: str, epoch: int, known: Sequence[int]) -> None:
        self._channel = channel(target)
        self._stub: services.LeaseServiceAsyncStub = services.LeaseServiceStub(self._channel)
        self._holder = holder
        self._epoch = epoch
        self._known = list(known)
        self._opened = False
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(None)

    async def acquire(self, tenant_id: str, amount: int, request_id: str) -> GrantedLease:
        """A lease of at most ``amount`` credits. Raises Refusal."""
        request = pb.AcquireLeaseRequest(
            holder=self._holder, epoch=self._epoch, tenant_id=tenant_id, amount=amount, request_id=request_id
        )
        try:
            await self._open()
            lease = await self._stub.AcquireLease(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            if refusal.reason is Reason.FAILED_PRECONDITION:
                self._opened = False  # control knows no such holder (any more): introduce it again
            raise refusal from error
        return GrantedLease(lease.lease_id, lease.amount)

    async def _open(self) -> None:
        async with self._opening:
            if not self._opened:
                request = pb.OpenHolderRequest(holder=self._holder, epoch=self._epoch, lease_ids=self._known)
                await self._stub.OpenHolder(request, timeout=CALL_SECONDS)
                self._opened = True
