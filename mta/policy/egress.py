"""Ways out: SMTP providers, sources, pools, egress rules, and which of them a message uses.

``decide`` is the rule book: given the rules in force and what is known of a message, its way and its limits, each with
who said so. Rules are looked at in their order; the first with a way decides the way, and for each limit the first that
sets it decides it. Without a rule the pool of the tenant, or of the nearest tenant above that has one, is the way.

Pure: no I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

BUILT_IN = "builtin"
"""Id of the provider that is the MTA itself."""


class ProviderTls(StrEnum):
    """How TLS is spoken with a provider's server."""

    IMPLICIT = "implicit"
    REQUIRED = "required"
    IF_OFFERED = "if-offered"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SmtpProvider:
    """A way out of a tenant: a server of its own, or with the id ``builtin`` the MTA itself."""

    tenant_id: str
    provider_id: str
    host: str
    port: int
    tls: ProviderTls
    username: str
    sealed_password: bytes = field(repr=False)
    limited: bool
    """It has an hourly or daily limit."""
    waits: bool
    """What is over a limit waits; otherwise it is refused when it is submitted."""
    shared: bool
    """The tenants below may use it."""
    is_default: bool
    allow_private: bool
    allow_invalid_certificate: bool

    @property
    def key(self) -> str:
        """Unique on the platform."""
        return f"{self.tenant_id}/{self.provider_id}"

    @property
    def built_in(self) -> bool:
        """It is the MTA itself."""
        return self.provider_id == BUILT_IN


class SourceState(StrEnum):
    """What a source is good for."""

    ACTIVE = "active"
    DRAINING = "draining"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Source:
    """An address of a machine that mail goes out from."""

    source_id: str
    address: str
    ehlo_name: str
    state: SourceState
    limited: bool
    """It has a daily limit."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Sources that share mail between them, each with its weight."""

    pool_id: str
    members: tuple[tuple[str, int], ...]
    tenant_id: str = ""
    """The tenant that made it, whose messages and those of tenants below may name it; empty: the operator's."""
    folded_name: str = ""
    """What they call it, case folded."""
    overflow_pool_id: str = ""
    """What sends what no source of this one may send now; empty: nothing."""


@dataclass(frozen=True, slots=True)
class EgressRule:
    """A rule; empty conditions hold for all mail, limits of 0 are not set."""

    rule_id: str
    position: int
    tenant_id: str = ""
    stream: str = ""
    sender_domain: str = ""
    recipient_domain: str = ""
    mx_suffix: str = ""
    pool_id: str = ""
    provider: tuple[str, str] | None = None
    """Tenant id and provider id."""
    suspended: bool = False
    connections: int = 0
    messages_per_connection: int = 0
    messages_per_minute: int = 0

    @property
    def has_way(self) -> bool:
        """It says where mail goes."""
        return bool(self.pool_id or self.provider or self.suspended)


@dataclass(frozen=True, slots=True)
class PoolAssignment:
    """The pool of a tenant and of those below it that have none of their own."""

    tenant_id: str
    pool_id: str


EgressRecord = SmtpProvider | Source | Pool | EgressRule | PoolAssignment


class EgressPolicy(Protocol):
    """The ways out in force. Look-ups are synchronous and cheap enough for the path of a message."""

    @property
    def egress_version(self) -> object:
        """Another value whenever anything of this may have changed."""

    @property
    def has_providers(self) -> bool:
        """Whether any tenant has a provider; if not, there is nothing to look up for a message."""

    def provider(self, tenant_id: str, provider_id: str) -> SmtpProvider | None:
        """A provider of exactly this tenant."""

    def default_provider(self, tenant_id: str) -> SmtpProvider | None:
        """The default that exactly this tenant has chosen."""

    def assigned_pool(self, tenant_id: str) -> str:
        """The pool of exactly this tenant; empty: none."""

    @property
    def has_assignments(self) -> bool:
        """Whether any tenant has a pool."""

    @property
    def sources(self) -> Mapping[str, Source]:
        """All sources by id."""

    @property
    def pools(self) -> Mapping[str, Pool]:
        """All pools by id."""

    def tenant_pool(self, tenant_id: str, folded_name: str) -> str:
        """The id of exactly this tenant's pool of this name; empty: there is none."""

    @property
    def rules(self) -> Sequence[EgressRule]:
        """All rules in their order."""


class Question(NamedTuple):
    """What is known of a message. ``hosts``: the site's servers in order; None: not known yet."""

    line: tuple[str, ...]
    """Tenant ids, nearest first."""
    stream: str
    sender_domain: str
    domain: str
    hosts: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a site; 0: that of the options, or none."""

    connections: int = 0
    messages_per_connection: int = 0
    messages_per_minute: int = 0

    @property
    def any(self) -> bool:
        """Something is set."""
        return bool(self.connections or self.messages_per_connection or self.messages_per_minute)


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Decision:
    """The way of a message and its limits. One at most of pool, provider and suspension is set."""

    pool_id: str = ""
    provider: tuple[str, str] | None = None
    suspended: bool = False
    limits: Limits = NO_LIMITS
    decided_by: Mapping[str, str] = field(default_factory=dict)
    """Who said so: "way" and names of limits, each with the rule or the assignment."""


def decide(policy: EgressPolicy, question: Question) -> Decision | None:
    """The way of a message; None when that depends on the site's servers, which the question does not have."""
    way: EgressRule | None = None
    limits: dict[str, int] = {}
    decided_by: dict[str, str] = {}
    for rule in policy.rules:
        if not _holds(rule, question):
            continue
        if rule.mx_suffix:
            if question.hosts is None:
                return None
            if not question.hosts or not under(question.hosts[0], rule.mx_suffix):
                continue
        if way is None and rule.has_way:
            way = rule
            decided_by["way"] = f"rule {rule.rule_id}"
        for name in ("connections", "messages_per_connection", "messages_per_minute"):
            value = getattr(rule, name)
            if value and name not in limits:
                limits[name] = value
                decided_by[name] = f"rule {rule.rule_id}"
    if way is not None:
        return Decision(way.pool_id, way.provider, way.suspended, Limits(**limits), decided_by)
    for tenant_id in question.line:
        pool_id = policy.assigned_pool(tenant_id)
        if pool_id:
            return Decision(
                pool_id=pool_id,
                limits=Limits(**limits),
                decided_by=decided_by | {"way": f"assignment of tenant {tenant_id}"},
            )
    return Decision(limits=Limits(**limits), decided_by=decided_by)


def _holds(rule: EgressRule, question: Question) -> bool:
    """Whether a message meets the conditions of a rule, except for that on the site."""
    return (
        (not rule.tenant_id or rule.tenant_id in question.line)
        and (not rule.stream or rule.stream == question.stream)
        and _matches(rule.sender_domain, question.sender_domain)
        and _matches(rule.recipient_domain, question.domain)
    )


def _matches(condition: str, domain: str) -> bool:
    """A domain against "", a domain, or ".suffix"."""
    if condition.startswith("."):
        return domain.endswith(condition)
    return not condition or condition == domain


def under(host: str, suffix: str) -> bool:
    """Whether a host's name is the suffix or ends with "." and it."""
    return host == suffix or host.endswith("." + suffix)


def provider_named(policy: EgressPolicy, line: Sequence[str], provider_id: str) -> SmtpProvider | None:
    """The provider that a tenant may use under an id: its own, or a shared one of the nearest tenant above."""
    for index, tenant_id in enumerate(line):
        found = policy.provider(tenant_id, provider_id)
        if found is not None and (not index or found.shared):
            return found
    return None


def provider_by_default(policy: EgressPolicy, line: Sequence[str]) -> SmtpProvider | None:
    """The default of a tenant: its own, or the shared one of the nearest tenant above; None: the built-in MTA."""
    for index, tenant_id in enumerate(line):
        found = policy.default_provider(tenant_id)
        if found is not None and (not index or found.shared):
            return found
    return None


def pool_named(policy: EgressPolicy, line: Sequence[str], name: str) -> str | None:
    """The id of the pool that a message of a tenant names; None: there is none that it may use.

    That is a pool of the tenant itself or the nearest tenant above that has one of this name, in any case of letters;
    or, by its id, one of the operator's that is assigned to the tenant or to one above. ``line``: tenant ids, nearest
    first.
    """
    if not name:
        return None
    folded = name.casefold()
    for tenant_id in line:
        pool_id = policy.tenant_pool(tenant_id, folded)
        if pool_id:
            return pool_id
    if policy.has_assignments and any(policy.assigned_pool(tenant_id) == name for tenant_id in line):
        return name
    return None


def pick(members: Sequence[tuple[str, int]], chance: float) -> str:
    """One of the sources by weight; ``chance`` is uniform in [0, 1). There must be a member."""
    total = sum(weight for _, weight in members)
    place = chance * total
    for source_id, weight in members:
        place -= weight
        if place < 0:
            return source_id
    return members[-1][0]
