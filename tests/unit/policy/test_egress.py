"""The rule book of ways out: conditions, order, inheritance, and sources picked by weight."""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.policy.egress import (
    EgressRule,
    Limits,
    Pool,
    ProviderTls,
    Question,
    SmtpProvider,
    Source,
    decide,
    pick,
    pool_named,
    provider_by_default,
    provider_named,
    under,
)

LINE = ("acme", "reseller", "operator")
QUESTION = Question(LINE, "news", "acme.test", "example.net", ("mx1.example.net", "mx2.example.net"))


@dataclass
class Book:
    """A policy in memory."""

    rules: tuple[EgressRule, ...] = ()
    assigned: dict[str, str] = field(default_factory=dict)
    providers: dict[tuple[str, str], SmtpProvider] = field(default_factory=dict)
    egress_version: object = 1
    has_providers: bool = True
    has_assignments: bool = True
    sources: dict[str, Source] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)

    def provider(self, tenant_id: str, provider_id: str) -> SmtpProvider | None:
        """A provider."""
        return self.providers.get((tenant_id, provider_id))

    def default_provider(self, tenant_id: str) -> SmtpProvider | None:
        """A default."""
        return next((one for one in self.providers.values() if one.tenant_id == tenant_id and one.is_default), None)

    def assigned_pool(self, tenant_id: str) -> str:
        """A pool."""
        return self.assigned.get(tenant_id, "")

    def tenant_pool(self, tenant_id: str, folded_name: str) -> str:
        """A tenant's pool."""
        found = (pool for pool in self.pools.values() if (pool.tenant_id, pool.folded_name) == (tenant_id, folded_name))
        return next((pool.pool_id for pool in found), "")


def provider(tenant: str, id_: str, *, default: bool = False, shared: bool = False) -> SmtpProvider:
    """A provider."""
    return SmtpProvider(
        tenant, id_, "h.test", 25, ProviderTls.NONE, "", b"", False, False, shared, default, False, False
    )


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (EgressRule("r", 1), True),
        (EgressRule("r", 1, tenant_id="acme"), True),
        (EgressRule("r", 1, tenant_id="reseller"), True),
        (EgressRule("r", 1, tenant_id="rival"), False),
        (EgressRule("r", 1, stream="news"), True),
        (EgressRule("r", 1, stream="receipts"), False),
        (EgressRule("r", 1, sender_domain="acme.test"), True),
        (EgressRule("r", 1, sender_domain=".acme.test"), False),
        (EgressRule("r", 1, recipient_domain="example.net"), True),
        (EgressRule("r", 1, recipient_domain=".net"), True),
        (EgressRule("r", 1, recipient_domain="ample.net"), False),
        (EgressRule("r", 1, mx_suffix="example.net"), True),
        (EgressRule("r", 1, mx_suffix="mx1.example.net"), True),
        (EgressRule("r", 1, mx_suffix="mx2.example.net"), False),
        (EgressRule("r", 1, mx_suffix="ample.net"), False),
    ],
)
def test_conditions(rule: EgressRule, holds: bool) -> None:
    decision = decide(Book((replace(rule, suspended=True),)), QUESTION)
    assert decision is not None
    assert decision.suspended is holds
    assert decision.decided_by == ({"way": "rule r"} if holds else {})


def test_the_first_rule_with_a_way_decides_it_and_the_first_with_a_limit_that_limit() -> None:
    rules = (
        EgressRule("slow", 1, connections=3),
        EgressRule("bulk", 2, pool_id="bulk", connections=9, messages_per_minute=60),
        EgressRule("hub", 3, provider=("operator", "hub"), messages_per_connection=7),
    )
    decision = decide(Book(rules, {"acme": "own"}), QUESTION)
    assert decision is not None
    assert (decision.pool_id, decision.provider, decision.limits) == ("bulk", None, Limits(3, 7, 60))
    assert decision.decided_by == {
        "way": "rule bulk",
        "connections": "rule slow",
        "messages_per_connection": "rule hub",
        "messages_per_minute": "rule bulk",
    }


def test_the_pool_of_the_nearest_tenant_above() -> None:
    for assigned, pool in (({"reseller": "a", "operator": "b"}, "a"), ({"operator": "b"}, "b"), ({"rival": "c"}, "")):
        decision = decide(Book((), assigned), QUESTION)
        assert decision is not None
        assert decision.pool_id == pool


def test_a_rule_about_sites_has_to_know_the_site() -> None:
    book = Book((EgressRule("mx", 1, mx_suffix="google.com", suspended=True),))
    assert decide(book, QUESTION._replace(hosts=None)) is None
    for hosts in ((), ("mx.other.test",)):
        decision = decide(book, QUESTION._replace(hosts=hosts))
        assert decision is not None
        assert not decision.suspended
    unconcerned = Book((EgressRule("mx", 1, mx_suffix="google.com", stream="other", suspended=True),))
    assert decide(unconcerned, QUESTION._replace(hosts=None)) is not None


@given(st.text("ab.", max_size=6), st.text("ab.", max_size=6))
def test_under_is_about_whole_labels(host: str, suffix: str) -> None:
    assert under(host, suffix) == (host.split(".")[-len(suffix.split(".")) :] == suffix.split("."))


def test_providers_by_name_and_by_default() -> None:
    own, theirs = provider("acme", "ses", default=False), provider("reseller", "ses", default=True, shared=True)
    book = Book(providers={("acme", "ses"): own, ("reseller", "ses"): theirs})
    assert provider_named(book, LINE, "ses") is own
    assert provider_by_default(book, LINE) is theirs
    hidden = provider("reseller", "ses", default=True)
    book = Book(providers={("reseller", "ses"): hidden})
    assert provider_named(book, LINE, "ses") is None
    assert provider_by_default(book, LINE) is None
    assert provider_by_default(book, LINE[1:]) is hidden


WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


@given(WEIGHTS)
def test_every_source_is_picked_in_proportion_to_its_weight(weights: list[int]) -> None:
    members = [(f"s{number}", weight) for number, weight in enumerate(weights)]
    total = sum(weights)
    # The middle of each unit of weight: as if chance were spread evenly.
    picked = Counter(pick(members, (unit + 0.5) / total) for unit in range(total))
    assert picked == Counter(dict(members))


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_there_is_always_a_source(weights: list[int], chance: float) -> None:
    members = [(f"s{number}", weight) for number, weight in enumerate(weights)]
    assert pick(members, chance) in dict(members)


def test_a_message_names_a_pool_of_its_tenant_or_one_above() -> None:
    pools = {
        "p1": Pool("p1", (), "acme", "strasse", ""),
        "p2": Pool("p2", (), "reseller", "bulk", ""),
        "p3": Pool("p3", (), "rival", "theirs", ""),
        "bulk": Pool("bulk", ()),
        "fast": Pool("fast", ()),
    }
    book = Book(pools=pools, assigned={"reseller": "fast", "rival": "bulk"})
    for name, expected in {
        "STRASSE": "p1",
        "Straße".upper(): "p1",
        "Bulk": "p2",
        "bulk": "p2",
        "fast": "fast",
        "FAST": None,
        "theirs": None,
        "p1": None,
        "": None,
        "no such": None,
    }.items():
        assert pool_named(book, LINE, name) == expected, name
    assert pool_named(book, LINE[1:], "straße") is None, "pools of tenants below are not for those above"
    assert pool_named(book, ("rival", "operator"), "bulk") == "bulk"
    assert pool_named(book, (), "bulk") is None
