"""`barua source`, `barua pool`, `barua rule`, `barua egress`: where mail goes out from, and which way it takes."""

import uuid
from enum import StrEnum
from typing import Annotated, Any

import typer

from barua.control.v1 import egress_pb2, egress_service_pb2
from barua.control.v1.egress_service_pb2_grpc import EgressServiceStub
from barua.mta.v1 import routing_service_pb2
from barua.mta.v1.routing_service_pb2_grpc import RoutingServiceStub

from control.cli.output import CliError, as_data, last, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

sources = typer.Typer(name="source", help="Addresses that mail goes out from.", no_args_is_help=True)
pools = typer.Typer(name="pool", help="Sources that share mail.", no_args_is_help=True)
rules = typer.Typer(name="rule", help="Egress rules: which mail uses what.", no_args_is_help=True)
app = typer.Typer(name="egress", help="Which way mail takes.", no_args_is_help=True)

SourceArgument = Annotated[str, typer.Argument(help="Id of the source.")]
PoolArgument = Annotated[str, typer.Argument(help="Id of the pool.")]
RuleArgument = Annotated[str, typer.Argument(help="Id of the rule.")]


class State(StrEnum):
    """States of a source, as on the command line."""

    ACTIVE = "active"
    DRAINING = "draining"
    DISABLED = "disabled"


# -- sources -----------------------------------------------------------------------------------------------------------


@verb(sources, "add")
async def add_source(
    session: Session,
    source: SourceArgument,
    address: Annotated[str, typer.Argument(help="IP address of a machine with workers.")],
    ehlo_name: Annotated[str, typer.Argument(help="Name for EHLO.")],
    warm_up: Annotated[str, typer.Option(help="Limits of its first days from today, such as 50,100,200.")] = "",
    daily_limit: Annotated[int, typer.Option(min=0, help="Recipients per day after that; 0: no limit.")] = 0,
    note: Annotated[str, typer.Option(help="Remark.")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant that may have it in its pools, with those below.")] = "",
) -> None:
    """Make a source."""
    made = egress_pb2.Source(address=address, ehlo_name=ehlo_name, daily_limit=daily_limit, note=note)
    if tenant:
        made.tenant = tenant_name(tenant)
    if warm_up:
        made.warm_up.daily_limits.extend(_numbers(warm_up))
    request = egress_service_pb2.CreateSourceRequest(source_id=source, source=made, request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        _done(session, await operator.call(EgressServiceStub(operator.channel).CreateSource, request), "made")


@verb(sources, "list")
async def list_sources(session: Session) -> None:
    """List all sources."""
    async with session.control() as operator:
        stub = EgressServiceStub(operator.channel)
        request = egress_service_pb2.ListSourcesRequest()
        found = [source async for source in operator.pages(stub.ListSources, request, "sources")]
    if session.json:
        print_json([as_data(source) for source in found])
        return
    rows = [
        (
            last(source.name),
            source.address,
            source.ehlo_name,
            egress_pb2.Source.State.Name(source.state).removeprefix("STATE_").lower(),
            source.warm_up_day or "",
            f"{source.used_today} of {source.limit_today}" if source.limit_today else str(source.used_today),
            last(source.tenant),
        )
        for source in found
    ]
    print_table(["source", "address", "ehlo name", "state", "warm-up day", "today", "tenant"], rows)


@verb(sources, "state")
async def set_state(
    session: Session, source: SourceArgument, state: Annotated[State, typer.Argument(help="The new state.")]
) -> None:
    """Put a source to use, drain it, or take it out of use."""
    request = egress_service_pb2.SetSourceStateRequest(
        name=f"sources/{source}",
        state=egress_pb2.Source.State.Value(f"STATE_{state.name}"),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        _done(session, await operator.call(EgressServiceStub(operator.channel).SetSourceState, request), state.value)


@verb(sources, "allot")
async def allot_source(
    session: Session,
    source: SourceArgument,
    tenant: Annotated[str, typer.Argument(help='The tenant, with those below; "operator": all; "": none.')],
) -> None:
    """Let a tenant have a source in pools of its own."""
    wanted = egress_pb2.Source(name=f"sources/{source}", tenant=tenant_name(tenant) if tenant else "")
    request = egress_service_pb2.UpdateSourceRequest(source=wanted, request_id=str(uuid.uuid4()))
    request.update_mask.paths.append("tenant")
    async with session.control() as operator:
        _done(session, await operator.call(EgressServiceStub(operator.channel).UpdateSource, request), "allotted")


@verb(sources, "remove")
async def remove_source(session: Session, source: SourceArgument) -> None:
    """Remove a source that is in no pool."""
    request = egress_service_pb2.DeleteSourceRequest(name=f"sources/{source}", request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(EgressServiceStub(operator.channel).DeleteSource, request)
    _removed(session, source)


# -- pools -------------------------------------------------------------------------------------------------------------


@verb(pools, "add")
async def add_pool(
    session: Session,
    pool: PoolArgument,
    members: Annotated[list[str], typer.Argument(help="Sources, each SOURCE or SOURCE=WEIGHT.")],
) -> None:
    """Make a pool."""
    request = egress_service_pb2.CreatePoolRequest(
        pool_id=pool, pool=egress_pb2.Pool(members=_members(members)), request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        _done(session, await operator.call(EgressServiceStub(operator.channel).CreatePool, request), "made")


@verb(pools, "set")
async def set_pool(
    session: Session,
    pool: PoolArgument,
    members: Annotated[list[str], typer.Argument(help="Sources, each SOURCE or SOURCE=WEIGHT.")],
) -> None:
    """Give a pool these sources in place of those it has."""
    wanted = egress_pb2.Pool(name=f"pools/{pool}", members=_members(members))
    request = egress_service_pb2.UpdatePoolRequest(pool=wanted, request_id=str(uuid.uuid4()))
    request.update_mask.paths.append("members")
    async with session.control() as operator:
        _done(session, await operator.call(EgressServiceStub(operator.channel).UpdatePool, request), "changed")


@verb(pools, "list")
async def list_pools(session: Session) -> None:
    """List all pools."""
    async with session.control() as operator:
        stub = EgressServiceStub(operator.channel)
        found = [pool async for pool in operator.pages(stub.ListPools, egress_service_pb2.ListPoolsRequest(), "pools")]
    if session.json:
        print_json([as_data(pool) for pool in found])
        return
    rows = [
        (last(pool.name), " ".join(f"{last(member.source)}={member.weight}" for member in pool.members))
        for pool in found
    ]
    print_table(["pool", "sources"], rows)


@verb(pools, "assign")
async def assign(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="Tenant id.")],
    pool: Annotated[str, typer.Argument(help="Id of the pool; empty: that of the tenants above.")],
) -> None:
    """Assign a pool to a tenant and those below it."""
    request = egress_service_pb2.AssignPoolRequest(
        tenant=tenant_name(tenant), pool=f"pools/{pool}" if pool else "", request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        assigned = await operator.call(EgressServiceStub(operator.channel).AssignPool, request)
    if session.json:
        print_json(as_data(assigned))
    else:
        print_line(f"mail of {tenant} goes out from {assigned.effective_pool or 'the default address'}")


@verb(pools, "remove")
async def remove_pool(session: Session, pool: PoolArgument) -> None:
    """Remove a pool that no rule and no tenant uses."""
    request = egress_service_pb2.DeletePoolRequest(name=f"pools/{pool}", request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(EgressServiceStub(operator.channel).DeletePool, request)
    _removed(session, pool)


# -- rules -------------------------------------------------------------------------------------------------------------


@verb(rules, "add")
async def add_rule(
    session: Session,
    rule: RuleArgument,
    position: Annotated[int, typer.Option(help="Place in the order, lowest first.")] = 0,
    tenant: Annotated[str, typer.Option(help="Of this tenant and those below.")] = "",
    stream: Annotated[str, typer.Option(help="Of this stream.")] = "",
    sender_domain: Annotated[str, typer.Option(help="From this domain, or .subdomains.")] = "",
    recipient_domain: Annotated[str, typer.Option(help="To this domain, or .subdomains.")] = "",
    mx_suffix: Annotated[str, typer.Option(help="To sites whose first server's name ends so.")] = "",
    pool: Annotated[str, typer.Option(help="Out from this pool.")] = "",
    provider: Annotated[str, typer.Option(help="Through this SMTP provider, TENANT/ID.")] = "",
    suspend: Annotated[bool, typer.Option("--suspend", help="Nowhere: it waits.")] = False,
    connections: Annotated[int, typer.Option(min=0, help="Connections per site at most.")] = 0,
    messages_per_connection: Annotated[int, typer.Option(min=0, help="Messages per connection at most.")] = 0,
    messages_per_minute: Annotated[int, typer.Option(min=0, help="Messages per site and minute at most.")] = 0,
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Make a rule."""
    made = egress_pb2.EgressRule(
        position=position,
        tenant=tenant_name(tenant) if tenant else "",
        stream=stream,
        sender_domain=sender_domain,
        recipient_domain=recipient_domain,
        mx_suffix=mx_suffix,
        connections=connections,
        messages_per_connection=messages_per_connection,
        messages_per_minute=messages_per_minute,
        note=note,
    )
    if bool(pool) + bool(provider) + suspend > 1:
        raise CliError("a rule has one way: give only one of --pool, --provider and --suspend")
    if pool:
        made.pool = f"pools/{pool}"
    if provider:
        owner, _, id_ = provider.partition("/")
        made.smtp_provider = f"tenants/{owner}/smtpProviders/{id_}"
    if suspend:
        made.suspended = True
    request = egress_service_pb2.CreateEgressRuleRequest(
        egress_rule_id=rule, egress_rule=made, request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        _done(session, await operator.call(EgressServiceStub(operator.channel).CreateEgressRule, request), "made")


@verb(rules, "list")
async def list_rules(session: Session) -> None:
    """List all rules in their order."""
    async with session.control() as operator:
        stub = EgressServiceStub(operator.channel)
        request = egress_service_pb2.ListEgressRulesRequest()
        found = [rule async for rule in operator.pages(stub.ListEgressRules, request, "egress_rules")]
    if session.json:
        print_json([as_data(rule) for rule in found])
        return
    rows = [(rule.position, last(rule.name), _conditions(rule), _way(rule), _limits(rule), rule.note) for rule in found]
    print_table(["position", "rule", "for", "way", "limits", "note"], rows)


@verb(rules, "remove")
async def remove_rule(session: Session, rule: RuleArgument) -> None:
    """Remove a rule."""
    request = egress_service_pb2.DeleteEgressRuleRequest(name=f"egressRules/{rule}", request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(EgressServiceStub(operator.channel).DeleteEgressRule, request)
    _removed(session, rule)


# -- explain -----------------------------------------------------------------------------------------------------------


@verb(app, "explain")
async def explain(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="Tenant id that sends.")],
    domain: Annotated[str, typer.Argument(help="Domain of the recipient.")],
    stream: Annotated[str, typer.Option(help="Stream of the message.")] = "",
    sender_domain: Annotated[str, typer.Option(help="Domain of the envelope sender.")] = "",
    provider: Annotated[str, typer.Option(help="SMTP provider that the message names.")] = "",
) -> None:
    """Say which way a message would take now, and which rule says so. Asks the MTA, not control."""
    request = routing_service_pb2.ExplainRouteRequest(
        tenant_id=tenant, stream=stream, sender_domain=sender_domain, recipient_domain=domain, smtp_provider=provider
    )
    async with session.mta() as operator:
        told = await operator.call(RoutingServiceStub(operator.channel).ExplainRoute, request)
    if session.json:
        print_json(as_data(told))
        return
    said = dict(told.decided_by)
    fields = {
        "way": f"{told.smtp_provider or told.pool or 'default address'} ({said.get('way', '-')})",
        "site": told.site or "-",
        "servers": " ".join(told.hosts) or "-",
        "connections": f"{told.connections} ({said.get('connections', '-')})",
        "messages per connection": f"{told.messages_per_connection} ({said.get('messages_per_connection', '-')})",
        "messages per minute": f"{told.messages_per_minute or 'no limit'} ({said.get('messages_per_minute', '-')})",
        "waits": told.waits or "no",
    }
    print_fields(fields)
    if told.sources:
        rows = [
            (source.source_id, source.address, source.ehlo_name, source.weight, source.unusable or "usable")
            for source in told.sources
        ]
        print_table(["source", "address", "ehlo name", "weight", "now"], rows)


def _members(texts: list[str]) -> list[egress_pb2.PoolMember]:
    members = []
    for text in texts:
        source, _, weight = text.partition("=")
        if weight and not weight.isdigit():
            raise CliError(f'"{text}" is no member: write SOURCE or SOURCE=WEIGHT, such as ip1=3')
        members.append(egress_pb2.PoolMember(source=f"sources/{source}", weight=int(weight or 1)))
    return members


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise CliError(f'"{text}" is no warm-up plan: write numbers with commas, such as 50,100,200') from None


def _conditions(rule: egress_pb2.EgressRule) -> str:
    said = [
        f"{name} {value}"
        for name, value in (
            ("tenant", last(rule.tenant)),
            ("stream", rule.stream),
            ("from", rule.sender_domain),
            ("to", rule.recipient_domain),
            ("mx", rule.mx_suffix),
        )
        if value
    ]
    return ", ".join(said) or "all mail"


def _way(rule: egress_pb2.EgressRule) -> str:
    match rule.WhichOneof("way"):
        case "pool":
            return f"pool {last(rule.pool)}"
        case "smtp_provider":
            parts = rule.smtp_provider.split("/")
            return f"provider {parts[1]}/{parts[3]}"
        case "suspended":
            return "suspended"
        case _:
            return ""


def _limits(rule: egress_pb2.EgressRule) -> str:
    named = (
        (rule.connections, "connections"),
        (rule.messages_per_connection, "per connection"),
        (rule.messages_per_minute, "per minute"),
    )
    return ", ".join(f"{value} {name}" for value, name in named if value)


def _done(session: Session, made: Any, what: str) -> None:
    if session.json:
        print_json(as_data(made))
    else:
        print_line(f"{last(made.name)} {what}")


def _removed(session: Session, id_: str) -> None:
    if session.json:
        print_json({"done": f"removed {id_}"})
    else:
        print_line(f"removed {id_}")
