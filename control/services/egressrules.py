"""Egress rules between their proto and their row: the fields of EgressService's rules, checked."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from barua.control.v1 import egress_pb2

from control.model import egress, fields, names
from control.model.caller import ROOT_TENANT
from control.services.timestamps import to_proto
from control.store.egress import Rule

_LIMITS = ("connections", "messages_per_connection", "messages_per_minute")
_CONDITIONS = ("sender_domain", "recipient_domain")
_WAYS = ("pool", "smtp_provider", "suspended")
FIELDS = frozenset(
    {"position", "tenant", "stream", "mx_suffix", "note", *_LIMITS, *_CONDITIONS, *_WAYS},
)
"""Fields of a rule that can be set."""
MAX_NOTE = 500
"""Characters of a note."""


def changed(current: Rule, wanted: egress_pb2.EgressRule, paths: Collection[str]) -> Rule:
    """The rule with those fields of ``wanted`` that ``paths`` names, checked; a way that is named is the only one."""
    values: dict[str, Any] = {}
    if "position" in paths:
        values["position"] = wanted.position
    if "tenant" in paths:
        tenant_id = names.tenant(wanted.tenant, ROOT_TENANT, "egress_rule.tenant") if wanted.tenant else None
        values["tenant_id"] = tenant_id
    if "stream" in paths:
        values["stream"] = egress.stream(wanted.stream, "egress_rule.stream")
    for name in _CONDITIONS:
        if name in paths:
            values[name] = egress.domain_condition(getattr(wanted, name), f"egress_rule.{name}")
    if "mx_suffix" in paths:
        values["mx_suffix"] = egress.domain_condition(wanted.mx_suffix, "egress_rule.mx_suffix").removeprefix(".")
    for name in _LIMITS:
        if name in paths:
            values[name] = egress.limit(getattr(wanted, name), f"egress_rule.{name}", egress.MAX_RULE_LIMIT)
    if "note" in paths:
        values["note"] = fields.text(wanted.note, "egress_rule.note", MAX_NOTE)
    if not set(_WAYS).isdisjoint(paths):
        values |= _way(wanted, paths)
    rule = replace(current, **values)
    if not (rule.pool_id or rule.provider_id or rule.suspended or any(getattr(rule, name) for name in _LIMITS)):
        raise fields.invalid("egress_rule", "egress_rule says nothing: give it a way (pool, ...) or a limit")
    return rule


def _way(wanted: egress_pb2.EgressRule, paths: Collection[str]) -> dict[str, Any]:
    none = {"pool_id": None, "provider_tenant_id": None, "provider_id": None, "suspended": False}
    way = wanted.WhichOneof("way")
    if way is None or way not in paths:
        return none
    if way == "pool":
        return none | {"pool_id": egress.resource(wanted.pool, "pools", "egress_rule.pool")}
    if way == "suspended":
        return none | {"suspended": wanted.suspended}
    name = names.child(wanted.smtp_provider, "smtpProviders", ROOT_TENANT, "egress_rule.smtp_provider")
    return none | {"provider_tenant_id": name.tenant_id, "provider_id": name.id}


def to_rule_proto(rule: Rule) -> egress_pb2.EgressRule:
    """The proto of a rule."""
    proto = egress_pb2.EgressRule(
        name=f"egressRules/{rule.rule_id}",
        position=rule.position,
        tenant=f"tenants/{rule.tenant_id}" if rule.tenant_id else "",
        stream=rule.stream,
        sender_domain=rule.sender_domain,
        recipient_domain=rule.recipient_domain,
        mx_suffix=rule.mx_suffix,
        connections=rule.connections,
        messages_per_connection=rule.messages_per_connection,
        messages_per_minute=rule.messages_per_minute,
        note=rule.note,
        create_time=to_proto(rule.created_at),
        update_time=to_proto(rule.updated_at),
        etag=str(rule.version),
    )
    if rule.pool_id:
        proto.pool = f"pools/{rule.pool_id}"
    elif rule.provider_id:
        proto.smtp_provider = f"tenants/{rule.provider_tenant_id}/smtpProviders/{rule.provider_id}"
    elif rule.suspended:
        proto.suspended = True
    return proto
