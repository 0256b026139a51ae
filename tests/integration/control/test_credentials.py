"""Logins and API keys: roles, ends, networks, rotation, and that every change counts with the next call."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from barua.control.v1 import (
    credential_service_pb2,
    credit_service_pb2,
    domain_service_pb2,
    oauth_service_pb2,
    tenant_service_pb2,
)
from barua.control.v1.credential_pb2 import ApiKey, Login
from barua.policy.v1 import policy_service_pb2

from control import authentication, usage
from control.database import Database
from control.store import credentials
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import PASSWORD, Control, Metadata, basic, bearer, new_id

ME = tenant_service_pb2.GetTenantRequest(name="tenants/me")


def soon(seconds: float) -> Timestamp:
    """A time from now."""
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return time


def at(metadata: Metadata, address: str) -> Metadata:
    """Credentials as a bridge forwards them for a client at this address."""
    return (*metadata, ("x-barua-peer", address))


async def update(control: Control, name: str, etag: str = "", mask: str = "", **fields: Any) -> Login:
    """Change a login."""
    request = credential_service_pb2.UpdateLoginRequest(
        login=Login(name=name, etag=etag, **fields), update_mask=FieldMask(paths=mask.split()) if mask else None
    )
    login: Login = await control.call(control.credentials.UpdateLogin, request)
    return login


async def update_key(control: Control, name: str, mask: str, **fields: Any) -> ApiKey:
    """Change an API key."""
    request = credential_service_pb2.UpdateApiKeyRequest(
        api_key=ApiKey(name=name, **fields), update_mask=FieldMask(paths=mask.split())
    )
    key: ApiKey = await control.call(control.credentials.UpdateApiKey, request)
    return key


async def create_key(control: Control, tenant: str, metadata: Metadata | None = None, **fields: Any) -> ApiKey:
    """Make an API key."""
    request = credential_service_pb2.CreateApiKeyRequest(parent=tenant, api_key=ApiKey(**fields))
    key: ApiKey = await control.call(control.credentials.CreateApiKey, request, metadata)
    return key


async def knows(control: Control, metadata: Metadata) -> Reason | None:
    """Whether credentials are let in; why not."""
    try:
        await control.call(control.tenants.GetTenant, ME, metadata)
    except Refusal as refusal:
        return refusal.reason
    return None


@pytest.mark.each_postgres
async def test_a_login_is_what_was_chosen_for_it(control: Control) -> None:
    tenant = await control.tenant("tenant")
    chosen = Login(
        role=Login.ROLE_READ_ONLY, allowed_networks=["10.0.0.0/8", "2001:DB8::", "10.0.0.0/8"], expire_time=soon(60)
    )
    request = credential_service_pb2.CreateLoginRequest(
        parent=tenant, username="ann", password=PASSWORD, login=chosen, request_id=new_id()
    )
    made = await control.call(control.credentials.CreateLogin, request)
    assert (made.name, made.role) == (f"{tenant}/logins/ann", Login.ROLE_READ_ONLY)
    assert list(made.allowed_networks) == ["10.0.0.0/8", "2001:db8::/128"]
    assert abs(made.expire_time.ToMicroseconds() - chosen.expire_time.ToMicroseconds()) <= 1
    assert (made.etag, made.disabled, made.password) == ("1", False, "")
    assert await control.call(control.credentials.CreateLogin, request) == made
    get = credential_service_pb2.GetLoginRequest(name=made.name)
    assert await control.call(control.credentials.GetLogin, get) == made
    missing = credential_service_pb2.GetLoginRequest(name=f"{tenant}/logins/bob")
    assert await control.refused(control.credentials.GetLogin, missing) is Reason.NOT_FOUND


async def test_each_change_of_a_login_counts_with_the_next_call(control: Control) -> None:
    name = f"{await control.tenant('tenant')}/logins/tenant"
    assert await knows(control, basic("tenant")) is None
    await update(control, name, disabled=True)
    assert await knows(control, basic("tenant")) is Reason.UNAUTHENTICATED
    await update(control, name, mask="disabled")
    assert await knows(control, basic("tenant")) is None
    await update(control, name, password="another one")
    assert await knows(control, basic("tenant")) is Reason.UNAUTHENTICATED
    mine = basic("tenant", "another one")
    assert await knows(control, mine) is None
    await update(control, name, allowed_networks=["192.0.2.0/24"])
    assert await knows(control, mine) is Reason.PERMISSION_DENIED
    assert await knows(control, at(mine, "192.0.2.9")) is None
    assert await knows(control, at(mine, "198.51.100.9")) is Reason.PERMISSION_DENIED
    assert await knows(control, at(mine, "nonsense")) is Reason.PERMISSION_DENIED
    await update(control, name, mask="allowed_networks")
    await update(control, name, role=Login.ROLE_SENDER)
    assert await knows(control, mine) is Reason.PERMISSION_DENIED
    await update(control, name, role=Login.ROLE_READ_ONLY)
    assert await knows(control, mine) is None


async def test_a_login_ends_in_its_time(control: Control, database: Database) -> None:
    name = f"{await control.tenant('tenant')}/logins/tenant"
    await update(control, name, expire_time=soon(3600))
    assert await knows(control, basic("tenant")) is None
    await database.transact(lambda c: c.execute("UPDATE login SET expires_at = now() WHERE username = 'tenant'"))
    assert await knows(control, basic("tenant")) is Reason.UNAUTHENTICATED
    await update(control, name, mask="expire_time")
    assert await knows(control, basic("tenant")) is None


async def test_an_update_changes_what_its_mask_names(control: Control) -> None:
    name = f"{await control.tenant('tenant')}/logins/tenant"
    first = await update(control, name, role=Login.ROLE_READ_ONLY, allowed_networks=["10.0.0.0/8"])
    second = await update(control, name, etag=first.etag, mask="role", allowed_networks=["11.0.0.0/8"])
    assert (second.role, list(second.allowed_networks)) == (Login.ROLE_ADMIN, ["10.0.0.0/8"])
    assert (second.etag, second.create_time) == ("3", first.create_time)
    assert second.update_time.ToMicroseconds() > first.update_time.ToMicroseconds()
    request = credential_service_pb2.UpdateLoginRequest(login=Login(name=name, disabled=True), validate_only=True)
    assert (await control.call(control.credentials.UpdateLogin, request)).disabled
    with pytest.raises(Refusal) as stale:
        await update(control, name, etag=first.etag, disabled=True)
    assert stale.value.reason is Reason.STALE_ETAG
    assert await knows(control, at(basic("tenant"), "10.1.2.3")) is None


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "", "update_mask"),
    ({}, "name", "update_mask"),
    ({}, "password", "login.password"),
    ({"role": Login.ROLE_SENDER}, "*", "login.password"),
    ({"password": "short"}, "", "login.password"),
    ({"role": 77}, "", "login.role"),
    ({"allowed_networks": ["10.0.0.1/8"]}, "", "login.allowed_networks"),
    ({"allowed_networks": [f"10.0.0.{number}" for number in range(101)]}, "", "login.allowed_networks"),
    ({"expire_time": Timestamp(seconds=1)}, "", "login.expire_time"),
    ({"expire_time": Timestamp(seconds=10**12)}, "", "login.expire_time"),
]


async def test_what_is_wrong_with_an_update_is_named(control: Control) -> None:
    tenant = await control.tenant("tenant")
    for fields, mask, at_fault in WRONG:
        with pytest.raises(Refusal) as refused:
            await update(control, f"{tenant}/logins/tenant", mask=mask, **fields)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, at_fault)


async def test_a_key_calls_what_its_scopes_say(control: Control) -> None:
    tenant = await control.tenant("tenant")
    key = await create_key(control, tenant, scopes=["tenants:read", "domains", "mail"], display_name="CI")
    mine = bearer(key.secret_key)
    assert await knows(control, mine) is None
    create = domain_service_pb2.CreateDomainRequest(parent="tenants/me", domain="x.test")
    await control.call(control.domains.CreateDomain, create, mine)
    balance = credit_service_pb2.GetBalanceRequest(tenant="tenants/me")
    assert await control.refused(control.credits.GetBalance, balance, mine) is Reason.PERMISSION_DENIED
    await update_key(control, key.name, "scopes", scopes=["credits:read"])
    assert await knows(control, mine) is Reason.PERMISSION_DENIED
    await control.call(control.credits.GetBalance, balance, mine)
    for wrong in ("bk_", f"bk_{key.secret_key.split('_')[1]}_", key.secret_key[:-1], key.secret_key + "a", "bk_a_b"):
        assert await knows(control, bearer(wrong)) is Reason.UNAUTHENTICATED
    delete = credential_service_pb2.DeleteApiKeyRequest(name=key.name)
    await control.call(control.credentials.DeleteApiKey, delete)
    assert await knows(control, mine) is Reason.UNAUTHENTICATED


async def test_a_key_of_the_root_is_not_the_operator(control: Control) -> None:
    key = await create_key(control, "tenants/operator", scopes=["credits", "tenants"])
    grant = credit_service_pb2.GrantCreditsRequest(tenant="tenants/operator", amount=1)
    assert (
        await control.refused(control.credits.GrantCredits, grant, bearer(key.secret_key)) is Reason.PERMISSION_DENIED
    )
    assert await knows(control, bearer(key.secret_key)) is None


async def test_nobody_gives_away_more_than_they_have(control: Control) -> None:
    tenant = await control.tenant("tenant")
    mine = bearer((await create_key(control, tenant, scopes=["credentials", "domains:read"])).secret_key)
    made = await create_key(control, "tenants/me", mine, scopes=["domains:read", "credentials:read"])
    strong = await create_key(control, tenant, scopes=["credits"])
    for method, request in (
        (control.credentials.CreateApiKey, {"parent": tenant, "api_key": ApiKey(scopes=["domains"])}),
        (control.credentials.CreateApiKey, {"parent": tenant}),
        (control.credentials.UpdateApiKey, {"api_key": ApiKey(name=made.name, scopes=["mail"])}),
        (control.credentials.UpdateApiKey, {"api_key": ApiKey(name=strong.name, scopes=["domains:read"])}),
        (control.credentials.RotateApiKey, {"name": strong.name}),
        (control.credentials.CreateLogin, {"parent": tenant, "username": "x", "password": PASSWORD}),
        (control.credentials.UpdateLogin, {"login": Login(name=f"{tenant}/logins/tenant", password=PASSWORD)}),
        (control.credentials.DeleteLogin, {"name": f"{tenant}/logins/tenant"}),
    ):
        name = getattr(method, "_method", b"").decode().rpartition("/")[2]
        message = getattr(credential_service_pb2, f"{name}Request")(**request)
        assert await control.refused(method, message, mine) is Reason.PERMISSION_DENIED, name


async def test_a_rotated_key_has_two_secrets_for_a_while(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    key = await create_key(control, tenant, scopes=["tenants"])
    old = bearer(key.secret_key)

    async def rotate(**fields: Any) -> ApiKey:
        request = credential_service_pb2.RotateApiKeyRequest(name=key.name, request_id=new_id(), **fields)
        rotated: ApiKey = await control.call(control.credentials.RotateApiKey, request)
        assert (await control.call(control.credentials.RotateApiKey, request)).secret_key == ""
        return rotated

    rotated = await rotate(grace_period=Duration(seconds=3600))
    assert rotated.secret_key.startswith(key.secret_key[:16])
    assert (rotated.last_four, rotated.name) == (rotated.secret_key[-4:], key.name)
    assert rotated.previous_expire_time.ToMicroseconds() > soon(3500).ToMicroseconds()
    assert await knows(control, old) is None
    assert await knows(control, bearer(rotated.secret_key)) is None
    await database.transact(lambda c: c.execute("UPDATE api_key SET previous_expires_at = now()"))
    assert await knows(control, old) is Reason.UNAUTHENTICATED
    last = await rotate()
    assert not last.HasField("previous_expire_time")
    assert await knows(control, bearer(rotated.secret_key)) is Reason.UNAUTHENTICATED
    assert await knows(control, bearer(last.secret_key)) is None
    for seconds in (-1, 7 * 86400 + 1, 10**11):
        request = credential_service_pb2.RotateApiKeyRequest(name=key.name, grace_period=Duration(seconds=seconds))
        assert await control.refused(control.credentials.RotateApiKey, request) is Reason.INVALID_ARGUMENT


async def test_a_key_ends_and_holds_for_its_networks(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    key = await create_key(
        control, tenant, scopes=["tenants"], allowed_networks=["2001:db8::/32"], expire_time=soon(3600)
    )
    mine = bearer(key.secret_key)
    assert await knows(control, mine) is Reason.PERMISSION_DENIED
    assert await knows(control, at(mine, "2001:db8::77")) is None
    await database.transact(lambda c: c.execute("UPDATE api_key SET expires_at = now()"))
    assert await knows(control, at(mine, "2001:db8::77")) is Reason.UNAUTHENTICATED


@pytest.fixture
def quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses are written at once; to be asked for before ``control``."""
    monkeypatch.setattr(usage, "BATCH_SECONDS", 0.05)


async def test_what_was_used_last_is_kept_in_batches(quick_batches: None, control: Control) -> None:
    tenant = await control.tenant("tenant")
    key = await create_key(control, tenant, scopes=["tenants"])
    assert not key.HasField("last_used_time")
    for metadata in (bearer(key.secret_key), basic("tenant")):
        assert await knows(control, metadata) is None
    get_key = credential_service_pb2.GetApiKeyRequest(name=key.name)
    get_login = credential_service_pb2.GetLoginRequest(name=f"{tenant}/logins/tenant")
    async with asyncio.timeout(60):
        for method, request in (control.credentials.GetApiKey, get_key), (control.credentials.GetLogin, get_login):
            while not (used := await control.call(method, request)).HasField("last_used_time"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert abs(used.last_used_time.ToMicroseconds() - soon(0).ToMicroseconds()) < 20_000_000
            assert used.etag == "1"


async def test_what_was_used_on_a_node_counts_as_used(quick_batches: None, control: Control) -> None:
    tenant = await control.tenant("tenant")
    use = policy_service_pb2.CredentialUse
    report = policy_service_pb2.ReportCredentialUsesRequest(
        node="node1",
        uses=[
            use(kind=use.KIND_LOGIN, id="tenant"),
            use(kind=use.KIND_LOGIN, id="gone"),
            use(kind=use.KIND_API_KEY, id="a\0b"),
            use(kind=99, id="of a later version"),  # type: ignore[arg-type]
        ],
    )
    await control.call(control.policy.ReportCredentialUses, report, control.node)
    get_login = credential_service_pb2.GetLoginRequest(name=f"{tenant}/logins/tenant")
    async with asyncio.timeout(60):
        while not (await control.call(control.credentials.GetLogin, get_login)).HasField("last_used_time"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture
def few_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five failures are too many; to be asked for before ``control``."""
    monkeypatch.setattr(authentication, "MAX_FAILURES", 5)


async def test_too_many_wrong_credentials_of_one_peer(few_failures: None, control: Control) -> None:
    tenant = await control.tenant("tenant")
    known = bearer((await create_key(control, tenant, scopes=["tenants"])).secret_key)
    unknown = bearer((await create_key(control, tenant, scopes=["tenants"])).secret_key)
    assert await knows(control, at(known, "2001:db8::1")) is None
    reasons = [
        await knows(control, at(bearer(f"bk_{'a' * 12}_{number}"), f"2001:db8::{number}")) for number in range(7)
    ]
    assert reasons == [Reason.UNAUTHENTICATED] * 5 + [Reason.RATE_LIMITED] * 2
    assert await knows(control, at(unknown, "2001:db8::2")) is Reason.RATE_LIMITED
    # What proved right lately is let in, and everybody elsewhere.
    assert await knows(control, at(known, "2001:db8::2")) is None
    assert await knows(control, at(unknown, "2001:db8:0:1::2")) is None
    assert await knows(control, at(control.operator, "2001:db8::2")) is None


async def test_changes_are_logged_with_their_caller_and_without_secrets(control: Control) -> None:
    tenant = await control.tenant("tenant")
    with capture_logs() as lines:
        key = await create_key(control, tenant, at(basic("tenant"), "192.0.2.7"), display_name="hidden")
        await knows(control, basic("tenant"))
        request = credential_service_pb2.UpdateLoginRequest(
            login=Login(name=f"{tenant}/logins/tenant", password="very secret"), request_id=new_id()
        )
        await control.call(control.credentials.UpdateLogin, request)
        await control.refused(control.credentials.UpdateLogin, request, bearer(key.secret_key))
    handled = [line for line in lines if line["event"] == "call_handled"]
    assert [(line["method"].rpartition("/")[2], line["caller"], line["code"]) for line in handled] == [
        ("CreateApiKey", "login tenant", "OK"),
        ("UpdateLogin", "operator token", "OK"),
        ("UpdateLogin", f"key {key.name[-12:]}", "PERMISSION_DENIED"),
    ]
    assert (handled[0]["peer"], handled[0]["resource"], handled[0]["tenant"]) == ("192.0.2.7", tenant, "tenant")
    assert (handled[1]["resource"], handled[1]["request_id"]) == (f"{tenant}/logins/tenant", request.request_id)
    told = str(lines)
    for secret in ("very secret", PASSWORD, key.secret_key.split("_")[2], "hidden"):
        assert secret not in told


async def test_credentials_have_their_number(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_OF_TENANT", 1)
    tenant = await control.tenant("tenant")  # has a login
    login = credential_service_pb2.CreateLoginRequest(parent=tenant, username="second", password=PASSWORD)
    assert await control.refused(control.credentials.CreateLogin, login) is Reason.FAILED_PRECONDITION
    for method, request in (
        (control.credentials.CreateApiKey, credential_service_pb2.CreateApiKeyRequest(parent=tenant)),
        (control.oauth.CreateOAuthClient, oauth_service_pb2.CreateOAuthClientRequest(parent=tenant)),
    ):
        await control.call(method, request, basic("tenant"))
        assert await control.refused(method, request, basic("tenant")) is Reason.FAILED_PRECONDITION
