"""API keys that can be read again: who may, what of them is kept, and sub-accounts made with one."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import credential_service_pb2, tenant_service_pb2
from barua.control.v1.credential_pb2 import API_KEY_VIEW_BASIC, API_KEY_VIEW_WITH_SECRET, ApiKey, ApiKeyView, Login
from barua.control.v1.tenant_pb2 import Tenant

from control.database import Database
from control.sealing import load
from mta.runtime.refusals import Reason
from tests.integration.control.harness import PASSWORD, Control, Metadata, basic, bearer, new_id

SECRET = API_KEY_VIEW_WITH_SECRET


async def made(control: Control, tenant: str = "acme", as_: Metadata | None = None, **fields: Any) -> ApiKey:
    """Make a key."""
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=f"tenants/{tenant}", api_key=ApiKey(**fields), request_id=new_id()
    )
    key: ApiKey = await control.call(control.credentials.CreateApiKey, request, as_)
    return key


def read(name: str, view: ApiKeyView.ValueType = SECRET) -> credential_service_pb2.GetApiKeyRequest:
    return credential_service_pb2.GetApiKeyRequest(name=name, view=view)


async def secrets_of(control: Control, as_: Metadata | None = None, **fields: Any) -> dict[str, str]:
    """Whole keys by their names, as a list tells them."""
    chosen: dict[str, Any] = {"parent": "tenants/acme", "view": SECRET} | fields
    request = credential_service_pb2.ListApiKeysRequest(**chosen)
    answer = await control.call(control.credentials.ListApiKeys, request, as_)
    return {key.name: key.secret_key for key in answer.api_keys}


@pytest.mark.each_postgres
async def test_the_secret_of_a_recoverable_key_is_told_again(control: Control, database: Database) -> None:
    await control.tenant("acme")
    key = await made(control, recoverable=True, display_name="shown")
    plain = await made(control)
    assert (key.recoverable, plain.recoverable) == (True, False)
    get = control.credentials.GetApiKey
    assert (await control.call(get, read(key.name))).secret_key == key.secret_key
    assert (await control.call(get, read(plain.name))).secret_key == ""
    for view in ApiKeyView.API_KEY_VIEW_UNSPECIFIED, API_KEY_VIEW_BASIC:
        assert (await control.call(get, read(key.name, view))).secret_key == ""
    assert await secrets_of(control) == {key.name: key.secret_key, plain.name: ""}
    assert await secrets_of(control, view=API_KEY_VIEW_BASIC) == {key.name: "", plain.name: ""}
    assert await control.refused(get, read(key.name, 7)) is Reason.INVALID_ARGUMENT  # type: ignore[arg-type]
    # What is kept is sealed for this key alone.
    kept = "SELECT tenant_id, key_id, sealed_secret FROM api_key WHERE sealed_secret IS NOT NULL"
    row = await database.transact(lambda connection: connection.fetchrow(kept))
    assert row is not None
    secret = key.secret_key.rpartition("_")[2]
    assert secret.encode() not in row["sealed_secret"]
    sealer = load(control.options.path("secrets", "sealing.key"))
    assert sealer.open(row["sealed_secret"], "acme", "apiKeys", row["key_id"]).decode() == secret
    with pytest.raises(ValueError, match="cannot be opened"):
        sealer.open(row["sealed_secret"], "acme", "apiKeys", "aaaaaaaaaaaa")


async def test_rotation_and_updates_keep_it_recoverable(control: Control) -> None:
    await control.tenant("acme")
    key = await made(control, recoverable=True)
    rotate = credential_service_pb2.RotateApiKeyRequest(name=key.name)
    rotated = await control.call(control.credentials.RotateApiKey, rotate)
    assert rotated.secret_key != key.secret_key
    assert (await control.call(control.credentials.GetApiKey, read(key.name))).secret_key == rotated.secret_key
    update = credential_service_pb2.UpdateApiKeyRequest(api_key=ApiKey(name=key.name, display_name="other"))
    assert (await control.call(control.credentials.UpdateApiKey, update)).recoverable
    assert (await control.call(control.credentials.GetApiKey, read(key.name))).secret_key == rotated.secret_key
    fixed = credential_service_pb2.UpdateApiKeyRequest(
        api_key=ApiKey(name=key.name), update_mask=FieldMask(paths=["recoverable"])
    )
    assert await control.refused(control.credentials.UpdateApiKey, fixed) is Reason.INVALID_ARGUMENT


async def test_who_may_read_secrets(control: Control) -> None:
    await control.tenant("acme")
    await control.tenant("below", "acme")
    await control.call(
        control.credentials.CreateLogin,
        credential_service_pb2.CreateLoginRequest(
            parent="tenants/acme", username="looker", password=PASSWORD, login=Login(role=Login.ROLE_READ_ONLY)
        ),
    )
    wide = await made(control, recoverable=True, scopes=["mail", "domains"])
    narrow = await made(control, recoverable=True, scopes=["mail"])
    under = await made(control, "below", recoverable=True, scopes=["mail"])
    get = control.credentials.GetApiKey
    assert await control.refused(get, read(wide.name), basic("looker")) is Reason.PERMISSION_DENIED
    # A key that may change credentials, and send, and nothing else: it is told of keys that can do no more.
    manager = bearer((await made(control, scopes=["credentials", "mail"])).secret_key)
    reader = bearer((await made(control, scopes=["credentials:read", "mail"])).secret_key)
    assert await control.refused(get, read(narrow.name), reader) is Reason.PERMISSION_DENIED
    assert (await control.call(get, read(narrow.name, API_KEY_VIEW_BASIC), reader)).name == narrow.name
    assert (await control.call(get, read(narrow.name), manager)).secret_key == narrow.secret_key
    assert await control.refused(get, read(wide.name), manager) is Reason.PERMISSION_DENIED
    told = await secrets_of(control, manager, include_descendants=True)
    assert told[under.name] == under.secret_key
    assert (told[narrow.name], told[wide.name]) == (narrow.secret_key, "")
    assert under.name not in await secrets_of(control, manager)
    assert await control.refused(get, read(wide.name), basic("below")) is Reason.NOT_FOUND
    assert (await control.call(get, read(wide.name), basic("acme"))).secret_key == wide.secret_key


async def test_the_sub_account_of_an_account_from_beginning_to_end(control: Control) -> None:
    await control.tenant("acme", credits=100)
    key = await made(
        control,
        scopes=["tenants", "credentials", "credits", "mail"],
        display_name="the account's key",
        recoverable=True,
    )
    account = bearer(key.secret_key)
    create = tenant_service_pb2.CreateTenantRequest(
        parent="tenants/me",
        tenant=Tenant(display_name="Shop", shares_balance=True),
        initial_api_key=ApiKey(display_name="sub-account", scopes=["mail"], recoverable=True),
        unique_display_name=True,
    )
    shop = await control.call(control.tenants.CreateTenant, create, account)
    assert (shop.display_name, shop.paying_tenant, shop.number > 0) == ("Shop", "tenants/acme", True)
    assert await control.refused(control.tenants.CreateTenant, create, account) is Reason.ALREADY_EXISTS
    listing = tenant_service_pb2.ListTenantsRequest(parent="tenants/me", number=shop.number)
    assert [found.name for found in (await control.call(control.tenants.ListTenants, listing, account)).tenants] == [
        shop.name
    ]
    told = await secrets_of(control, account, include_descendants=True)
    (sub_key,) = [secret for name, secret in told.items() if name.startswith(shop.name + "/")]
    assert sub_key.startswith("bk_")
    create.tenant.display_name = "Other"
    other = await control.call(control.tenants.CreateTenant, create, account)
    rename = tenant_service_pb2.UpdateTenantRequest(
        tenant=Tenant(name=other.name, display_name="Shop"), unique_display_name=True
    )
    assert await control.refused(control.tenants.UpdateTenant, rename, account) is Reason.ALREADY_EXISTS
    rename.tenant.display_name = "Other"  # its own
    assert (await control.call(control.tenants.UpdateTenant, rename, account)).display_name == "Other"
    delete = tenant_service_pb2.DeleteTenantRequest(name=shop.name)
    await control.call(control.tenants.DeleteTenant, delete, account)
    assert not (await control.call(control.tenants.ListTenants, listing, account)).tenants
    rename.tenant.display_name = "Shop"  # free again
    assert (await control.call(control.tenants.UpdateTenant, rename, account)).display_name == "Shop"


async def test_no_key_makes_a_key_with_more_than_it_has(control: Control) -> None:
    await control.tenant("acme")
    limited = bearer((await made(control, scopes=["tenants", "mail"])).secret_key)
    create = tenant_service_pb2.CreateTenantRequest(parent="tenants/me", initial_api_key=ApiKey(scopes=["mail"]))
    assert await control.refused(control.tenants.CreateTenant, create, limited) is Reason.PERMISSION_DENIED
    able = bearer((await made(control, scopes=["tenants", "credentials", "mail"])).secret_key)
    create.initial_api_key.scopes.append("domains")
    assert await control.refused(control.tenants.CreateTenant, create, able) is Reason.PERMISSION_DENIED
    create.initial_api_key.scopes[:] = ["mail", "nothing known"]
    assert await control.refused(control.tenants.CreateTenant, create, able) is Reason.INVALID_ARGUMENT
    create.initial_api_key.scopes[:] = ["mail"]
    assert (await control.call(control.tenants.CreateTenant, create, able)).name
