"""`barua alert`: rules on rates and balances, and what they fired."""

import uuid
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from barua.control.v1 import alert_service_pb2 as proto
from barua.control.v1.alert_pb2 import Alert, AlertRule
from barua.control.v1.alert_service_pb2_grpc import AlertServiceStub

from control.cli.output import CliError, as_data, last, moment, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="alert", help="Alerts on rates and balances.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    metric: Annotated[str, typer.Argument(help="What to measure, such as bounce-rate or balance.")],
    threshold: Annotated[float, typer.Argument(help="A share from 0 to 1 for rates, a number for the others.")],
    window: Annotated[int, typer.Option(min=0, help="Seconds that rates look back; 0: the default.")] = 0,
    volume: Annotated[int, typer.Option(min=0, help="What a rate needs to be judged; 0: the default.")] = 0,
    hysteresis: Annotated[float, typer.Option(min=0, help="How far back the value must go to end a firing.")] = 0.0,
    cooldown: Annotated[int, typer.Option(help="Seconds without a new firing; -1: the default.")] = -1,
    email: Annotated[list[str] | None, typer.Option(help="Address to mail to; may be repeated.")] = None,
    subtree: Annotated[bool, typer.Option(help="Count mail of tenants below as well.")] = False,
    display_name: Annotated[str, typer.Option(help="Name for people.")] = "",
) -> None:
    """Make a rule."""
    rule = AlertRule(
        metric=_metric(metric),
        threshold=threshold,
        window=Duration(seconds=window) if window else None,
        minimum_volume=volume,
        hysteresis=hysteresis,
        cooldown=Duration(seconds=cooldown) if cooldown >= 0 else None,
        emails=email,
        include_subtree=subtree,
        display_name=display_name,
    )
    request = proto.CreateAlertRuleRequest(parent=tenant_name(tenant), alert_rule=rule, request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        made = await operator.call(AlertServiceStub(operator.channel).CreateAlertRule, request)
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"made {last(made.name)}")


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's rules."""
    async with session.control() as operator:
        stub = AlertServiceStub(operator.channel)
        request = proto.ListAlertRulesRequest(parent=tenant_name(tenant))
        found = [item async for item in operator.pages(stub.ListAlertRules, request, "alert_rules")]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            last(item.name),
            _shown(item.metric),
            f"{item.threshold:g}",
            f"{item.last_value:.4g}" if item.HasField("last_value") else "",
            AlertRule.State.Name(item.state).removeprefix("STATE_").lower() if item.enabled else "disabled",
            moment(item.state_since_time),
            item.display_name,
        )
        for item in found
    ]
    print_table(["id", "metric", "threshold", "value", "state", "since", "name"], rows)


@verb(app, "remove")
async def remove(
    session: Session, tenant: TenantArgument, rule: Annotated[str, typer.Argument(help="Id of the rule.")]
) -> None:
    """Remove a rule; what it fired stays in the history."""
    request = proto.DeleteAlertRuleRequest(
        name=f"{tenant_name(tenant)}/alertRules/{rule}", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        await operator.call(AlertServiceStub(operator.channel).DeleteAlertRule, request)
    if session.json:
        print_json({"done": f"removed {rule}"})
    else:
        print_line(f"removed {rule}")


@verb(app, "firings")
async def firings(
    session: Session,
    tenant: TenantArgument,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that last.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 50,
) -> None:
    """List a tenant's firings, newest first."""
    async with session.control() as operator:
        stub = AlertServiceStub(operator.channel)
        request = proto.ListAlertsRequest(parent=tenant_name(tenant), open_only=open_only)
        found = [item async for item in operator.pages(stub.ListAlerts, request, "alerts", limit=limit)]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    print_table(
        ["id", "metric", "value", "threshold", "began", "ended", "seen", "about"], [_row(item) for item in found]
    )


@verb(app, "acknowledge")
async def acknowledge(
    session: Session,
    tenant: TenantArgument,
    alert: Annotated[str, typer.Argument(help="Id of the firing.")],
    note: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Note that somebody has seen a firing."""
    request = proto.AcknowledgeAlertRequest(
        name=f"{tenant_name(tenant)}/alerts/{alert}", note=note, request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        seen = await operator.call(AlertServiceStub(operator.channel).AcknowledgeAlert, request)
    if session.json:
        print_json(as_data(seen))
    else:
        print_line(f"acknowledged {alert}")


def _row(item: Alert) -> tuple[object, ...]:
    return (
        last(item.name),
        _shown(item.metric),
        f"{item.value:.4g}",
        f"{item.threshold:g}",
        moment(item.start_time),
        moment(item.end_time),
        moment(item.acknowledge_time),
        item.detail or item.display_name,
    )


def _metric(text: str) -> AlertRule.Metric.ValueType:
    name = f"METRIC_{text.upper().replace('-', '_')}"
    if name not in AlertRule.Metric.keys():  # noqa: SIM118 - an enumeration of protobuf is no dictionary
        raise CliError(
            f'"{text}" cannot be measured; what can: {", ".join(map(_shown, AlertRule.Metric.values()[1:]))}'
        )
    return AlertRule.Metric.Value(name)


def _shown(metric: AlertRule.Metric.ValueType) -> str:
    return AlertRule.Metric.Name(metric).removeprefix("METRIC_").lower().replace("_", "-")
