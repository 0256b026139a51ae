"""Control and the MTA with all their services, one attribute each."""

from typing import Any

from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub
from barua.mta.v1.queue_service_pb2_grpc import QueueServiceStub

from barua_client.connection import Connection


class ControlClient(Connection):
    """Control: tenants, credits and what belongs to them. See ``Connection`` for the arguments."""

    def __init__(self, address: str, credentials: str = "", **settings: Any) -> None:
        super().__init__(address, credentials, **settings)
        channel = self.channel
        self.tenants = self.service(TenantServiceStub(channel))
        self.credentials = self.service(CredentialServiceStub(channel))
        self.credits = self.service(CreditServiceStub(channel))
        self.domains = self.service(DomainServiceStub(channel))
        self.suppressions = self.service(SuppressionServiceStub(channel))
        self.history = self.service(HistoryServiceStub(channel))


class MtaClient(Connection):
    """The MTA's node: messages over gRPC, and what is queued. See ``Connection`` for the arguments."""

    def __init__(self, address: str, credentials: str = "", **settings: Any) -> None:
        super().__init__(address, credentials, **settings)
        self.injection = self.service(InjectionServiceStub(self.channel))
        self.queues = self.service(QueueServiceStub(self.channel))
