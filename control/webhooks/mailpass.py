"""Events as MailPass posts them: one in a request, signed over its body.

    {"event": "email.delivered", "timestamp": "2026-01-30T12:00:00Z", "data": {"message_id": "<...@host>", ...}}

``X-Webhook-ID`` is the id of the event, the same in every attempt; ``X-Webhook-Event`` is its name, and
``X-Webhook-Signature`` is ``sha256=`` and the HMAC-SHA256 of the body in hexadecimal. The fields of ``data`` are named
as in that service's answers. Pure.
"""

import hmac
from datetime import datetime
from typing import Any

import msgspec

from control.model import messageids
from control.webhooks import schedule
from control.webhooks.rendering import Event, Message, Posting, Rendered, Reply

_NAMES = {
    "accepted": "email.sent",
    "delivered": "email.delivered",
    "test": "email.delivered",
    "opened": "email.opened",
    "clicked": "email.clicked",
    "bounced": "email.bounced",
    "expired": "email.bounced",
    "complained": "email.complained",
}
_BOUNCE_TYPES = {"bounced": "hard", "expired": "soft", "complained": "complaint"}


class MailPassRenderer:
    """The form of MailPass."""

    schedule = schedule.NATIVE
    max_batch = 1
    gathering_seconds = 0.0

    def render(self, posting: Posting) -> Rendered:
        """The request for an event."""
        (event,) = posting.events
        name = _NAMES[event.kind]
        time = datetime.fromisoformat(event.time).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = msgspec.json.encode({"event": name, "timestamp": time, "data": _data(event)})
        headers = {"Content-Type": "application/json", "X-Webhook-ID": event.id, "X-Webhook-Event": name}
        if posting.secrets:
            digest = hmac.digest(posting.secrets[0].encode(), body, "sha256").hex()
            headers["X-Webhook-Signature"] = f"sha256={digest}"
        return Rendered(headers, body)


def _data(event: Event) -> dict[str, Any]:
    message = event.message
    if message is None:
        return {}
    data: dict[str, Any] = {
        "message_id": _message_id(message),
        "queue_id": int(message.ids.message),
        "from_email": _author(message),
        "to_email": message.recipient,
        "subject": message.subject,
        "tags": list(message.tags),
        "metadata": message.properties.get("metadata", {}),
    }
    return data | _details(event)


def _details(event: Event) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if event.kind in _BOUNCE_TYPES:
        reply = event.reply or Reply()
        details = {
            "bounce_type": _BOUNCE_TYPES[event.kind],
            "bounce_subtype": reply.enhanced_code,
            "diagnostic_code": " ".join(filter(None, (str(reply.code or ""), reply.enhanced_code, reply.text))),
        }
    if event.engagement is not None:
        details |= {"ip_address": event.engagement.ip_address, "user_agent": event.engagement.user_agent}
        if event.kind == "clicked":
            details["url"] = event.engagement.url
    return details


def _message_id(message: Message) -> str:
    """The Message-ID as the answer to the send call told it, with the submitter's host; copies share it."""
    host = message.properties.get("host")
    return messageids.message_id(int(message.ids.message), host if isinstance(host, str) and host else "localhost")


def _author(message: Message) -> str:
    author = message.properties.get("from")
    email = author.get("email") if isinstance(author, dict) else None
    return email if isinstance(email, str) else message.sender
