"""The shapes of requests and answers, for the OpenAPI document."""

from api_bridge.openapi import Schema, array, either, or_null, record, ref, text, truth, whole

DATE_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$"
"""Of answers; UTC."""
ID = r"^[0-9a-z]{6}-[0-9a-z]{6}-[0-9a-z]{2}$"


def _time(description: str = "") -> Schema:
    return text(description, pattern=DATE_TIME)


_ADDRESS = text("An email address.", maxLength=320)
_NAME = text("A display name, without line breaks.", maxLength=998)
_FLAG = {"type": "integer", "enum": [0, 1]}
_DONE = record({"result": {"type": "boolean", "const": True}}, required=("result",), additionalProperties=False)

_TRACKED = {"browser": text(), "os": text(), "ip": text(), "country": text("Not known: empty."), "action_date": _time()}
_EMAIL_RECORD = {
    "id": text("The id of the recipient's copy.", pattern=ID),
    "sender": text(),
    "total_size": whole("Octets.", minimum=0),
    "sender_ip": text("Where the message came from; may be empty."),
    "smtp_answer_code": whole("Code of the last reply; 0 while the message waits."),
    "smtp_answer_code_explain": text("What it means; empty while the message waits."),
    "smtp_answer_subcode": text('Enhanced code of the last reply, or "0".'),
    "smtp_answer_data": text("Words of the last reply."),
    "used_ip": text("Address that it left from, if known."),
    "recipient": text(),
    "subject": text(),
    "send_date": _time("When it was accepted, UTC."),
    "tracking": ref("Tracking"),
}

SCHEMAS: dict[str, Schema] = {
    "Error": record(
        {"message": text("What is wrong."), "error_code": whole("The original's number.")},
        required=("message", "error_code"),
    ),
    "TokenError": record(
        {
            "error": text(),
            "error_description": text(),
            "message": text(),
            "error_code": whole(),
            "is_error": whole("In all but 401: one client looks for it.", minimum=1, maximum=1),
        },
        required=("message", "error_code"),
    ),
    "Done": _DONE,
    "Total": record({"total": whole(minimum=0)}, required=("total",), additionalProperties=False),
    "Strings": array(text()),
    "TokenRequest": record(
        {"grant_type": text(enum=["client_credentials"]), "client_id": text(), "client_secret": text()},
        required=("grant_type", "client_id", "client_secret"),
    ),
    "Token": record(
        {"access_token": text(), "token_type": text(enum=["Bearer"]), "expires_in": whole("Seconds.")},
        required=("access_token", "token_type", "expires_in"),
    ),
    "Person": record({"email": _ADDRESS, "name": or_null(_NAME)}, required=("email",)),
    "People": either(array(ref("Person")), ref("Person")),
    "Email": record(
        {
            "subject": text(minLength=1, maxLength=998),
            "from": ref("Person"),
            "to": ref("People"),
            "cc": ref("People"),
            "bcc": ref("People"),
            "reply_to": ref("Person"),
            "html": or_null(text("Base64 of UTF-8; HTML that is not encoded is taken, too.")),
            "text": or_null(text()),
            "template": or_null(
                record(
                    {
                        "id": either(text(), whole()),
                        "variables": record({}, additionalProperties={"type": ["string", "number", "boolean", "null"]}),
                    },
                    required=("id",),
                )
            ),
            "auto_plain_text": truth("Make a text part of the HTML if there is none."),
            "attachments": record({}, "Text by file name.", additionalProperties={"type": "string"}),
            "attachments_binary": record({}, "Base64 by file name.", additionalProperties={"type": "string"}),
        },
        "Needs one of html, text and template.",
        required=("subject", "from", "to"),
    ),
    "Send": record({"email": either(ref("Email"), text("The same as JSON or PHP text."))}, required=("email",)),
    "Sent": record(
        {
            "result": {"type": "boolean", "const": True},
            "id": text(pattern=ID),
            "failed": array(
                record({"email": text(), "message": text(), "error_code": whole()}),
                "Recipients that were refused while others were taken.",
            ),
        },
        required=("result", "id"),
    ),
    "Tracking": record(
        {
            "click": whole(minimum=0),
            "open": whole(minimum=0),
            "link": array(record({"url": text(), "screen_resolution": text("Empty."), **_TRACKED})),
            "client_info": array(record(_TRACKED)),
        },
        required=("click", "open", "link", "client_info"),
    ),
    "EmailRecord": record(_EMAIL_RECORD, required=tuple(_EMAIL_RECORD)),
    "EmailRecords": array(ref("EmailRecord")),
    "Ids": record({"emails": either(array(either(text(), whole()), maxItems=500), text())}, required=("emails",)),
    "Bounces": record(
        {
            "total": whole("All of the day.", minimum=0),
            "emails": array(record({"email_to": text(), **_EMAIL_RECORD}, required=("email_to", *_EMAIL_RECORD))),
            "request_limit": whole("Rows of a page, at most."),
            "found": whole("Rows of this page.", minimum=0),
        },
        required=("total", "emails", "request_limit", "found"),
    ),
    "Unsubscribing": either(
        record(
            {"emails": either(array(either(_ADDRESS, ref("Unsubscriber")), minItems=1), text("The same as text."))},
            required=("emails",),
        ),
        array(either(_ADDRESS, ref("Unsubscriber")), minItems=1),
    ),
    "Unsubscriber": record({"email": _ADDRESS, "comment": or_null(text(maxLength=500))}, required=("email",)),
    "Unsubscribed": array(
        record(
            {
                "email": text(),
                "unsubscribe_by_link": _FLAG,
                "unsubscribe_by_user": _FLAG,
                "spam_complaint": _FLAG,
                "date": _time(),
            },
            required=("email", "unsubscribe_by_link", "unsubscribe_by_user", "spam_complaint", "date"),
        )
    ),
    "Found": record({"result": truth()}, required=("result",), additionalProperties=False),
    "Resubscribing": record(
        {"email": _ADDRESS, "sender": _ADDRESS, "lang": text(enum=["ru", "en", "ua", "tr", "es", "pt"])},
        required=("email", "sender"),
    ),
    "Resubscribed": record(
        {"result": {"type": "boolean", "const": True}, "id": text(pattern=ID)}, required=("result", "id")
    ),
    "Sender": record({"email": _ADDRESS, "name": text(minLength=1, maxLength=200)}, required=("email", "name")),
    "Senders": array(
        record(
            {
                "email": text(),
                "name": text(),
                "status": text(enum=["Active", "Not active"]),
                "is_allowed_for_smtp": truth(),
            },
            required=("email", "name", "status", "is_allowed_for_smtp"),
        )
    ),
    "Address": record({"email": _ADDRESS}, required=("email",)),
    "Code": record({"code": either(text(), whole())}, required=("code",)),
    "Coded": record({"result": {"type": "boolean", "const": True}, "email": text()}, required=("result", "email")),
    "Domains": record(
        {
            "data": record(
                {"result": {"type": "boolean", "const": True}, "data": array(ref("Domain"))},
                required=("result", "data"),
            )
        },
        required=("data",),
    ),
    "Domain": record(
        {
            "id": whole(),
            "user_id": whole("A number for the account; 0 if its credentials may not read it."),
            "service_type": whole(enum=[3]),
            "service_value": text("The domain."),
            "status": _FLAG,
            "expire_date": {"type": "null"},
            "auto_free_prolong": whole(),
            "currency": text(),
            "is_default": truth(),
            "ssl_type": whole(enum=[0]),
            "ssl_expired": {"type": "null"},
            "ssl_generated": {"type": "null"},
            "checks": record(
                {
                    "check_dkim": truth(),
                    "check_spf": truth(),
                    "check_dmarc": truth(),
                    "all_checks": truth(),
                    "spf_txt_needed": text("The SPF record to publish."),
                },
                required=("check_dkim", "check_spf", "check_dmarc", "all_checks", "spf_txt_needed"),
            ),
        },
        required=("id", "user_id", "service_type", "service_value", "status", "is_default", "ssl_type", "checks"),
    ),
    "DomainAdded": record(
        {"data": record({"result": truth(), "error": or_null(text())}, required=("result", "error"))},
        required=("data",),
    ),
    "NewTemplate": record(
        {
            "name": text(maxLength=200),
            "body": text("Base64 of UTF-8.", minLength=1),
            "lang": text("A language tag."),
        },
        required=("body",),
    ),
    "TemplateMade": record(
        {"result": {"type": "boolean", "const": True}, "real_id": whole()}, required=("result", "real_id")
    ),
    "Template": record(
        {
            "id": text(),
            "real_id": whole(),
            "lang": text(),
            "name": text(),
            "name_slug": text(),
            "created": _time(),
            "full_description": text(),
            "is_structure": truth(),
            "is_structured": truth("The same, as another client calls it."),
            "category": text(),
            "category_info": record({}),
            "tags": record({}, additionalProperties={"type": "string"}),
            "mark_count": whole(),
            "owner": text(),
            "preview": text("The template in this API.", format="uri"),
            "body": text("Of one template alone."),
        },
        required=("id", "real_id", "lang", "name", "created", "category_info", "tags", "mark_count", "owner"),
    ),
    "Templates": array(ref("Template")),
}
