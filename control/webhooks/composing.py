"""Makes of an event of the journal what is kept for webhooks: an ``Event``, which belongs to no format.

The id of an event is made from what identifies it, so it is the same whenever, wherever and however often it is queued.
A format that tells several things of one event of the journal has an id for each. Pure.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from control.model import messageids
from control.model.events import ENGAGEMENTS, EventKind, PastEvent
from control.model.webhooks import Kind
from control.store.webhooks import Webhook
from control.webhooks.rendering import Engagement, Event, Message, MessageIds, Origin, Reply
from control.webhooks.wanting import KINDS

NAMESPACE = uuid.UUID("6f1c1c38-7a1f-5d0e-9b43-2f2f0c5a7b11")
_WITHOUT_REPLY = ENGAGEMENTS | {EventKind.RECEIVED}
_JSON_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Context(NamedTuple):
    """What is known of a recipient beside its event."""

    subject: str = ""
    tags: Sequence[str] = ()
    properties: dict[str, Any] = {}  # noqa: RUF012 - never changed
    origin: Origin | None = None


def event_id(event: PastEvent, kind: Kind | None = None) -> uuid.UUID:
    """The id of an event, the same in every delivery of it. ``kind``: one of several that a format tells of it."""
    names = KINDS.get(event.kind, ())
    # What BOUNCED is to one format is SMTP_DROPPED to another: one event under two names.
    text = f"{event.recipient_id} {event.event_number}"
    if kind is not None and kind is not Kind.SMTP_DROPPED and kind not in names[:1]:
        text += f" {name_of(kind)}"
    return uuid.uuid5(NAMESPACE, text)


def native(event: PastEvent, context: Context = Context(), kind: Kind | None = None) -> Event:  # noqa: B008 - frozen
    """An event as it is kept, under the first of its names or another one."""
    reply = Reply(event.code, event.enhanced_code, event.reply, event.remote_host)
    done = Engagement(event.ip_address, event.user_agent, event.url, event.first)
    return Event(
        id=str(event_id(event, kind)),
        kind=name_of(kind or KINDS[event.kind][0]),
        time=timestamp(event.occurred_at),
        tenant=f"tenants/{event.tenant_id}",
        message=_message(event, context),
        attempt=event.attempt,
        reply=None if event.kind in _WITHOUT_REPLY else reply,
        source=event.egress_source,
        provider=event.provider,
        next_attempt_time=timestamp(event.next_attempt_at) if event.next_attempt_at else "",
        engagement=done if event.kind in ENGAGEMENTS else None,
        origin=context.origin,
    )


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
        kind=name_of(Kind.TEST),
        time=timestamp(now),
        tenant=f"tenants/{webhook.tenant_id}",
        message=message,
        attempt=1,
        reply=Reply(250, "2.0.0", "Ok: this is a test", "mx.example.net"),
    )


def timestamp(time: datetime) -> str:
    """A time in RFC 3339 form, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def properties_of(text: str) -> dict[str, Any]:
    """What a submitter gave along; nothing for what is no JSON object."""
    if not text:
        return {}
    try:
        return _JSON_OBJECT.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}


def name_of(kind: Kind) -> str:
    """What payloads call a kind."""
    return kind.name.lower()


def _message(event: PastEvent, context: Context) -> Message:
    return Message(
        name=f"tenants/{event.tenant_id}/messages/{event.recipient_id}",
        ids=_ids(event.recipient_id, event.message_id),
        sender=event.sender,
        recipient=event.recipient,
        subject=context.subject,
        stream=event.stream,
        tags=context.tags,
        properties=context.properties,
    )


def _ids(recipient_id: int, message_id: int) -> MessageIds:
    return MessageIds(
        number=str(recipient_id),
        message=str(message_id),
        mspace=f"msg_{recipient_id}",
        uuid=messageids.uuid(recipient_id),
        base36=messageids.base36(recipient_id),
    )
