"""`barua webhook`: who is told of events by HTTP. A webhook's secret is printed once and never again."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import webhook_service_pb2 as proto
from barua.control.v1.webhook_pb2 import Webhook, WebhookDelivery
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub

from control.cli.output import CliError, as_data, last, moment, print_fields, print_json, print_line, print_table
from control.cli.session import Session, tenant_name, verb

app = typer.Typer(name="webhook", help="Events by HTTP POST.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
WebhookArgument = Annotated[str, typer.Argument(help="Id of the webhook.")]

_DEFAULT_EVENTS = ["delivered", "deferred", "bounced", "expired"]


class State(StrEnum):
    """Where a delivery stands, as on the command line."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Format(StrEnum):
    """The form of what is posted, as on the command line."""

    NATIVE = "native"
    SENDPOST = "sendpost"
    SENDPOST_LEGACY = "sendpost-legacy"
    SENDPULSE = "sendpulse"
    MAILPASS = "mailpass"


@verb(app, "add")
async def add(
    session: Session,
    tenant: TenantArgument,
    url: Annotated[str, typer.Argument(help="Where to post, https://...")],
    event: Annotated[
        list[str] | None, typer.Option(help="Event kind, such as delivered or alert; may be repeated.")
    ] = None,
    stream: Annotated[list[str] | None, typer.Option(help="Only this stream; may be repeated.")] = None,
    sender_domain: Annotated[list[str] | None, typer.Option(help="Only this sender domain; may be repeated.")] = None,
    header: Annotated[list[str] | None, typer.Option(help='Header field to send, "Name: value".')] = None,
    subtree: Annotated[bool, typer.Option(help="Also what happens to tenants below.")] = False,
    batch_size: Annotated[int, typer.Option(min=0, help="Events in one request at most; 0: the default.")] = 0,
    display_name: Annotated[str, typer.Option(help="Name for people.")] = "",
    form: Annotated[Format, typer.Option("--format", help="Form of what is posted.")] = Format.NATIVE,
    secret: Annotated[str, typer.Option(help="What signs the requests; empty: it is made.")] = "",
) -> None:
    """Make a webhook and print its secret, unless that was given: it is told this once."""
    webhook = Webhook(
        url=url,
        event_kinds=[_kind(text) for text in event or _DEFAULT_EVENTS],
        streams=stream,
        sender_domains=sender_domain,
        include_subtree=subtree,
        batch_size=batch_size,
        display_name=display_name,
        payload_format=Webhook.PayloadFormat.Value(f"PAYLOAD_FORMAT_{form.name}"),
        secret=secret,
        headers=dict(_header(text) for text in header or ()),
    )
    request = proto.CreateWebhookRequest(parent=tenant_name(tenant), webhook=webhook, request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        made = await operator.call(WebhookServiceStub(operator.channel).CreateWebhook, request)
    if session.json:
        print_json(as_data(made))
    else:
        print_fields({"webhook": last(made.name), **({"secret": made.secret} if made.secret else {})})


@verb(app, "list")
async def list_(session: Session, tenant: TenantArgument) -> None:
    """List a tenant's webhooks."""
    async with session.control() as operator:
        stub = WebhookServiceStub(operator.channel)
        request = proto.ListWebhooksRequest(parent=tenant_name(tenant))
        found = [item async for item in operator.pages(stub.ListWebhooks, request, "webhooks")]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            last(item.name),
            Webhook.State.Name(item.state).removeprefix("STATE_").lower(),
            item.url,
            " ".join(_shown(kind) for kind in item.event_kinds),
            item.display_name,
            item.disabled_reason,
        )
        for item in found
    ]
    print_table(["id", "state", "url", "events", "name", "why disabled"], rows)


@verb(app, "test")
async def test(session: Session, tenant: TenantArgument, webhook: WebhookArgument) -> None:
    """Post a sample event now and print what the endpoint said."""
    request = proto.TestWebhookRequest(name=_name(tenant, webhook))
    async with session.control() as operator:
        answer = await operator.call(WebhookServiceStub(operator.channel).TestWebhook, request)
    if session.json:
        print_json(as_data(answer))
    elif answer.error:
        print_line(f"no answer: {answer.error}")
    else:
        print_line(f"status {answer.status_code} after {answer.duration.ToMilliseconds()} ms")
        print_line(" ".join(answer.response_excerpt.split()))


@verb(app, "log")
async def log(
    session: Session,
    tenant: TenantArgument,
    webhook: WebhookArgument,
    state: Annotated[State | None, typer.Option(help="Only deliveries in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 50,
) -> None:
    """List a webhook's deliveries, newest first."""
    wanted = WebhookDelivery.State.Value(f"STATE_{state.name}") if state else WebhookDelivery.STATE_UNSPECIFIED
    async with session.control() as operator:
        stub = WebhookServiceStub(operator.channel)
        request = proto.ListWebhookDeliveriesRequest(parent=_name(tenant, webhook), state=wanted)
        pages = operator.pages(stub.ListWebhookDeliveries, request, "webhook_deliveries", limit=limit)
        found = [item async for item in pages]
    if session.json:
        print_json([as_data(item) for item in found])
        return
    rows = [
        (
            last(item.name),
            moment(item.event_time),
            _shown(item.event_kind),
            WebhookDelivery.State.Name(item.state).removeprefix("STATE_").lower(),
            item.attempt_count,
            item.status_code or "",
            item.error or " ".join(item.response_excerpt.split())[:60],
            moment(item.next_attempt_time),
        )
        for item in found
    ]
    print_table(["id", "happened", "event", "state", "attempts", "status", "answer", "next attempt"], rows)


@verb(app, "replay")
async def replay(
    session: Session,
    tenant: TenantArgument,
    webhook: WebhookArgument,
    delivery: Annotated[list[str] | None, typer.Option(help="Id of a delivery; may be repeated.")] = None,
    start: Annotated[datetime | None, typer.Option(help="Events from this time on (UTC).")] = None,
    end: Annotated[datetime | None, typer.Option(help="Events before this time (UTC).")] = None,
) -> None:
    """Tell deliveries, or all events of a time, again."""
    name = _name(tenant, webhook)
    request = proto.ReplayWebhookDeliveriesRequest(
        name=name,
        deliveries=[f"{name}/deliveries/{id_}" for id_ in delivery or ()],
        start_time=_stamp(start),
        end_time=_stamp(end),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        answer = await operator.call(WebhookServiceStub(operator.channel).ReplayWebhookDeliveries, request)
    if session.json:
        print_json(as_data(answer))
    else:
        print_line(f"queued {answer.queued_count}")


@verb(app, "rotate")
async def rotate(
    session: Session,
    tenant: TenantArgument,
    webhook: WebhookArgument,
    grace: Annotated[int, typer.Option(min=0, help="Seconds for which the old secret stays good.")] = 86_400,
) -> None:
    """Make a new secret and print it: it is told this once."""
    request = proto.RotateWebhookSecretRequest(
        name=_name(tenant, webhook), grace_period=Duration(seconds=grace), request_id=str(uuid.uuid4())
    )
    async with session.control() as operator:
        rotated = await operator.call(WebhookServiceStub(operator.channel).RotateWebhookSecret, request)
    if session.json:
        print_json(as_data(rotated))
    else:
        print_line(rotated.secret)


@verb(app, "enable")
async def enable(session: Session, tenant: TenantArgument, webhook: WebhookArgument) -> None:
    """Switch a webhook on again, whoever switched it off."""
    await _switch(session, _name(tenant, webhook), enabled=True)


@verb(app, "disable")
async def disable(session: Session, tenant: TenantArgument, webhook: WebhookArgument) -> None:
    """Switch a webhook off. What happens meanwhile can be replayed."""
    await _switch(session, _name(tenant, webhook), enabled=False)


@verb(app, "remove")
async def remove(session: Session, tenant: TenantArgument, webhook: WebhookArgument) -> None:
    """Remove a webhook, what waits for it and its log."""
    request = proto.DeleteWebhookRequest(name=_name(tenant, webhook), request_id=str(uuid.uuid4()))
    async with session.control() as operator:
        await operator.call(WebhookServiceStub(operator.channel).DeleteWebhook, request)
    _done(session, f"removed {webhook}")


async def _switch(session: Session, name: str, *, enabled: bool) -> None:
    request = proto.UpdateWebhookRequest(
        webhook=Webhook(name=name, enabled=enabled),
        update_mask=FieldMask(paths=["enabled"]),
        request_id=str(uuid.uuid4()),
    )
    async with session.control() as operator:
        changed = await operator.call(WebhookServiceStub(operator.channel).UpdateWebhook, request)
    if session.json:
        print_json(as_data(changed))
    else:
        print_line(f"{'enabled' if enabled else 'disabled'} {last(name)}")


def _done(session: Session, what: str) -> None:
    if session.json:
        print_json({"done": what})
    else:
        print_line(what)


def _name(tenant: str, webhook: str) -> str:
    return f"{tenant_name(tenant)}/webhooks/{webhook}"


def _kind(text: str) -> Webhook.EventKind.ValueType:
    name = f"EVENT_KIND_{text.upper()}"
    if name not in Webhook.EventKind.keys():  # noqa: SIM118 - an enumeration of protobuf is no dictionary
        raise CliError(
            f'"{text}" is no event kind; known are: {", ".join(map(_shown, Webhook.EventKind.values()[1:]))}'
        )
    return Webhook.EventKind.Value(name)


def _shown(kind: Webhook.EventKind.ValueType) -> str:
    return Webhook.EventKind.Name(kind).removeprefix("EVENT_KIND_").lower()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise CliError(f'"{text}" is no header field: write "Name: value"')
    return name.strip(), value.strip()


def _stamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
