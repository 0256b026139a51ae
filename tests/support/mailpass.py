"""Accounts for tests of the MailPass dialect: a tenant with credits, a domain and a key, in a running installation."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    smtp_provider_pb2,
    smtp_provider_service_pb2,
    tenant_pb2,
)
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.smtp_provider_service_pb2_grpc import SmtpProviderServiceStub

from tests.support.operator import Operator
from tests.support.waiting import wait_until_steady

SEND, BATCH, STATUS = "/api/v1/mail/send", "/api/v1/mail/send-batch", "/api/v1/mail/status"
CREDITS = 100_000


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant with its key, and the domain that it may send from."""

    tenant: str
    key: str
    domain: str

    @property
    def headers(self) -> dict[str, str]:
        """Header fields of a request."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def sender(self) -> str:
        """An address that it may send from."""
        return f"support@{self.domain}"


def make_account(operator: Operator, *, credits: int = CREDITS, domain: bool = True) -> Account:
    """A new account. Without a domain it has nothing to send from."""
    name = f"mp-{uuid.uuid4().hex[:10]}"
    sender = f"noreply@{name}.test" if domain else ""
    operator.create_tenant(name, "reseller", tenant=tenant_pb2.Tenant(display_name=name, default_sender=sender))
    if credits:
        operator.grant(name, credits)
    if domain:
        operator.create_domain(name, f"{name}.test")
    return Account(name, make_key(operator, name, ["mail"]), f"{name}.test")


def make_key(operator: Operator, tenant: str, scopes: Sequence[str]) -> str:
    """A key of these scopes."""
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=f"tenants/{tenant}", api_key=credential_pb2.ApiKey(scopes=scopes)
    )
    made: credential_pb2.ApiKey = operator.call(CredentialServiceStub(operator.control).CreateApiKey, request)
    return made.secret_key


def limit(operator: Operator, tenant: str, *, hourly: int = 0, daily: int = 0) -> None:
    """Give the account's own way out limits."""
    provider = smtp_provider_pb2.SmtpProvider(
        name=f"tenants/{tenant}/smtpProviders/builtin", hourly_limit=hourly, daily_limit=daily
    )
    request = smtp_provider_service_pb2.UpdateSmtpProviderRequest(smtp_provider=provider)
    request.update_mask.paths.extend(("hourly_limit", "daily_limit"))
    operator.call(SmtpProviderServiceStub(operator.control).UpdateSmtpProvider, request)


def wait_until_known(client: httpx.Client, account: Account) -> None:
    """Wait until the workers know the key, the domain and the credits of an account."""

    def answers() -> bool:
        probe = client.post(SEND, headers=account.headers, json={"to": 1})
        return probe.status_code == 400

    wait_until_steady(answers, "the key is known")


def sending(client: httpx.Client, account: Account, **changes: Any) -> httpx.Response:
    """Send a small message with some fields changed; ``...`` takes one away."""
    message: dict[str, Any] = {"to": "ann@example.net", "subject": "Hello", "html": "<p>Hello</p>", **changes}
    body = {name: value for name, value in message.items() if value is not ...}
    return client.post(SEND, headers=account.headers, json=body)
