"""OAuth clients and their tokens: what a token can do, and all the ways in which it ends."""

import time
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from barua.control.v1 import credit_service_pb2, oauth_service_pb2, tenant_service_pb2
from barua.control.v1.oauth_client_pb2 import OAuthClient

from control.database import Database
from control.services import oauth
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.tokens import TokenKey
from tests.integration.control.harness import Control, Metadata, bearer, new_id

ME = tenant_service_pb2.GetTenantRequest(name="tenants/me")


async def create(control: Control, tenant: str, **fields: Any) -> OAuthClient:
    """Make a client."""
    request = oauth_service_pb2.CreateOAuthClientRequest(parent=tenant, oauth_client=OAuthClient(**fields))
    client: OAuthClient = await control.call(control.oauth.CreateOAuthClient, request)
    return client


async def issue(
    control: Control, client: OAuthClient, *scopes: str, secret: str = "", address: str = "192.0.2.1"
) -> oauth_service_pb2.IssueTokenResponse:
    """Get a token, without any other credentials."""
    request = oauth_service_pb2.IssueTokenRequest(
        client_id=client.client_id, client_secret=secret or client.client_secret, scopes=scopes
    )
    answer: oauth_service_pb2.IssueTokenResponse = await control.call(
        control.oauth.IssueToken, request, (("x-barua-peer", address),)
    )
    return answer


async def why_not(control: Control, client: OAuthClient, **how: Any) -> Reason:
    """Why no token is issued."""
    with pytest.raises(Refusal) as refused:
        await issue(control, client, **how)
    return refused.value.reason


async def knows(control: Control, token: str, address: str = "192.0.2.1") -> Reason | None:
    """Whether a token is let in; why not."""
    metadata: Metadata = (*bearer(token), ("x-barua-peer", address))
    try:
        await control.call(control.tenants.GetTenant, ME, metadata)
    except Refusal as refusal:
        return refusal.reason
    return None


@pytest.mark.each_postgres
async def test_a_client_tells_its_secret_once(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    request = oauth_service_pb2.CreateOAuthClientRequest(
        parent=tenant, oauth_client=OAuthClient(display_name="SendPulse"), request_id=new_id()
    )
    client = await control.call(control.oauth.CreateOAuthClient, request)
    assert client.name == f"{tenant}/oauthClients/{client.client_id}"
    assert (list(client.scopes), client.display_name, client.etag) == (["mail"], "SendPulse", "1")
    assert len(client.client_secret) == 32
    again = await control.call(control.oauth.CreateOAuthClient, request)
    assert (again.client_id, again.client_secret) == (client.client_id, "")
    get = oauth_service_pb2.GetOAuthClientRequest(name=client.name)
    assert await control.call(control.oauth.GetOAuthClient, get) == again
    listing = oauth_service_pb2.ListOAuthClientsRequest(parent=tenant)
    assert list((await control.call(control.oauth.ListOAuthClients, listing)).oauth_clients) == [again]
    kept = await database.transact(
        lambda c: c.fetchval("SELECT string_agg(t, ' ') FROM (SELECT oauth_client::text AS t FROM oauth_client) AS x")
    )
    assert client.client_secret not in kept


async def test_a_token_can_do_what_it_was_issued_for(control: Control) -> None:
    tenant = await control.tenant("tenant")
    client = await create(control, tenant, scopes=["tenants", "credits:read"])
    answer = await issue(control, client)
    assert (answer.token_type, answer.expires_in.seconds) == ("Bearer", 3600)
    assert set(answer.scopes) == {"tenants", "credits:read"}
    assert await knows(control, answer.access_token) is None
    balance = credit_service_pb2.GetBalanceRequest(tenant="tenants/me")
    await control.call(control.credits.GetBalance, balance, bearer(answer.access_token))
    narrow = await issue(control, client, "credits:read")
    assert await knows(control, narrow.access_token) is Reason.PERMISSION_DENIED
    assert await knows(control, answer.access_token) is None
    with pytest.raises(Refusal) as refused:
        await issue(control, client, "domains")
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "scopes")


async def test_wrong_secrets_get_no_token(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await create(control, await control.tenant("tenant"), scopes=["tenants"])
    assert await why_not(control, client, secret="wrong") is Reason.UNAUTHENTICATED
    for id_ in ("", "nobody", "a" * 12, "é" * 12, "a\0" * 6):
        assert await why_not(control, OAuthClient(client_id=id_, client_secret="x")) is Reason.UNAUTHENTICATED
    reasons = [await why_not(control, client, secret=f"wrong{n}") for n in range(oauth.MAX_FAILURES)]
    assert reasons[-1] is Reason.RATE_LIMITED
    assert await why_not(control, client) is Reason.RATE_LIMITED
    await issue(control, client, address="198.51.100.1")


async def test_a_token_ends_with_its_client(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    client = await create(control, tenant, scopes=["tenants"])
    token = (await issue(control, client)).access_token
    for broken in (token[:-2], token + "A", "bt_x.y", "bt_"):
        assert await knows(control, broken) is Reason.UNAUTHENTICATED
    key = TokenKey(bytes.fromhex(control.options.path("secrets", "token.key").read_text().strip()))
    expired = key.issue(client.client_id, 1, ["tenants"], time.time() - 3601)
    assert await knows(control, expired) is Reason.UNAUTHENTICATED
    await database.transact(lambda c: c.execute("UPDATE oauth_client SET expires_at = now()"))
    assert await knows(control, token) is Reason.UNAUTHENTICATED
    assert await why_not(control, client) is Reason.UNAUTHENTICATED
    await database.transact(lambda c: c.execute("UPDATE oauth_client SET expires_at = NULL"))
    assert await knows(control, token) is None
    await control.call(control.oauth.DeleteOAuthClient, oauth_service_pb2.DeleteOAuthClientRequest(name=client.name))
    assert await knows(control, token) is Reason.UNAUTHENTICATED
    assert await why_not(control, client) is Reason.UNAUTHENTICATED


async def test_a_client_and_its_tokens_hold_for_its_networks(control: Control) -> None:
    client = await create(control, await control.tenant("tenant"), scopes=["tenants"])
    token = (await issue(control, client)).access_token
    request = oauth_service_pb2.UpdateOAuthClientRequest(
        oauth_client=OAuthClient(name=client.name, allowed_networks=["198.51.100.0/24"], etag=client.etag)
    )
    await control.call(control.oauth.UpdateOAuthClient, request)
    assert await knows(control, token) is Reason.PERMISSION_DENIED
    assert await knows(control, token, "198.51.100.7") is None
    assert await why_not(control, client) is Reason.PERMISSION_DENIED
    assert (await issue(control, client, address="198.51.100.7")).access_token
    assert await control.refused(control.oauth.UpdateOAuthClient, request) is Reason.STALE_ETAG


async def test_rotation_keeps_tokens_for_as_long_as_the_old_secret(control: Control) -> None:
    client = await create(control, await control.tenant("tenant"), scopes=["tenants"])
    token = (await issue(control, client)).access_token

    async def rotate(**fields: Any) -> OAuthClient:
        request = oauth_service_pb2.RotateOAuthClientRequest(name=client.name, **fields)
        rotated: OAuthClient = await control.call(control.oauth.RotateOAuthClient, request)
        return rotated

    second = await rotate(grace_period=Duration(seconds=60))
    assert second.client_secret not in ("", client.client_secret)
    assert await knows(control, token) is None
    await issue(control, client)
    await issue(control, second)
    third = await rotate()
    assert await knows(control, token) is Reason.UNAUTHENTICATED
    assert await why_not(control, second) is Reason.UNAUTHENTICATED
    assert await knows(control, (await issue(control, third)).access_token) is None
