"""Pools that tenants make of sources that the operator allots to them: who may, what is refused, what nodes hear."""

from typing import Any

import pytest

from barua.control.v1 import egress_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1 import pool_service_pb2 as pb
from barua.control.v1.egress_pb2 import Pool as OperatorPool
from barua.control.v1.egress_pb2 import PoolMember, Source
from barua.control.v1.pool_pb2 import TenantPool, TenantSource
from barua.policy.v1 import policy_service_pb2

from control.model.egress import AUTO_WARM_UP
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id
from tests.integration.control.test_egress import make_pool, make_rule, make_source

RESELLER = tenant_pb2.Tenant.KIND_RESELLER


async def make(control: Control, who: str, name: str, *addresses: str, **fields: Any) -> TenantPool:
    """Make a pool as a tenant's login."""
    pool = TenantPool(display_name=name, addresses=addresses, **fields)
    request = pb.CreateTenantPoolRequest(parent="tenants/me", pool=pool, request_id=new_id())
    made: TenantPool = await control.call(control.pools.CreateTenantPool, request, basic(who))
    assert await control.call(control.pools.CreateTenantPool, request, basic(who)) == made
    return made


async def listed(control: Control, who: str, **query: Any) -> list[str]:
    """The addresses that a tenant sees."""
    request = pb.ListTenantSourcesRequest(parent="tenants/me", **query)
    found = await control.call(control.pools.ListTenantSources, request, basic(who))
    return [source.address for source in found.sources]


async def update(control: Control, who: str, pool: TenantPool, *paths: str) -> TenantPool:
    """Change a pool as a tenant's login."""
    request = pb.UpdateTenantPoolRequest(pool=pool)
    request.update_mask.paths.extend(paths)
    changed: TenantPool = await control.call(control.pools.UpdateTenantPool, request, basic(who))
    return changed


@pytest.mark.each_postgres
async def test_sources_are_allotted_and_seen(control: Control) -> None:
    await control.tenant("reseller", kind=RESELLER)
    await control.tenant("below", "reseller")
    await control.tenant("rival", kind=RESELLER)
    own = await make_source(control, "ip1", "192.0.2.1", tenant="tenants/reseller")
    await make_source(control, "ip2", "192.0.2.2", tenant="tenants/operator")
    await make_source(control, "ip3", "192.0.2.3")
    assert (own.tenant, own.number > 0, own.released) == ("tenants/reseller", True, False)
    assert await listed(control, "reseller") == await listed(control, "below") == ["192.0.2.1", "192.0.2.2"]
    assert await listed(control, "rival") == ["192.0.2.2"]
    assert await listed(control, "reseller", skip=1) == ["192.0.2.2"]
    assert await listed(control, "reseller", search="IP1.exam") == ["192.0.2.1"]
    assert await listed(control, "reseller", search="2.2") == ["192.0.2.2"]
    first = pb.ListTenantSourcesRequest(parent="tenants/me", page_size=1)
    page = await control.call(control.pools.ListTenantSources, first, basic("reseller"))
    first.page_token = page.next_page_token
    assert [one.address for one in page.sources] == ["192.0.2.1"]
    page = await control.call(control.pools.ListTenantSources, first, basic("reseller"))
    assert ([one.address for one in page.sources], page.next_page_token) == (["192.0.2.2"], "")
    name = f"tenants/reseller/sources/{own.number}"
    got = await control.call(control.pools.GetTenantSource, pb.GetTenantSourceRequest(name=name), basic("reseller"))
    assert (got.address, got.ehlo_name, got.dedicated, got.active) == ("192.0.2.1", "ip1.example.com", True, True)
    below = pb.GetTenantSourceRequest(name=f"tenants/below/sources/{own.number}")
    assert not (await control.call(control.pools.GetTenantSource, below, basic("below"))).dedicated
    rivals = pb.GetTenantSourceRequest(name=f"tenants/rival/sources/{own.number}")
    assert await control.refused(control.pools.GetTenantSource, rivals, basic("rival")) is Reason.NOT_FOUND
    bad = Source(address="192.0.2.9", ehlo_name="a.example.com", tenant="tenants/none")
    request = egress_service_pb2.CreateSourceRequest(source_id="x", source=bad)
    assert await control.refused(control.egress.CreateSource, request) is Reason.NOT_FOUND


async def test_warm_up_release_and_allocation(control: Control) -> None:
    await control.tenant("reseller", kind=RESELLER)
    await control.tenant("below", "reseller")
    own = await make_source(control, "ip1", "192.0.2.1", tenant="tenants/reseller")
    name = f"tenants/reseller/sources/{own.number}"

    async def warm(on: bool, who: str = "reseller") -> TenantSource:
        request = pb.UpdateTenantSourceRequest(source=TenantSource(name=name.replace("reseller", who)))
        request.source.auto_warm_up = on
        request.update_mask.paths.append("auto_warm_up")
        changed: TenantSource = await control.call(control.pools.UpdateTenantSource, request, basic(who))
        return changed

    async def seen() -> Source:
        request = egress_service_pb2.GetSourceRequest(name="sources/ip1")
        source: Source = await control.call(control.egress.GetSource, request)
        return source

    started = await warm(True)
    assert (started.auto_warm_up, started.warm_up_day) == (True, 1)
    assert list((await seen()).warm_up.daily_limits) == list(AUTO_WARM_UP)
    assert await warm(True) == started
    ended = await warm(False)
    assert (ended.auto_warm_up, ended.warm_up_day, (await seen()).HasField("warm_up")) == (False, 0, False)
    with pytest.raises(Refusal) as caught:
        await warm(True, "below")
    assert caught.value.reason is Reason.FAILED_PRECONDITION

    pool = await make(control, "below", "theirs", "192.0.2.1")
    release = pb.ReleaseTenantSourceRequest(name=name)
    refused = control.refused(control.pools.ReleaseTenantSource, release, basic("reseller"))
    assert await refused is Reason.FAILED_PRECONDITION
    shared = pb.ReleaseTenantSourceRequest(name=name.replace("reseller", "below"))
    assert (
        await control.refused(control.pools.ReleaseTenantSource, shared, basic("below")) is Reason.FAILED_PRECONDITION
    )
    delete = pb.DeleteTenantPoolRequest(name=pool.name)
    await control.call(control.pools.DeleteTenantPool, delete, basic("below"))
    await control.call(control.pools.ReleaseTenantSource, release, basic("reseller"))
    assert await control.refused(control.pools.ReleaseTenantSource, release, basic("reseller")) is Reason.NOT_FOUND
    assert (await listed(control, "reseller"), await listed(control, "below")) == ([], [])
    assert (await seen()).released
    with pytest.raises(Refusal) as caught:
        await make(control, "reseller", "late", "192.0.2.1")
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, "pool.addresses[0]")

    allocate = pb.AllocateTenantSourcesRequest(parent="tenants/me", addresses=["192.0.2.1"], auto_warm_up=True)
    assert await control.refused(control.pools.AllocateTenantSources, allocate, basic("below")) is Reason.NOT_FOUND
    for _ in range(2):
        taken = await control.call(control.pools.AllocateTenantSources, allocate, basic("reseller"))
        assert [(one.address, one.auto_warm_up) for one in taken.sources] == [("192.0.2.1", True)]
    assert await listed(control, "below") == ["192.0.2.1"]
    for addresses, reason in (
        ([], Reason.INVALID_ARGUMENT),
        (["192.0.2.1", "192.0.2.77"], Reason.NOT_FOUND),
        (["nonsense"], Reason.INVALID_ARGUMENT),
        (["192.0.2.1"] * 101, Reason.INVALID_ARGUMENT),
    ):
        request = pb.AllocateTenantSourcesRequest(parent="tenants/me", addresses=addresses)
        assert await control.refused(control.pools.AllocateTenantSources, request, basic("reseller")) is reason


@pytest.mark.each_postgres
async def test_pools_of_tenants(control: Control) -> None:
    await control.tenant("acme")
    for number in (1, 2):
        await make_source(control, f"ip{number}", f"192.0.2.{number}", tenant="tenants/acme")
    spare = await make(control, "acme", "Spare")
    pool = await make(
        control,
        "acme",
        "Straße",
        "192.0.2.2",
        "192.0.2.1",
        routing_strategy=TenantPool.ROUTING_STRATEGY_VOLUME_SHARE,
        routing_metadata='{"192.0.2.1": 70, "192.0.2.2": 30}',
        overflow=True,
        overflow_pool="spare",
    )
    assert list(pool.addresses) == ["192.0.2.1", "192.0.2.2"]
    assert [source.dedicated for source in pool.sources] == [True, True]
    assert (pool.overflow, pool.overflow_pool) == (True, "Spare")
    found = await control.call(control.egress.ListPools, egress_service_pb2.ListPoolsRequest())
    assert [one.tenant for one in found.pools] == ["tenants/acme"] * 2
    weights = {member.source: member.weight for one in found.pools for member in one.members}
    assert weights == {"sources/ip1": 700, "sources/ip2": 300}
    with pytest.raises(Refusal) as caught:
        await make(control, "acme", "STRASSE")
    assert (caught.value.reason, caught.value.field) == (Reason.ALREADY_EXISTS, "pool.display_name")

    changed = await update(control, "acme", TenantPool(name=pool.name, addresses=["192.0.2.2"], etag=pool.etag))
    assert list(changed.addresses) == ["192.0.2.2"]
    stale = pb.UpdateTenantPoolRequest(pool=TenantPool(name=pool.name, display_name="x", etag=pool.etag))
    assert await control.refused(control.pools.UpdateTenantPool, stale, basic("acme")) is Reason.STALE_ETAG
    changed = await update(control, "acme", TenantPool(name=pool.name), "addresses", "overflow", "routing_strategy")
    assert (list(changed.addresses), changed.overflow, changed.overflow_pool) == ([], False, "Spare")
    assert changed.routing_strategy == TenantPool.ROUTING_STRATEGY_ROUND_ROBIN
    renamed = await update(control, "acme", TenantPool(name=pool.name, display_name="strasse"))
    assert renamed.display_name == "strasse"

    delete = pb.DeleteTenantPoolRequest(name=spare.name)
    assert await control.refused(control.pools.DeleteTenantPool, delete, basic("acme")) is Reason.FAILED_PRECONDITION
    await update(control, "acme", TenantPool(name=pool.name), "overflow_pool")
    await control.call(control.pools.DeleteTenantPool, delete, basic("acme"))
    assert await control.refused(control.pools.DeleteTenantPool, delete, basic("acme")) is Reason.NOT_FOUND
    everything = pb.ListTenantPoolsRequest(parent="tenants/me", search="STRA")
    answer = await control.call(control.pools.ListTenantPools, everything, basic("acme"))
    assert [one.display_name for one in answer.pools] == ["strasse"]


BAD_POOLS: list[tuple[dict[str, Any], str]] = [
    ({"display_name": ""}, "pool.display_name"),
    ({"display_name": "x" * 101}, "pool.display_name"),
    ({"display_name": " x"}, "pool.display_name"),
    ({"display_name": "a\nb"}, "pool.display_name"),
    ({"addresses": ["nonsense"]}, "pool.addresses[0]"),
    ({"addresses": ["192.0.2.1", "192.0.2.3"]}, "pool.addresses[1]"),
    ({"addresses": ["192.0.2.1"] * 1001}, "pool.addresses"),
    ({"routing_strategy": 9}, "pool.routing_strategy"),
    ({"routing_metadata": "[1]"}, "pool.routing_metadata"),
    ({"routing_metadata": "{"}, "pool.routing_metadata"),
    ({"routing_metadata": '{"a": "' + "x" * 10_000 + '"}'}, "pool.routing_metadata"),
    (
        {"addresses": ["192.0.2.1"], "routing_strategy": 3, "routing_metadata": '{"192.0.2.1": 101}'},
        "pool.routing_metadata",
    ),
    ({"overflow": True}, "pool.overflow_pool"),
    ({"overflow_pool": "nobody"}, "pool.overflow_pool"),
]


async def test_bad_pools(control: Control) -> None:
    await control.tenant("acme")
    await make_source(control, "ip1", "192.0.2.1", tenant="tenants/acme")
    await make_source(control, "ip3", "192.0.2.3")
    for fields, field in BAD_POOLS:
        pool = TenantPool(**({"display_name": "x"} | fields))
        request = pb.CreateTenantPoolRequest(parent="tenants/acme", pool=pool)
        with pytest.raises(Refusal) as caught:
            await control.call(control.pools.CreateTenantPool, request, basic("acme"))
        assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, field), fields
    pool = await make(control, "acme", "own")
    with pytest.raises(Refusal) as caught:
        await update(control, "acme", TenantPool(name=pool.name, overflow_pool="own"))
    assert caught.value.field == "pool.overflow_pool"
    for name in ("0", "-1", "x", "9" * 30, str(2**31)):
        get = pb.GetTenantPoolRequest(name=f"tenants/acme/pools/{name}")
        assert await control.refused(control.pools.GetTenantPool, get, basic("acme")) is Reason.NOT_FOUND


async def test_what_the_operator_may_not_do_to_them_and_what_ends_them(control: Control) -> None:
    await control.tenant("reseller", kind=RESELLER)
    await control.tenant("acme", "reseller")
    await make_source(control, "ip1", "192.0.2.1", tenant="tenants/acme")
    pool = await make(control, "acme", "own", "192.0.2.1")
    (seen,) = (await control.call(control.egress.ListPools, egress_service_pb2.ListPoolsRequest())).pools
    taken = egress_service_pb2.UpdateSourceRequest(source=Source(name="sources/ip1"))
    taken.update_mask.paths.append("tenant")
    assert await control.refused(control.egress.UpdateSource, taken) is Reason.FAILED_PRECONDITION
    taken.source.tenant = "tenants/reseller"
    assert (await control.call(control.egress.UpdateSource, taken)).tenant == "tenants/reseller"
    members = OperatorPool(name=seen.name, members=[PoolMember(source="sources/ip1")])
    change = egress_service_pb2.UpdatePoolRequest(pool=members)
    assert await control.refused(control.egress.UpdatePool, change) is Reason.FAILED_PRECONDITION
    await make_rule(control, "r", pool=seen.name)
    delete = tenant_service_pb2.DeleteTenantRequest(name="tenants/acme")
    gone = pb.DeleteTenantPoolRequest(name=pool.name)
    assert await control.refused(control.pools.DeleteTenantPool, gone, basic("acme")) is Reason.FAILED_PRECONDITION
    assert await control.refused(control.tenants.DeleteTenant, delete, basic("reseller")) is Reason.FAILED_PRECONDITION
    await control.call(
        control.egress.DeleteEgressRule, egress_service_pb2.DeleteEgressRuleRequest(name="egressRules/r")
    )
    await control.call(control.tenants.DeleteTenant, delete, basic("reseller"))
    assert not (await control.call(control.egress.ListPools, egress_service_pb2.ListPoolsRequest())).pools
    source = await control.call(control.egress.GetSource, egress_service_pb2.GetSourceRequest(name="sources/ip1"))
    assert source.tenant == "tenants/reseller"


async def test_nodes_hear_of_them(control: Control) -> None:
    await control.tenant("acme")
    await make_source(control, "ip1", "192.0.2.1", tenant="tenants/acme")
    await make_pool(control, "bulk", ip1=3)
    spare = await make(control, "acme", "Spare")
    pool = await make(control, "acme", "Straße", "192.0.2.1", overflow=True, overflow_pool="Spare")
    request = policy_service_pb2.WatchPolicyRequest(node="n")
    found: dict[str, Any] = {}
    stream = control.policy.WatchPolicy(request, metadata=control.node)
    async for step in stream:
        for change in step.changes.changes:
            if change.HasField("pool"):
                found[change.pool.folded_name] = change.pool
        if step.HasField("snapshot_end"):
            break
    stream.cancel()
    assert (found[""].pool_id, found[""].tenant_id) == ("bulk", "")
    assert found["strasse"].overflow_pool_id == found["spare"].pool_id
    assert (found["strasse"].tenant_id, list(found["strasse"].source_ids)) == ("acme", ["ip1"])
    assert {pool.display_name.casefold(), spare.display_name.casefold()} < found.keys()
