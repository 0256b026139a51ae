"""Tenants over gRPC: kinds, updates, suspension, deletion, and what holds from above."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    credit_service_pb2,
    domain_service_pb2,
    suppression_service_pb2,
    tenant_pb2,
    tenant_service_pb2,
)
from barua.control.v1.tenant_pb2 import RefundPolicy, Tenant, TenantLimits

from control.database import Database
from control.store import credentials, tenants
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, Metadata, basic, bearer, new_id


async def get(control: Control, tenant: str, as_: Metadata | None = None) -> Tenant:
    request = tenant_service_pb2.GetTenantRequest(name=f"tenants/{tenant}")
    found: Tenant = await control.call(control.tenants.GetTenant, request, as_)
    return found


async def update(control: Control, tenant: Tenant, *paths: str, as_: Metadata | None = None, **more: Any) -> Tenant:
    request = tenant_service_pb2.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=paths), **more)
    changed: Tenant = await control.call(control.tenants.UpdateTenant, request, as_)
    return changed


async def refused_update(
    control: Control, tenant: Tenant, *paths: str, as_: Metadata | None = None
) -> tuple[Reason, str | None]:
    with pytest.raises(Refusal) as refused:
        await update(control, tenant, *paths, as_=as_)
    return refused.value.reason, refused.value.field


async def limit(control: Control, tenant: str, **limits: int) -> None:
    await update(control, Tenant(name=f"tenants/{tenant}", limits=TenantLimits(**limits)), "limits")


async def suspend(control: Control, tenant: str, reason: str = "unpaid", as_: Metadata | None = None) -> Tenant:
    request = tenant_service_pb2.SuspendTenantRequest(name=f"tenants/{tenant}", reason=reason)
    suspended: Tenant = await control.call(control.tenants.SuspendTenant, request, as_)
    return suspended


async def listed(control: Control, parent: str, as_: Metadata | None = None, **more: Any) -> list[str]:
    names: list[str] = []
    request = tenant_service_pb2.ListTenantsRequest(parent=f"tenants/{parent}", page_size=2, **more)
    while True:
        answer = await control.call(control.tenants.ListTenants, request, as_)
        names += [tenant.name.removeprefix("tenants/") for tenant in answer.tenants]
        if not answer.next_page_token:
            return names
        request.page_token = answer.next_page_token


@pytest.mark.each_postgres
async def test_what_may_have_tenants_below_it(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    assert (await get(control, "operator")).kind == Tenant.KIND_OPERATOR
    assert (await get(control, "reseller")).kind == Tenant.KIND_RESELLER
    assert (await get(control, "account")).kind == Tenant.KIND_ACCOUNT
    below = tenant_service_pb2.CreateTenantRequest(parent="tenants/account", tenant_id="below")
    assert await control.refused(control.tenants.CreateTenant, below) is Reason.FAILED_PRECONDITION
    await update(control, Tenant(name="tenants/account", kind=Tenant.KIND_RESELLER))
    below.tenant.kind = Tenant.KIND_RESELLER
    assert (await control.call(control.tenants.CreateTenant, below)).kind == Tenant.KIND_RESELLER
    wanted = Tenant(name="tenants/account", kind=Tenant.KIND_ACCOUNT)
    assert await refused_update(control, wanted) == (Reason.FAILED_PRECONDITION, "tenant.kind")
    wanted.kind = Tenant.KIND_OPERATOR
    assert await refused_update(control, wanted) == (Reason.INVALID_ARGUMENT, "tenant.kind")
    root = Tenant(name="tenants/operator", kind=Tenant.KIND_ACCOUNT)
    assert await refused_update(control, root) == (Reason.FAILED_PRECONDITION, "tenant.kind")


async def test_an_account_has_no_powers_of_a_reseller(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    create = tenant_service_pb2.CreateTenantRequest(parent="tenants/me")
    assert await control.refused(control.tenants.CreateTenant, create, basic("account")) is Reason.PERMISSION_DENIED
    assert (await control.call(control.tenants.CreateTenant, create, basic("reseller"))).kind == Tenant.KIND_ACCOUNT


async def test_a_key_for_tenants_moves_no_credits_and_makes_no_logins(control: Control) -> None:
    await control.tenant("reseller", credits=10)
    keys = {}
    for scopes in (("tenants",), ("tenants", "credits")):
        made = await control.call(
            control.credentials.CreateApiKey,
            credential_service_pb2.CreateApiKeyRequest(
                parent="tenants/reseller", api_key=credential_pb2.ApiKey(scopes=scopes)
            ),
        )
        keys[scopes] = bearer(made.secret_key)
    create = control.tenants.CreateTenant
    login = tenant_service_pb2.InitialLogin(username="new", password="12345678")
    with_login = tenant_service_pb2.CreateTenantRequest(parent="tenants/me", initial_login=login)
    with_credits = tenant_service_pb2.CreateTenantRequest(parent="tenants/me", initial_credits=1)
    for key in keys.values():
        assert await control.refused(create, with_login, key) is Reason.PERMISSION_DENIED
    assert await control.refused(create, with_credits, keys["tenants",]) is Reason.PERMISSION_DENIED
    await control.call(create, with_credits, keys["tenants", "credits"])
    await control.call(create, tenant_service_pb2.CreateTenantRequest(parent="tenants/me"), keys["tenants",])
    assert (await control.balance("tenants/reseller")).available == 9


async def test_an_update_changes_what_it_names(control: Control) -> None:
    await control.tenant("shop")
    contact = tenant_pb2.Contact(first_name="Ann", phone="+254700")
    changed = await update(control, Tenant(name="tenants/shop", display_name="Shop", contact=contact))
    assert (changed.display_name, changed.contact) == ("Shop", contact)
    changed = await update(
        control,
        Tenant(name="tenants/shop", contact=tenant_pb2.Contact(surname="Onyango"), display_name="ignored"),
        "contact.surname",
    )
    assert (changed.display_name, changed.contact.first_name, changed.contact.surname) == ("Shop", "Ann", "Onyango")
    cleared = await update(control, Tenant(name="tenants/shop"), "*")
    assert (cleared.display_name, cleared.contact) == ("", tenant_pb2.Contact())
    assert cleared.etag != changed.etag
    assert cleared == await get(control, "shop")


async def test_unsound_updates_name_the_field(control: Control) -> None:
    await control.tenant("shop")
    for tenant, paths, field in [
        (Tenant(display_name="x" * 201), (), "tenant.display_name"),
        (Tenant(default_sender="nobody"), (), "tenant.default_sender"),
        (Tenant(contact=tenant_pb2.Contact(phone="no")), (), "tenant.contact.phone"),
        (Tenant(limits=TenantLimits(daily_recipients=-1)), (), "tenant.limits.daily_recipients"),
        (Tenant(limits=TenantLimits(daily_recipients=2**62)), (), "tenant.limits.daily_recipients"),
        (Tenant(limits=TenantLimits(max_message_bytes=0)), (), "tenant.limits.max_message_bytes"),
        (Tenant(price=tenant_pb2.Price(currency_code="eur")), (), "tenant.price.currency_code"),
        (
            Tenant(price=tenant_pb2.Price(currency_code="EUR", micros_per_thousand=-1)),
            (),
            "tenant.price.micros_per_thousand",
        ),
        (Tenant(refund_policy=RefundPolicy(outcomes=[7])), (), "tenant.refund_policy.outcomes"),  # type: ignore[list-item]
        (Tenant(), (), "update_mask"),
        (Tenant(), ("state",), "update_mask"),
        (Tenant(), ("limits.nothing",), "update_mask"),
        (Tenant(name="shop", display_name="x"), (), "tenant.name"),
    ]:
        tenant.name = tenant.name or "tenants/shop"
        assert await refused_update(control, tenant, *paths) == (Reason.INVALID_ARGUMENT, field)
    stale = Tenant(name="tenants/shop", display_name="x", etag="0")
    assert await refused_update(control, stale) == (Reason.STALE_ETAG, "tenant.etag")
    gone = Tenant(name="tenants/gone", display_name="x")
    assert (await refused_update(control, gone))[0] is Reason.NOT_FOUND
    root = Tenant(name="tenants/operator", limits=TenantLimits(daily_recipients=1))
    assert await refused_update(control, root) == (Reason.FAILED_PRECONDITION, "tenant.limits")


async def test_a_dry_run_and_a_repeat_of_an_update(control: Control) -> None:
    await control.tenant("shop")
    before = await get(control, "shop")
    wanted = Tenant(name="tenants/shop", display_name="Shop")
    assert (await update(control, wanted, validate_only=True)).display_name == "Shop"
    assert await get(control, "shop") == before
    request_id = new_id()
    first = await update(control, wanted, request_id=request_id)
    assert await update(control, wanted, request_id=request_id) == first == await get(control, "shop")


async def test_a_tenant_changes_its_own_face_but_not_its_terms(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    me = basic("account")
    changed = await update(control, Tenant(name="tenants/me", display_name="Mine"), as_=me)
    assert (changed.name, changed.display_name) == ("tenants/account", "Mine")
    for terms in (
        Tenant(limits=TenantLimits(daily_recipients=10)),
        Tenant(price=tenant_pb2.Price(currency_code="EUR")),
        Tenant(refund_policy=RefundPolicy()),
        Tenant(kind=Tenant.KIND_RESELLER),
    ):
        for name in ("tenants/me", "tenants/account"):
            terms.name = name
            assert await refused_update(control, terms, as_=me) == (Reason.PERMISSION_DENIED, "update_mask")
    given = Tenant(name="tenants/account", limits=TenantLimits(daily_recipients=10))
    assert (await update(control, given, as_=basic("reseller"))).limits.daily_recipients == 10
    kept = await update(control, Tenant(name="tenants/me", display_name="All"), "*", as_=me)
    assert (kept.display_name, kept.limits.daily_recipients) == ("All", 10)


async def test_what_holds_comes_from_the_strictest_and_the_nearest(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    await update(
        control,
        Tenant(
            name="tenants/reseller",
            limits=TenantLimits(hourly_recipients=100, daily_recipients=1000, max_tenants=5),
            price=tenant_pb2.Price(currency_code="EUR", micros_per_thousand=500_000),
            refund_policy=RefundPolicy(outcomes=[RefundPolicy.OUTCOME_BOUNCED]),
        ),
    )
    await limit(control, "account", hourly_recipients=200, daily_recipients=900)
    seen = (await get(control, "account")).effective_terms
    assert {(each.limit, each.value, each.source, each.used) for each in seen.limits} == {
        ("hourly_recipients", 100, "tenants/reseller", 0),
        ("daily_recipients", 900, "tenants/account", 0),
        ("max_tenants", 5, "tenants/reseller", 1),
    }
    assert (seen.price.micros_per_thousand, seen.price_source) == (500_000, "tenants/reseller")
    assert list(seen.refund_policy.outcomes) == [RefundPolicy.OUTCOME_BOUNCED]
    own = (await get(control, "me", basic("account"))).effective_terms
    assert {(each.limit, each.value, each.source) for each in own.limits} == {
        ("hourly_recipients", 100, ""),
        ("daily_recipients", 900, "tenants/account"),
        ("max_tenants", 5, ""),
    }
    assert (own.price.currency_code, own.price_source, own.refund_policy_source) == ("EUR", "", "")
    bare = await update(control, Tenant(name="tenants/account"), "limits.daily_recipients", "price")
    assert not bare.limits.HasField("daily_recipients")
    assert bare.limits.hourly_recipients == 200


async def test_no_more_tenants_than_allowed_even_at_once(control: Control) -> None:
    await control.tenant("reseller")
    await limit(control, "reseller", max_tenants=3)
    requests = [
        tenant_service_pb2.CreateTenantRequest(parent="tenants/reseller", tenant_id=f"a{number}") for number in range(8)
    ]
    calls = [control.call(control.tenants.CreateTenant, request) for request in requests]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [result.reason for result in results if isinstance(result, Refusal)]
    assert refusals == [Reason.FAILED_PRECONDITION] * 5


async def test_a_suspended_tenant_looks_on(control: Control) -> None:
    await control.tenant("reseller", credits=100)
    await control.tenant("account", "reseller")
    suspended = await suspend(control, "reseller")
    assert suspended.state == Tenant.STATE_SUSPENDED
    assert suspended.suspension.reason == "unpaid"
    assert suspended.suspension.HasField("start_time")
    own = await get(control, "me", basic("reseller"))
    assert (own.suspension.reason, own.suspension.suspended_by) == ("unpaid", "tenants/operator")
    below = await get(control, "me", basic("account"))
    assert below.state == Tenant.STATE_SUSPENDED
    assert (below.suspension.tenant, below.suspension.reason, below.suspension.suspended_by) == ("", "", "")
    assert (await get(control, "account")).suspension.tenant == "tenants/reseller"
    for who in ("reseller", "account"):
        create = credential_service_pb2.CreateLoginRequest(parent="tenants/me", username="new", password="12345678")
        reason = await control.refused(control.credentials.CreateLogin, create, basic(who))
        assert reason is Reason.TENANT_SUSPENDED
        entry = suppression_service_pb2.CreateSuppressionRequest(parent="tenants/me", address="a@b.test")
        reason = await control.refused(control.suppressions.CreateSuppression, entry, basic(who))
        assert reason is Reason.TENANT_SUSPENDED
        balance = credit_service_pb2.GetBalanceRequest(tenant="tenants/me")
        await control.call(control.credits.GetBalance, balance, basic(who))
    # Those above it act for it as before.
    await update(control, Tenant(name="tenants/reseller", display_name="Late payer"))
    resume = tenant_service_pb2.ResumeTenantRequest(name="tenants/reseller")
    for _ in range(2):
        resumed = await control.call(control.tenants.ResumeTenant, resume)
        assert (resumed.state, resumed.HasField("suspension")) == (Tenant.STATE_ACTIVE, False)
    await update(control, Tenant(name="tenants/me", display_name="Back"), as_=basic("reseller"))


async def test_who_may_suspend_and_resume(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    resume = tenant_service_pb2.ResumeTenantRequest(name="tenants/account")
    own = tenant_service_pb2.SuspendTenantRequest(name="tenants/me", reason="x")
    assert await control.refused(control.tenants.SuspendTenant, own, basic("reseller")) is Reason.PERMISSION_DENIED
    silent = tenant_service_pb2.SuspendTenantRequest(name="tenants/account", reason=" ")
    assert await control.refused(control.tenants.SuspendTenant, silent) is Reason.INVALID_ARGUMENT
    above = tenant_service_pb2.SuspendTenantRequest(name="tenants/operator", reason="x")
    assert await control.refused(control.tenants.SuspendTenant, above, basic("reseller")) is Reason.NOT_FOUND
    await suspend(control, "account", "abuse")
    assert await control.refused(control.tenants.ResumeTenant, resume, basic("reseller")) is Reason.PERMISSION_DENIED
    again = tenant_service_pb2.SuspendTenantRequest(name="tenants/account", reason="mine")
    assert await control.refused(control.tenants.SuspendTenant, again, basic("reseller")) is Reason.PERMISSION_DENIED
    await control.call(control.tenants.ResumeTenant, resume)
    await suspend(control, "account", "unpaid", basic("reseller"))
    changed = await suspend(control, "account", "still unpaid", basic("reseller"))
    assert changed.suspension.reason == "still unpaid"
    await control.call(control.tenants.ResumeTenant, resume, basic("reseller"))
    stale = tenant_service_pb2.SuspendTenantRequest(name="tenants/account", reason="x", etag="1")
    assert await control.refused(control.tenants.SuspendTenant, stale) is Reason.STALE_ETAG


async def test_lists_go_down_the_tree_and_pick_states(control: Control) -> None:
    for name in ("b", "a"):
        await control.tenant(name)
        for number in range(3):
            await control.tenant(f"{name}{number}", name)
    await suspend(control, "b")
    await suspend(control, "a1")
    assert await listed(control, "operator") == ["a", "b"]
    everyone = ["a", "a0", "a1", "a2", "b", "b0", "b1", "b2"]
    assert await listed(control, "operator", recursive=True) == everyone
    quiet = await listed(control, "operator", recursive=True, state=Tenant.STATE_SUSPENDED)
    assert quiet == ["a1", "b", "b0", "b1", "b2"]
    assert await listed(control, "operator", recursive=True, state=Tenant.STATE_ACTIVE) == ["a", "a0", "a2"]
    assert await listed(control, "me", basic("a"), recursive=True) == ["a0", "a1", "a2"]
    strange = tenant_service_pb2.ListTenantsRequest(parent="tenants/operator", state=9)  # type: ignore[arg-type]
    assert await control.refused(control.tenants.ListTenants, strange) is Reason.INVALID_ARGUMENT
    first = await control.call(
        control.tenants.ListTenants,
        tenant_service_pb2.ListTenantsRequest(parent="tenants/operator", recursive=True, page_size=2),
    )
    other = tenant_service_pb2.ListTenantsRequest(parent="tenants/operator", page_token=first.next_page_token)
    assert await control.refused(control.tenants.ListTenants, other) is Reason.INVALID_ARGUMENT


async def test_only_an_empty_tenant_is_deleted(control: Control, database: Database) -> None:
    await control.tenant("reseller", credits=5)
    await control.tenant("account", "reseller")
    delete = tenant_service_pb2.DeleteTenantRequest(name="tenants/reseller")
    assert await control.refused(control.tenants.DeleteTenant, delete) is Reason.FAILED_PRECONDITION
    account = tenant_service_pb2.DeleteTenantRequest(name="tenants/account", request_id=new_id())
    for _ in range(2):
        await control.call(control.tenants.DeleteTenant, account, basic("reseller"))
    get_account = tenant_service_pb2.GetTenantRequest(name="tenants/account")
    assert await control.refused(control.tenants.GetTenant, get_account) is Reason.NOT_FOUND
    me = tenant_service_pb2.GetTenantRequest(name="tenants/me")
    assert await control.refused(control.tenants.GetTenant, me, basic("account")) is Reason.UNAUTHENTICATED
    assert await listed(control, "reseller") == []
    again = tenant_service_pb2.CreateTenantRequest(parent="tenants/reseller", tenant_id="account")
    assert await control.refused(control.tenants.CreateTenant, again) is Reason.ALREADY_EXISTS
    assert await control.refused(control.tenants.DeleteTenant, delete) is Reason.FAILED_PRECONDITION
    back = credit_service_pb2.TransferCreditsRequest(
        source="tenants/reseller", destination="tenants/operator", amount=5
    )
    await control.call(control.credits.TransferCredits, back)
    await control.call(control.tenants.DeleteTenant, delete)
    assert await database.transact(lambda connection: tenants.some(connection, ["reseller", "account"])) == []
    assert await database.transact(lambda connection: credentials.find_login(connection, "reseller")) is None
    root = tenant_service_pb2.DeleteTenantRequest(name="tenants/operator")
    assert await control.refused(control.tenants.DeleteTenant, root) is Reason.PERMISSION_DENIED


async def test_nothing_is_made_for_a_tenant_that_goes(control: Control, database: Database) -> None:
    """What comes too late is refused; what comes in time goes with the tenant."""
    await control.tenant("gone")
    parent = "tenants/gone"
    trusted = domain_service_pb2.CreateDomainRequest(parent=parent, domain="x.test", trusted=True)
    late: list[tuple[Any, Any]] = [
        (control.domains.CreateDomain, trusted),
        *[(control.credentials.CreateApiKey, credential_service_pb2.CreateApiKeyRequest(parent=parent))] * 20,
    ]

    async def attempt(method: Any, request: Any) -> Reason | None:
        try:
            await control.call(method, request)
        except Refusal as refusal:
            return refusal.reason
        return None

    delete = tenant_service_pb2.DeleteTenantRequest(name=parent)
    ends = await asyncio.gather(
        *(attempt(*one) for one in late[:8]),
        attempt(control.tenants.DeleteTenant, delete),
        *(attempt(*one) for one in late[8:]),
    )
    assert ends[8] is None
    assert set(ends) <= {None, Reason.NOT_FOUND}
    left = "SELECT (SELECT count(*) FROM api_key) + (SELECT count(*) FROM domain)"
    assert await database.transact(lambda connection: connection.fetchval(left)) == 0
