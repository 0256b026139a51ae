"""Credentials at the MTA: what control changes is in force on every worker within a second, and tokens need no wait."""

import itertools
import json
import smtplib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from barua.control.v1 import credential_service_pb2, oauth_service_pb2, tenant_service_pb2
from barua.control.v1.credential_pb2 import ApiKey
from barua.control.v1.credential_pb2 import Login as LoginProto
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.oauth_client_pb2 import OAuthClient
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from tests.integration.mta.accounts import Account, socket, wait_for_policy
from tests.integration.mta.arrivals import one
from tests.integration.mta.wire import Wire
from tests.support.sink import RecordingSink
from tests.support.stack import Login, Stack, mail
from tests.support.waiting import in_time, wait_until

CONTENT = b"Subject: hello\r\n\r\nText\r\n"
PEER = "127.0.7.7"
"""An address whose failed logins are not counted together with those of other tests."""
PROMISED_SECONDS = 1.0


def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until something is so."""
    started = time.monotonic()
    wait_until(condition, what)
    return time.monotonic() - started


def outcome(target: str, token: str, peer: str = "", **fields: Any) -> grpc.StatusCode:
    """What a submission with a token, or a key, ends with."""
    probe: dict[str, Any] = {"recipients": ["probe@example.net"], "content": CONTENT, "validate_only": True}
    request = injection_service_pb2.SubmitMessageRequest(**(probe | fields))
    metadata = (("authorization", f"Bearer {token}"), *((("x-barua-peer", peer),) if peer else ()))
    with grpc.insecure_channel(target) as channel:
        try:
            InjectionServiceStub(channel).SubmitMessage(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def everywhere(stack: Stack, token: str, code: grpc.StatusCode, peer: str = "") -> Callable[[], bool]:
    """Whether every worker says this to a token."""
    targets = [f"unix:{socket(stack, index)}" for index in range(len(stack.workers))]
    return lambda: {outcome(target, token, peer) for target in targets} == {code}


def new_client(stack: Stack, tenant: str, **fields: Any) -> OAuthClient:
    """An OAuth client."""
    request = oauth_service_pb2.CreateOAuthClientRequest(parent=f"tenants/{tenant}", oauth_client=OAuthClient(**fields))
    client: OAuthClient = stack.operator.call(OAuthServiceStub(stack.operator.control).CreateOAuthClient, request)
    return client


def new_token(stack: Stack, client: OAuthClient) -> str:
    """A token, asked for without any other credentials."""
    request = oauth_service_pb2.IssueTokenRequest(client_id=client.client_id, client_secret=client.client_secret)
    return str(OAuthServiceStub(stack.operator.control).IssueToken(request, timeout=60).access_token)


def test_a_token_sends_from_the_moment_it_is_issued_until_its_client_is_revoked(
    account: Account, stack: Stack, sink: RecordingSink
) -> None:
    node = stack.options.node.listen
    recipient = f"token-{account.tenant}@example.net"

    def attempt() -> float:
        client = new_client(stack, account.tenant)
        token = new_token(stack, client)
        # Never "wrong credentials": at worst the news of the client is still on its way.
        seen = {outcome(node, token) for _ in range(5)}
        assert seen <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        until(everywhere(stack, token, grpc.StatusCode.OK), "every worker knows the client")
        delete = oauth_service_pb2.DeleteOAuthClientRequest(name=client.name)
        stack.operator.call(OAuthServiceStub(stack.operator.control).DeleteOAuthClient, delete)
        # Young tokens of unknown clients are told to try again: refused all the same.
        return until(lambda: outcome(node, token) is not grpc.StatusCode.OK, "the token is refused")

    in_time(attempt, PROMISED_SECONDS)
    client = new_client(stack, account.tenant, scopes=["mail", "tenants:read"])
    token = new_token(stack, client)
    until(everywhere(stack, token, grpc.StatusCode.OK), "every worker knows the client")
    assert outcome(node, token, recipients=[recipient], validate_only=False) is grpc.StatusCode.OK
    assert b"Subject: hello" in one(sink, recipient).content
    me = tenant_service_pb2.GetTenantRequest(name="tenants/me")
    answer = TenantServiceStub(stack.operator.control).GetTenant(
        me, timeout=60, metadata=(("authorization", f"Bearer {token}"),)
    )
    assert answer.name == f"tenants/{account.tenant}"
    rotate = oauth_service_pb2.RotateOAuthClientRequest(name=client.name)
    stack.operator.call(OAuthServiceStub(stack.operator.control).RotateOAuthClient, rotate)
    until(everywhere(stack, token, grpc.StatusCode.UNAUTHENTICATED), "the token of before the rotation has ended")


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(account: Account, stack: Stack) -> None:
    def attempt() -> float:
        key = stack.operator.create_api_key(account.tenant)
        until(everywhere(stack, key, grpc.StatusCode.OK), "every worker knows the key")
        delete = credential_service_pb2.DeleteApiKeyRequest(
            name=f"tenants/{account.tenant}/apiKeys/{key.split('_')[1]}"
        )
        stack.operator.call(CredentialServiceStub(stack.operator.control).DeleteApiKey, delete)
        return until(everywhere(stack, key, grpc.StatusCode.UNAUTHENTICATED), "the key is refused")

    in_time(attempt, PROMISED_SECONDS)


def test_rotation_and_networks_of_a_key_reach_the_workers(account: Account, stack: Stack) -> None:
    credentials = CredentialServiceStub(stack.operator.control)
    old, name = account.api_key, f"tenants/{account.tenant}/apiKeys/{account.api_key.split('_')[1]}"
    rotate = credential_service_pb2.RotateApiKeyRequest(name=name, grace_period=Duration(seconds=60))
    new = stack.operator.call(credentials.RotateApiKey, rotate).secret_key
    until(everywhere(stack, new, grpc.StatusCode.OK), "every worker knows the new secret")
    assert everywhere(stack, old, grpc.StatusCode.OK)()
    update = credential_service_pb2.UpdateApiKeyRequest(
        api_key=ApiKey(name=name, allowed_networks=["192.0.2.0/24", "127.0.0.0/8"])
    )
    stack.operator.call(credentials.UpdateApiKey, update)
    until(everywhere(stack, new, grpc.StatusCode.PERMISSION_DENIED), "the key is for its networks alone")
    assert everywhere(stack, new, grpc.StatusCode.OK, "192.0.2.7")()
    assert everywhere(stack, new, grpc.StatusCode.PERMISSION_DENIED, "198.51.100.7")()
    # The node says the address of its caller, or that of its caller's client.
    assert outcome(stack.options.node.listen, new) is grpc.StatusCode.OK
    assert outcome(stack.options.node.listen, new, "198.51.100.7") is grpc.StatusCode.PERMISSION_DENIED
    # So does the bridge.
    assert through_bridge(account, new) == 200
    update.api_key.allowed_networks[:] = ["192.0.2.0/24"]
    stack.operator.call(credentials.UpdateApiKey, update)
    until(
        everywhere(stack, new, grpc.StatusCode.PERMISSION_DENIED, "127.0.0.1"), "this machine is no longer among them"
    )
    assert through_bridge(account, new) == 403


def through_bridge(account: Account, key: str) -> int:
    """The HTTP status of a message that is sent through the bridge."""
    body = {"apiKey": key, "to": "bridge@example.net", "subject": "hello", "body": "text"}
    request = urllib.request.Request(
        f"{account.stack.bridge_url}/email/api/send", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def change(stack: Stack, tenant: str, **fields: Any) -> None:
    """Change the login that is called like its tenant."""
    login = LoginProto(name=f"tenants/{tenant}/logins/{tenant}", **fields)
    request = credential_service_pb2.UpdateLoginRequest(login=login)
    stack.operator.call(CredentialServiceStub(stack.operator.control).UpdateLogin, request)


def session(stack: Stack, login: Login) -> Wire:
    """An SMTP session that is logged in."""
    wire = Wire(stack.smtp_port)
    wire.start_tls(stack.authority.client_context())
    assert wire.log_in(login).code == 235
    return wire


def test_a_changed_login_ends_sessions_and_is_refused_within_a_second(account: Account, stack: Stack) -> None:
    passwords = (f"new one {number}" for number in itertools.count())
    current = account.login

    def attempt() -> float:
        nonlocal current
        sessions = [session(stack, current) for _ in range(6)]
        new = Login(account.tenant, next(passwords))
        change(stack, account.tenant, password=new.password)
        started = time.monotonic()
        left = set(range(len(sessions)))

        def all_ended() -> bool:
            for number in list(left):
                answer = sessions[number].ask(f"MAIL FROM:<{account.sender}>")
                if answer.code == 421:
                    sessions[number].close()
                    left.discard(number)
                else:
                    assert sessions[number].ask("RSET").code == 250
            return not left

        wait_until(all_ended, "every session of the login has ended")
        taken = time.monotonic() - started
        current = new
        wait_for_policy(stack)
        return taken

    in_time(attempt, PROMISED_SECONDS)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        stack.smtp(account.login)
    stack.smtp(current).close()


def test_what_logins_may_do_over_smtp(account: Account, stack: Stack, sink: RecordingSink) -> None:
    recipient = f"sender-{account.tenant}@example.net"

    def logs_in() -> bool:
        try:
            stack.smtp(account.login, PEER).close()
        except smtplib.SMTPAuthenticationError:
            return False
        return True

    def changed(**fields: Any) -> bool:
        """Whether the login may log in once it is changed."""
        change(stack, account.tenant, **fields)
        wait_for_policy(stack)
        return logs_in()

    assert not changed(role=LoginProto.ROLE_READ_ONLY)
    assert changed(role=LoginProto.ROLE_SENDER)
    with stack.smtp(account.login) as client:
        client.send_message(mail(recipient, sender=account.sender))
    one(sink, recipient)
    assert not changed(allowed_networks=["192.0.2.0/24"])
    assert changed(allowed_networks=[PEER])
    assert not changed(disabled=True)
