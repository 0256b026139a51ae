"""SMTP providers, sources, pools, rules and assignments as nodes get them: rows to the protos of a change."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from barua.policy.v1 import policy_service_pb2 as pb
from barua.policy.v1.policy_service_pb2 import Change

from control.database import Connection
from control.store import egress, providers
from control.store.egress import Assignment, Pool, Rule, Source
from control.store.policy_log import Key, Kind
from control.store.providers import Provider

_TLS = {
    "implicit": pb.SmtpProviderRecord.TLS_IMPLICIT,
    "starttls_required": pb.SmtpProviderRecord.TLS_STARTTLS_REQUIRED,
    "starttls_if_offered": pb.SmtpProviderRecord.TLS_STARTTLS_IF_OFFERED,
    "none": pb.SmtpProviderRecord.TLS_NONE,
}
_STATES = {
    "active": pb.SourceRecord.STATE_ACTIVE,
    "draining": pb.SourceRecord.STATE_DRAINING,
    "disabled": pb.SourceRecord.STATE_DISABLED,
}


async def look_up(connection: Connection, wanted: Mapping[Kind, Sequence[Key]]) -> dict[Key, Change]:
    """The changes for those of the wanted records that are there."""
    names = {kind: [key.key for key in keys] for kind, keys in wanted.items()}
    found: dict[Key, Change] = {}
    if pairs := [(key.scope, key.key) for key in wanted[Kind.SMTP_PROVIDER]]:
        for provider_ in await providers.some(connection, pairs):
            found[Key(Kind.SMTP_PROVIDER, provider_.provider_id, provider_.tenant_id)] = provider(provider_)
    if names[Kind.SOURCE]:
        for source_ in await egress.some_sources(connection, names[Kind.SOURCE]):
            found[Key(Kind.SOURCE, source_.source_id)] = source(source_)
    if names[Kind.POOL]:
        for pool_ in await egress.some_pools(connection, names[Kind.POOL]):
            found[Key(Kind.POOL, pool_.pool_id)] = pool(pool_)
    if names[Kind.EGRESS_RULE]:
        for rule_ in await egress.some_rules(connection, names[Kind.EGRESS_RULE]):
            found[Key(Kind.EGRESS_RULE, rule_.rule_id)] = rule(rule_)
    if names[Kind.POOL_ASSIGNMENT]:
        for assignment_ in await egress.some_assignments(connection, names[Kind.POOL_ASSIGNMENT]):
            found[Key(Kind.POOL_ASSIGNMENT, assignment_.tenant_id)] = assignment(assignment_)
    return found


def deletion(key: Key) -> Change:
    """The change that says that a record is gone."""
    match key.kind:
        case Kind.SMTP_PROVIDER:
            gone = pb.SmtpProviderRecord(tenant_id=key.scope, provider_id=key.key)
            return Change(smtp_provider=gone, deleted=True)
        case Kind.SOURCE:
            return Change(source=pb.SourceRecord(source_id=key.key), deleted=True)
        case Kind.POOL:
            return Change(pool=pb.PoolRecord(pool_id=key.key), deleted=True)
        case Kind.EGRESS_RULE:
            return Change(egress_rule=pb.EgressRuleRecord(rule_id=key.key), deleted=True)
        case Kind.POOL_ASSIGNMENT:
            return Change(pool_assignment=pb.PoolAssignmentRecord(tenant_id=key.key), deleted=True)
        case _:
            raise AssertionError(f"{key.kind} is not a record of this module")


def provider(row: Provider) -> Change:
    """An SMTP provider."""
    return Change(
        smtp_provider=pb.SmtpProviderRecord(
            tenant_id=row.tenant_id,
            provider_id=row.provider_id,
            host=row.host,
            port=row.port,
            tls=_TLS[row.tls],
            username=row.username,
            sealed_password=row.sealed_password or b"",
            limited=row.limited,
            waits=row.waits,
            shared=row.shared,
            is_default=row.is_default,
            allow_private_addresses=row.allow_private_addresses,
            allow_invalid_certificate=row.allow_invalid_certificate,
        )
    )


def source(row: Source) -> Change:
    """A source. A plan that is over may have left a source without limit: its quota is then a large one."""
    today = datetime.now(UTC).date()
    return Change(
        source=pb.SourceRecord(
            source_id=row.source_id,
            address=row.address,
            ehlo_name=row.ehlo_name,
            state=_STATES[row.state],
            limited=row.limit(today) > 0,
        )
    )


def pool(row: Pool) -> Change:
    """A pool."""
    return Change(
        pool=pb.PoolRecord(
            pool_id=row.pool_id,
            source_ids=[source_id for source_id, _ in row.members],
            weights=[weight for _, weight in row.members],
            tenant_id=row.owner or "",
            folded_name=row.folded_name or "",
            overflow_pool_id=row.overflow_pool_id or "",
        )
    )


def rule(row: Rule) -> Change:
    """An egress rule."""
    return Change(
        egress_rule=pb.EgressRuleRecord(
            rule_id=row.rule_id,
            position=row.position,
            tenant_id=row.tenant_id or "",
            stream=row.stream,
            sender_domain=row.sender_domain,
            recipient_domain=row.recipient_domain,
            mx_suffix=row.mx_suffix,
            pool_id=row.pool_id or "",
            provider_tenant_id=row.provider_tenant_id or "",
            provider_id=row.provider_id or "",
            suspended=row.suspended,
            connections=row.connections,
            messages_per_connection=row.messages_per_connection,
            messages_per_minute=row.messages_per_minute,
        )
    )


def assignment(row: Assignment) -> Change:
    """The pool of a tenant."""
    return Change(pool_assignment=pb.PoolAssignmentRecord(tenant_id=row.tenant_id, pool_id=row.pool_id))
