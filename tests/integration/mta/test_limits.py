"""What control decides about a tenant, at the SMTP port: limits on recipients, and suspension of those above."""

from barua.control.v1 import tenant_pb2, tenant_service_pb2
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from tests.integration.mta.accounts import Account, Accounts
from tests.integration.mta.test_bad_input import logged_in
from tests.integration.mta.wire import Answer, Wire
from tests.support.stack import Stack
from tests.support.waiting import wait_until


def limit(stack: Stack, tenant: str, **limits: int) -> None:
    changed = tenant_pb2.Tenant(name=f"tenants/{tenant}", limits=tenant_pb2.TenantLimits(**limits))
    request = tenant_service_pb2.UpdateTenantRequest(tenant=changed)
    request.update_mask.paths.append("limits")
    stack.operator.call(TenantServiceStub(stack.operator.control).UpdateTenant, request)


def sent(wire: Wire, account: Account, count: int = 1) -> Answer:
    """The answer to a message for so many recipients."""
    wire.begin(account.sender, [f"r{number}-{account.tenant}@example.net" for number in range(count)])
    wire.send(b"Subject: limited\r\n\r\nText\r\n.\r\n")
    return wire.reply()


def test_a_limit_is_451_until_it_is_raised(accounts: Accounts, stack: Stack) -> None:
    account = accounts.make()
    limit(stack, account.tenant, daily_recipients=3)
    with logged_in(account) as wire:
        assert sent(wire, account, 4).code == 451
        assert sent(wire, account, 2).code == 250
        refused = sent(wire, account, 2)
        assert (refused.code, refused.enhanced) == (451, "4.7.1")
        assert "daily limit on recipients is reached; send again after" in refused.text
        assert "4.7.1" in sent(wire, account, 3).enhanced
        limit(stack, account.tenant, daily_recipients=5)
        wait_until(lambda: sent(wire, account, 3).code == 250, "the raised limit counts", 8)
        assert sent(wire, account).code == 451
    account.wait_until_charged(5)


def test_messages_have_limits_of_the_account(accounts: Accounts, stack: Stack) -> None:
    account = accounts.make()
    limit(stack, account.tenant, max_message_recipients=2, max_message_bytes=200)
    with logged_in(account) as wire:
        wait_until(lambda: sent(wire, account, 3).code == 501, "the limit counts", 3)
        assert sent(wire, account, 2).code == 250
        wire.begin(account.sender, ["r@example.net"])
        wire.send(b"Subject: long\r\n\r\n" + b"Text\r\n" * 40 + b".\r\n")
        refused = wire.reply()
        assert (refused.code, refused.enhanced) == (552, "5.3.4")
        assert "200 bytes" in refused.text


def test_below_a_suspended_tenant_nobody_sends(accounts: Accounts, stack: Stack) -> None:
    parent = accounts.make()
    account = accounts.make(parent=parent.tenant)
    tenants = TenantServiceStub(stack.operator.control)
    name = f"tenants/{parent.tenant}"
    with logged_in(account) as wire:
        assert sent(wire, account).code == 250
        suspend = tenant_service_pb2.SuspendTenantRequest(name=name, reason="unpaid")
        stack.operator.call(tenants.SuspendTenant, suspend)

        def code() -> int:
            wire.ask("RSET")
            return wire.ask(f"MAIL FROM:<{account.sender}>").code

        wait_until(lambda: code() == 550, "the suspension counts", 3)
        stack.operator.call(tenants.ResumeTenant, tenant_service_pb2.ResumeTenantRequest(name=name))
        wait_until(lambda: code() == 250, "and counts no more", 3)
