"""Makes of each event of the journal a delivery for every webhook that wants it.

``Fanout`` is a consumer of the journal: the deliveries of a batch and the advance of its cursor are one transaction,
so each event is queued exactly once for each webhook. A webhook wants an event when it is enabled, asks for the kind,
is of the event's tenant or looks at the subtree of one above it, and its filters let stream and sender domain through.

The id of an event is made from what identifies it, so it is the same whenever, wherever and however often it is queued.
"""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from control.database import Connection
from control.model import messageids
from control.model.events import EventKind, PastEvent
from control.model.webhooks import Kind, sender_domain
from control.store import webhook_deliveries, webhooks
from control.store.alerts import Alert
from control.store.webhook_deliveries import NewDelivery
from control.store.webhooks import Webhook
from control.webhooks.rendering import AlertNote, Event, Message, MessageIds, Reply, encode

KINDS: dict[EventKind, Kind] = {
    EventKind.RECEIVED: Kind.ACCEPTED,
    EventKind.DELIVERED: Kind.DELIVERED,
    EventKind.DEFERRED: Kind.DEFERRED,
    EventKind.BOUNCED: Kind.BOUNCED,
    EventKind.EXPIRED: Kind.EXPIRED,
}
"""What webhooks call an event of the journal; those that are not here are not told."""

_BEFORE_ITS_TIME = timedelta(minutes=5)
"""A webhook gets no events from before it was made; clocks of nodes may be so far off."""
_NAMESPACE = uuid.UUID("6f1c1c38-7a1f-5d0e-9b43-2f2f0c5a7b11")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Fanout:
    """The consumer."""

    name = "webhooks"

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Queue a batch of events."""
        told = [event for event in events if event.kind in KINDS]
        found = await webhooks.listeners(connection, sorted({event.tenant_id for event in told})) if told else []
        if not found:
            return
        by_subject: dict[str, list[Webhook]] = defaultdict(list)
        for listener in found:
            by_subject[listener.subject].append(listener.webhook)
        wanted = [
            (event, takers)
            for event in told
            if (takers := [one for one in by_subject[event.tenant_id] if _due(one, event)])
        ]
        await _queue(connection, wanted)


async def replay(connection: Connection, webhook: Webhook, events: Sequence[PastEvent]) -> int:
    """Queue events again, or for the first time, as far as the webhook's filters let them through; how many."""
    wanted = [(event, [webhook]) for event in events if event.kind in KINDS and wants(webhook, event)]
    return await _queue(connection, wanted, again=True)


def wants(webhook: Webhook, event: PastEvent) -> bool:
    """Whether a webhook that looks at the event's tenant wants the event."""
    settings = webhook.settings
    return (
        KINDS[event.kind] in settings.kinds
        and (not settings.streams or event.stream in settings.streams)
        and (not settings.sender_domains or sender_domain(event.sender) in settings.sender_domains)
    )


async def tell_alert(connection: Connection, alert: Alert, *, firing: bool) -> int:
    """Queue an alert's beginning, or its end, for the webhooks that want alerts of its tenant; how many."""
    found = await webhooks.listeners(connection, [alert.tenant_id])
    takers = [listener.webhook for listener in found if Kind.ALERT in listener.webhook.settings.kinds]
    if not takers:
        return 0
    state = "firing" if firing else "ok"
    id_ = uuid.uuid5(_NAMESPACE, f"alert {alert.alert_id} {state}")
    time = alert.started_at if firing or alert.ended_at is None else alert.ended_at
    note = AlertNote(
        name=alert.name,
        state=state,
        metric=alert.metric.name.lower(),
        value=alert.value,
        threshold=alert.threshold,
        rule=alert.rule_name,
        display_name=alert.display_name,
        detail=alert.detail,
    )
    event = Event(str(id_), _name(Kind.ALERT), timestamp(time), f"tenants/{alert.tenant_id}", alert=note)
    content = encode(event)
    queue = [NewDelivery(taker.tenant_id, taker.webhook_id, id_, Kind.ALERT, time, content) for taker in takers]
    return await webhook_deliveries.add(connection, queue)


def sample(webhook: Webhook, now: datetime) -> Event:
    """An event that shows what events look like, about a message that never was."""
    id_ = messageids.first_at(now)
    message = Message(
        name=f"tenants/{webhook.tenant_id}/messages/{id_}",
        ids=_ids(id_, id_),
        sender="sender@example.com",
        recipient="recipient@example.net",
        subject="A test",
    )
    return Event(
        id=str(uuid.uuid4()),
        kind=_name(Kind.TEST),
        time=timestamp(now),
        tenant=f"tenants/{webhook.tenant_id}",
        message=message,
        attempt=1,
        reply=Reply(250, "2.0.0", "Ok: this is a test", "mx.example.net"),
    )


def event_id(event: PastEvent) -> uuid.UUID:
    """The id of an event, the same in every delivery of it."""
    return uuid.uuid5(_NAMESPACE, f"{event.recipient_id} {event.event_number}")


def native(event: PastEvent, subject: str = "") -> Event:
    """An event as it is kept. ``subject`` is the message's."""
    reply = Reply(event.code, event.enhanced_code, event.reply, event.remote_host)
    return Event(
        id=str(event_id(event)),
        kind=_name(KINDS[event.kind]),
        time=timestamp(event.occurred_at),
        tenant=f"tenants/{event.tenant_id}",
        message=_message(event, subject),
        attempt=event.attempt,
        reply=None if event.kind is EventKind.RECEIVED else reply,
        source=event.egress_source,
        provider=event.provider,
        next_attempt_time=timestamp(event.next_attempt_at) if event.next_attempt_at else "",
    )


def timestamp(time: datetime) -> str:
    """A time in RFC 3339 form, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _due(webhook: Webhook, event: PastEvent) -> bool:
    return event.occurred_at >= webhook.created_at - _BEFORE_ITS_TIME and wants(webhook, event)


async def _queue(
    connection: Connection, wanted: Sequence[tuple[PastEvent, Sequence[Webhook]]], *, again: bool = False
) -> int:
    """Queue each event for its takers; how many deliveries that makes."""
    if not wanted:
        return 0
    subjects = await webhook_deliveries.subjects(connection, sorted({event.recipient_id for event, _ in wanted}))
    queue: list[NewDelivery] = []
    for event, takers in wanted:
        content = encode(native(event, subjects.get(event.recipient_id, "")))
        kind, id_ = KINDS[event.kind], event_id(event)
        queue += [
            NewDelivery(taker.tenant_id, taker.webhook_id, id_, kind, event.occurred_at, content) for taker in takers
        ]
    return await webhook_deliveries.add(connection, queue, again=again)


def _message(event: PastEvent, subject: str) -> Message:
    return Message(
        name=f"tenants/{event.tenant_id}/messages/{event.recipient_id}",
        ids=_ids(event.recipient_id, event.message_id),
        sender=event.sender,
        recipient=event.recipient,
        subject=subject,
        stream=event.stream,
    )


def _ids(recipient_id: int, message_id: int) -> MessageIds:
    return MessageIds(
        number=str(recipient_id),
        message=str(message_id),
        mspace=f"msg_{recipient_id}",
        uuid=messageids.uuid(recipient_id),
        base36=_base36(recipient_id),
    )


def _base36(id_: int) -> str:
    """The id as ``tttttt-rrrrrr-cc``; ``messageids`` says what that is."""
    seconds, ms = divmod((id_ >> 21) + messageids.EPOCH_MS, 1000)
    span, low = divmod(seconds, 36**6)
    groups = ((low, 6), (ms << 21 | id_ & (1 << 21) - 1, 6), (id_ % 431 * 3 + span, 2))
    return "-".join(
        "".join(_DIGITS[value // 36**place % 36] for place in range(size - 1, -1, -1)) for value, size in groups
    )


def _name(kind: Kind) -> str:
    return kind.name.lower()
