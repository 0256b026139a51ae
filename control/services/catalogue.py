"""All services of control: registers their servicers with a server, and names what is served."""

from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import FileDescriptor

from barua.control.v1 import (
    credential_service_pb2,
    credential_service_pb2_grpc,
    credit_service_pb2,
    credit_service_pb2_grpc,
    domain_service_pb2,
    domain_service_pb2_grpc,
    history_service_pb2,
    history_service_pb2_grpc,
    lease_service_pb2,
    lease_service_pb2_grpc,
    suppression_service_pb2,
    suppression_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from barua.journal.v1 import journal_service_pb2, journal_service_pb2_grpc
from barua.policy.v1 import policy_service_pb2, policy_service_pb2_grpc

from control.services.credentials import CredentialServicer
from control.services.credits import CreditServicer
from control.services.domains import DomainServicer
from control.services.history import HistoryServicer
from control.services.journal import JournalServicer
from control.services.leases import LeaseServicer
from control.services.suppressions import SuppressionServicer
from control.services.tenants import TenantServicer

_FILES: tuple[FileDescriptor, ...] = (
    tenant_service_pb2.DESCRIPTOR,
    credential_service_pb2.DESCRIPTOR,
    credit_service_pb2.DESCRIPTOR,
    domain_service_pb2.DESCRIPTOR,
    suppression_service_pb2.DESCRIPTOR,
    history_service_pb2.DESCRIPTOR,
    lease_service_pb2.DESCRIPTOR,
    journal_service_pb2.DESCRIPTOR,
    policy_service_pb2.DESCRIPTOR,
)


@dataclass(frozen=True, slots=True)
class Servicers:
    """One servicer per proto service."""

    tenants: TenantServicer
    credentials: CredentialServicer
    credits: CreditServicer
    domains: DomainServicer
    suppressions: SuppressionServicer
    history: HistoryServicer
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
    credit_service_pb2_grpc.add_CreditServiceServicer_to_server(servicers.credits, server)
    domain_service_pb2_grpc.add_DomainServiceServicer_to_server(servicers.domains, server)
    suppression_service_pb2_grpc.add_SuppressionServiceServicer_to_server(servicers.suppressions, server)
    history_service_pb2_grpc.add_HistoryServiceServicer_to_server(servicers.history, server)
    lease_service_pb2_grpc.add_LeaseServiceServicer_to_server(servicers.leases, server)
    journal_service_pb2_grpc.add_JournalServiceServicer_to_server(servicers.journal, server)
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(servicers.policy, server)
