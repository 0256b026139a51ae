"""Says which way a message would take now, by the very rules and states that deliveries go by."""

from mta.custody.providers import Providers
from mta.delivery.site import SiteRules
from mta.delivery.ways import Ways
from mta.policy.egress import Decision, EgressPolicy, SmtpProvider
from mta.policy.lookup import Policy, lineage
from mta.policy.records import Tenant
from mta.routing.explanation import Explanation, Inquiry, SourceCondition
from mta.routing.router import Route, RouteFailure, Router
from mta.runtime.refusals import Reason, Refusal

DEFAULT = "options"
"""Who decided what no rule and no assignment decides."""


class Explainer:
    """A ``RouteExplainer`` of one worker, which is one of ``workers`` on its machine."""

    def __init__(
        self,
        policy: Policy,
        egress: EgressPolicy,
        providers: Providers,
        ways: Ways,
        router: Router,
        rules: SiteRules,
        workers: int,
    ) -> None:
        self._policy = policy
        self._egress = egress
        self._providers = providers
        self._ways = ways
        self._router = router
        self._rules = rules
        self._workers = workers

    async def explain(self, inquiry: Inquiry) -> Explanation:
        """The way of a message by the policy in force. Raises Refusal."""
        line = lineage(self._policy, inquiry.tenant_id)
        if not line:
            text = f'there is no tenant "{inquiry.tenant_id[:63]}"'
            raise Refusal(Reason.NOT_FOUND, text, field="tenant_id", metadata={"tenant": inquiry.tenant_id[:63]})
        chosen = self._chosen(line, inquiry.provider)
        answer: Route | RouteFailure | None = None
        decision = self._decision(inquiry, None)
        if decision is None or (chosen is None and decision.provider is None):
            answer = await self._router.resolve(inquiry.domain)
            decision = self._decision(inquiry, answer)
        assert decision is not None, "with an answer of routing there is a decision"
        provider = chosen
        if provider is None and decision.provider is not None:
            provider = self._egress.provider(*decision.provider)
        decided_by = dict.fromkeys(("way", "connections", "messages_per_connection"), DEFAULT)
        decided_by |= decision.decided_by
        if chosen is not None and not decision.suspended:
            decided_by["way"] = "the message" if inquiry.provider else f"default of tenant {chosen.tenant_id}"
        return self._told(decision, provider, answer, decided_by)

    def _decision(self, inquiry: Inquiry, answer: Route | RouteFailure | None) -> Decision | None:
        return self._ways.decision(inquiry.tenant_id, inquiry.stream, inquiry.sender_domain, inquiry.domain, answer)

    def _chosen(self, line: tuple[Tenant, ...], wanted: str) -> SmtpProvider | None:
        """The provider that the message would be submitted to; None: the built-in MTA."""
        key = self._providers.choose(line, wanted).key
        if not key:
            return None
        tenant_id, _, provider_id = key.partition("/")
        found = self._egress.provider(tenant_id, provider_id)
        return None if found is None or found.built_in else found

    def _told(
        self,
        decision: Decision,
        provider: SmtpProvider | None,
        answer: Route | RouteFailure | None,
        decided_by: dict[str, str],
    ) -> Explanation:
        rules = self._ways.rules_for(decision.limits)
        pool = "" if provider is not None else decision.pool_id
        sources = self._sources(pool, answer.site if isinstance(answer, Route) else "")
        waits = ""
        if decision.suspended:
            waits = "suspended"
        elif pool and all(source.unusable for source in sources):
            waits = f"no source of the pool {pool} can be used"
        site = ""
        hosts: tuple[str, ...] = ()
        if provider is not None:
            site, hosts = f"provider:{provider.key}", (f"{provider.host}:{provider.port}",)
        elif isinstance(answer, Route):
            site, hosts = answer.site, tuple(f"{host.name}:{host.port}" for host in answer.hosts)
        elif isinstance(answer, RouteFailure):
            waits = waits or answer.text
        limits = decision.limits
        return Explanation(
            provider=provider.key if provider is not None else "",
            pool=pool,
            sources=sources,
            waits=waits,
            site=site,
            hosts=hosts,
            connections=limits.connections or self._rules.connections * self._workers,
            messages_per_connection=rules.messages_per_connection,
            messages_per_minute=limits.messages_per_minute,
            decided_by=decided_by,
        )

    def _sources(self, pool: str, site: str) -> tuple[SourceCondition, ...]:
        conditions: list[SourceCondition] = []
        for source_id, weight in self._ways.members(pool) if pool else ():
            source = self._egress.sources.get(source_id)
            excuse = self._ways.unusable(source_id, site, 1)
            conditions.append(
                SourceCondition(
                    source_id,
                    source.address if source is not None else "",
                    source.ehlo_name if source is not None else "",
                    weight,
                    excuse[0] if excuse is not None else "",
                )
            )
        return tuple(conditions)
