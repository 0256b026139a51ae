"""Alerts of an account: told by mail and by webhooks when a rate of the last hour, or the balance, passes a threshold.

``parameter`` says what is measured, by the names of the events: ``hardBounced``, ``softBounced``, ``spam`` (alarming
when above ``threshold``, in percent), ``delivered`` (when below, in percent), and ``balance`` (when below, in credits).
All sub-accounts count. A share needs ``processedCountThreshold`` recipients within the hour to be judged.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import alert_pb2, alert_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Count, Deleted
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging

WHAT = "Alert"
BALANCE = "balance"

_METRICS: Mapping[str, "alert_pb2.AlertRule.Metric.ValueType"] = {
    "hardBounced": alert_pb2.AlertRule.METRIC_BOUNCE_RATE,
    "softBounced": alert_pb2.AlertRule.METRIC_DEFERRAL_RATE,
    "spam": alert_pb2.AlertRule.METRIC_COMPLAINT_RATE,
    "delivered": alert_pb2.AlertRule.METRIC_DELIVERED_RATE,
    BALANCE: alert_pb2.AlertRule.METRIC_BALANCE,
}
_PARAMETERS = {metric: parameter for parameter, metric in _METRICS.items()}
_FIELDS = {
    "alert_rule.display_name": "name",
    "alert_rule.metric": "parameter",
    "alert_rule.threshold": "threshold",
    "alert_rule.minimum_volume": "processedCountThreshold",
    "alert_rule.emails": "emails",
}
_Ignored = str | int | None


class NewAlert(Struct):
    """Body of create. Alerts on a part of the mail (``provider``, ``entityType``, ``entityValue``) and in Slack are not
    served; ``notificationType``, ``label`` and ``memberId`` are without effect."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    parameter: Annotated[str, Meta(min_length=1, max_length=64)]
    threshold: Annotated[float, Meta(ge=0, le=1e15)]
    active: bool | None = None
    processedCountThreshold: Annotated[int, Meta(ge=0, le=10**12)] | None = None  # noqa: N815
    emails: list[str] | str | None = None
    provider: _Ignored = None
    entityType: _Ignored = None  # noqa: N815  # the name in the JSON
    entityValue: _Ignored = None  # noqa: N815
    slackUrl: _Ignored = None  # noqa: N815
    notificationType: _Ignored = None  # noqa: N815
    label: _Ignored = None
    memberId: _Ignored = None  # noqa: N815


class AlertChange(Struct):
    """Body of update."""

    active: bool


class Alert(Struct):
    """An alert. ``firing``: it is on now."""

    id: int
    name: str
    active: bool
    parameter: str
    threshold: float
    processedCountThreshold: int  # noqa: N815
    emails: list[str]
    firing: bool
    created: int
    updated: int


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/account/alert", "/account/alert/{alert_id}", Key.ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_alerts",
            "Alerts of the account, the oldest first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[Alert],
        ),
        Operation(
            "POST",
            path,
            "create_alert",
            "Make an alert.",
            _create,
            key,
            body=NewAlert,
            answer=Alert,
            failures=(409,),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", f"{path}/count", "count_alerts", "Count the alerts.", _count, key, answer=Count),
        Operation(
            "PUT", one, "update_alert", "Switch an alert on or off.", _update, key, body=AlertChange, answer=Alert
        ),
        Operation("DELETE", one, "delete_alert", "Delete an alert.", _delete, key, answer=Deleted),
    ]


async def _list(call: Call) -> list[Alert]:
    request = alert_service_pb2.ListAlertRulesRequest(
        parent="tenants/me", search=call.query["search"] or "", order_by="number"
    )
    return [_alert(found) for found in await call.page("alerts", "ListAlertRules", request)]


async def _create(call: Call) -> Alert:
    body = await call.body(NewAlert)
    request = alert_service_pb2.CreateAlertRuleRequest(
        parent="tenants/me", alert_rule=_wanted(body), request_id=idempotency.request_id(call.request)
    )
    return _alert(await answers.ask(call, "alerts", "CreateAlertRule", request, _FIELDS))


async def _count(call: Call) -> Count:
    request = alert_service_pb2.ListAlertRulesRequest(parent="tenants/me")
    return await answers.total(call, "alerts", "ListAlertRules", request)


async def _update(call: Call) -> Alert:
    found, body = await _read(call), await call.body(AlertChange)
    request = alert_service_pb2.UpdateAlertRuleRequest(
        alert_rule=alert_pb2.AlertRule(name=found.name, enabled=body.active)
    )
    request.update_mask.paths.append("enabled")
    return _alert(await answers.ask(call, "alerts", "UpdateAlertRule", request, _FIELDS))


async def _delete(call: Call) -> Deleted:
    found = await _read(call)
    await call.ask("alerts", "DeleteAlertRule", alert_service_pb2.DeleteAlertRuleRequest(name=found.name))
    return Deleted(found.number, "Alert deleted.")


async def _read(call: Call) -> alert_pb2.AlertRule:
    request = alert_service_pb2.ListAlertRulesRequest(parent="tenants/me", number=call.number("alert_id", WHAT))
    found: alert_pb2.AlertRule = await answers.found(call, WHAT, "alerts", "ListAlertRules", request)
    return found


def _wanted(body: NewAlert) -> alert_pb2.AlertRule:
    metric = _METRICS.get(body.parameter)
    if metric is None:
        raise errors.invalid_body("parameter", f"parameter must be one of {', '.join(_METRICS)}.")
    for field, given in (
        ("provider", body.provider),
        ("entityType", body.entityType),
        ("entityValue", body.entityValue),
        ("slackUrl", body.slackUrl),
    ):
        if given:
            raise errors.invalid_body(field, f"{field} is not served here; leave it out.")
    shares = body.parameter != BALANCE
    if shares and body.threshold > 100:
        raise errors.invalid_body("threshold", "threshold must be a percentage from 0 to 100.")
    rule = alert_pb2.AlertRule(
        display_name=body.name,
        metric=metric,
        threshold=body.threshold / 100 if shares else body.threshold,
        include_subtree=shares,
        emails=_emails(body.emails),
        enabled=body.active if isinstance(body.active, bool) else True,
    )
    if shares and isinstance(body.processedCountThreshold, int):
        rule.minimum_volume = body.processedCountThreshold
    return rule


def _emails(given: list[str] | str | None) -> list[str]:
    """The addresses: an array, or a text with commas between."""
    if isinstance(given, str):
        given = given.split(",")
    return [address.strip() for address in given if address.strip()] if isinstance(given, list) else []


def _alert(found: alert_pb2.AlertRule) -> Alert:
    parameter = _PARAMETERS.get(found.metric, "other")
    return Alert(
        id=found.number,
        name=found.display_name,
        active=found.enabled,
        parameter=parameter,
        threshold=found.threshold if parameter == BALANCE else round(found.threshold * 100, 9),
        processedCountThreshold=found.minimum_volume,
        emails=list(found.emails),
        firing=found.state == alert_pb2.AlertRule.STATE_FIRING,
        created=times.nanoseconds(found.create_time),
        updated=times.nanoseconds(found.update_time),
    )
