"""Which rule applies in the tree of tenants."""

from collections.abc import Iterable, Sequence

from mta.policy.lookup import MAX_DEPTH, default_sender, lineage, may_send_from, suppressed
from mta.policy.records import ApiKey, Login, OAuthClient, Sender, SenderDomain, Suppression, Tenant


class Records:
    """A policy in memory."""

    def __init__(self, *records: Tenant | SenderDomain | Sender | Suppression) -> None:
        self._tenants = {record.tenant_id: record for record in records if isinstance(record, Tenant)}
        self._domains = {record.domain: record for record in records if isinstance(record, SenderDomain)}
        self._senders = [record for record in records if isinstance(record, Sender)]
        self._suppressions = [record for record in records if isinstance(record, Suppression)]

    def tenant(self, tenant_id: str) -> Tenant | None:
        return self._tenants.get(tenant_id)

    def login(self, username: str) -> Login | None:
        return None

    def api_key(self, key_id: str) -> ApiKey | None:
        return None

    def oauth_client(self, client_id: str) -> OAuthClient | None:
        return None

    def sender_domain(self, domain: str) -> SenderDomain | None:
        return self._domains.get(domain)

    def first_domain(self, tenant_id: str) -> str | None:
        return min((name for name, record in self._domains.items() if record.tenant_id == tenant_id), default=None)

    def senders(self, address: str) -> list[str]:
        return [record.tenant_id for record in self._senders if record.address == address]

    def signing_domain(self) -> SenderDomain | None:
        return next((record for record in self._domains.values() if record.signs_for_senders), None)

    def suppressions(self, address: str, tenant_ids: Sequence[str]) -> list[Suppression]:
        return [r for r in self._suppressions if r.address == address and r.tenant_id in tenant_ids]


def tenants(*names: str, senders: Iterable[str] = ()) -> list[Tenant]:
    """A chain, the top first."""
    given = dict(zip(names, senders, strict=False))
    return [
        Tenant(name, names[index - 1] if index else "", False, given.get(name, "")) for index, name in enumerate(names)
    ]


NOW = 1_700_000_000.0
TREE = tenants("operator", "reseller", "acme")


def test_a_lineage_is_the_tenant_and_those_above() -> None:
    policy = Records(*TREE)
    assert [tenant.tenant_id for tenant in lineage(policy, "acme")] == ["acme", "reseller", "operator"]
    assert [tenant.tenant_id for tenant in lineage(policy, "operator")] == ["operator"]
    assert lineage(policy, "nobody") == ()


def test_a_circle_ends() -> None:
    policy = Records(Tenant("a", "b", False, ""), Tenant("b", "a", False, ""))
    assert len(lineage(policy, "a")) == MAX_DEPTH


def test_the_deepest_tree_is_followed_to_the_top() -> None:
    names = [f"t{number}" for number in range(MAX_DEPTH)]
    assert [tenant.tenant_id for tenant in lineage(Records(*tenants(*names)), names[-1])] == names[::-1]


def test_domains_are_inherited_downwards_only() -> None:
    domain = SenderDomain("reseller.test", "reseller", False, ())
    policy = Records(*TREE, Tenant("sister", "operator", False, ""), domain)
    assert may_send_from(policy, lineage(policy, "acme"), "reseller.test") is domain
    assert may_send_from(policy, lineage(policy, "reseller"), "reseller.test") is domain
    for other in ("operator", "sister"):
        assert may_send_from(policy, lineage(policy, other), "reseller.test") is None
    assert may_send_from(policy, lineage(policy, "acme"), "unknown.test") is None


def test_the_nearest_default_sender_counts() -> None:
    policy = Records(*tenants("operator", "reseller", "acme", senders=("o@o.test", "r@r.test")))
    assert default_sender(policy, lineage(policy, "acme")) == "r@r.test"
    assert default_sender(policy, lineage(policy, "operator")) == "o@o.test"


def test_without_one_it_is_made_from_the_first_domain() -> None:
    domains = [SenderDomain(name, "reseller", False, ()) for name in ("b.test", "a.test")]
    policy = Records(*TREE, *domains)
    assert default_sender(policy, lineage(policy, "acme")) == "noreply@a.test"
    own = SenderDomain("z.test", "acme", False, ())
    policy = Records(*TREE, *domains, own)
    assert default_sender(policy, lineage(policy, "acme")) == "noreply@z.test"


def test_there_may_be_none() -> None:
    policy = Records(*TREE)
    assert default_sender(policy, lineage(policy, "acme")) is None


def test_suppressions_hold_for_those_below() -> None:
    everywhere = Suppression("operator", "x@example.net", "complaint")
    near = Suppression("reseller", "x@example.net", "manual")
    beside = Suppression("sister", "y@example.net", "manual")
    policy = Records(*TREE, Tenant("sister", "operator", False, ""), everywhere, near, beside)
    assert suppressed(policy, lineage(policy, "acme"), "x@example.net", "", NOW) == near
    assert suppressed(policy, lineage(policy, "sister"), "x@example.net", "", NOW) == everywhere
    assert suppressed(policy, lineage(policy, "acme"), "y@example.net", "", NOW) is None
    assert suppressed(policy, lineage(policy, "acme"), "z@example.net", "", NOW) is None


def test_a_suppression_for_a_stream_holds_for_that_stream_alone() -> None:
    news = Suppression("acme", "x@example.net", "unsubscribe", "news")
    policy = Records(*TREE, news)
    line = lineage(policy, "acme")
    assert suppressed(policy, line, "x@example.net", "news", NOW) == news
    assert suppressed(policy, line, "x@example.net", "receipts", NOW) is None
    assert suppressed(policy, line, "x@example.net", "", NOW) is None


def test_a_suppression_ends_at_its_time() -> None:
    ending = Suppression("acme", "x@example.net", "soft_bounce", "", NOW)
    above = Suppression("operator", "x@example.net", "manual")
    policy = Records(*TREE, ending, above)
    line = lineage(policy, "acme")
    assert suppressed(policy, line, "x@example.net", "", NOW - 0.001) == ending
    assert suppressed(policy, line, "x@example.net", "", NOW) == above
