"""Accounts as the SendPost dialect has them: a tenant with an account key, and a sub-account below it with its own.

Made with the operator's token, in a running installation.
"""

import uuid
from dataclasses import dataclass

import httpx

from barua.control.v1 import credential_pb2, credential_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from tests.support.operator import Operator
from tests.support.waiting import wait_until_steady

ACCOUNT_SCOPES = (
    *("mail", "tenants", "credentials", "credits", "domains", "senders", "templates", "suppressions", "validation"),
    *("egress", "webhooks", "alerts", "messages", "statistics"),
)
SUB_ACCOUNT_SCOPES = (
    *("mail", "domains", "senders", "suppressions", "validation"),
    *("templates:read", "messages:read", "statistics:read", "egress:read"),
)
CREDITS = 100_000


@dataclass(frozen=True, slots=True)
class Account:
    """The ids of both tenants, their keys, and a domain that each may send from."""

    name: str
    key: str
    domain: str
    sub_account: str
    sub_key: str
    sub_domain: str
    number: int
    """The id of the sub-account in the API."""

    @property
    def account_headers(self) -> dict[str, str]:
        """For paths below /account."""
        return {"X-Account-ApiKey": self.key}

    @property
    def sub_headers(self) -> dict[str, str]:
        """For paths below /subaccount."""
        return {"X-SubAccount-ApiKey": self.sub_key}


def make_account(operator: Operator, credits: int = CREDITS) -> Account:
    """A new account with credits and one sub-account that shares them."""
    name = f"sp-{uuid.uuid4().hex[:10]}"
    sub = f"{name}-sub"
    operator.create_tenant(name, tenant=tenant_pb2.Tenant(kind=tenant_pb2.Tenant.KIND_RESELLER, display_name=name))
    if credits:
        operator.grant(name, credits)
    operator.create_tenant(sub, name, tenant=tenant_pb2.Tenant(shares_balance=True, display_name="Custom"))
    domain, sub_domain = f"{name}.test", f"{sub}.test"
    operator.create_domain(name, domain)
    operator.create_domain(sub, sub_domain)
    found = operator.call(
        TenantServiceStub(operator.control).GetTenant, tenant_service_pb2.GetTenantRequest(name=f"tenants/{sub}")
    )
    keys = (api_key(operator, name, ACCOUNT_SCOPES), api_key(operator, sub, SUB_ACCOUNT_SCOPES))
    return Account(name, keys[0], domain, sub, keys[1], sub_domain, found.number)


def wait_for_key(bridge_url: str, key: str) -> None:
    """Wait until the workers know a key of a sub-account, which takes them up to a second."""
    body = {"from": {"email": "a@example.test"}, "to": [{"email": "none"}], "subject": "x", "textBody": "x"}

    def known() -> bool:
        headers = {"X-SubAccount-ApiKey": key}
        answer = httpx.post(f"{bridge_url}/api/v1/subaccount/email/", json=body, headers=headers, timeout=60)
        return answer.status_code == 200

    wait_until_steady(known, "the workers know the key")


def api_key(operator: Operator, tenant: str, scopes: tuple[str, ...]) -> str:
    """A new API key."""
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=f"tenants/{tenant}", api_key=credential_pb2.ApiKey(display_name="test", scopes=scopes)
    )
    made: credential_pb2.ApiKey = operator.call(CredentialServiceStub(operator.control).CreateApiKey, request)
    return made.secret_key
