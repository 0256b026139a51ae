"""All services of control: registers their servicers with a server, and names what is served."""

from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import FileDescriptor

from barua.control.v1 import (
    alert_service_pb2,
    alert_service_pb2_grpc,
    credential_service_pb2,
    credential_service_pb2_grpc,
    credit_service_pb2,
    credit_service_pb2_grpc,
    dkim_key_service_pb2,
    dkim_key_service_pb2_grpc,
    domain_service_pb2,
    domain_service_pb2_grpc,
    egress_service_pb2,
    egress_service_pb2_grpc,
    engagement_service_pb2,
    engagement_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    history_service_pb2,
    history_service_pb2_grpc,
    lease_service_pb2,
    lease_service_pb2_grpc,
    list_validation_service_pb2,
    list_validation_service_pb2_grpc,
    oauth_service_pb2,
    oauth_service_pb2_grpc,
    pool_service_pb2,
    pool_service_pb2_grpc,
    quota_service_pb2,
    quota_service_pb2_grpc,
    resubscription_service_pb2,
    resubscription_service_pb2_grpc,
    sender_service_pb2,
    sender_service_pb2_grpc,
    smtp_provider_service_pb2,
    smtp_provider_service_pb2_grpc,
    statistics_service_pb2,
    statistics_service_pb2_grpc,
    suppression_service_pb2,
    suppression_service_pb2_grpc,
    template_service_pb2,
    template_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
    webhook_service_pb2,
    webhook_service_pb2_grpc,
)
from barua.journal.v1 import journal_service_pb2, journal_service_pb2_grpc
from barua.policy.v1 import policy_service_pb2, policy_service_pb2_grpc

from control.services.alerts import AlertServicer
from control.services.credentials import CredentialServicer
from control.services.credits import CreditServicer
from control.services.dkim_keys import DkimKeyServicer
from control.services.domains import DomainServicer
from control.services.egress import EgressServicer
from control.services.engagement import EngagementServicer
from control.services.events import EventServicer
from control.services.history import HistoryServicer
from control.services.journal import JournalServicer
from control.services.leases import LeaseServicer
from control.services.listvalidation import ListValidationServicer
from control.services.oauth import OAuthServicer
from control.services.pools import PoolServicer
from control.services.providers import SmtpProviderServicer
from control.services.quotas import QuotaServicer
from control.services.resubscriptions import ResubscriptionServicer
from control.services.senders import SenderServicer
from control.services.statistics import StatisticsServicer
from control.services.suppressions import SuppressionServicer
from control.services.templates import TemplateServicer
from control.services.tenants import TenantServicer
from control.services.webhooks import WebhookServicer

_FILES: tuple[FileDescriptor, ...] = (
    tenant_service_pb2.DESCRIPTOR,
    credential_service_pb2.DESCRIPTOR,
    oauth_service_pb2.DESCRIPTOR,
    credit_service_pb2.DESCRIPTOR,
    domain_service_pb2.DESCRIPTOR,
    dkim_key_service_pb2.DESCRIPTOR,
    sender_service_pb2.DESCRIPTOR,
    template_service_pb2.DESCRIPTOR,
    suppression_service_pb2.DESCRIPTOR,
    resubscription_service_pb2.DESCRIPTOR,
    list_validation_service_pb2.DESCRIPTOR,
    smtp_provider_service_pb2.DESCRIPTOR,
    egress_service_pb2.DESCRIPTOR,
    pool_service_pb2.DESCRIPTOR,
    quota_service_pb2.DESCRIPTOR,
    history_service_pb2.DESCRIPTOR,
    statistics_service_pb2.DESCRIPTOR,
    event_service_pb2.DESCRIPTOR,
    engagement_service_pb2.DESCRIPTOR,
    webhook_service_pb2.DESCRIPTOR,
    alert_service_pb2.DESCRIPTOR,
    lease_service_pb2.DESCRIPTOR,
    journal_service_pb2.DESCRIPTOR,
    policy_service_pb2.DESCRIPTOR,
)


@dataclass(frozen=True, slots=True)
class Servicers:
    """One servicer per proto service."""

    tenants: TenantServicer
    credentials: CredentialServicer
    oauth: OAuthServicer
    credits: CreditServicer
    domains: DomainServicer
    dkim_keys: DkimKeyServicer
    senders: SenderServicer
    templates: TemplateServicer
    suppressions: SuppressionServicer
    resubscriptions: ResubscriptionServicer
    list_validations: ListValidationServicer
    smtp_providers: SmtpProviderServicer
    egress: EgressServicer
    pools: PoolServicer
    quotas: QuotaServicer
    history: HistoryServicer
    statistics: StatisticsServicer
    events: EventServicer
    engagement: EngagementServicer
    webhooks: WebhookServicer
    alerts: AlertServicer
    leases: LeaseServicer
    journal: JournalServicer
    policy: policy_service_pb2_grpc.PolicyServiceServicer


def service_names() -> list[str]:
    """Full names of the services, for reflection."""
    return [service.full_name for file in _FILES for service in file.services_by_name.values()]


def method_paths() -> list[str]:
    """Paths of all methods, as in HTTP/2 requests."""
    return [
        f"/{service.full_name}/{method.name}"
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def register(server: grpc.aio.Server, servicers: Servicers) -> None:
    """Add all services to a server."""
    tenant_service_pb2_grpc.add_TenantServiceServicer_to_server(servicers.tenants, server)
    credential_service_pb2_grpc.add_CredentialServiceServicer_to_server(servicers.credentials, server)
    oauth_service_pb2_grpc.add_OAuthServiceServicer_to_server(servicers.oauth, server)
    credit_service_pb2_grpc.add_CreditServiceServicer_to_server(servicers.credits, server)
    domain_service_pb2_grpc.add_DomainServiceServicer_to_server(servicers.domains, server)
    dkim_key_service_pb2_grpc.add_DkimKeyServiceServicer_to_server(servicers.dkim_keys, server)
    sender_service_pb2_grpc.add_SenderServiceServicer_to_server(servicers.senders, server)
    template_service_pb2_grpc.add_TemplateServiceServicer_to_server(servicers.templates, server)
    suppression_service_pb2_grpc.add_SuppressionServiceServicer_to_server(servicers.suppressions, server)
    resubscription_service_pb2_grpc.add_ResubscriptionServiceServicer_to_server(servicers.resubscriptions, server)
    list_validation_service_pb2_grpc.add_ListValidationServiceServicer_to_server(servicers.list_validations, server)
    smtp_provider_service_pb2_grpc.add_SmtpProviderServiceServicer_to_server(servicers.smtp_providers, server)
    egress_service_pb2_grpc.add_EgressServiceServicer_to_server(servicers.egress, server)
    pool_service_pb2_grpc.add_PoolServiceServicer_to_server(servicers.pools, server)
    quota_service_pb2_grpc.add_QuotaServiceServicer_to_server(servicers.quotas, server)
    history_service_pb2_grpc.add_HistoryServiceServicer_to_server(servicers.history, server)
    statistics_service_pb2_grpc.add_StatisticsServiceServicer_to_server(servicers.statistics, server)
    event_service_pb2_grpc.add_EventServiceServicer_to_server(servicers.events, server)
    engagement_service_pb2_grpc.add_EngagementServiceServicer_to_server(servicers.engagement, server)
    webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server(servicers.webhooks, server)
    alert_service_pb2_grpc.add_AlertServiceServicer_to_server(servicers.alerts, server)
    lease_service_pb2_grpc.add_LeaseServiceServicer_to_server(servicers.leases, server)
    journal_service_pb2_grpc.add_JournalServiceServicer_to_server(servicers.journal, server)
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(servicers.policy, server)
