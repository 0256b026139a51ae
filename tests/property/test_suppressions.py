"""Which suppression holds for a message: the rule against a plain reading of its definition."""

from hypothesis import given
from hypothesis import strategies as st

from mta.policy.lookup import lineage, suppressed
from mta.policy.records import Suppression, Tenant
from tests.unit.policy.test_lookup import Records

TENANTS = ("operator", "reseller", "acme", "sister")
PARENTS = {"operator": "", "reseller": "operator", "acme": "reseller", "sister": "operator"}
TREE = [Tenant(name, PARENTS[name], False, "") for name in TENANTS]
ADDRESSES = ("a@x.test", "b@x.test")
STREAMS = ("", "news", "receipts")

entries = st.builds(
    Suppression,
    st.sampled_from(TENANTS),
    st.sampled_from(ADDRESSES),
    st.just("manual"),
    st.sampled_from(STREAMS),
    st.sampled_from((0.0, 50.0, 100.0, 150.0)),
)


@given(
    st.lists(entries, max_size=12, unique_by=lambda entry: (entry.tenant_id, entry.address, entry.stream)),
    st.sampled_from(TENANTS),
    st.sampled_from(ADDRESSES),
    st.sampled_from(STREAMS),
)
def test_the_rule_is_its_definition(entries: list[Suppression], tenant: str, address: str, stream: str) -> None:
    now = 100.0
    policy = Records(*TREE, *entries)
    line = lineage(policy, tenant)
    above = [member.tenant_id for member in line]
    holding = [
        entry
        for entry in entries
        if entry.tenant_id in above
        and entry.address == address
        and entry.stream in {"", stream}
        and (entry.expire_time == 0 or now < entry.expire_time)
    ]
    found = suppressed(policy, line, address, stream, now)
    # The nearest tenant's, and of its two the one for all streams.
    assert found == min(holding, key=lambda entry: (above.index(entry.tenant_id), entry.stream != ""), default=None)
