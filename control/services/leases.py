"""LeaseService: credits for workers to spend without asking."""

from typing import Any

import grpc

from barua.control.v1 import lease_service_pb2
from barua.control.v1.lease_service_pb2_grpc import LeaseServiceServicer

from control.database import Connection, Database
from control.model import fields
from control.recalls import Recalls
from control.store import leases
from control.store.leases import Lease

_Context = grpc.aio.ServicerContext[Any, Any]

LEASE_WAIT_SECONDS = 2.0
"""Wait for other holders' leases to come back: shorter than a worker's patience with the message it holds."""


class LeaseServicer(LeaseServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, recalls: Recalls) -> None:
        self._database = database
        self._recalls = recalls

    async def OpenHolder(
        self, request: lease_service_pb2.OpenHolderRequest, context: _Context
    ) -> lease_service_pb2.OpenHolderResponse:
        """See the proto."""
        holder = fields.identifier(request.holder, "holder")
        epoch = _checked_epoch(request.epoch)
        known = list(request.lease_ids)
        await self._database.transact(lambda c: leases.open_holder(c, holder, epoch, known))
        return lease_service_pb2.OpenHolderResponse()

    async def AcquireLease(
        self, request: lease_service_pb2.AcquireLeaseRequest, context: _Context
    ) -> lease_service_pb2.Lease:
        """See the proto."""
        holder = fields.identifier(request.holder, "holder")
        epoch = _checked_epoch(request.epoch)
        tenant_id = fields.tenant_id(request.tenant_id)
        amount = fields.amount(request.amount)
        request_id = fields.identifier(request.request_id, "request_id")

        async def effect(connection: Connection) -> Lease:
            return await leases.acquire(connection, holder, epoch, tenant_id, amount, request_id)

        lease = await self._recalls.settled(lambda: self._database.transact(effect), LEASE_WAIT_SECONDS)
        return lease_service_pb2.Lease(lease_id=lease.lease_id, tenant_id=lease.tenant_id, amount=lease.amount)


def _checked_epoch(epoch: int) -> int:
    if epoch < 1:
        raise fields.invalid("epoch", f"epoch must be at least 1; it is {epoch}")
    return epoch
