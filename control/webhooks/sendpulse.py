"""Events as the SMTP service of SendPulse posts them: an array of flat objects, gathered for half a minute.

    [{"event": "delivered", "timestamp": 1490953933, "message_id": 1149317311, "recipient": ..., "sender": ...,
      "subject": ..., "smtp_server_response_code": "250", "smtp_server_response_subcode": "",
      "smtp_server_response": ...}]

``message_id`` is the recipient's id as a number. A final failure is told as ``undelivered``, and as ``hard_bounces``
beside it if a server refused it; these also name the recipient ``email``, as that service does. It signs nothing; ours
carries the header of the native form (``signing``), which a receiver may ignore. Pure.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from control.model.webhooks import MAX_BATCH
from control.webhooks import schedule, signing
from control.webhooks.rendering import Event, Message, Posting, Rendered, Reply
from control.webhooks.schedule import GATHERING_SECONDS

_NAMES: dict[str, tuple[str, ...]] = {
    "delivered": ("delivered",),
    "test": ("delivered",),
    "deferred": ("soft_bounces",),
    "bounced": ("undelivered", "hard_bounces"),
    "expired": ("undelivered",),
    "opened": ("opened",),
    "clicked": ("clicked",),
    "unsubscribed": ("unsubscribed",),
    "complained": ("spam_by_user",),
}
_BOUNCES = frozenset({"soft_bounces", "hard_bounces"})


class SendPulseRenderer:
    """The form of SendPulse."""

    schedule = schedule.NATIVE
    max_batch = MAX_BATCH
    gathering_seconds = GATHERING_SECONDS

    def render(self, posting: Posting) -> Rendered:
        """The request for a batch."""
        body = msgspec.json.encode([item for event in posting.events for item in _items(event)])
        headers = {"Content-Type": "application/json"}
        if posting.secrets:
            headers[signing.HEADER] = signing.signature(posting.secrets, posting.time, body)
        return Rendered(headers, body)


def _items(event: Event) -> Iterator[dict[str, Any]]:
    message = event.message
    if message is None:
        return
    for name in _NAMES.get(event.kind, ()):
        yield {**_common(name, event, message), **_details(name, event, message)}


def _common(name: str, event: Event, message: Message) -> dict[str, Any]:
    return {
        "event": name,
        "timestamp": int(datetime.fromisoformat(event.time).timestamp()),
        "message_id": int(message.ids.number),
        "recipient": message.recipient,
        "sender": message.sender,
        "subject": message.subject,
    }


def _details(name: str, event: Event, message: Message) -> dict[str, Any]:
    details: dict[str, Any] = {"email": message.recipient} if name in _BOUNCES else {}
    if event.engagement is not None:
        if name == "clicked":
            details["link_url"] = event.engagement.url
        return details | {"ip": event.engagement.ip_address, "user_agent": event.engagement.user_agent}
    reply = event.reply or Reply()
    return details | {
        "smtp_server_response_code": str(reply.code or ""),
        "smtp_server_response_subcode": reply.enhanced_code,
        "smtp_server_response": reply.text,
    }
