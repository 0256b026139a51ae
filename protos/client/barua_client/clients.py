"""Control and the MTA with all their services, one attribute each."""

from typing import Any

from barua.control.v1.alert_service_pb2_grpc import AlertServiceStub
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.dkim_key_service_pb2_grpc import DkimKeyServiceStub
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.egress_service_pb2_grpc import EgressServiceStub
from barua.control.v1.engagement_service_pb2_grpc import EngagementServiceStub
from barua.control.v1.event_service_pb2_grpc import EventServiceStub
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.control.v1.list_validation_service_pb2_grpc import ListValidationServiceStub
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub
from barua.control.v1.pool_service_pb2_grpc import PoolServiceStub
from barua.control.v1.quota_service_pb2_grpc import QuotaServiceStub
from barua.control.v1.resubscription_service_pb2_grpc import ResubscriptionServiceStub
from barua.control.v1.sender_service_pb2_grpc import SenderServiceStub
from barua.control.v1.smtp_provider_service_pb2_grpc import SmtpProviderServiceStub
from barua.control.v1.statistics_service_pb2_grpc import StatisticsServiceStub
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.control.v1.template_service_pb2_grpc import TemplateServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub
from barua.mta.v1.queue_service_pb2_grpc import QueueServiceStub
from barua.mta.v1.routing_service_pb2_grpc import RoutingServiceStub

from barua_client.connection import Connection


class ControlClient(Connection):
    """Control: tenants, credits and what belongs to them. See ``Connection`` for the arguments."""

    def __init__(self, address: str, credentials: str = "", **settings: Any) -> None:
        super().__init__(address, credentials, **settings)
        channel = self.channel
        self.tenants = self.service(TenantServiceStub(channel))
        self.quotas = self.service(QuotaServiceStub(channel))
        self.credentials = self.service(CredentialServiceStub(channel))
        self.oauth = self.service(OAuthServiceStub(channel))
        self.credits = self.service(CreditServiceStub(channel))
        self.domains = self.service(DomainServiceStub(channel))
        self.dkim_keys = self.service(DkimKeyServiceStub(channel))
        self.senders = self.service(SenderServiceStub(channel))
        self.templates = self.service(TemplateServiceStub(channel))
        self.suppressions = self.service(SuppressionServiceStub(channel))
        self.resubscriptions = self.service(ResubscriptionServiceStub(channel))
        self.list_validation = self.service(ListValidationServiceStub(channel))
        self.egress = self.service(EgressServiceStub(channel))
        self.pools = self.service(PoolServiceStub(channel))
        self.smtp_providers = self.service(SmtpProviderServiceStub(channel))
        self.webhooks = self.service(WebhookServiceStub(channel))
        self.alerts = self.service(AlertServiceStub(channel))
        self.history = self.service(HistoryServiceStub(channel))
        self.engagement = self.service(EngagementServiceStub(channel))
        self.events = self.service(EventServiceStub(channel))
        self.statistics = self.service(StatisticsServiceStub(channel))


class MtaClient(Connection):
    """The MTA's node: messages over gRPC, and what is queued. Arguments: see ``Connection``."""

    def __init__(self, address: str, credentials: str = "", **settings: Any) -> None:
        super().__init__(address, credentials, **settings)
        self.injection = self.service(InjectionServiceStub(self.channel))
        self.queues = self.service(QueueServiceStub(self.channel))
        self.routing = self.service(RoutingServiceStub(self.channel))
