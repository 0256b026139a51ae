"""The operator's view of a running installation, for assertions: balances, history, queues, and making things.

Plain blocking gRPC with the operator's token; every call has a deadline. Errors: ``grpc.RpcError``.
"""

import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    credit_service_pb2,
    domain_pb2,
    domain_service_pb2,
    history_service_pb2,
    suppression_service_pb2,
    tenant_pb2,
    tenant_service_pb2,
)
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.mta.v1 import queue_service_pb2
from barua.mta.v1.queue_service_pb2_grpc import QueueServiceStub

CALL_SECONDS = 60
PAGE_SIZE = 1000


class Operator:
    """Two channels, to control and to the node."""

    def __init__(self, control: str, node: str, token: str) -> None:
        self.control = grpc.insecure_channel(control)
        self.node = grpc.insecure_channel(node)
        self.metadata = (("authorization", f"Bearer {token}"),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels."""
        self.control.close()
        self.node.close()

    def call(self, method: Any, request: Any) -> Any:
        """Call a method of a stub of ``control`` or ``node``. Raises grpc.RpcError."""
        return method(request, timeout=CALL_SECONDS, metadata=self.metadata)

    def pages(self, method: Any, request: Any, field: str) -> Iterator[Any]:
        """Items of a list method over all its pages."""
        request.page_size = PAGE_SIZE
        while True:
            answer = self.call(method, request)
            yield from getattr(answer, field)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def create_tenant(self, tenant: str, /, parent: str = "operator", **fields: Any) -> tenant_pb2.Tenant:
        """Make a tenant; further fields are those of CreateTenantRequest."""
        request = tenant_service_pb2.CreateTenantRequest(
            parent=f"tenants/{parent}", tenant_id=tenant, request_id=str(uuid.uuid4()), **fields
        )
        made: tenant_pb2.Tenant = self.call(TenantServiceStub(self.control).CreateTenant, request)
        return made

    def create_domain(self, tenant: str, domain: str, *, signing: bool = True) -> domain_pb2.Domain:
        """Make a sender domain, taken on trust."""
        choice = domain_pb2.Domain.SIGNING_REQUIRED if signing else domain_pb2.Domain.SIGNING_OFF
        request = domain_service_pb2.CreateDomainRequest(
            parent=f"tenants/{tenant}", domain=domain, trusted=True, settings=domain_pb2.Domain(signing=choice)
        )
        made: domain_pb2.Domain = self.call(DomainServiceStub(self.control).CreateDomain, request)
        return made

    def domain(self, tenant: str, domain: str) -> domain_pb2.Domain:
        """A sender domain with the records to publish."""
        request = domain_service_pb2.GetDomainRequest(name=f"tenants/{tenant}/domains/{domain}")
        found: domain_pb2.Domain = self.call(DomainServiceStub(self.control).GetDomain, request)
        return found

    def create_login(self, tenant: str, username: str, password: str) -> None:
        """Make a login."""
        request = credential_service_pb2.CreateLoginRequest(
            parent=f"tenants/{tenant}", username=username, password=password
        )
        self.call(CredentialServiceStub(self.control).CreateLogin, request)

    def create_api_key(self, tenant: str) -> str:
        """Make an API key with the scope "mail"; the key."""
        request = credential_service_pb2.CreateApiKeyRequest(
            parent=f"tenants/{tenant}", api_key=credential_pb2.ApiKey(display_name="test", scopes=["mail"])
        )
        made: credential_pb2.ApiKey = self.call(CredentialServiceStub(self.control).CreateApiKey, request)
        return made.secret_key

    def suppress(self, tenant: str, address: str) -> None:
        """Suppress an address for a tenant."""
        request = suppression_service_pb2.CreateSuppressionRequest(parent=f"tenants/{tenant}", address=address)
        self.call(SuppressionServiceStub(self.control).CreateSuppression, request)

    def grant(self, tenant: str, amount: int) -> None:
        """Issue credits."""
        request = credit_service_pb2.GrantCreditsRequest(
            tenant=f"tenants/{tenant}", amount=amount, request_id=str(uuid.uuid4())
        )
        self.call(CreditServiceStub(self.control).GrantCredits, request)

    def suspend(self, tenant: str, reason: str) -> None:
        """Suspend a tenant."""
        request = tenant_service_pb2.SuspendTenantRequest(name=f"tenants/{tenant}", reason=reason)
        self.call(TenantServiceStub(self.control).SuspendTenant, request)

    def balance(self, tenant: str) -> credit_service_pb2.Balance:
        """A tenant's balance."""
        request = credit_service_pb2.GetBalanceRequest(tenant=f"tenants/{tenant}")
        found: credit_service_pb2.Balance = self.call(CreditServiceStub(self.control).GetBalance, request)
        return found

    def history(self, tenant: str, recipient: str = "") -> list[history_service_pb2.MessageRecord]:
        """All message records of a tenant, newest first."""
        request = history_service_pb2.ListMessageRecordsRequest(parent=f"tenants/{tenant}", recipient=recipient)
        return list(self.pages(HistoryServiceStub(self.control).ListMessageRecords, request, "message_records"))

    def record(self, name: str) -> history_service_pb2.MessageRecord:
        """One message record with its events."""
        request = history_service_pb2.GetMessageRecordRequest(name=name)
        found: history_service_pb2.MessageRecord = self.call(HistoryServiceStub(self.control).GetMessageRecord, request)
        return found

    def queued(self, tenant: str = "") -> list[queue_service_pb2.QueuedRecipient]:
        """Recipients that are not finished, on all workers."""
        request = queue_service_pb2.ListQueuedRecipientsRequest(tenant_id=tenant)
        return list(self.pages(QueueServiceStub(self.node).ListQueuedRecipients, request, "queued_recipients"))

    def queued_count(self) -> int:
        """How many recipients are not finished."""
        answer = self.call(QueueServiceStub(self.node).ListQueues, queue_service_pb2.ListQueuesRequest(page_size=1000))
        return sum(queue.recipient_count for queue in answer.queues)
