"""Webhooks of an account: they hear of the events of all its sub-accounts, signed with the account's key.

What is posted is in the contract that the webhook was made in. The key that signs is the one that made it.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import webhook_pb2, webhook_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Count, Deleted
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from mta.runtime.refusals import Reason, Refusal

WHAT = "Webhook"

_KINDS: dict[str, tuple["webhook_pb2.Webhook.EventKind.ValueType", ...]] = {
    "processed": (webhook_pb2.Webhook.EVENT_KIND_ACCEPTED,),
    "sent": (webhook_pb2.Webhook.EVENT_KIND_SENT,),
    "delivered": (webhook_pb2.Webhook.EVENT_KIND_DELIVERED,),
    "dropped": (webhook_pb2.Webhook.EVENT_KIND_DROPPED,),
    "smtpDropped": (webhook_pb2.Webhook.EVENT_KIND_SMTP_DROPPED,),
    "softBounced": (webhook_pb2.Webhook.EVENT_KIND_DEFERRED,),
    "hardBounced": (webhook_pb2.Webhook.EVENT_KIND_BOUNCED, webhook_pb2.Webhook.EVENT_KIND_EXPIRED),
    "opened": (webhook_pb2.Webhook.EVENT_KIND_OPENED,),
    "clicked": (webhook_pb2.Webhook.EVENT_KIND_CLICKED,),
    "unsubscribed": (webhook_pb2.Webhook.EVENT_KIND_UNSUBSCRIBED,),
    "spam": (webhook_pb2.Webhook.EVENT_KIND_COMPLAINED,),
    "uniqueOpen": (webhook_pb2.Webhook.EVENT_KIND_UNIQUE_OPENED,),
    "uniqueClick": (webhook_pb2.Webhook.EVENT_KIND_UNIQUE_CLICKED,),
}
_DEFAULTS = frozenset(
    {"delivered", "dropped", "softBounced", "hardBounced", "opened", "clicked", "unsubscribed", "spam"}
)
"""Events that a new webhook hears of unless it says otherwise."""
_STATUSES = {
    webhook_pb2.Webhook.STATE_ACTIVE: "active",
    webhook_pb2.Webhook.STATE_DEGRADED: "degraded",
    webhook_pb2.Webhook.STATE_DISABLED: "disabled",
}
_FIELDS = {
    "webhook.url": "url",
    "webhook.event_kinds": "the events",
    "webhook.secret": "X-Account-ApiKey",
    "url": "url",
}
_Flag = bool | None


class WebhookInput(Struct):
    """Body of create and update."""

    url: Annotated[str, Meta(min_length=1, max_length=2000)]
    enabled: _Flag = None
    processed: _Flag = None
    sent: _Flag = None
    delivered: _Flag = None
    dropped: _Flag = None
    smtpDropped: _Flag = None  # noqa: N815  # the name in the JSON
    softBounced: _Flag = None  # noqa: N815
    hardBounced: _Flag = None  # noqa: N815
    opened: _Flag = None
    clicked: _Flag = None
    unsubscribed: _Flag = None
    spam: _Flag = None
    uniqueOpen: _Flag = None  # noqa: N815
    uniqueClick: _Flag = None  # noqa: N815


class Webhook(Struct):
    """A webhook, in the words of both contracts. ``successRate``: 100 while nothing was tried."""

    id: int
    url: str
    enabled: bool
    processed: bool
    sent: bool
    delivered: bool
    dropped: bool
    smtpDropped: bool  # noqa: N815
    softBounced: bool  # noqa: N815
    hardBounced: bool  # noqa: N815
    opened: bool
    clicked: bool
    unsubscribed: bool
    spam: bool
    uniqueOpen: bool  # noqa: N815
    uniqueClick: bool  # noqa: N815
    status: str
    disabledAt: int  # noqa: N815
    disabledReason: str  # noqa: N815
    successRate: float  # noqa: N815
    created: int
    created_by: None
    updated_by: None


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/account/webhook", "/account/webhook/{webhook_id}", Key.ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_webhooks",
            "Webhooks of the account, the oldest first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[Webhook],
        ),
        Operation(
            "POST",
            path,
            "create_webhook",
            "Make a webhook.",
            _create,
            key,
            body=WebhookInput,
            answer=Webhook,
            status=201,
            legacy_status=200,
            failures=(403, 409),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", f"{path}/count", "count_webhooks", "Count the webhooks.", _count, key, answer=Count),
        Operation("GET", one, "get_webhook", "Read a webhook.", _get, key, answer=Webhook, unknown_status=406),
        Operation(
            "PUT",
            one,
            "update_webhook",
            "Change a webhook; what is not given stays.",
            _update,
            key,
            body=WebhookInput,
            answer=Webhook,
            unknown_status=406,
            failures=(403,),
        ),
        Operation(
            "DELETE", one, "delete_webhook", "Delete a webhook.", _delete, key, answer=Deleted, unknown_status=406
        ),
    ]


async def _list(call: Call) -> list[Webhook]:
    request = webhook_service_pb2.ListWebhooksRequest(
        parent="tenants/me", search=call.query["search"] or "", order_by="number"
    )
    return [_webhook(found) for found in await call.page("webhooks", "ListWebhooks", request)]


async def _create(call: Call) -> Webhook:
    body = await call.body(WebhookInput)
    formats = webhook_pb2.Webhook
    webhook = formats(
        url=body.url,
        event_kinds=_kinds(body, _DEFAULTS),
        include_subtree=True,
        enabled=body.enabled if isinstance(body.enabled, bool) else True,
        payload_format=formats.PAYLOAD_FORMAT_SENDPOST_LEGACY if call.legacy else formats.PAYLOAD_FORMAT_SENDPOST,
        secret=call.request.headers[Key.ACCOUNT].strip(),
    )
    request = webhook_service_pb2.CreateWebhookRequest(
        parent="tenants/me", webhook=webhook, request_id=idempotency.request_id(call.request), unique_url=True
    )
    return _webhook(await _asked(call, "CreateWebhook", request))


async def _count(call: Call) -> Count:
    request = webhook_service_pb2.ListWebhooksRequest(parent="tenants/me")
    return await answers.total(call, "webhooks", "ListWebhooks", request)


async def _get(call: Call) -> Webhook:
    return _webhook(await _read(call))


async def _update(call: Call) -> Webhook:
    found, body = await _read(call), await call.body(WebhookInput)
    webhook = webhook_pb2.Webhook(name=found.name, url=body.url)
    webhook.event_kinds.extend(_kinds(body, _heard(found)))
    request = webhook_service_pb2.UpdateWebhookRequest(webhook=webhook, unique_url=True)
    request.update_mask.paths.extend(("url", "event_kinds"))
    if isinstance(body.enabled, bool):
        request.webhook.enabled = body.enabled
        request.update_mask.paths.append("enabled")
    return _webhook(await _asked(call, "UpdateWebhook", request))


async def _delete(call: Call) -> Deleted:
    found = await _read(call)
    await call.ask("webhooks", "DeleteWebhook", webhook_service_pb2.DeleteWebhookRequest(name=found.name))
    return Deleted(found.number, "Webhook deleted.")


async def _read(call: Call) -> webhook_pb2.Webhook:
    request = webhook_service_pb2.ListWebhooksRequest(parent="tenants/me", number=call.number("webhook_id", WHAT))
    found: webhook_pb2.Webhook = await answers.found(call, WHAT, "webhooks", "ListWebhooks", request)
    return found


async def _asked(call: Call, method: str, request: object) -> webhook_pb2.Webhook:
    try:
        webhook: webhook_pb2.Webhook = await answers.ask(call, "webhooks", method, request, _FIELDS)
    except Refusal as refusal:
        if refusal.reason is Reason.ALREADY_EXISTS:
            raise errors.exists("A webhook with this url exists already.", "url") from None
        raise
    return webhook


def _heard(webhook: webhook_pb2.Webhook) -> frozenset[str]:
    """The events that a webhook hears of, in the words of this API."""
    return frozenset(name for name, kinds in _KINDS.items() if kinds[0] in webhook.event_kinds)


def _kinds(body: WebhookInput, otherwise: frozenset[str]) -> list["webhook_pb2.Webhook.EventKind.ValueType"]:
    """What a webhook is to hear of; events that the body does not say are as in ``otherwise``."""
    wanted: list[webhook_pb2.Webhook.EventKind.ValueType] = []
    for name, kinds in _KINDS.items():
        said = getattr(body, name)
        if said if isinstance(said, bool) else name in otherwise:
            wanted += kinds
    return wanted


def _webhook(found: webhook_pb2.Webhook) -> Webhook:
    heard = _heard(found)
    return Webhook(
        id=found.number,
        url=found.url,
        enabled=found.enabled,
        **{name: name in heard for name in _KINDS},
        status=_STATUSES.get(found.state, "active"),
        disabledAt=times.nanoseconds(found.disable_time),
        disabledReason=found.disabled_reason,
        successRate=round(100 * found.success_rate, 2) if found.HasField("success_rate") else 100.0,
        created=times.nanoseconds(found.create_time),
        created_by=None,
        updated_by=None,
    )
