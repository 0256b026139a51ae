"""The OpenAPI document of MailPass. Data."""

from api_bridge.dialects.mailpass import bounces, calls, shapes, webhooks
from api_bridge.openapi import (
    BEARER_SCHEME,
    IDEMPOTENCY_KEY,
    Document,
    Operation,
    Schema,
    answer,
    array,
    document,
    failures,
    in_path,
    in_query,
    json_body,
    operation,
    or_null,
    record,
    ref,
    text,
    truth,
    whole,
)

DESCRIPTION = """Transactional mail, one message at a time or a batch.

Every call takes an API key as a Bearer token; the calls below /mail need the permission `mail`."""

_ADDRESS = text("An email address.", minLength=1)
_OPTIONAL = or_null(text())
_TIME = text(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$", description="UTC.")
_ADDRESSES = or_null(array(_ADDRESS, maxItems=shapes.MAX_RECIPIENTS))
_LETTER: dict[str, Schema] = {
    "to": text("Who gets it: one address.", minLength=1),
    "subject": text(minLength=1, maxLength=998),
    "html": or_null(text("Needed, unless there is text.")),
    "text": or_null(text("Needed, unless there is html.")),
    "from_email": or_null(text("Otherwise the account's default sender.")),
    "from_name": _OPTIONAL,
    "reply_to": _OPTIONAL,
    "cc": _ADDRESSES,
    "bcc": _ADDRESSES,
    "tags": or_null(array(text(minLength=1, maxLength=shapes.MAX_TAG), maxItems=shapes.MAX_TAGS)),
    "metadata": or_null(record({}, "Kept with the message, and told in webhooks.")),
}
_EVENTS = list(webhooks.EVENTS)
_BOUNCE_TYPES = list(bounces.TYPES)
_WEBHOOK: dict[str, Schema] = {
    "id": whole(minimum=1),
    "url": text(),
    "events": array(text(enum=_EVENTS)),
    "is_active": truth(),
    "status": text(enum=["active", "degraded", "disabled"]),
    "disabled_reason": _OPTIONAL,
    "created_at": _TIME,
}
_PAGED: dict[str, Schema] = {"total": whole(minimum=0), "limit": whole(), "offset": whole()}
_QUEUED = record(
    {
        "to": text(),
        "status": text(enum=["queued", "failed"]),
        "queue_id": whole("Of one that is queued.", minimum=1),
        "message_id": text("Of one that is queued."),
        "error": text("Of one that failed."),
    },
    required=("to", "status"),
    additionalProperties=False,
)


def _success(data: Schema) -> Schema:
    """The envelope of an answer."""
    return record({"success": {"const": True}, "data": data}, required=("success", "data"), additionalProperties=False)


def _whole_record(properties: dict[str, Schema]) -> Schema:
    """An object that has all of its properties, and no others."""
    return record(properties, required=properties, additionalProperties=False)


_SCHEMAS: dict[str, Schema] = {
    "Error": record(
        {
            "success": {"const": False},
            "error": _whole_record({"code": text("What programs compare."), "message": text("What people read.")}),
        },
        required=("success", "error"),
        additionalProperties=False,
    ),
    "Message": record(_LETTER, required=("to", "subject")),
    "Batch": record(
        {
            "messages": array(
                record(_LETTER), "Items that are wrong fail alone.", minItems=1, maxItems=shapes.MAX_MESSAGES
            ),
            "from_email": _LETTER["from_email"],
            "from_name": _OPTIONAL,
        },
        required=("messages",),
    ),
    "Sent": _success(
        _whole_record({"message_id": text(), "status": text(enum=["sent"]), "to": text(), "from": text()})
    ),
    "Queued": _success(
        _whole_record(
            {
                "total": whole(minimum=1),
                "queued": whole(minimum=0),
                "failed": whole(minimum=0),
                "messages": array(_QUEUED),
            }
        )
    ),
    "Status": _success(
        _whole_record(
            {
                "message": _whole_record(
                    {
                        "message_id": text(),
                        "from_email": text(),
                        "to_email": text(),
                        "subject": text(),
                        "status": text(enum=["queued", "sent", "failed"]),
                        "error_message": _OPTIONAL,
                        "sent_at": or_null(_TIME),
                        "created_at": _TIME,
                    }
                ),
                "events": array(
                    record(
                        {
                            "event_type": text(enum=["open", "click", "bounce", "complaint", "unsubscribe"]),
                            "ip_address": _OPTIONAL,
                            "user_agent": _OPTIONAL,
                            "created_at": _TIME,
                            "url": text("The link of a click."),
                        },
                        required=("event_type", "ip_address", "user_agent", "created_at"),
                        additionalProperties=False,
                    )
                ),
            }
        )
    ),
    "Bounces": _success(
        _whole_record(
            {
                "bounces": array(
                    _whole_record(
                        {
                            "id": whole(minimum=1),
                            "email": text(),
                            "bounce_type": text(enum=_BOUNCE_TYPES),
                            "bounce_subtype": _OPTIONAL,
                            "diagnostic_code": _OPTIONAL,
                            "created_at": _TIME,
                        }
                    )
                ),
                **_PAGED,
            }
        )
    ),
    "Bounce": record(
        {
            "email": _ADDRESS,
            "bounce_type": text(enum=_BOUNCE_TYPES),
            "bounce_subtype": or_null(text(maxLength=shapes.MAX_SUBTYPE)),
            "diagnostic_code": or_null(text(maxLength=shapes.MAX_DIAGNOSTIC)),
        },
        required=("email", "bounce_type"),
    ),
    "Reported": _success(_whole_record({"bounce_id": whole(minimum=1)})),
    "WebhookInput": record(
        {
            "url": text("https only.", minLength=1, maxLength=shapes.MAX_URL),
            "events": or_null(array(text(enum=_EVENTS), "None, or not given: all of them.")),
            "is_active": or_null(truth()),
            "secret": or_null(text("Otherwise it is made.", pattern="^[!-~]{16,200}$")),
        },
        required=("url",),
    ),
    "WebhookChange": record(
        {
            "url": text(minLength=1, maxLength=shapes.MAX_URL),
            "events": or_null(array(text(enum=_EVENTS))),
            "is_active": or_null(truth()),
        }
    ),
    "Webhooks": _success(_whole_record({"webhooks": array(_whole_record(_WEBHOOK)), **_PAGED})),
    "Webhook": _success(_whole_record(_WEBHOOK)),
    "NewWebhook": _success(_whole_record({**_WEBHOOK, "secret": or_null(text("Signs the requests; not told again."))})),
    "Deleted": _success(_whole_record({"id": whole(minimum=1), "deleted": {"const": True}})),
}
_SENT = {"to": "user@example.com", "subject": "Hello", "html": "<p>Hello World</p>"}
_PAGE = (
    in_query(
        "limit", "Rows; more than 100 are 100.", whole(minimum=1, maximum=999_999_999, default=calls.DEFAULT_PAGE)
    ),
    in_query("offset", "Rows left out.", whole(minimum=0, maximum=999_999_999, default=0)),
)
_ID = in_path("webhook_id", "The id of the answer.", whole(minimum=1))


def _call(
    operation_id: str,
    summary: str,
    schema: str,
    *statuses: int,
    body: str = "",
    parameters: tuple[object, ...] = (),
    example: object = None,
) -> Operation:
    return operation(
        operation_id,
        summary,
        parameters=parameters,  # type: ignore[arg-type]
        body=json_body(ref(body), examples=[example] if example else []) if body else None,
        answers={200: answer("Done.", ref(schema)), **failures("Error", 401, 403, *statuses)},
    )


_PATHS: dict[str, dict[str, Operation]] = {
    "/mail/send": {
        "post": _call(
            "send", "Send a message", "Sent", 409, 422, body="Message", parameters=(IDEMPOTENCY_KEY,), example=_SENT
        )
    },
    "/mail/send-batch": {
        "post": _call(
            "sendBatch",
            "Queue up to 100 messages",
            "Queued",
            409,
            422,
            body="Batch",
            parameters=(IDEMPOTENCY_KEY,),
            example={"messages": [_SENT], "from_name": "Your App"},
        )
    },
    "/mail/status/{message_id}": {
        "get": _call(
            "status",
            "What became of a message",
            "Status",
            404,
            parameters=(in_path("message_id", "A message_id, with or without brackets, or a queue_id."),),
        )
    },
    "/bounces": {
        "get": _call(
            "listBounces",
            "Addresses that bounced or complained, newest first",
            "Bounces",
            parameters=_PAGE,
        ),
        "post": _call("reportBounce", "Report a bounce", "Reported", body="Bounce"),
    },
    "/webhooks": {
        "get": _call("listWebhooks", "Webhooks, oldest first", "Webhooks", parameters=_PAGE),
        "post": _call(
            "createWebhook", "Make a webhook", "NewWebhook", 409, body="WebhookInput", parameters=(IDEMPOTENCY_KEY,)
        ),
    },
    "/webhooks/{webhook_id}": {
        "get": _call("getWebhook", "Read a webhook", "Webhook", 404, parameters=(_ID,)),
        "put": _call(
            "changeWebhook", "Change a webhook", "Webhook", 404, 409, body="WebhookChange",
            parameters=(_ID, IDEMPOTENCY_KEY),
        ),
        "delete": _call("deleteWebhook", "Delete a webhook", "Deleted", 404, parameters=(_ID,)),
    },
}  # fmt: skip


def openapi(prefix: str) -> Document:
    """The document."""
    return document(
        "MailPass Mail Send",
        DESCRIPTION,
        paths={prefix + path: methods for path, methods in _PATHS.items()},
        schemas=_SCHEMAS,
        security_schemes={"key": BEARER_SCHEME},
        security=[{"key": []}],
    )
