"""Webhooks: who is told of events by HTTP POST, in the form of MailPass (``control/webhooks/mailpass.py``).

The secret that signs is told once, when a webhook is made. A webhook may name its events; without, it gets all.
"""

from typing import Any

from barua.control.v1 import webhook_pb2, webhook_service_pb2

from api_bridge import messageids
from api_bridge.dialects.mailpass import errors, shapes
from api_bridge.dialects.mailpass.calls import ME, SMALL_BYTES, Call
from api_bridge.dialects.mailpass.status import time_of
from api_bridge.problems import Problem

UNKNOWN_WEBHOOK = "The webhook was not found."
_Kind = webhook_pb2.Webhook.EventKind
EVENTS: dict[str, tuple["_Kind.ValueType", ...]] = {
    "email.sent": (webhook_pb2.Webhook.EVENT_KIND_ACCEPTED,),
    "email.delivered": (webhook_pb2.Webhook.EVENT_KIND_DELIVERED,),
    "email.opened": (webhook_pb2.Webhook.EVENT_KIND_OPENED,),
    "email.clicked": (webhook_pb2.Webhook.EVENT_KIND_CLICKED,),
    "email.bounced": (webhook_pb2.Webhook.EVENT_KIND_BOUNCED, webhook_pb2.Webhook.EVENT_KIND_EXPIRED),
    "email.complained": (webhook_pb2.Webhook.EVENT_KIND_COMPLAINED,),
}
"""What can be asked for."""
_STATES = {
    webhook_pb2.Webhook.STATE_ACTIVE: "active",
    webhook_pb2.Webhook.STATE_DEGRADED: "degraded",
    webhook_pb2.Webhook.STATE_DISABLED: "disabled",
}


async def listed(call: Call) -> dict[str, Any]:
    """``GET /api/v1/webhooks``: those in the form of MailPass. A tenant has 50 webhooks at most."""
    limit, offset = call.page()
    request = webhook_service_pb2.ListWebhooksRequest(parent=ME, page_size=1000, order_by="number")
    found = await call.ask("webhooks", "ListWebhooks", request)
    ours = [webhook for webhook in found.webhooks if _is_ours(webhook)]
    rows = [_row(webhook) for webhook in ours[offset : offset + limit]]
    return {"webhooks": rows, "total": len(ours), "limit": limit, "offset": offset}


async def create(call: Call) -> dict[str, Any]:
    """``POST /api/v1/webhooks``."""
    async with call.parts.received(call.request, SMALL_BYTES) as data:
        wanted = shapes.webhook(call.parse(data), EVENTS)
    webhook = webhook_pb2.Webhook(
        url=wanted.url,
        event_kinds=_kinds(wanted.events),
        enabled=wanted.is_active is not False,
        payload_format=webhook_pb2.Webhook.PAYLOAD_FORMAT_MAILPASS,
        secret=wanted.secret,
    )
    request = webhook_service_pb2.CreateWebhookRequest(parent=ME, webhook=webhook, request_id=call.request_id)
    made = await call.ask("webhooks", "CreateWebhook", request)
    return {**_row(made), "secret": wanted.secret or made.secret or None}


async def read(call: Call) -> dict[str, Any]:
    """``GET /api/v1/webhooks/{webhook_id}``."""
    return _row(await _find(call))


async def change(call: Call) -> dict[str, Any]:
    """``PUT /api/v1/webhooks/{webhook_id}``: what is given changes."""
    async with call.parts.received(call.request, SMALL_BYTES) as data:
        wanted = shapes.webhook(call.parse(data), EVENTS, partial=True)
    found = await _find(call)
    webhook = webhook_pb2.Webhook(name=found.name, url=wanted.url, event_kinds=_kinds(wanted.events))
    request = webhook_service_pb2.UpdateWebhookRequest(webhook=webhook, request_id=call.request_id)
    request.update_mask.paths.extend(
        path for path, given in (("url", wanted.url), ("event_kinds", wanted.events)) if given
    )
    if wanted.is_active is not None:
        request.webhook.enabled = wanted.is_active
        request.update_mask.paths.append("enabled")
    if not request.update_mask.paths:
        return _row(found)
    return _row(await call.ask("webhooks", "UpdateWebhook", request))


async def remove(call: Call) -> dict[str, Any]:
    """``DELETE /api/v1/webhooks/{webhook_id}``."""
    found = await _find(call)
    await call.ask("webhooks", "DeleteWebhook", webhook_service_pb2.DeleteWebhookRequest(name=found.name))
    return {"id": found.number, "deleted": True}


async def _find(call: Call) -> webhook_pb2.Webhook:
    number = messageids.from_decimal(call.request.path_params["webhook_id"])
    if number:
        request = webhook_service_pb2.ListWebhooksRequest(parent=ME, number=number)
        found = await call.ask("webhooks", "ListWebhooks", request)
        for webhook in found.webhooks:
            if _is_ours(webhook):
                ours: webhook_pb2.Webhook = webhook
                return ours
    raise Problem(404, UNKNOWN_WEBHOOK, code=errors.NOT_FOUND)


def _is_ours(webhook: webhook_pb2.Webhook) -> bool:
    return webhook.payload_format == webhook_pb2.Webhook.PAYLOAD_FORMAT_MAILPASS


def _kinds(events: list[str]) -> "list[_Kind.ValueType]":
    return [kind for event in events for kind in EVENTS[event]]


def _row(webhook: webhook_pb2.Webhook) -> dict[str, Any]:
    kinds = set(webhook.event_kinds)
    return {
        "id": webhook.number,
        "url": webhook.url,
        "events": [event for event, names in EVENTS.items() if kinds.intersection(names)],
        "is_active": webhook.enabled,
        "status": _STATES.get(webhook.state, "active"),
        "disabled_reason": webhook.disabled_reason or None,
        "created_at": time_of(webhook.create_time),
    }
