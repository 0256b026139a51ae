"""AlertService: rules on rates and balances, and what they fired."""

from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import alert_service_pb2
from barua.control.v1.alert_pb2 import Alert as AlertProto
from barua.control.v1.alert_pb2 import AlertRule as RuleProto
from barua.control.v1.alert_service_pb2_grpc import AlertServiceServicer

from control import alerting
from control.authentication import caller
from control.database import Connection, Database
from control.model import alerts as rules
from control.model import apikeys, fields, names
from control.model.caller import acting_for_platform
from control.model.names import ChildName
from control.services.listing import listing_of, page_of
from control.services.mutation import Mutations
from control.services.timestamps import to_proto
from control.services.updates import check_etag, paths_of
from control.store import alerts, tenants
from control.store.alerts import Alert, Rule, RuleSettings
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]
_NEWEST = 2**63 - 1
_ID_CHARACTERS = 12
_UPDATABLE = frozenset(
    {
        "display_name", "threshold", "hysteresis", "window", "minimum_volume", "cooldown", "include_subtree",
        "notify_webhooks", "emails", "enabled",
    }
)  # fmt: skip


class AlertServicer(AlertServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations

    async def CreateAlertRule(self, request: alert_service_pb2.CreateAlertRuleRequest, context: _Context) -> RuleProto:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        settings = _settings(request.alert_rule)

        async def effect(connection: Connection) -> RuleProto:
            await tenants.visible(connection, me, tenant_id, lock=True)
            await _check_emails(connection, tenant_id, settings)
            id_ = apikeys.random_name(_ID_CHARACTERS)
            return _rule_proto(await alerts.create(connection, tenant_id, id_, settings))

        return await self._mutations.run(request, RuleProto, effect)

    async def GetAlertRule(self, request: alert_service_pb2.GetAlertRuleRequest, context: _Context) -> RuleProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "alertRules", me)

        async def read(connection: Connection) -> Rule:
            await tenants.visible(connection, me, name.tenant_id)
            return await alerts.get(connection, name.tenant_id, name.id)

        return _rule_proto(await self._database.transact(read))

    async def ListAlertRules(
        self, request: alert_service_pb2.ListAlertRulesRequest, context: _Context
    ) -> alert_service_pb2.ListAlertRulesResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        listing = listing_of(request, tenant_id)

        async def read(connection: Connection) -> tuple[list[Rule], int]:
            await tenants.visible(connection, me, tenant_id)
            return await alerts.page(connection, tenant_id, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda rule: rule.alert_rule_id)
        return alert_service_pb2.ListAlertRulesResponse(
            alert_rules=map(_rule_proto, shown), next_page_token=token, total_size=total
        )

    async def UpdateAlertRule(self, request: alert_service_pb2.UpdateAlertRuleRequest, context: _Context) -> RuleProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.alert_rule.name, "alertRules", me, "alert_rule.name")
        paths = paths_of(request.update_mask, request.alert_rule, "alert_rule", _UPDATABLE)

        async def effect(connection: Connection) -> RuleProto:
            kept = await self._locked(connection, me, name)
            check_etag(request.alert_rule.etag, str(kept.version))
            merged = _rule_proto(kept)
            for path in paths:
                merged.ClearField(path)  # type: ignore[arg-type]
            chosen = RuleProto()
            chosen.CopyFrom(request.alert_rule)
            for field in chosen.DESCRIPTOR.fields:
                if field.name not in paths:
                    chosen.ClearField(field.name)  # type: ignore[arg-type]
            merged.MergeFrom(chosen)
            settings = _settings(merged)
            await _check_emails(connection, kept.tenant_id, settings)
            if kept.firing and not settings.enabled:
                await alerting.finish(connection, kept)
            return _rule_proto(await alerts.update(connection, kept, settings))

        with acting_for_platform():  # the end of a firing is told to webhooks of tenants above, too
            return await self._mutations.run(request, RuleProto, effect)

    async def DeleteAlertRule(self, request: alert_service_pb2.DeleteAlertRuleRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "alertRules", me)

        async def effect(connection: Connection) -> Empty:
            kept = await self._locked(connection, me, name)
            check_etag(request.etag, str(kept.version))
            await alerting.finish(connection, kept)
            await alerts.delete(connection, kept)
            return Empty()

        with acting_for_platform():  # as above
            return await self._mutations.run(request, Empty, effect)

    async def ListAlerts(
        self, request: alert_service_pb2.ListAlertsRequest, context: _Context
    ) -> alert_service_pb2.ListAlertsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        rule_id = _rule_of(request.alert_rule, tenant_id, me)
        page = page_of(request, _NEWEST, tenant_id, rule_id, str(request.open_only))

        async def read(connection: Connection) -> list[Alert]:
            await tenants.visible(connection, me, tenant_id)
            return await alerts.firings(connection, tenant_id, rule_id, request.open_only, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda alert: alert.alert_id)
        return alert_service_pb2.ListAlertsResponse(alerts=map(_alert_proto, found), next_page_token=token)

    async def AcknowledgeAlert(
        self, request: alert_service_pb2.AcknowledgeAlertRequest, context: _Context
    ) -> AlertProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "alerts", me)
        note = fields.text(request.note, "note")

        async def effect(connection: Connection) -> AlertProto:
            await tenants.visible(connection, me, name.tenant_id)
            if not (name.id.isascii() and name.id.isdecimal() and len(name.id) <= 18):
                raise tenants.not_found("alert", name.id)
            return _alert_proto(await alerts.acknowledge(connection, name.tenant_id, int(name.id), note))

        return await self._mutations.run(request, AlertProto, effect)

    async def _locked(self, connection: Connection, me: str, name: ChildName) -> Rule:
        await tenants.visible(connection, me, name.tenant_id)
        return await alerts.get(connection, name.tenant_id, name.id, lock=True)


def _settings(proto: RuleProto) -> RuleSettings:
    metric = rules.metric(proto.metric, "alert_rule.metric")
    threshold = rules.threshold(proto.threshold, metric, "alert_rule.threshold")
    window = (rules.MIN_WINDOW_SECONDS, rules.MAX_WINDOW_SECONDS, rules.DEFAULT_WINDOW_SECONDS)
    cooldown = (0, rules.MAX_COOLDOWN_SECONDS, rules.DEFAULT_COOLDOWN_SECONDS)
    emails = rules.emails(proto.emails, "alert_rule.emails")
    return RuleSettings(
        display_name=fields.text(proto.display_name, "alert_rule.display_name"),
        metric=metric,
        threshold=threshold,
        hysteresis=rules.hysteresis(proto.hysteresis, metric, threshold, "alert_rule.hysteresis"),
        window_seconds=rules.seconds(_seconds(proto, "window"), *window, "alert_rule.window"),
        minimum_volume=rules.volume(proto.minimum_volume, "alert_rule.minimum_volume"),
        cooldown_seconds=rules.seconds(_seconds(proto, "cooldown"), *cooldown, "alert_rule.cooldown"),
        include_subtree=proto.include_subtree,
        notify_webhooks=proto.notify_webhooks if proto.HasField("notify_webhooks") else True,
        emails=tuple(emails),
        enabled=proto.enabled if proto.HasField("enabled") else True,
    )


async def _check_emails(connection: Connection, tenant_id: str, settings: RuleSettings) -> None:
    """Refuse addresses that the tenant has not proved to own: nobody gets mail that they did not ask for."""
    strange = await alerts.not_owned(connection, tenant_id, settings.emails) if settings.emails else []
    if strange:
        raise Refusal(
            Reason.FAILED_PRECONDITION,
            f"alert_rule.emails has {strange[0]}; verify it as a sender, or its domain, or take an address of yours",
            field="alert_rule.emails",
            metadata={"address": strange[0]},
        )


def _rule_of(name: str, tenant_id: str, me: str) -> str:
    """The id of the rule that a list is about; empty: of all."""
    if not name:
        return ""
    rule = names.child(name, "alertRules", me, "alert_rule")
    if rule.tenant_id != tenant_id:
        raise fields.invalid("alert_rule", "alert_rule must be a rule of parent")
    return rule.id


def _seconds(proto: RuleProto, field: str) -> float | None:
    if not proto.HasField(field):  # type: ignore[arg-type]
        return None
    duration: Duration = getattr(proto, field)
    return duration.seconds + duration.nanos / 1e9


def _rule_proto(rule: Rule) -> RuleProto:
    settings = rule.settings
    return RuleProto(
        name=f"tenants/{rule.tenant_id}/alertRules/{rule.alert_rule_id}",
        display_name=settings.display_name,
        metric=RuleProto.Metric.ValueType(settings.metric),
        threshold=settings.threshold,
        hysteresis=settings.hysteresis,
        window=Duration(seconds=settings.window_seconds),
        minimum_volume=settings.minimum_volume,
        cooldown=Duration(seconds=settings.cooldown_seconds),
        include_subtree=settings.include_subtree,
        notify_webhooks=settings.notify_webhooks,
        emails=settings.emails,
        enabled=settings.enabled,
        state=RuleProto.STATE_FIRING if rule.firing else RuleProto.STATE_OK,
        state_since_time=to_proto(rule.state_since or rule.created_at),
        last_value=rule.last_value,
        evaluate_time=to_proto(rule.evaluated_at),
        create_time=to_proto(rule.created_at),
        update_time=to_proto(rule.updated_at),
        etag=str(rule.version),
        number=rule.number,
    )


def _alert_proto(alert: Alert) -> AlertProto:
    return AlertProto(
        name=alert.name,
        alert_rule=alert.rule_name,
        display_name=alert.display_name,
        metric=RuleProto.Metric.ValueType(alert.metric),
        threshold=alert.threshold,
        value=alert.value,
        detail=alert.detail,
        start_time=to_proto(alert.started_at),
        end_time=to_proto(alert.ended_at),
        acknowledge_time=to_proto(alert.acknowledged_at),
        acknowledgement=alert.acknowledgement,
    )
