"""Which way a job goes: the policy's decision turned into a route with a source, limits and a login, or a wait.

``Ways.way`` answers at once, with one of: where the job is ``Placed``; ``NEEDS_ROUTE``, when the answer of routing is
wanted first; ``NeedsQuota``, when a limit has to be asked for first; ``Wait``, when nothing may be sent now; or
routing's own ``RouteFailure``. Decisions are kept until the policy's ways out change.

A source that turns out not to be on this machine is left out for ``MISSING_SECONDS``; one that cannot reach a site,
being of the other family, is left out for that site. Mail of a pool without a usable source waits: it never goes out
from an address that nobody chose for it.

Thread rules: the loop's thread. No I/O.
"""

import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from prometheus_client import Counter

from mta.custody import quotas
from mta.custody.quotas import Quotas
from mta.delivery.site import SiteRules
from mta.policy.egress import (
    BUILT_IN,
    Decision,
    EgressPolicy,
    Limits,
    ProviderTls,
    Question,
    SmtpProvider,
    SourceState,
    decide,
    pick,
)
from mta.policy.lookup import Policy, lineage
from mta.queues.jobs import Job
from mta.routing.router import Credentials, Host, Route, RouteFailure, SourceAddress, TlsPolicy
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

WAIT_SECONDS = 60.0
"""Mail that may not go now is looked at again after this, or when the ways out change."""
MAX_WAIT_SECONDS = 900.0
"""Mail that waits for a window is looked at again after this at the latest: the limit may have been raised."""
MISSING_SECONDS = 60.0
"""A source that is not on this machine is tried again after this."""
UNFIT_SECONDS = 300.0
"""A source that cannot reach a site is tried for it again after this."""
NOT_SENT = "there was no capacity to send the message"
"""What a sender hears of trouble with sources, which are not its concern."""
MAX_KEPT = 100_000
"""Decisions, and pairs of source and site, that are remembered."""

UNUSABLE = Counter("barua_source_unusable_total", "Times that a source was found not to be usable.", ["source", "why"])

_TLS = {
    ProviderTls.IMPLICIT: TlsPolicy.IMPLICIT,
    ProviderTls.REQUIRED: TlsPolicy.REQUIRED,
    ProviderTls.IF_OFFERED: TlsPolicy.OPPORTUNISTIC,
    ProviderTls.NONE: TlsPolicy.NEVER,
}

OpenPassword = Callable[[SmtpProvider], str]
"""The password of a provider. Raises ValueError with a text for the log if it cannot be opened."""


class Needs(Enum):
    """What is wanted before a job can be placed."""

    ROUTE = "route"


NEEDS_ROUTE = Needs.ROUTE


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a job goes, and under what limits."""

    route: Route
    rules: SiteRules


@dataclass(frozen=True, slots=True)
class NeedsQuota:
    """Recipients of this subject are wanted first."""

    subject: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be sent for so long. ``why`` is for the operator; ``told``, if it differs, for the sender.

    ``left`` is how many recipients a limit still had room for, fewer than were asked for.
    """

    seconds: float
    why: str
    told: str = ""
    left: int = 0


Way = Placed | RouteFailure | Needs | NeedsQuota | Wait


class Ways:
    """Chooses ways for one worker, which is one of ``workers`` on its machine."""

    def __init__(
        self,
        policy: Policy,
        egress: EgressPolicy,
        quotas_: Quotas,
        open_password: OpenPassword,
        rules: SiteRules,
        workers: int,
        *,
        allow_private: bool,
    ) -> None:
        self._policy = policy
        self._egress = egress
        self._quotas = quotas_
        self._open_password = open_password
        self._rules = rules
        self._workers = workers
        self._allow_private = allow_private
        self._version: object = None
        self._decisions: dict[tuple[str, str, str, str, str | None], Decision | None] = {}
        self._provider_routes: dict[str, tuple[SmtpProvider, Route]] = {}
        self._missing: dict[str, float] = {}
        self._unfit: dict[tuple[str, str], float] = {}
        self.plain = True
        """No rule, no pool: mail without a provider needs no decision."""
        self.refresh()

    def refresh(self) -> bool:
        """Look whether the ways out have changed; True if they have."""
        if self._version == self._egress.egress_version:
            return False
        self._version = self._egress.egress_version
        self.plain = not self._egress.rules and not self._egress.has_assignments
        self._decisions.clear()
        self._provider_routes.clear()
        self._missing.clear()
        self._unfit.clear()
        return True

    def way(self, job: Job, answer: Route | RouteFailure | None) -> Way:
        """The way of a job; ``answer`` is that of routing, if it has been asked."""
        decision = self.decision(job.tenant, job.stream, job.sender.rpartition("@")[2], job.domain, answer)
        if decision is None:
            return NEEDS_ROUTE
        if decision.suspended:
            why = f"mail of this kind is suspended ({decision.decided_by.get('way', 'a rule')})"
            return Wait(WAIT_SECONDS, why, "mail of this kind is suspended")
        if job.pool in self._egress.pools:  # a message's own choice goes before a rule's, as long as it is there
            decision = replace(decision, pool_id=job.pool, provider=None)
        named = self._provider_of(job, decision)
        if isinstance(named, Wait):
            return named
        if named is not None:
            if named.limited and (named.waits or not job.provider):
                short = self._quota(job, quotas.of_provider(named.key))
                if short is not None:
                    return short
            if not named.built_in:
                return self._through(named, decision.limits)
        if answer is None:
            return NEEDS_ROUTE
        if isinstance(answer, RouteFailure):
            return answer
        if decision.pool_id:
            return self._from_pool(job, answer, decision)
        return self._placed(answer, decision.limits)

    def decision(
        self, tenant: str, stream: str, sender_domain: str, domain: str, answer: Route | RouteFailure | None
    ) -> Decision | None:
        """What the rules say; None: they have to know the site."""
        key = (tenant, stream, sender_domain, domain, answer.site if isinstance(answer, Route) else None)
        if answer is None or isinstance(answer, Route):
            kept = self._decisions.get(key)
            if kept is not None:
                return kept
        hosts: tuple[str, ...] | None = None
        if answer is not None:
            hosts = tuple(host.name for host in answer.hosts) if isinstance(answer, Route) else ()
        line = tuple(one.tenant_id for one in lineage(self._policy, tenant)) or (tenant,)
        decision = decide(self._egress, Question(line, stream, sender_domain, domain, hosts))
        if not isinstance(answer, RouteFailure):
            if len(self._decisions) >= MAX_KEPT:
                self._decisions.clear()
            self._decisions[key] = decision
        return decision

    def source_missing(self, source_id: str, why: str) -> None:
        """This machine does not have the address of a source."""
        self._missing[source_id] = time.monotonic() + MISSING_SECONDS
        UNUSABLE.labels(source_id, "missing").inc()
        log.error("source_unusable", source=source_id, reason=why, seconds=MISSING_SECONDS)

    def source_unfit(self, source_id: str, site: str, why: str) -> None:
        """A source cannot reach a site, which is named without the source."""
        if len(self._unfit) >= MAX_KEPT:
            self._unfit.clear()
        self._unfit[source_id, site] = time.monotonic() + UNFIT_SECONDS
        UNUSABLE.labels(source_id, "unfit").inc()
        log.info("source_unfit", source=source_id, site=site, reason=why)

    def is_draining(self, source_id: str) -> bool:
        """Whether what waits for this source is to go out from it still."""
        source = self._egress.sources.get(source_id)
        return source is not None and source.state is SourceState.DRAINING

    def unusable(self, source_id: str, site: str, count: int) -> tuple[str, float] | None:
        """Why a source cannot be used for a site now, and for how long; None: it can."""
        source = self._egress.sources.get(source_id)
        if source is None:
            return "gone", WAIT_SECONDS
        if source.state is not SourceState.ACTIVE:
            return source.state.value, WAIT_SECONDS
        now = time.monotonic()
        if self._missing.get(source_id, 0.0) > now:
            return "not on this machine", self._missing[source_id] - now
        if self._unfit.get((source_id, site), 0.0) > now:
            return "of another address family than the site", UNFIT_SECONDS
        refusal = self._quotas.refused(quotas.of_source(source_id), count) if source.limited else None
        if refusal is not None:
            return refusal.message, refusal.retry_after or WAIT_SECONDS
        return None

    def members(self, pool_id: str) -> Sequence[tuple[str, int]]:
        """The sources of a pool with their weights."""
        pool = self._egress.pools.get(pool_id)
        return pool.members if pool is not None else ()

    def rules_for(self, limits: Limits) -> SiteRules:
        """The limits of a site for this worker: its part of what a rule allows the machine."""
        if not limits.any:
            return self._rules
        rules = self._rules
        if limits.connections:
            rules = replace(rules, connections=math.ceil(limits.connections / self._workers))
        if limits.messages_per_connection:
            rules = replace(rules, messages_per_connection=limits.messages_per_connection)
        if limits.messages_per_minute:
            rules = replace(rules, interval_seconds=60.0 * self._workers / limits.messages_per_minute)
        return rules

    def _provider_of(self, job: Job, decision: Decision) -> SmtpProvider | Wait | None:
        """The provider that a job goes through, if any. A message's own choice goes before a rule's.

        The built-in MTA is no choice of a way, only a name for its limits; it goes on when those are deleted.
        """
        tenant_id, _, provider_id = job.provider.partition("/")
        if provider_id in ("", BUILT_IN) and decision.provider is not None:
            tenant_id, provider_id = decision.provider
        if not provider_id:
            return None
        found = self._egress.provider(tenant_id, provider_id)
        if found is None and provider_id != BUILT_IN:
            why = f"the SMTP provider {provider_id} was deleted; make one with this id, or wait until this is given up"
            return Wait(WAIT_SECONDS, why)
        return found

    def _through(self, provider: SmtpProvider, limits: Limits) -> Placed | RouteFailure:
        kept = self._provider_routes.get(provider.key)
        if kept is None or kept[0] is not provider:
            try:
                route = self._provider_route(provider)
            except ValueError as error:
                log.error("provider_password_unusable", provider=provider.key, error=str(error))
                text = f"the password of the SMTP provider {provider.provider_id} cannot be used; set it again"
                return RouteFailure(False, 451, "4.3.5", text)
            kept = self._provider_routes[provider.key] = (provider, route)
        return self._placed(kept[1], limits)

    def _provider_route(self, provider: SmtpProvider) -> Route:
        tls = _TLS[provider.tls]
        credentials = None
        if provider.username:
            credentials = Credentials(provider.username, self._open_password(provider))
            if tls is TlsPolicy.OPPORTUNISTIC:
                tls = TlsPolicy.REQUIRED
        opportunistic = tls in (TlsPolicy.OPPORTUNISTIC, TlsPolicy.NEVER)
        # Another server or login is another site: connections of the one are never used for the other.
        facts = (provider.host, provider.port, provider.tls, provider.username, provider.allow_private)
        digest = hashlib.sha256(repr((facts, provider.allow_invalid_certificate)).encode() + provider.sealed_password)
        return Route(
            site=f"provider:{provider.key}:{digest.hexdigest()[:12]}",
            hosts=(Host(provider.host, provider.port, provider.allow_private or self._allow_private),),
            tls=tls,
            verify=not (opportunistic or provider.allow_invalid_certificate),
            credentials=credentials,
            provider=provider.key,
        )

    def _from_pool(self, job: Job, route: Route, decision: Decision) -> Way:
        count = len(job.recipients)
        usable, excuses = self._usable(decision.pool_id, route.site, count)
        overflow = self._overflow(decision.pool_id) if not usable else ""
        if overflow:
            usable, more = self._usable(overflow, route.site, count)
            excuses |= more
        if not usable:
            limited = [self._quotas.refused(quotas.of_source(source_id), count) for source_id in excuses]
            return replace(_no_source(decision.pool_id, excuses), left=max(map(_left, limited), default=0))
        source_id = pick(usable, random.random())  # noqa: S311 (spreads load, no secret)
        source = self._egress.sources[source_id]
        if source.limited:
            short = self._quota(job, quotas.of_source(source_id))
            if short is not None:
                return short
        address = SourceAddress(source_id, source.address, source.ehlo_name)
        mark = hashlib.sha256(repr((source.address, source.ehlo_name)).encode()).hexdigest()[:6]
        site = f"{source_id}.{mark}|{route.site}"
        return self._placed(replace(route, site=site, source=address), decision.limits)

    def _usable(
        self, pool_id: str, site: str, count: int
    ) -> tuple[list[tuple[str, int]], dict[str, tuple[str, float]]]:
        """The sources of a pool that may send so many now, with their weights, and why the others may not."""
        usable: list[tuple[str, int]] = []
        excuses: dict[str, tuple[str, float]] = {}
        for source_id, weight in self.members(pool_id):
            excuse = self.unusable(source_id, site, count)
            if excuse is None:
                usable.append((source_id, weight))
            else:
                excuses[source_id] = excuse
        return usable, excuses

    def _overflow(self, pool_id: str) -> str:
        """The pool that sends what no source of this one may send now."""
        pool = self._egress.pools.get(pool_id)
        return pool.overflow_pool_id if pool is not None else ""

    def _quota(self, job: Job, subject: str) -> NeedsQuota | Wait | None:
        """None once the recipients of a job are counted, which is done once per attempt."""
        if any(subject == counted for counted, _ in job.counted):
            return None
        count = len(job.recipients)
        if self._quotas.take(subject, count):
            job.counted = (*job.counted, (subject, self._quotas.window(subject)))
            return None
        refusal = self._quotas.refused(subject, count)
        if refusal is None:
            return NeedsQuota(subject)
        seconds = WAIT_SECONDS if refusal.reason is not Reason.RATE_LIMITED else refusal.retry_after or WAIT_SECONDS
        told = NOT_SENT if subject.startswith("sources/") else ""
        return Wait(min(max(seconds, 1.0), MAX_WAIT_SECONDS), refusal.message, told, _left(refusal))

    def _placed(self, route: Route, limits: Limits) -> Placed:
        if not limits.any:
            return Placed(route, self._rules)
        mark = f"{limits.connections}/{limits.messages_per_connection}/{limits.messages_per_minute}"
        return Placed(replace(route, site=f"{route.site}#{mark}"), self.rules_for(limits))


def without_source(site: str) -> str:
    """The site that routing named, from one with a source and limits."""
    return site.partition("|")[2].rpartition("#")[0] or site.partition("|")[2]


def _left(refusal: Refusal | None) -> int:
    """How many recipients control said were left."""
    left = refusal.metadata.get("left", "") if refusal is not None else ""
    return int(left) if left.isdecimal() else 0


def _no_source(pool_id: str, excuses: Mapping[str, tuple[str, float]]) -> Wait:
    if not excuses:
        return Wait(WAIT_SECONDS, f"the pool {pool_id} has no sources", NOT_SENT)
    seconds = min(seconds for _, seconds in excuses.values())
    said = "; ".join(f"{source_id}: {why}" for source_id, (why, _) in sorted(excuses.items())[:5])
    why = f"no source of the pool {pool_id} can be used ({said})"
    return Wait(min(max(seconds, 1.0), MAX_WAIT_SECONDS), why, NOT_SENT)
