"""Sources, pools, egress rules and assignments: what is kept, what is refused, what nodes hear of."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import egress_service_pb2 as pb
from barua.control.v1 import quota_service_pb2, smtp_provider_pb2, smtp_provider_service_pb2
from barua.control.v1.egress_pb2 import EgressRule, Pool, PoolMember, Source, WarmUp
from barua.policy.v1 import policy_service_pb2

from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id


async def make_source(control: Control, source_id: str, address: str, **fields: Any) -> Source:
    """Make a source."""
    source = Source(address=address, ehlo_name=f"{source_id}.example.com", **fields)
    request = pb.CreateSourceRequest(source_id=source_id, source=source, request_id=new_id())
    made: Source = await control.call(control.egress.CreateSource, request)
    assert await control.call(control.egress.CreateSource, request) == made
    return made


async def make_pool(control: Control, pool_id: str, **weights: int) -> Pool:
    """Make a pool of sources with these weights."""
    members = [PoolMember(source=f"sources/{source_id}", weight=weight) for source_id, weight in weights.items()]
    request = pb.CreatePoolRequest(pool_id=pool_id, pool=Pool(members=members), request_id=new_id())
    made: Pool = await control.call(control.egress.CreatePool, request)
    return made


async def make_rule(control: Control, rule_id: str, **fields: Any) -> EgressRule:
    """Make a rule."""
    request = pb.CreateEgressRuleRequest(egress_rule_id=rule_id, egress_rule=EgressRule(**fields), request_id=new_id())
    made: EgressRule = await control.call(control.egress.CreateEgressRule, request)
    return made


def days_ago(days: int) -> Timestamp:
    """A time so many days ago."""
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) - timedelta(days=days))
    return time


@pytest.mark.each_postgres
async def test_sources_warm_up_and_their_state(control: Control) -> None:
    warm = WarmUp(start_time=days_ago(2), daily_limits=[50, 100, 200])
    made = await make_source(control, "ip1", "192.0.2.1", warm_up=warm, daily_limit=1000, note="new")
    assert (made.state, made.warm_up_day, made.limit_today, made.used_today) == (Source.STATE_ACTIVE, 3, 200, 0)
    take = quota_service_pb2.TakeQuotaRequest(source=made.name, count=199)
    assert (await control.call(control.quotas.TakeQuota, take, control.node)).granted_count == 199
    with pytest.raises(Refusal) as caught:
        await control.call(control.quotas.TakeQuota, take, control.node)
    assert (caught.value.reason, caught.value.metadata["source"]) == (Reason.RATE_LIMITED, "ip1")
    done = Source(name=made.name, warm_up=WarmUp(start_time=days_ago(9), daily_limits=[50]), etag=made.etag)
    later = await control.call(control.egress.UpdateSource, pb.UpdateSourceRequest(source=done))
    assert (later.warm_up_day, later.limit_today, later.used_today) == (0, 1000, 199)
    assert await control.refused(control.egress.UpdateSource, pb.UpdateSourceRequest(source=done)) is Reason.STALE_ETAG
    for state in (Source.STATE_DRAINING, Source.STATE_DISABLED, Source.STATE_ACTIVE):
        request = pb.SetSourceStateRequest(name=made.name, state=state)
        assert (await control.call(control.egress.SetSourceState, request)).state == state
    await make_source(control, "ip6", "2001:DB8::1")
    listed = await control.call(control.egress.ListSources, pb.ListSourcesRequest())
    assert [source.address for source in listed.sources] == ["192.0.2.1", "2001:db8::1"]
    got = await control.call(control.egress.GetSource, pb.GetSourceRequest(name="sources/ip6"))
    assert (got.warm_up_day, got.limit_today) == (0, 0)
    await control.call(control.egress.DeleteSource, pb.DeleteSourceRequest(name="sources/ip6"))
    assert await control.refused(control.egress.GetSource, pb.GetSourceRequest(name="sources/ip6")) is Reason.NOT_FOUND


BAD_SOURCES: list[tuple[dict[str, Any], Reason, str | None]] = [
    ({"address": "192.0.2.1"}, Reason.ALREADY_EXISTS, "source.address"),
    ({"address": "0.0.0.0"}, Reason.INVALID_ARGUMENT, "source.address"),
    ({"address": "192.0.2.0/24"}, Reason.INVALID_ARGUMENT, "source.address"),
    ({"address": "fe80::1%eth0"}, Reason.INVALID_ARGUMENT, "source.address"),
    ({"ehlo_name": "one two"}, Reason.INVALID_ARGUMENT, "source.ehlo_name"),
    ({"ehlo_name": ""}, Reason.INVALID_ARGUMENT, "source.ehlo_name"),
    ({"warm_up": WarmUp()}, Reason.INVALID_ARGUMENT, "source.warm_up.daily_limits"),
    ({"warm_up": WarmUp(daily_limits=[5, 0])}, Reason.INVALID_ARGUMENT, "source.warm_up.daily_limits"),
    ({"daily_limit": -1}, Reason.INVALID_ARGUMENT, "source.daily_limit"),
    ({"note": "x" * 501}, Reason.INVALID_ARGUMENT, "source.note"),
]
BAD_RULES: list[tuple[dict[str, Any], Reason, str | None]] = [
    ({}, Reason.INVALID_ARGUMENT, "egress_rule"),
    ({"pool": "pools/none"}, Reason.NOT_FOUND, None),
    ({"pool": "none"}, Reason.INVALID_ARGUMENT, "egress_rule.pool"),
    ({"smtp_provider": "tenants/acme/smtpProviders/none"}, Reason.NOT_FOUND, None),
    ({"suspended": True, "tenant": "tenants/none"}, Reason.NOT_FOUND, None),
    ({"suspended": True, "stream": "No Good"}, Reason.INVALID_ARGUMENT, "egress_rule.stream"),
    ({"suspended": True, "recipient_domain": "a b"}, Reason.INVALID_ARGUMENT, "egress_rule.recipient_domain"),
    ({"connections": -1}, Reason.INVALID_ARGUMENT, "egress_rule.connections"),
]


async def test_bad_sources_pools_and_rules(control: Control) -> None:
    await control.tenant("acme")
    await make_source(control, "ip1", "192.0.2.1")
    for fields, reason, field in BAD_SOURCES:
        source = Source(**({"address": "192.0.2.9", "ehlo_name": "a.example.com"} | fields))
        with pytest.raises(Refusal) as caught:
            await control.call(control.egress.CreateSource, pb.CreateSourceRequest(source_id="x", source=source))
        assert (caught.value.reason, caught.value.field) == (reason, field), fields
    for fields, reason, field in BAD_RULES:
        with pytest.raises(Refusal) as caught:
            await make_rule(control, "x", **fields)
        assert (caught.value.reason, caught.value.field) == (reason, field), fields
    with pytest.raises(Refusal) as caught:
        await make_pool(control, "p", none=1)
    assert caught.value.reason is Reason.NOT_FOUND
    with pytest.raises(Refusal) as caught:
        await make_pool(control, "p", ip1=1001)
    assert caught.value.field == "pool.members[0].weight"
    twice = Pool(members=[PoolMember(source="sources/ip1"), PoolMember(source="sources/ip1")])
    request = pb.CreatePoolRequest(pool_id="p", pool=twice)
    assert await control.refused(control.egress.CreatePool, request) is Reason.INVALID_ARGUMENT


async def test_pools_rules_and_assignments(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("acme", "reseller")
    await make_source(control, "ip1", "192.0.2.1")
    await make_source(control, "ip2", "192.0.2.2")
    pool = await make_pool(control, "good", ip1=3, ip2=0)
    assert [(member.source, member.weight) for member in pool.members] == [("sources/ip1", 3), ("sources/ip2", 1)]
    in_use = pb.DeleteSourceRequest(name="sources/ip1")
    assert await control.refused(control.egress.DeleteSource, in_use) is Reason.FAILED_PRECONDITION

    request = pb.AssignPoolRequest(tenant="tenants/reseller", pool="pools/good", request_id=new_id())
    assigned = await control.call(control.egress.AssignPool, request)
    assert (assigned.pool, assigned.effective_pool) == ("pools/good", "pools/good")
    get = pb.GetPoolAssignmentRequest(tenant="tenants/acme")
    below = await control.call(control.egress.GetPoolAssignment, get)
    assert (below.pool, below.effective_pool) == ("", "pools/good")
    addresses = pb.ListOutgoingAddressesRequest(parent="tenants/me", page_size=1)
    first = await control.call(control.egress.ListOutgoingAddresses, addresses, basic("acme"))
    addresses.page_token = first.next_page_token
    second = await control.call(control.egress.ListOutgoingAddresses, addresses, basic("acme"))
    assert [*first.addresses, *second.addresses] == ["192.0.2.1", "192.0.2.2"]
    assert await control.refused(control.egress.ListSources, pb.ListSourcesRequest(), basic("acme")) is (
        Reason.PERMISSION_DENIED
    )

    await make_rule(control, "zz", position=1, pool="pools/good", stream="news", note="bulk apart")
    await make_rule(control, "aa", position=2, mx_suffix=".Google.com", connections=5, messages_per_minute=60)
    stop = await make_rule(control, "stop", position=-1, tenant="tenants/acme", suspended=True)
    page = pb.ListEgressRulesRequest(page_size=2)
    listed = await control.call(control.egress.ListEgressRules, page)
    page.page_token = listed.next_page_token
    rest = await control.call(control.egress.ListEgressRules, page)
    rules = [*listed.egress_rules, *rest.egress_rules]
    assert [rule.name for rule in rules] == ["egressRules/stop", "egressRules/zz", "egressRules/aa"]
    assert rules[2].mx_suffix == "google.com"
    assert [rule.WhichOneof("way") for rule in rules] == ["suspended", "pool", None]

    provider = smtp_provider_pb2.SmtpProvider(host="smtp.example.com")
    made = smtp_provider_service_pb2.CreateSmtpProviderRequest(
        parent="tenants/operator", smtp_provider_id="hub", smtp_provider=provider
    )
    await control.call(control.smtp_providers.CreateSmtpProvider, made)
    wanted = EgressRule(name=stop.name, smtp_provider="tenants/operator/smtpProviders/hub", etag=stop.etag)
    changed = await control.call(control.egress.UpdateEgressRule, pb.UpdateEgressRuleRequest(egress_rule=wanted))
    assert (changed.WhichOneof("way"), changed.tenant) == ("smtp_provider", "tenants/acme")
    delete = smtp_provider_service_pb2.DeleteSmtpProviderRequest(name="tenants/operator/smtpProviders/hub")
    assert await control.refused(control.smtp_providers.DeleteSmtpProvider, delete) is Reason.FAILED_PRECONDITION
    gone = pb.DeletePoolRequest(name="pools/good")
    assert await control.refused(control.egress.DeletePool, gone) is Reason.FAILED_PRECONDITION

    await control.call(control.egress.DeleteEgressRule, pb.DeleteEgressRuleRequest(name="egressRules/zz"))
    await control.call(control.egress.AssignPool, pb.AssignPoolRequest(tenant="tenants/reseller"))
    members = pb.UpdatePoolRequest(pool=Pool(name="pools/good"))
    members.update_mask.paths.append("members")
    assert not (await control.call(control.egress.UpdatePool, members)).members
    await control.call(control.egress.DeletePool, gone)
    await control.call(control.egress.DeleteSource, in_use)


async def test_nodes_hear_of_all_of_it_and_of_its_end(control: Control) -> None:
    await make_source(control, "ip1", "192.0.2.1", warm_up=WarmUp(daily_limits=[5]))
    await make_pool(control, "good", ip1=3)
    await make_rule(control, "r", pool="pools/good", sender_domain="acme.test", messages_per_connection=9)
    await control.call(control.egress.AssignPool, pb.AssignPoolRequest(tenant="tenants/operator", pool="pools/good"))
    request = policy_service_pb2.WatchPolicyRequest(node="n1")
    stream = control.policy.WatchPolicy(request, metadata=control.node, timeout=60)
    found: dict[str, policy_service_pb2.Change] = {}
    async for step in stream:
        found |= {str(change.WhichOneof("record")): change for change in step.changes.changes}
        if step.WhichOneof("step") == "snapshot_end":
            break
    assert (found["source"].source.address, found["source"].source.limited) == ("192.0.2.1", True)
    assert (list(found["pool"].pool.source_ids), list(found["pool"].pool.weights)) == (["ip1"], [3])
    assert found["egress_rule"].egress_rule.pool_id == "good"
    assert found["egress_rule"].egress_rule.messages_per_connection == 9
    assert found["pool_assignment"].pool_assignment.tenant_id == "operator"
    await control.call(control.egress.AssignPool, pb.AssignPoolRequest(tenant="tenants/operator"))
    await control.call(control.egress.DeleteEgressRule, pb.DeleteEgressRuleRequest(name="egressRules/r"))
    await control.call(control.egress.DeletePool, pb.DeletePoolRequest(name="pools/good"))
    await control.call(control.egress.DeleteSource, pb.DeleteSourceRequest(name="sources/ip1"))
    gone: set[str] = set()
    async for step in stream:
        gone |= {str(change.WhichOneof("record")) for change in step.changes.changes if change.deleted}
        if len(gone) == 4:
            break
    stream.cancel()
