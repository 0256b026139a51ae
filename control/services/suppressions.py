"""SuppressionService: addresses that get no mail."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import suppression_service_pb2
from barua.control.v1.suppression_service_pb2 import Suppression as SuppressionProto
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import addresses, fields, names
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.store import suppressions, tenants
from control.store.suppressions import Suppression

_Context = grpc.aio.ServicerContext[Any, Any]

_REASONS = {
    SuppressionProto.REASON_UNSPECIFIED: "manual",
    SuppressionProto.REASON_MANUAL: "manual",
    SuppressionProto.REASON_UNSUBSCRIBE: "unsubscribe",
    SuppressionProto.REASON_HARD_BOUNCE: "hard_bounce",
    SuppressionProto.REASON_COMPLAINT: "complaint",
}
_REASON_PROTOS = {text: proto for proto, text in _REASONS.items()}


class SuppressionServicer(SuppressionServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations

    async def CreateSuppression(
        self, request: suppression_service_pb2.CreateSuppressionRequest, context: _Context
    ) -> SuppressionProto:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        address = addresses.canonical_address(request.address, "address")
        note = fields.text(request.suppression.note, "suppression.note", fields.MAX_SUPPRESSION_NOTE)
        reason = _REASONS.get(request.suppression.reason)
        if reason is None:
            raise fields.invalid("suppression.reason", f"suppression.reason {request.suppression.reason} is not known")

        async def effect(connection: Connection) -> SuppressionProto:
            await tenants.visible(connection, me, tenant_id)
            return _to_proto(await suppressions.put(connection, tenant_id, address, reason, note))

        return await self._mutations.run(request, SuppressionProto, effect)

    async def ListSuppressions(
        self, request: suppression_service_pb2.ListSuppressionsRequest, context: _Context
    ) -> suppression_service_pb2.ListSuppressionsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        page = page_of(request, "", tenant_id)

        async def read(connection: Connection) -> list[Suppression]:
            await tenants.visible(connection, me, tenant_id)
            return await suppressions.page(connection, tenant_id, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda suppression: suppression.address)
        return suppression_service_pb2.ListSuppressionsResponse(
            suppressions=map(_to_proto, found), next_page_token=token
        )

    async def DeleteSuppression(
        self, request: suppression_service_pb2.DeleteSuppressionRequest, context: _Context
    ) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "suppressions", me)
        address = addresses.canonical_address(name.id, "name")

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await suppressions.delete(connection, name.tenant_id, address)
            return Empty()

        return await self._mutations.run(request, Empty, effect)


def _to_proto(suppression: Suppression) -> SuppressionProto:
    return SuppressionProto(
        name=f"tenants/{suppression.tenant_id}/suppressions/{suppression.address}",
        reason=_REASON_PROTOS[suppression.reason],
        note=suppression.note,
        create_time=to_proto(suppression.created_at),
    )
