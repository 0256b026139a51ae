"""Sub-accounts on a running installation: they send with credits of the account above, until they are deleted."""

import itertools

import grpc

from barua.control.v1 import credential_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1.credential_pb2 import API_KEY_VIEW_WITH_SECRET, ApiKey
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from tests.integration.mta.accounts import Account
from tests.integration.mta.arrivals import one
from tests.integration.mta.test_credentials_in_force import PROMISED_SECONDS, everywhere, outcome, until
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import in_time


def new_sub_account(stack: Stack, account: Account, number: int) -> tuple[str, str]:
    """A tenant that shares an account's balance, and its key as it is read afterwards."""
    tenant = f"{account.tenant}-sub{number}"
    stack.operator.create_tenant(
        tenant,
        account.tenant,
        tenant=tenant_pb2.Tenant(shares_balance=True),
        initial_api_key=ApiKey(scopes=["mail"], recoverable=True),
    )
    listing = credential_service_pb2.ListApiKeysRequest(parent=f"tenants/{tenant}", view=API_KEY_VIEW_WITH_SECRET)
    answer = stack.operator.call(CredentialServiceStub(stack.operator.control).ListApiKeys, listing)
    return tenant, answer.api_keys[0].secret_key


def test_sub_accounts_send_with_the_credits_of_the_account(account: Account, stack: Stack, sink: RecordingSink) -> None:
    node = stack.options.node.listen
    for number in range(2):
        tenant, key = new_sub_account(stack, account, number)
        until(everywhere(stack, key, grpc.StatusCode.OK), "every worker knows the key")
        recipient = f"{tenant}@example.net"
        sent = outcome(node, key, recipients=[recipient], sender=account.sender, validate_only=False)
        assert sent is grpc.StatusCode.OK
        assert b"Subject: hello" in one(sink, recipient).content
        account.wait_until_charged(number + 1)
        balance = stack.operator.balance(tenant)
        assert (balance.balance, balance.consumed, balance.paying_tenant) == (0, 0, f"tenants/{account.tenant}")


def test_the_key_of_a_deleted_sub_account_ends_within_a_second(account: Account, stack: Stack) -> None:
    numbers = itertools.count(10)

    def attempt() -> float:
        tenant, key = new_sub_account(stack, account, next(numbers))
        until(everywhere(stack, key, grpc.StatusCode.OK), "every worker knows the key")
        delete = tenant_service_pb2.DeleteTenantRequest(name=f"tenants/{tenant}")
        stack.operator.call(TenantServiceStub(stack.operator.control).DeleteTenant, delete)
        return until(everywhere(stack, key, grpc.StatusCode.UNAUTHENTICATED), "the key is refused")

    in_time(attempt, PROMISED_SECONDS)
