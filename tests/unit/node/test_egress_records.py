"""Ways out on their way from control's stream through the replica to a worker: what goes in comes out."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barua.policy.v1 import policy_service_pb2 as pb

from mta.node import convert, egressrecords
from mta.policy.egress import EgressRule, Pool, PoolAssignment, ProviderTls, SmtpProvider, Source, SourceState
from mta.replica.reader import ReplicaReader
from mta.replica.writer import ReplicaWriter

CHANGES = [
    pb.Change(
        smtp_provider=pb.SmtpProviderRecord(
            tenant_id="acme",
            provider_id="ses",
            host="smtp.example.com",
            port=587,
            tls=pb.SmtpProviderRecord.TLS_STARTTLS_IF_OFFERED,
            username="user",
            sealed_password=b"\x01sealed",
            limited=True,
            waits=True,
            shared=True,
            is_default=True,
            allow_private_addresses=True,
            allow_invalid_certificate=True,
        )
    ),
    pb.Change(
        source=pb.SourceRecord(
            source_id="ip1",
            address="192.0.2.1",
            ehlo_name="a.example.com",
            state=pb.SourceRecord.STATE_DRAINING,
            limited=True,
        )
    ),
    pb.Change(pool=pb.PoolRecord(pool_id="bulk", source_ids=["ip1", "ip2"], weights=[3, 1])),
    pb.Change(
        pool=pb.PoolRecord(
            pool_id="p1", source_ids=["ip1"], weights=[1], tenant_id="acme", folded_name="news", overflow_pool_id="bulk"
        )
    ),
    pb.Change(
        egress_rule=pb.EgressRuleRecord(
            rule_id="r",
            position=-3,
            tenant_id="acme",
            stream="news",
            sender_domain="a.test",
            recipient_domain=".b.test",
            mx_suffix="c.test",
            provider_tenant_id="acme",
            provider_id="ses",
            connections=1,
            messages_per_connection=2,
            messages_per_minute=3,
        )
    ),
    pb.Change(pool_assignment=pb.PoolAssignmentRecord(tenant_id="acme", pool_id="bulk")),
]
PROVIDER = SmtpProvider(
    "acme", "ses", "smtp.example.com", 587, ProviderTls.IF_OFFERED, "user", b"\x01sealed", *[True] * 6
)
RULE = EgressRule("r", -3, "acme", "news", "a.test", ".b.test", "c.test", "", ("acme", "ses"), False, 1, 2, 3)


def test_every_record_comes_through_and_goes_again(tmp_path: Path) -> None:
    writer = ReplicaWriter(tmp_path / "policy.db")
    writer.replace([], "lineage", 1)
    reader = ReplicaReader(tmp_path / "policy.db")
    egress = reader.egress
    before = egress.egress_version
    writer.apply(convert.records(CHANGES), 2)
    assert reader.refresh()
    assert egress.egress_version != before
    assert egress.provider("acme", "ses") == egress.default_provider("acme") == PROVIDER
    assert "sealed" not in repr(PROVIDER)
    assert egress.sources == {"ip1": Source("ip1", "192.0.2.1", "a.example.com", SourceState.DRAINING, True)}
    theirs = Pool("p1", (("ip1", 1),), "acme", "news", "bulk")
    assert egress.pools == {"bulk": Pool("bulk", (("ip1", 3), ("ip2", 1))), "p1": theirs}
    assert (egress.tenant_pool("acme", "news"), egress.tenant_pool("rival", "news")) == ("p1", "")
    assert list(egress.rules) == [RULE]
    assert (egress.assigned_pool("acme"), egress.assigned_pool("other")) == ("bulk", "")
    assert (egress.has_providers, egress.has_assignments) == (True, True)

    # A snapshot with the same records says the same; one without them is the end of all.
    writer.replace([record for record, _ in convert.records(CHANGES)], "lineage", 3)
    assert reader.refresh()
    assert (egress.provider("acme", "ses"), list(egress.rules)) == (PROVIDER, [RULE])
    for change in CHANGES:
        change.deleted = True
    writer.apply(convert.records(CHANGES), 4)
    for change in CHANGES:
        change.deleted = False
    assert reader.refresh()
    assert (egress.provider("acme", "ses"), egress.default_provider("acme")) == (None, None)
    assert (dict(egress.sources), dict(egress.pools), list(egress.rules)) == ({}, {}, [])
    assert egress.tenant_pool("acme", "news") == ""
    assert (egress.has_providers, egress.has_assignments, egress.assigned_pool("acme")) == (False, False, "")
    reader.close()
    writer.close()


def test_other_changes_leave_the_mark_alone(tmp_path: Path) -> None:
    writer = ReplicaWriter(tmp_path / "policy.db")
    writer.replace([record for record, _ in convert.records(CHANGES)], "lineage", 1)
    reader = ReplicaReader(tmp_path / "policy.db")
    before = reader.egress.egress_version
    writer.apply(convert.records([pb.Change(tenant=pb.TenantRecord(tenant_id="acme"))]), 2)
    assert reader.refresh()
    assert reader.egress.egress_version == before
    reader.close()
    writer.close()


def test_a_state_of_a_later_version_is_not_used() -> None:
    change = pb.Change(source=pb.SourceRecord(source_id="x", address="192.0.2.1", ehlo_name="a.test"))
    found = egressrecords.record(change)
    assert isinstance(found, Source)
    assert found.state is SourceState.DISABLED
    assert egressrecords.record(pb.Change(tenant=pb.TenantRecord())) is None


NAMES = st.text("abc-.", max_size=5)
RULES = st.builds(
    EgressRule,
    rule_id=st.sampled_from("abcd"),
    position=st.integers(-5, 5),
    tenant_id=NAMES,
    stream=NAMES,
    pool_id=NAMES,
    suspended=st.booleans(),
    connections=st.integers(0, 9),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(RULES, st.booleans()), max_size=12))
def test_rules_are_those_written_last_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[EgressRule, bool]]
) -> None:
    path = tmp_path_factory.mktemp("replica") / "policy.db"
    writer = ReplicaWriter(path)
    reader = ReplicaReader(path)
    expected: dict[str, EgressRule] = {}
    for revision, (rule, deleted) in enumerate(changes, 1):
        writer.apply([(rule, deleted)], revision)
        if deleted:
            expected.pop(rule.rule_id, None)
        else:
            expected[rule.rule_id] = rule
    reader.refresh()
    assert list(reader.egress.rules) == sorted(expected.values(), key=lambda one: (one.position, one.rule_id))
    reader.close()
    writer.close()


def test_an_assignment_is_a_record() -> None:
    assert egressrecords.record(CHANGES[5]) == PoolAssignment("acme", "bulk")
