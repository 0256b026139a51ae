"""Tenants, credentials, suppressions and domains over gRPC: what they keep, refuse, list and repeat."""

import asyncio
import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    domain_pb2,
    domain_service_pb2,
    suppression_pb2,
    suppression_service_pb2,
    tenant_pb2,
    tenant_service_pb2,
)
from barua.control.v1.suppression_service_pb2 import CreateSuppressionRequest
from barua.control.v1.tenant_service_pb2 import InitialLogin

from control import dkimkeys
from control.database import Database
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id
from tests.support.dns import DnsServer, Failure


@pytest.mark.each_postgres
async def test_a_tenant_is_kept_as_it_was_given(control: Control) -> None:
    given = tenant_pb2.Tenant(
        display_name="Zoë & Sons",
        contact=tenant_pb2.Contact(first_name="Zoë", surname="Ó", organization="Z", phone="+254700000000"),
        default_sender="Info@Zoe.test",
    )
    request = tenant_service_pb2.CreateTenantRequest(parent="tenants/operator", tenant_id="zoe", tenant=given)
    made = await control.call(control.tenants.CreateTenant, request)
    assert made.contact == given.contact
    assert (made.name, made.parent, made.state) == ("tenants/zoe", "tenants/operator", tenant_pb2.Tenant.STATE_ACTIVE)
    assert made.etag
    get = tenant_service_pb2.GetTenantRequest(name="tenants/zoe")
    assert await control.call(control.tenants.GetTenant, get) == made
    assert await control.refused(control.tenants.CreateTenant, request) is Reason.ALREADY_EXISTS


async def test_an_id_is_made_for_a_tenant_without_one(control: Control) -> None:
    request = tenant_service_pb2.CreateTenantRequest(parent="tenants/operator", request_id=new_id())
    made = await control.call(control.tenants.CreateTenant, request)
    assert made.name.startswith("tenants/t-")
    assert await control.call(control.tenants.CreateTenant, request) == made


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"tenant_id": "Upper"}, "tenant_id"),
        ({"tenant_id": "me"}, "tenant_id"),
        ({"tenant_id": "a" * 64}, "tenant_id"),
        ({"parent": "operator"}, "parent"),
        ({"tenant": tenant_pb2.Tenant(display_name="x" * 201)}, "tenant.display_name"),
        ({"tenant": tenant_pb2.Tenant(default_sender="nobody")}, "tenant.default_sender"),
        ({"tenant": tenant_pb2.Tenant(contact=tenant_pb2.Contact(phone="call me"))}, "tenant.contact.phone"),
        ({"initial_login": InitialLogin(username="a b", password="12345678")}, "initial_login.username"),
        ({"initial_login": InitialLogin(username="ab", password="1234567")}, "initial_login.password"),
        ({"initial_credits": -1}, "initial_credits"),
        ({"request_id": "7"}, "request_id"),
    ],
)
async def test_the_field_at_fault_is_named(control: Control, fields: dict[str, object], at_fault: str) -> None:
    request = tenant_service_pb2.CreateTenantRequest(**({"parent": "tenants/operator"} | fields))  # type: ignore[arg-type]
    with pytest.raises(Refusal) as refused:
        await control.call(control.tenants.CreateTenant, request)
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, at_fault)


async def test_a_taken_username_leaves_nothing_behind(control: Control) -> None:
    await control.tenant("tenant")
    request = tenant_service_pb2.CreateTenantRequest(
        parent="tenants/operator",
        tenant_id="second",
        initial_login=tenant_service_pb2.InitialLogin(username="tenant", password="12345678"),
    )
    assert await control.refused(control.tenants.CreateTenant, request) is Reason.ALREADY_EXISTS
    get = tenant_service_pb2.GetTenantRequest(name="tenants/second")
    assert await control.refused(control.tenants.GetTenant, get) is Reason.NOT_FOUND


async def test_lists_come_in_pages(control: Control) -> None:
    for number in range(5):
        await control.tenant(f"tenant{number}")
    request = tenant_service_pb2.ListTenantsRequest(parent="tenants/operator", page_size=2)
    names: list[str] = []
    while True:
        page = await control.call(control.tenants.ListTenants, request)
        names += [tenant.name for tenant in page.tenants]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
        assert len(page.tenants) == 2
    assert names == [f"tenants/tenant{number}" for number in range(5)]
    for bad in ({"page_size": -1}, {"page_token": "nonsense"}):
        request = tenant_service_pb2.ListTenantsRequest(parent="tenants/operator", **bad)
        assert await control.refused(control.tenants.ListTenants, request) is Reason.INVALID_ARGUMENT


async def test_an_api_key_tells_its_secret_once(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=tenant, api_key=credential_pb2.ApiKey(display_name="CI"), request_id=new_id()
    )
    key = await control.call(control.credentials.CreateApiKey, request)
    prefix, key_id, secret = key.secret_key.split("_")
    assert (prefix, len(key_id), len(secret), key.last_four) == ("bk", 12, 32, secret[-4:])
    assert (key.name, list(key.scopes)) == (f"{tenant}/apiKeys/{key_id}", ["mail"])
    again = await control.call(control.credentials.CreateApiKey, request)
    assert (again.name, again.secret_key) == (key.name, "")
    listed = await control.call(
        control.credentials.ListApiKeys, credential_service_pb2.ListApiKeysRequest(parent=tenant)
    )
    assert [(one.name, one.secret_key) for one in listed.api_keys] == [(key.name, "")]
    kept = await database.transact(lambda c: c.fetchval("SELECT string_agg(log::text, ' ') FROM request_log AS log"))
    assert secret.encode().hex() not in kept
    request.api_key.scopes.append("everything")
    assert await control.refused(control.credentials.CreateApiKey, request) is Reason.INVALID_ARGUMENT


async def test_a_suppression_is_replaced_and_taken_back(control: Control) -> None:
    tenant = await control.tenant("tenant")
    create = CreateSuppressionRequest(parent=tenant, address='"Ann"@BÜCHER.example')
    made = await control.call(control.suppressions.CreateSuppression, create)
    assert made.name == f"{tenant}/suppressions/ann@xn--bcher-kva.example"
    create.suppression.reason = suppression_pb2.Suppression.REASON_COMPLAINT
    create.suppression.note = "feedback loop"
    again = await control.call(control.suppressions.CreateSuppression, create)
    assert (again.create_time, again.reason, again.note) == (made.create_time, 4, "feedback loop")
    delete = suppression_service_pb2.DeleteSuppressionRequest(name=f"{tenant}/suppressions/Ann@bücher.EXAMPLE")
    await control.call(control.suppressions.DeleteSuppression, delete)
    assert await control.refused(control.suppressions.DeleteSuppression, delete) is Reason.NOT_FOUND
    create.address = "not an address"
    assert await control.refused(control.suppressions.CreateSuppression, create) is Reason.INVALID_ARGUMENT


async def test_a_domain_is_verified_by_its_challenge(control: Control, dns_server: DnsServer) -> None:
    tenant = await control.tenant("tenant")
    create = domain_service_pb2.CreateDomainRequest(parent=tenant, domain="Bücher.example")
    domain = await control.call(control.domains.CreateDomain, create, basic("tenant"))
    assert domain.name == f"{tenant}/domains/xn--bcher-kva.example"
    assert (domain.state, domain.signing) == (domain_pb2.Domain.STATE_PENDING, domain_pb2.Domain.SIGNING_REQUIRED)
    challenge = domain.dns_records[0]
    verify = domain_service_pb2.VerifyDomainRequest(name=domain.name)
    assert await control.refused(control.domains.VerifyDomain, verify) is Reason.FAILED_PRECONDITION
    dns_server.set(challenge.owner, "TXT", '"barua-verify=wrong"')
    with pytest.raises(Refusal, match="barua-verify=wrong"):
        await control.call(control.domains.VerifyDomain, verify)
    dns_server.fail(challenge.owner, Failure.SERVFAIL)
    assert await control.refused(control.domains.VerifyDomain, verify) is Reason.UNAVAILABLE
    dns_server.fail(challenge.owner, None)
    dns_server.set(challenge.owner, "TXT", '"v=other"', f'"{challenge.data[:10]}" "{challenge.data[10:]}"')
    verified = await control.call(control.domains.VerifyDomain, verify)
    assert verified.state == domain_pb2.Domain.STATE_VERIFIED
    get = domain_service_pb2.GetDomainRequest(name=domain.name)
    assert await control.call(control.domains.GetDomain, get) == verified


async def test_a_domain_has_the_records_to_publish(control: Control) -> None:
    create = domain_service_pb2.CreateDomainRequest(parent="tenants/operator", domain="x.test", trusted=True)
    domain = await control.call(control.domains.CreateDomain, create)
    assert domain.state == domain_pb2.Domain.STATE_VERIFIED
    challenge, rsa, ed25519, spf, dmarc = domain.dns_records
    assert challenge.owner == "_barua-challenge.x.test"
    assert rsa.data.startswith("v=DKIM1; k=rsa; p=")
    assert load_der_public_key(base64.b64decode(rsa.data.partition("p=")[2])).key_size == 2048  # type: ignore[union-attr]
    assert ed25519.data.startswith("v=DKIM1; k=ed25519; p=")
    assert len(base64.b64decode(ed25519.data.partition("p=")[2])) == 32
    assert spf.data.startswith("v=spf1 ")
    assert (dmarc.owner, dmarc.data) == ("_dmarc.x.test", "v=DMARC1; p=none")


async def test_claims_of_domains_are_refused_when_they_cannot_be(control: Control) -> None:
    tenant = await control.tenant("tenant")
    await control.tenant("other")
    create = domain_service_pb2.CreateDomainRequest(parent=tenant, domain="x.test")
    await control.call(control.domains.CreateDomain, create, basic("tenant"))
    assert await control.refused(control.domains.CreateDomain, create, basic("tenant")) is Reason.ALREADY_EXISTS
    create.parent = "tenants/other"
    create.trusted = True
    assert await control.refused(control.domains.CreateDomain, create, basic("other")) is Reason.PERMISSION_DENIED
    for bad in ("com", "192.0.2.1", "a..b", "-a.test", "a_b.test", "x.test.", ""):
        create = domain_service_pb2.CreateDomainRequest(parent=tenant, domain=bad)
        assert await control.refused(control.domains.CreateDomain, create) is Reason.INVALID_ARGUMENT, bad


async def test_whoever_proves_a_claim_first_has_the_domain(control: Control, dns_server: DnsServer) -> None:
    claims = []
    for name in ("squatter", "owner"):
        await control.tenant(name)
        create = domain_service_pb2.CreateDomainRequest(parent="tenants/me", domain="x.test")
        claims.append(await control.call(control.domains.CreateDomain, create, basic(name)))
    proofs = [f'"{claim.dns_records[0].data}"' for claim in claims]
    dns_server.set("_barua-challenge.x.test", "TXT", proofs[1])
    verify = [domain_service_pb2.VerifyDomainRequest(name=claim.name) for claim in claims]
    assert await control.refused(control.domains.VerifyDomain, verify[0]) is Reason.FAILED_PRECONDITION
    verified = await control.call(control.domains.VerifyDomain, verify[1])
    assert verified.state == domain_pb2.Domain.STATE_VERIFIED
    assert list(verified.dns_records) == list(claims[1].dns_records)
    dns_server.set("_barua-challenge.x.test", "TXT", *proofs)
    with pytest.raises(Refusal, match="another tenant") as refused:
        await control.call(control.domains.VerifyDomain, verify[0])
    assert refused.value.reason is Reason.FAILED_PRECONDITION
    third = domain_service_pb2.CreateDomainRequest(parent=await control.tenant("third"), domain="x.test")
    assert await control.refused(control.domains.CreateDomain, third) is Reason.ALREADY_EXISTS
    gone = domain_service_pb2.DeleteDomainRequest(name=verified.name)
    await control.call(control.domains.DeleteDomain, gone)
    taken_over = await control.call(control.domains.VerifyDomain, verify[0])
    assert (taken_over.state, taken_over.name) == (domain_pb2.Domain.STATE_VERIFIED, claims[0].name)


async def test_claims_without_proof_are_few(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.store.domains.MAX_PENDING", 3)
    tenant = await control.tenant("tenant")
    claims = [domain_service_pb2.CreateDomainRequest(parent=tenant, domain=f"x{number}.test") for number in range(5)]
    results = await asyncio.gather(
        *(control.call(control.domains.CreateDomain, claim) for claim in claims), return_exceptions=True
    )
    refused = [result.reason for result in results if isinstance(result, Refusal)]
    assert refused == [Reason.FAILED_PRECONDITION] * 2
    trusted = domain_service_pb2.CreateDomainRequest(parent=tenant, domain="trusted.test", trusted=True)
    await control.call(control.domains.CreateDomain, trusted)


async def test_keys_are_made_for_new_claims_only(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[None] = []
    generate = dkimkeys.generate

    async def counted() -> list[dkimkeys.KeyPair]:
        made.append(None)
        return await generate()

    monkeypatch.setattr(dkimkeys, "generate", counted)
    create = domain_service_pb2.CreateDomainRequest(parent="tenants/operator", domain="x.test", request_id=new_id())
    dry = domain_service_pb2.CreateDomainRequest(parent="tenants/operator", domain="x.test", validate_only=True)
    await control.call(control.domains.CreateDomain, dry)
    domain = await control.call(control.domains.CreateDomain, create)
    assert await control.call(control.domains.CreateDomain, create) == domain
    assert await control.refused(control.domains.CreateDomain, dry) is Reason.ALREADY_EXISTS
    create.request_id = new_id()
    assert await control.refused(control.domains.CreateDomain, create) is Reason.ALREADY_EXISTS
    assert len(made) == 1


async def test_a_domain_given_up_can_be_claimed_by_another(control: Control) -> None:
    tenant, other = await control.tenant("tenant"), await control.tenant("other")
    create = domain_service_pb2.CreateDomainRequest(parent=tenant, domain="x.test")
    domain = await control.call(control.domains.CreateDomain, create)
    delete = domain_service_pb2.DeleteDomainRequest(name=domain.name)
    await control.call(control.domains.DeleteDomain, delete)
    assert await control.refused(control.domains.DeleteDomain, delete) is Reason.NOT_FOUND
    create.parent = other
    create.settings.signing = domain_pb2.Domain.SIGNING_OFF
    claimed = await control.call(control.domains.CreateDomain, create)
    assert (claimed.name, claimed.signing) == (f"{other}/domains/x.test", domain_pb2.Domain.SIGNING_OFF)


async def test_a_dry_run_of_each_creation_leaves_nothing(control: Control, database: Database) -> None:
    login = {"username": "new", "password": "12345678"}
    creations: list[tuple[Any, Any, dict[str, str]]] = [
        (control.tenants.CreateTenant, tenant_service_pb2.CreateTenantRequest, {}),
        (control.credentials.CreateLogin, credential_service_pb2.CreateLoginRequest, login),
        (control.credentials.CreateApiKey, credential_service_pb2.CreateApiKeyRequest, {}),
        (control.domains.CreateDomain, domain_service_pb2.CreateDomainRequest, {"domain": "x.test"}),
        (control.suppressions.CreateSuppression, CreateSuppressionRequest, {"address": "a@x.test"}),
    ]
    for method, request_type, fields in creations:
        request = request_type(parent="tenants/operator", validate_only=True, request_id=new_id(), **fields)
        await control.call(method, request)
    counts = await database.transact(
        lambda c: c.fetchrow(
            "SELECT (SELECT count(*) FROM tenant) AS tenants, (SELECT count(*) FROM login) AS logins,"
            " (SELECT count(*) FROM api_key) AS keys, (SELECT count(*) FROM domain) AS domains,"
            " (SELECT count(*) FROM suppression) AS suppressions, (SELECT count(*) FROM request_log) AS requests"
        )
    )
    assert counts is not None
    assert dict(counts) == {"tenants": 1, "logins": 0, "keys": 0, "domains": 0, "suppressions": 0, "requests": 0}
