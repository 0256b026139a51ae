"""Ways out between protos and domain values."""

from barua.policy.v1 import policy_service_pb2 as pb

from mta.policy.egress import (
    EgressRecord,
    EgressRule,
    Pool,
    PoolAssignment,
    ProviderTls,
    SmtpProvider,
    Source,
    SourceState,
)

_TLS = {
    pb.SmtpProviderRecord.TLS_IMPLICIT: ProviderTls.IMPLICIT,
    pb.SmtpProviderRecord.TLS_STARTTLS_REQUIRED: ProviderTls.REQUIRED,
    pb.SmtpProviderRecord.TLS_STARTTLS_IF_OFFERED: ProviderTls.IF_OFFERED,
    pb.SmtpProviderRecord.TLS_NONE: ProviderTls.NONE,
}
_STATES = {
    pb.SourceRecord.STATE_ACTIVE: SourceState.ACTIVE,
    pb.SourceRecord.STATE_DRAINING: SourceState.DRAINING,
    pb.SourceRecord.STATE_DISABLED: SourceState.DISABLED,
}


def record(change: pb.Change) -> EgressRecord | None:
    """The record of a change; None: it is of a kind that this version does not know."""
    match change.WhichOneof("record"):
        case "smtp_provider":
            return _provider(change.smtp_provider)
        case "source":
            source = change.source
            # A state of a later version: rather no mail from there than against its meaning.
            state = _STATES.get(source.state, SourceState.DISABLED)
            return Source(source.source_id, source.address, source.ehlo_name, state, source.limited)
        case "pool":
            pool = change.pool
            members = tuple(zip(pool.source_ids, pool.weights, strict=False))
            return Pool(pool.pool_id, members, pool.tenant_id, pool.folded_name, pool.overflow_pool_id)
        case "egress_rule":
            return _rule(change.egress_rule)
        case "pool_assignment":
            return PoolAssignment(change.pool_assignment.tenant_id, change.pool_assignment.pool_id)
        case _:
            return None


def _provider(provider: pb.SmtpProviderRecord) -> SmtpProvider:
    return SmtpProvider(
        tenant_id=provider.tenant_id,
        provider_id=provider.provider_id,
        host=provider.host,
        port=provider.port,
        tls=_TLS.get(provider.tls, ProviderTls.REQUIRED),
        username=provider.username,
        sealed_password=provider.sealed_password,
        limited=provider.limited,
        waits=provider.waits,
        shared=provider.shared,
        is_default=provider.is_default,
        allow_private=provider.allow_private_addresses,
        allow_invalid_certificate=provider.allow_invalid_certificate,
    )


def _rule(rule: pb.EgressRuleRecord) -> EgressRule:
    return EgressRule(
        rule_id=rule.rule_id,
        position=rule.position,
        tenant_id=rule.tenant_id,
        stream=rule.stream,
        sender_domain=rule.sender_domain,
        recipient_domain=rule.recipient_domain,
        mx_suffix=rule.mx_suffix,
        pool_id=rule.pool_id,
        provider=(rule.provider_tenant_id, rule.provider_id) if rule.provider_id else None,
        suspended=rule.suspended,
        connections=rule.connections,
        messages_per_connection=rule.messages_per_connection,
        messages_per_minute=rule.messages_per_minute,
    )
