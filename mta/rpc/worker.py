"""WorkerService: what the node tells this worker."""

from typing import Any

import grpc

from barua.mta.v1 import worker_service_pb2 as pb
from barua.mta.v1 import worker_service_pb2_grpc as services
from barua.policy.v1.policy_service_pb2 import CredentialUse

from mta.custody.credits import Credits
from mta.policy.uses import CredentialKind, Uses
from mta.runtime.refusals import Reason, Refusal
from mta.spool.records import SpoolError
from mta.spool.sqlite import SqliteStore

Context = grpc.aio.ServicerContext[Any, Any]

_KINDS = {
    CredentialKind.LOGIN: CredentialUse.KIND_LOGIN,
    CredentialKind.API_KEY: CredentialUse.KIND_API_KEY,
    CredentialKind.OAUTH_CLIENT: CredentialUse.KIND_OAUTH_CLIENT,
}


class WorkerService(services.WorkerServiceServicer):
    """Serves ``barua.mta.v1.WorkerService``."""

    def __init__(self, credits_: Credits, store: SqliteStore, uses: Uses) -> None:
        self._credits = credits_
        self._store = store
        self._uses = uses

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        services.add_WorkerServiceServicer_to_server(self, server)
        return pb.DESCRIPTOR.services_by_name["WorkerService"].full_name

    async def RecallLeases(self, request: pb.RecallLeasesRequest, context: Context) -> pb.RecallLeasesResponse:
        """Give back unspent credits; see the proto."""
        try:
            released = await self._credits.recall(request.tenant_id)
        except SpoolError as error:
            raise Refusal(Reason.NOT_STORED, "the release could not be stored") from error
        return pb.RecallLeasesResponse(released_credits=released)

    async def AcknowledgeOutbox(
        self, request: pb.AcknowledgeOutboxRequest, context: Context
    ) -> pb.AcknowledgeOutboxResponse:
        """Drop what control has recorded; see the proto."""
        self._store.acknowledge(request.recorded_sequence)
        self._credits.acknowledged(request.recorded_sequence)
        return pb.AcknowledgeOutboxResponse()

    async def TakeCredentialUses(
        self, request: pb.TakeCredentialUsesRequest, context: Context
    ) -> pb.TakeCredentialUsesResponse:
        """Hand over which credentials were used; see the proto."""
        uses = [CredentialUse(kind=_KINDS[kind], id=id_) for kind, id_ in self._uses.take()]
        return pb.TakeCredentialUsesResponse(uses=uses)
