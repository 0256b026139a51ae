"""Sender domains and their keys over gRPC: claims, settings, checks, rotation, and what the hourly look does."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import dkim_key_pb2, dkim_key_service_pb2, domain_pb2, domain_service_pb2
from barua.policy.v1 import policy_service_pb2

from control.database import Connection, Database
from control.domaincheck.checker import Checker
from control.domaincheck.lookup import Nameservers
from control.domainsweep import DomainSweep
from control.model.dnsrecords import SendingPlan
from control.sealing import load
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id
from tests.support.dns import DnsServer, Failure

DOMAIN = "x.test"
CHALLENGE = f"_barua-challenge.{DOMAIN}"
STATES = domain_pb2.DomainCheck
KEYS = dkim_key_pb2.DkimKey


async def claimed(control: Control, tenant: str = "operator", *, trusted: bool = True, **settings: Any) -> Any:
    """A claim of ``DOMAIN``."""
    request = domain_service_pb2.CreateDomainRequest(
        parent=f"tenants/{tenant}", domain=DOMAIN, trusted=trusted, settings=domain_pb2.Domain(**settings)
    )
    return await control.call(control.domains.CreateDomain, request)


async def read(control: Control, name: str) -> Any:
    return await control.call(control.domains.GetDomain, domain_service_pb2.GetDomainRequest(name=name))


async def keys_of(control: Control, name: str) -> dict[str, Any]:
    """The keys of a domain by selector."""
    request = dkim_key_service_pb2.ListDkimKeysRequest(parent=name)
    answer = await control.call(control.dkim_keys.ListDkimKeys, request)
    return {key.name.rpartition("/")[2]: key for key in answer.dkim_keys}


def publish(server: DnsServer, keys: Sequence[Any]) -> None:
    for key in keys:
        server.set_text(key.dns_record.owner, key.dns_record.data)


async def selectors_on_nodes(control: Control, domain: str = DOMAIN) -> set[str]:
    """The selectors that nodes get."""
    request = policy_service_pb2.WatchPolicyRequest(node="node1")
    async for step in control.policy.WatchPolicy(request, metadata=control.node, timeout=60):
        for change in step.changes.changes:
            if change.domain.domain == domain and not change.deleted:
                return {key.selector for key in change.domain.dkim_keys}
        if step.WhichOneof("step") == "snapshot_end":
            break
    raise AssertionError("no node gets the domain")


def sweep_of(control: Control, database: Database, server: DnsServer) -> DomainSweep:
    plan = SendingPlan(("mta.test",), "", "mta.test", "mta.test")
    sealer = load(control.options.path("secrets", "sealing.key"))
    return DomainSweep(database, sealer, Checker(Nameservers([server.address]), plan))


async def look(control: Control, database: Database, server: DnsServer) -> None:
    """What the hourly look does, now."""
    await database.transact(lambda c: c.execute("UPDATE domain SET check_due_at = now()"))
    sweep = sweep_of(control, database, server)
    while await sweep.look_at_due():
        pass


@pytest.mark.each_postgres
async def test_settings_are_changed_field_by_field(control: Control) -> None:
    domain = await claimed(control)
    change = domain_pb2.Domain(
        name=domain.name,
        return_path_host="Bounces.X.test",
        tracking_host="track.x.test",
        key_rotation_period=Duration(seconds=30 * 86_400),
        etag=domain.etag,
    )
    request = domain_service_pb2.UpdateDomainRequest(domain=change, request_id=new_id())
    changed = await control.call(control.domains.UpdateDomain, request)
    assert await control.call(control.domains.UpdateDomain, request) == changed
    assert (changed.return_path_host, changed.tracking_host) == ("bounces.x.test", "track.x.test")
    assert (changed.key_rotation_period.seconds, changed.etag != domain.etag) == (30 * 86_400, True)
    assert [(record.owner, record.type) for record in changed.dns_records[-2:]] == [
        ("bounces.x.test", "CNAME"),
        ("track.x.test", "CNAME"),
    ]
    request.request_id = new_id()
    assert await control.refused(control.domains.UpdateDomain, request) is Reason.STALE_ETAG
    clear = domain_service_pb2.UpdateDomainRequest(
        domain=domain_pb2.Domain(name=f"tenants/operator/domains/{domain.number}"), update_mask=FieldMask(paths=["*"])
    )
    cleared = await control.call(control.domains.UpdateDomain, clear)
    assert (cleared.return_path_host, cleared.tracking_host, cleared.HasField("key_rotation_period")) == ("", "", False)
    assert cleared.name == domain.name


BAD_SETTINGS: list[tuple[str, Any, list[str]]] = [
    ("return_path_host", "bounces.other.test", []),
    ("return_path_host", "x.test", []),
    ("tracking_host", "a b.x.test", []),
    ("key_rotation_period", Duration(seconds=86_400), []),
    ("key_rotation_period", Duration(seconds=30 * 86_400 + 1), []),
    ("key_rotation_period", Duration(seconds=-7 * 86_400), []),
    ("key_rotation_period", Duration(seconds=731 * 86_400), []),
    ("signing", domain_pb2.Domain.SIGNING_OFF, ["state"]),
    ("signing", domain_pb2.Domain.SIGNING_OFF, ["nonsense"]),
    ("state", domain_pb2.Domain.STATE_VERIFIED, []),
    ("signing", 99, []),
]


async def test_bad_settings_are_refused(control: Control) -> None:
    name = (await claimed(control)).name
    for field, value, mask in BAD_SETTINGS:
        domain = domain_pb2.Domain(name=name, **{field: value})
        request = domain_service_pb2.UpdateDomainRequest(domain=domain, update_mask=FieldMask(paths=mask))
        reason = await control.refused(control.domains.UpdateDomain, request)
        assert reason is Reason.INVALID_ARGUMENT, (field, value, mask)


async def test_one_domain_of_the_operator_signs_for_senders(control: Control) -> None:
    tenant = await control.tenant("tenant")
    first = await claimed(control, signs_for_senders=True)
    assert first.signs_for_senders
    request = domain_service_pb2.CreateDomainRequest(parent="tenants/operator", domain="second.test", trusted=True)
    second = await control.call(control.domains.CreateDomain, request)
    update = domain_service_pb2.UpdateDomainRequest(domain=domain_pb2.Domain(name=second.name, signs_for_senders=True))
    assert (await control.call(control.domains.UpdateDomain, update)).signs_for_senders
    assert not (await read(control, first.name)).signs_for_senders
    theirs = domain_service_pb2.CreateDomainRequest(
        parent=tenant, domain="third.test", settings=domain_pb2.Domain(signs_for_senders=True)
    )
    for metadata in (control.operator, basic("tenant")):
        reason = await control.refused(control.domains.CreateDomain, theirs, metadata)
        assert reason is Reason.PERMISSION_DENIED


async def test_of_two_that_prove_a_claim_at_once_one_has_it(control: Control, dns_server: DnsServer) -> None:
    claims = []
    for name in ("first", "second"):
        await control.tenant(name)
        claims.append(await claimed(control, name, trusted=False))
    dns_server.set(CHALLENGE, "TXT", *(f'"{claim.dns_records[0].data}"' for claim in claims))
    results = await asyncio.gather(
        *(
            control.call(
                control.domains.VerifyDomain,
                domain_service_pb2.VerifyDomainRequest(name=claim.name),
                basic(claim.name.split("/")[1]),
            )
            for claim in claims
        ),
        return_exceptions=True,
    )
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert [refusal.reason for refusal in refusals] == [Reason.FAILED_PRECONDITION]
    assert "another tenant has verified" in refusals[0].message
    states = [(await read(control, claim.name)).state for claim in claims]
    assert sorted(states) == [domain_pb2.Domain.STATE_PENDING, domain_pb2.Domain.STATE_VERIFIED]


async def test_a_new_claim_has_a_new_challenge_and_new_keys(control: Control, dns_server: DnsServer) -> None:
    await control.tenant("tenant")
    first = await claimed(control, "tenant", trusted=False)
    dns_server.set_text(CHALLENGE, first.dns_records[0].data)
    await control.call(control.domains.DeleteDomain, domain_service_pb2.DeleteDomainRequest(name=first.name))
    second = await claimed(control, "tenant", trusted=False)
    old, new = ({record.data for record in domain.dns_records[:3]} for domain in (first, second))
    assert not old & new
    verify = domain_service_pb2.VerifyDomainRequest(name=second.name)
    assert await control.refused(control.domains.VerifyDomain, verify) is Reason.FAILED_PRECONDITION


async def test_a_subdomain_is_a_domain_of_its_own(control: Control, dns_server: DnsServer) -> None:
    """Who controls the name below proves it there; the owner of the name above has no part in it."""
    await claimed(control)
    await control.tenant("tenant")
    create = domain_service_pb2.CreateDomainRequest(parent="tenants/tenant", domain="shop.x.test")
    below = await control.call(control.domains.CreateDomain, create, basic("tenant"))
    verify = domain_service_pb2.VerifyDomainRequest(name=below.name)
    assert await control.refused(control.domains.VerifyDomain, verify) is Reason.FAILED_PRECONDITION
    dns_server.set_text(below.dns_records[0].owner, below.dns_records[0].data)
    assert (await control.call(control.domains.VerifyDomain, verify)).state == domain_pb2.Domain.STATE_VERIFIED


async def test_spellings_of_a_name_are_one_domain(control: Control) -> None:
    create = domain_service_pb2.CreateDomainRequest(parent="tenants/operator", domain="BÜCHER.example", trusted=True)
    made = await control.call(control.domains.CreateDomain, create)
    assert made.name.endswith("/domains/xn--bcher-kva.example")
    for same in ("bücher.example", "bu\u0308cher.example", "XN--BCHER-KVA.Example"):
        create.domain = same
        assert await control.refused(control.domains.CreateDomain, create) is Reason.ALREADY_EXISTS
    for other in ("ｘ.test", "x\u200d.test", "b\u212acher.example"):
        create.domain = other
        assert await control.refused(control.domains.CreateDomain, create) is Reason.INVALID_ARGUMENT


async def test_a_check_says_what_is_there_and_is_kept(control: Control, dns_server: DnsServer) -> None:
    await control.tenant("tenant")
    domain = await claimed(control, "tenant", trusted=False, return_path_host="bounces.x.test")
    dns_server.set_text(CHALLENGE, "barua-verify=wrong")
    dns_server.set_text(domain.dns_records[1].owner, "v=DKIM1; k=rsa; p=AAAA")
    dns_server.set_text(DOMAIN, "v=spf1 -all")
    dns_server.fail(f"_dmarc.{DOMAIN}", Failure.SERVFAIL)
    dry = domain_service_pb2.CheckDomainRequest(name=domain.name, validate_only=True)
    assert len((await control.call(control.domains.CheckDomain, dry, basic("tenant"))).checks) == 6
    assert not (await read(control, domain.name)).checks
    request = domain_service_pb2.CheckDomainRequest(name=domain.name)
    checked = await control.call(control.domains.CheckDomain, request, basic("tenant"))
    assert [(check.kind, check.state) for check in checked.checks] == [
        (STATES.KIND_CHALLENGE, STATES.STATE_MISMATCH),
        (STATES.KIND_DKIM, STATES.STATE_MISMATCH),
        (STATES.KIND_DKIM, STATES.STATE_MISSING),
        (STATES.KIND_SPF, STATES.STATE_MISMATCH),
        (STATES.KIND_DMARC, STATES.STATE_ERROR),
        (STATES.KIND_RETURN_PATH, STATES.STATE_MISSING),
    ]
    challenge, rsa_key, _, spf, _, bounces = checked.checks
    assert list(challenge.found) == ["barua-verify=wrong"]
    assert (rsa_key.record.data, rsa_key.selector) == (domain.dns_records[1].data, rsa_key.record.owner.split(".")[0])
    assert "".join(rsa_key.record.strings) == rsa_key.record.data
    assert max(map(len, rsa_key.record.strings)) == 255
    assert spf.record.data == "v=spf1 a:localhost -all"
    assert "a:localhost" in spf.explanation
    assert spf.record in checked.dns_records
    assert bounces.record.type == "CNAME"
    assert await read(control, domain.name) == checked
    assert checked.state == domain_pb2.Domain.STATE_PENDING


async def test_a_tenant_makes_few_checks_at_once(control: Control, dns_server: DnsServer) -> None:
    domain = await claimed(control)
    dns_server.fail(DOMAIN, Failure.DROP)
    request = domain_service_pb2.CheckDomainRequest(name=domain.name)
    checks = [asyncio.create_task(control.call(control.domains.CheckDomain, request)) for _ in range(5)]
    done, waiting = await asyncio.wait(checks, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    (refused,) = done
    assert isinstance(error := refused.exception(), Refusal)
    assert error.reason is Reason.RATE_LIMITED
    for check in waiting:
        check.cancel()
    await asyncio.wait(waiting)


async def test_spf_is_checked_for_where_mail_leaves_from(
    control: Control, database: Database, dns_server: DnsServer
) -> None:
    await control.tenant("reseller")
    await control.tenant("tenant", "reseller")
    domain = await claimed(control, "tenant", trusted=False)

    async def assign(connection: Connection) -> None:
        for statement in (
            "INSERT INTO source (source_id, address, ehlo_name) VALUES ('a', '192.0.2.1', 'a.test'),"
            " ('b', '2001:db8::2', 'b.test'), ('c', '192.0.2.3', 'c.test')",
            "INSERT INTO pool (pool_id, display_name) VALUES ('dedicated', ''), ('bulk', '')",
            "INSERT INTO pool_member VALUES ('dedicated', 'a', 1), ('dedicated', 'b', 1), ('bulk', 'c', 1)",
            "INSERT INTO pool_assignment VALUES ('operator', 'bulk'), ('reseller', 'dedicated')",
        ):
            await connection.execute(statement)

    await database.transact(assign)
    request = domain_service_pb2.CheckDomainRequest(name=domain.name)
    checked = await control.call(control.domains.CheckDomain, request, basic("tenant"))
    (spf,) = [check for check in checked.checks if check.kind == STATES.KIND_SPF]
    assert spf.record.data == "v=spf1 ip4:192.0.2.1 ip6:2001:db8::2 ~all"
    await database.transact(lambda c: c.execute("UPDATE source SET state = 'disabled' WHERE source_id = 'b'"))
    dns_server.set_text(DOMAIN, "v=spf1 ip4:192.0.2.1 -all")
    await look(control, database, dns_server)
    (spf,) = [check for check in (await read(control, domain.name)).checks if check.kind == STATES.KIND_SPF]
    assert spf.state == STATES.STATE_OK


async def test_the_hourly_look_verifies_claims(control: Control, database: Database, dns_server: DnsServer) -> None:
    await control.tenant("tenant")
    await control.tenant("other")
    domain, late = await claimed(control, "tenant", trusted=False), await claimed(control, "other", trusted=False)
    await look(control, database, dns_server)
    assert (await read(control, domain.name)).state == domain_pb2.Domain.STATE_PENDING
    dns_server.set_text(CHALLENGE, domain.dns_records[0].data)
    await look(control, database, dns_server)
    found = await read(control, domain.name)
    assert (found.state, found.HasField("check_time")) == (domain_pb2.Domain.STATE_VERIFIED, True)
    dns_server.set_text(CHALLENGE, late.dns_records[0].data)
    await look(control, database, dns_server)
    assert (await read(control, late.name)).state == domain_pb2.Domain.STATE_PENDING
    assert sweep_of(control, database, dns_server) is not None
    assert await sweep_of(control, database, dns_server).look_at_due() == 0


async def test_a_challenge_that_vanishes_is_told(control: Control, database: Database, dns_server: DnsServer) -> None:
    await control.tenant("tenant")
    domain = await claimed(control, "tenant", trusted=False)
    dns_server.set_text(CHALLENGE, domain.dns_records[0].data)
    await control.call(control.domains.VerifyDomain, domain_service_pb2.VerifyDomainRequest(name=domain.name))
    dns_server.fail(CHALLENGE, Failure.SERVFAIL)
    await look(control, database, dns_server)
    assert not (await read(control, domain.name)).HasField("challenge_missing_time")
    dns_server.fail(CHALLENGE, None)
    dns_server.set(CHALLENGE, "TXT")
    await look(control, database, dns_server)
    marked = await read(control, domain.name)
    assert (marked.state, marked.HasField("challenge_missing_time")) == (domain_pb2.Domain.STATE_VERIFIED, True)
    dns_server.set_text(CHALLENGE, domain.dns_records[0].data)
    await look(control, database, dns_server)
    assert not (await read(control, domain.name)).HasField("challenge_missing_time")


async def test_a_trusted_domain_needs_no_challenge(control: Control, database: Database, dns_server: DnsServer) -> None:
    domain = await claimed(control)
    await look(control, database, dns_server)
    found = await read(control, domain.name)
    assert not found.HasField("challenge_missing_time")
    assert STATES.KIND_CHALLENGE not in {check.kind for check in found.checks}


async def test_keys_are_made_brought_along_and_listed(control: Control) -> None:
    domain = await claimed(control)
    generate = dkim_key_service_pb2.GenerateDkimKeyRequest(
        parent=domain.name, bits=3072, selector="mine", request_id=new_id()
    )
    made = await control.call(control.dkim_keys.GenerateDkimKey, generate)
    assert await control.call(control.dkim_keys.GenerateDkimKey, generate) == made
    assert (made.state, made.algorithm, made.bits) == (KEYS.STATE_PENDING, KEYS.ALGORITHM_RSA, 3072)
    assert made.dns_record.owner == "mine._domainkey.x.test"
    pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    bring = dkim_key_service_pb2.ImportDkimKeyRequest(parent=domain.name, selector="s1", private_key_pem=pem)
    assert (await control.call(control.dkim_keys.ImportDkimKey, bring)).imported
    bring.selector = "s2"
    assert await control.refused(control.dkim_keys.ImportDkimKey, bring) is Reason.ALREADY_EXISTS
    generate.request_id = new_id()
    assert await control.refused(control.dkim_keys.GenerateDkimKey, generate) is Reason.ALREADY_EXISTS
    found = await keys_of(control, domain.name)
    assert [key.state for key in found.values()].count(KEYS.STATE_ACTIVE) == 2
    assert {"mine", "s1"} < set(found)
    get = dkim_key_service_pb2.GetDkimKeyRequest(name=f"{domain.name}/dkimKeys/mine")
    assert await control.call(control.dkim_keys.GetDkimKey, get) == found["mine"]
    assert "mine" not in await selectors_on_nodes(control)
    for bad in ("", domain.name, f"{domain.name}/dkimKeys/", "x/dkimKeys/s", "/dkimKeys/"):
        get.name = bad
        assert await control.refused(control.dkim_keys.GetDkimKey, get) is Reason.INVALID_ARGUMENT


async def test_keys_are_few(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.store.dkim_keys.MAX_KEYS", 3)
    domain = await claimed(control)
    request = dkim_key_service_pb2.GenerateDkimKeyRequest(parent=domain.name, algorithm=KEYS.ALGORITHM_ED25519)
    dry = dkim_key_service_pb2.GenerateDkimKeyRequest(parent=domain.name, validate_only=True)
    await control.call(control.dkim_keys.GenerateDkimKey, dry)
    await control.call(control.dkim_keys.GenerateDkimKey, request)
    assert await control.refused(control.dkim_keys.GenerateDkimKey, request) is Reason.FAILED_PRECONDITION
    rotate = dkim_key_service_pb2.RotateDkimKeysRequest(name=domain.name)
    assert await control.refused(control.dkim_keys.RotateDkimKeys, rotate) is Reason.FAILED_PRECONDITION


async def test_a_key_signs_only_once_it_is_in_the_dns(control: Control, dns_server: DnsServer) -> None:
    domain = await claimed(control)
    before = await selectors_on_nodes(control)
    make = dkim_key_service_pb2.GenerateDkimKeyRequest(parent=domain.name, selector="new")
    key = await control.call(control.dkim_keys.GenerateDkimKey, make)
    activate = dkim_key_service_pb2.ActivateDkimKeyRequest(name=key.name)
    with pytest.raises(Refusal, match=r"no TXT record at new\._domainkey\.x\.test"):
        await control.call(control.dkim_keys.ActivateDkimKey, activate)
    dns_server.set_text(key.dns_record.owner, "v=DKIM1; p=AAAA")
    with pytest.raises(Refusal, match="another key") as refused:
        await control.call(control.dkim_keys.ActivateDkimKey, activate)
    assert refused.value.metadata["found"] == "v=DKIM1; p=AAAA"
    assert refused.value.metadata["wanted"] == key.dns_record.data
    dns_server.fail(key.dns_record.owner, Failure.SERVFAIL)
    assert await control.refused(control.dkim_keys.ActivateDkimKey, activate) is Reason.UNAVAILABLE
    assert await selectors_on_nodes(control) == before
    dns_server.fail(key.dns_record.owner, None)
    publish(dns_server, [key])
    activated = await control.call(control.dkim_keys.ActivateDkimKey, activate)
    assert activated.state == KEYS.STATE_ACTIVE
    assert await control.call(control.dkim_keys.ActivateDkimKey, activate) == activated
    keys = await keys_of(control, domain.name)
    retired = {selector for selector, found in keys.items() if found.state == KEYS.STATE_RETIRED}
    assert {keys[selector].algorithm for selector in retired} == {KEYS.ALGORITHM_RSA}
    assert await selectors_on_nodes(control) == {"new"} | before - retired
    purposes = {record.owner.split(".")[0]: record.purpose for record in (await read(control, domain.name)).dns_records}
    assert "leave it until" in purposes[retired.pop()]


async def test_a_refusal_is_told_whatever_the_dns_has(control: Control, dns_server: DnsServer) -> None:
    domain = await claimed(control)
    rotate = dkim_key_service_pb2.RotateDkimKeysRequest(name=domain.name)
    made = await control.call(control.dkim_keys.RotateDkimKeys, rotate)
    for key in made.dkim_keys:
        dns_server.set(
            key.dns_record.owner, "TXT", *(f'"{number}{chr(92)}000{chr(92)}255" "{"x" * 250}"' for number in range(20))
        )
    with pytest.raises(Refusal, match="20 TXT records") as refused:
        await control.call(control.dkim_keys.RotateDkimKeys, rotate)
    assert refused.value.reason is Reason.FAILED_PRECONDITION
    await control.call(control.domains.CheckDomain, domain_service_pb2.CheckDomainRequest(name=domain.name))


async def test_only_the_operator_activates_without_a_look(control: Control) -> None:
    await control.tenant("tenant")
    domain = await claimed(control, "tenant")
    make = dkim_key_service_pb2.GenerateDkimKeyRequest(parent=domain.name, algorithm=KEYS.ALGORITHM_ED25519)
    key = await control.call(control.dkim_keys.GenerateDkimKey, make, basic("tenant"))
    activate = dkim_key_service_pb2.ActivateDkimKeyRequest(name=key.name, trusted=True)
    reason = await control.refused(control.dkim_keys.ActivateDkimKey, activate, basic("tenant"))
    assert reason is Reason.PERMISSION_DENIED
    assert (await control.call(control.dkim_keys.ActivateDkimKey, activate)).state == KEYS.STATE_ACTIVE


async def test_a_domain_that_must_sign_keeps_a_key(control: Control) -> None:
    domain = await claimed(control)
    first, second = (key.name for key in (await keys_of(control, domain.name)).values())
    retire = dkim_key_service_pb2.RetireDkimKeyRequest(name=first)
    assert (await control.call(control.dkim_keys.RetireDkimKey, retire)).state == KEYS.STATE_RETIRED
    await control.call(control.dkim_keys.RetireDkimKey, retire)
    retire.name = second
    delete = dkim_key_service_pb2.DeleteDkimKeyRequest(name=second)
    for method, request in ((control.dkim_keys.RetireDkimKey, retire), (control.dkim_keys.DeleteDkimKey, delete)):
        with pytest.raises(Refusal, match="last active key") as refused:
            await control.call(method, request)
        assert refused.value.reason is Reason.FAILED_PRECONDITION
    await control.call(control.dkim_keys.DeleteDkimKey, dkim_key_service_pb2.DeleteDkimKeyRequest(name=first))
    unsigned = domain_pb2.Domain(name=domain.name, signing=domain_pb2.Domain.SIGNING_OFF)
    await control.call(control.domains.UpdateDomain, domain_service_pb2.UpdateDomainRequest(domain=unsigned))
    await control.call(control.dkim_keys.DeleteDkimKey, delete)
    assert await selectors_on_nodes(control) == set()
    signed = domain_pb2.Domain(name=domain.name, signing=domain_pb2.Domain.SIGNING_REQUIRED)
    again = domain_service_pb2.UpdateDomainRequest(domain=signed)
    assert await control.refused(control.domains.UpdateDomain, again) is Reason.FAILED_PRECONDITION


async def test_keys_rotate_in_two_steps(control: Control, dns_server: DnsServer) -> None:
    domain = await claimed(control)
    old = await selectors_on_nodes(control)
    rotate = dkim_key_service_pb2.RotateDkimKeysRequest(name=domain.name, request_id=new_id())
    first = await control.call(control.dkim_keys.RotateDkimKeys, rotate)
    assert await control.call(control.dkim_keys.RotateDkimKeys, rotate) == first
    assert first.phase == dkim_key_service_pb2.RotateDkimKeysResponse.PHASE_PUBLISH
    assert [key.state for key in first.dkim_keys] == [KEYS.STATE_PENDING] * 2
    publish(dns_server, first.dkim_keys[:1])
    rotate.request_id = new_id()
    with pytest.raises(Refusal, match="no TXT record"):
        await control.call(control.dkim_keys.RotateDkimKeys, rotate)
    assert await selectors_on_nodes(control) == old
    publish(dns_server, first.dkim_keys)
    second = await control.call(control.dkim_keys.RotateDkimKeys, rotate)
    assert second.phase == dkim_key_service_pb2.RotateDkimKeysResponse.PHASE_SWITCHED
    new = {key.name.rpartition("/")[2] for key in second.dkim_keys}
    assert await selectors_on_nodes(control) == new
    keys = await keys_of(control, domain.name)
    assert {selector for selector, key in keys.items() if key.state == KEYS.STATE_RETIRED} == old


async def test_keys_rotate_by_themselves(control: Control, database: Database, dns_server: DnsServer) -> None:
    domain = await claimed(control, key_rotation_period=Duration(seconds=7 * 86_400))
    old = await selectors_on_nodes(control)
    await look(control, database, dns_server)
    assert set(await keys_of(control, domain.name)) == old
    await database.transact(
        lambda c: c.execute(
            "UPDATE dkim_key SET activated_at = activated_at - interval '7 days' WHERE algorithm = 'rsa'"
        )
    )
    await look(control, database, dns_server)
    waiting = [key for key in (await keys_of(control, domain.name)).values() if key.rotation]
    assert {key.state for key in waiting} == {KEYS.STATE_PENDING}
    await look(control, database, dns_server)
    assert len(await keys_of(control, domain.name)) == 4
    assert await selectors_on_nodes(control) == old
    publish(dns_server, waiting)
    await look(control, database, dns_server)
    assert await selectors_on_nodes(control) == {key.name.rpartition("/")[2] for key in waiting}
    await database.transact(
        lambda c: c.execute("UPDATE dkim_key SET retired_at = retired_at - interval '31 days' WHERE state = 'retired'")
    )
    await sweep_of(control, database, dns_server)._clear()
    assert len(await keys_of(control, domain.name)) == 2
