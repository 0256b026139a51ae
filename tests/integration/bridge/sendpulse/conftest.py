"""SendPulse's API on the installation of all tests of the bridge; each test makes the accounts it needs."""

import base64
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    oauth_client_pb2,
    oauth_service_pb2,
    tenant_pb2,
)
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub

from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import RESELLER, Stack
from tests.support.waiting import wait_until

SCOPES = ("mail", "messages", "suppressions", "senders", "domains", "templates", "egress", "tenants:read")


@dataclass(frozen=True, slots=True)
class Account:
    """A customer: its tenant, its OAuth client, a static key, and a domain that it may send from."""

    tenant: str
    client_id: str
    client_secret: str
    key: str
    domain: str

    @property
    def sender(self) -> str:
        """An address that it may send from."""
        return f"news@{self.domain}"

    @property
    def headers(self) -> dict[str, str]:
        """The static key as a bearer."""
        return {"Authorization": f"Bearer {self.key}"}

    def email(self, **fields: Any) -> dict[str, Any]:
        """A message as the documentation has it."""
        return {
            "html": base64.b64encode(b"<p>Example text</p>").decode(),
            "text": "Example text",
            "subject": "Example subject",
            "from": {"name": "Example name", "email": self.sender},
            "to": [{"name": "Recipient1 name", "email": address()}],
            **fields,
        }


def address(word: str = "r") -> str:
    """A recipient that nobody else has."""
    return f"{word}-{uuid.uuid4().hex[:10]}@example.net"


@pytest.fixture(scope="package")
def sink(shared_sink: RecordingSink) -> RecordingSink:
    """The remote server of ``example.net`` and of the senders' own addresses."""
    return shared_sink


@pytest.fixture(scope="package")
def dns(shared_dns: DnsServer) -> DnsServer:
    """The DNS that everything asks."""
    return shared_dns


@pytest.fixture(scope="package")
def stack(shared_stack: Stack) -> Stack:
    """The installation."""
    return shared_stack


@pytest.fixture(scope="package")
def make_account(stack: Stack) -> Callable[..., Account]:
    """Makes accounts: ``scopes`` of their credentials, ``credits``, ``domain`` (verified) or none, fields of Tenant."""

    def make(*, scopes: tuple[str, ...] = SCOPES, credits: int = 1000, domain: bool = True, **fields: Any) -> Account:
        tenant = f"sp-{uuid.uuid4().hex[:8]}"
        stack.operator.create_tenant(tenant, RESELLER, tenant=tenant_pb2.Tenant(**fields))
        if credits:
            stack.operator.grant(tenant, credits)
        name = f"{tenant}.test" if domain else ""
        if domain:
            stack.operator.create_domain(tenant, name, signing=False)
        operator = stack.operator
        client = operator.call(
            OAuthServiceStub(operator.control).CreateOAuthClient,
            oauth_service_pb2.CreateOAuthClientRequest(
                parent=f"tenants/{tenant}", oauth_client=oauth_client_pb2.OAuthClient(scopes=scopes)
            ),
        )
        key = operator.call(
            CredentialServiceStub(operator.control).CreateApiKey,
            credential_service_pb2.CreateApiKeyRequest(
                parent=f"tenants/{tenant}", api_key=credential_pb2.ApiKey(display_name="static", scopes=scopes)
            ),
        )
        return Account(tenant, client.client_id, client.client_secret, key.secret_key, name)

    return make


@pytest.fixture(scope="package")
def account(make_account: Callable[..., Account], stack: Stack) -> Account:
    """An account that can send, now."""
    made = make_account()
    url = f"{stack.bridge_url}/smtp/emails"
    with httpx.Client(timeout=60) as client:
        wait_until(
            lambda: client.post(url, json={"email": made.email()}, headers=made.headers).status_code == 200,
            "the account can send",
        )
    return made


@pytest.fixture
def client(stack: Stack, account: Account) -> Iterator[httpx.Client]:
    """An HTTP client with the account's static key."""
    with httpx.Client(base_url=stack.bridge_url, timeout=60, headers=account.headers) as opened:
        yield opened
