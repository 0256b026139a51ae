"""The OpenAPI document. Parameters may also come in the body of a GET, and bodies as forms; see ``decoder``."""

from typing import Any

from api_bridge.dialects.sendpulse.schemas import SCHEMAS
from api_bridge.openapi import (
    BEARER_SCHEME,
    FORM,
    IDEMPOTENCY_KEY,
    Document,
    Operation,
    answer,
    document,
    failures,
    in_path,
    in_query,
    json_body,
    operation,
    ref,
    text,
    whole,
)

_DESCRIPTION = """The SMTP service of SendPulse, as its client libraries use it.

Every success is 200. Every error is an object with `message` and `error_code`. Parameters are understood in any of the
ways that libraries write them: JSON, JSON as text in JSON, forms with brackets, JSON or PHP-serialised text in forms,
JSON bodies on GET and DELETE, and a bare JSON text as the query."""

_PERSON = {"name": "Example name", "email": "sender@example.com"}
_RECIPIENT = {"name": "Recipient1 name", "email": "recipient1@example.com"}
_HTML = "PHA+RXhhbXBsZSB0ZXh0PC9wPg=="
_EMAIL = {"subject": "Example subject", "from": _PERSON, "to": [_RECIPIENT]}
_EXAMPLES: dict[str, list[Any]] = {
    "Send": [
        {
            "email": {
                **_EMAIL,
                "html": _HTML,
                "text": "Example text",
                "auto_plain_text": False,
                "cc": [{"email": "recipient2@example.com"}],
                "bcc": [{"email": "recipient3@example.com"}],
                "reply_to": {"email": "reply@example.com"},
                "attachments": {"file1.txt": "file1 text content"},
                "attachments_binary": {"file2.txt": "bXkgdGV4dA=="},
            }
        },
        {"email": {**_EMAIL, "template": {"id": 123456, "variables": {"name": "George", "code": "123456"}}}},
    ],
    "Ids": [{"emails": ["qj7rpf-0q8ru6-ou", "qj7rmw-0alndz-r6"]}],
    "Unsubscribing": [{"emails": [{"email": "bad@example.com", "comment": "comment1"}]}, ["bad@example.com"]],
    "Resubscribing": [{"email": "test@example.com", "sender": "sender@example.com", "lang": "en"}],
    "Sender": [{"email": "sender@example.com", "name": "Sender"}],
    "Address": [{"email": "sender@example.com"}],
    "Code": [{"code": "12345678"}],
    "NewTemplate": [{"name": "Welcome", "body": _HTML, "lang": "en"}],
}
_LIMIT = in_query("limit", "Rows; 0: the default, which is the most, too.", whole(minimum=0))
_OFFSET = in_query("offset", "Rows to leave out.", whole(minimum=0, maximum=100_000))
_DATE = text(pattern="^([0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-9]{2})?)?$")
_DAY = in_query("date", "A day, YYYY-MM-DD, UTC.", _DATE)
_ADDRESS = in_path("email", "An email address.")


def _one(
    operation_id: str,
    summary: str,
    schema: str,
    *parameters: Any,
    body: str = "",
    key: bool = False,
    description: str = "",
) -> Operation:
    return operation(
        operation_id,
        summary,
        description=description,
        parameters=[*parameters, *((IDEMPOTENCY_KEY,) if key else ())],
        body=json_body(ref(body), forms=(FORM,), required=False, examples=_EXAMPLES[body]) if body else None,
        answers={200: answer("Done.", ref(schema)), **failures("Error", 401, 403, 404, 409, 422)},
    )


def openapi() -> Document:
    """The document."""
    return document(
        "SendPulse SMTP service",
        _DESCRIPTION,
        paths={**_messages(), **_lists(), **_senders(), **_templates()},
        schemas=SCHEMAS,
        security_schemes={"bearer": BEARER_SCHEME},
        security=[{"bearer": []}],
    )


def _messages() -> dict[str, dict[str, Operation]]:
    token = operation(
        "issueToken",
        "Get a token for an OAuth client",
        body=json_body(
            ref("TokenRequest"),
            forms=(FORM, "multipart/form-data"),
            required=False,
            examples=[{"grant_type": "client_credentials", "client_id": "id", "client_secret": "secret"}],
        ),
        answers={
            200: answer("A token, for an hour. Those issued before stay valid.", ref("Token")),
            **failures("Error", 422),
            **failures("TokenError", 400, 401, everywhere=False),
        },
        security=(),
    )
    filters = [
        in_query("from", "Accepted then or later, UTC.", _DATE),
        in_query("to", "Accepted then or earlier; a day counts as a whole.", _DATE),
        in_query("sender", "Only from this address."),
        in_query("recipient", "Only to this address."),
        in_query("country", '"off": no countries in tracking.'),
    ]
    id_ = in_path("id", "An id, or the whole number that stands for it.")
    return {
        "/oauth/access_token": {"post": token},
        "/smtp/emails": {
            "get": _one("listEmails", "List what was sent, newest first", "EmailRecords", _LIMIT, _OFFSET, *filters),
            "post": _one("sendEmail", "Send a message", "Sent", body="Send", key=True),
        },
        "/smtp/emails/total": {"get": _one("countEmails", "Count what was sent", "Total")},
        "/smtp/emails/info": {"post": _one("getEmails", "Get up to 500 messages", "EmailRecords", body="Ids")},
        "/smtp/emails/{id}": {"get": _one("getEmail", "Get one message", "EmailRecord", id_)},
        "/smtp/bounces/day": {"get": _one("listBounces", "List bounces of a day", "Bounces", _DAY, _LIMIT, _OFFSET)},
        "/smtp/bounces/day/total": {"get": _one("countBounces", "Count bounces of the last 24 hours", "Total")},
        "/smtp/ips": {"get": _one("listAddresses", "List addresses that mail leaves from", "Strings")},
    }


def _lists() -> dict[str, dict[str, Operation]]:
    email = in_query("email", "An email address.", required=True)
    return {
        "/smtp/unsubscribe": {
            "get": _one("listUnsubscribed", "List who unsubscribed", "Unsubscribed", _DAY, _LIMIT, _OFFSET),
            "post": _one("unsubscribe", "Unsubscribe addresses", "Done", body="Unsubscribing"),
            "delete": _one("forgetUnsubscribed", "Take addresses off the list", "Done", body="Unsubscribing"),
        },
        "/smtp/unsubscribe/search": {"get": _one("findUnsubscribed", "Look whether one is listed", "Found", email)},
        "/smtp/resubscribe": {
            "post": _one(
                "resubscribe", "Ask one who unsubscribed, by mail", "Resubscribed", body="Resubscribing", key=True
            )
        },
    }


def _senders() -> dict[str, dict[str, Operation]]:
    domain = in_path("domain", "The domain.")
    return {
        "/senders": {
            "get": _one("listSenders", "List sender addresses", "Senders"),
            "post": _one("addSender", "Add an address; a code is mailed to it", "Done", body="Sender", key=True),
            "delete": _one("deleteSender", "Delete an address", "Done", body="Address", key=True),
        },
        "/senders/{email}/code": {
            "get": _one("sendCode", "Have the code mailed again", "Coded", _ADDRESS, key=True),
            "post": _one("activateSender", "Prove an address with its code", "Coded", _ADDRESS, body="Code", key=True),
        },
        "/smtp/senders": {"get": _one("listVerifiedSenders", "List addresses that are proved", "Strings")},
        "/smtp/domains": {
            "get": _one("listAllowedDomains", "List domains that are proved", "Strings"),
            "post": _one(
                "addSenderOfDomain", "Add an address; a code is mailed to it", "Done", body="Address", key=True
            ),
        },
        "/smtp/domains/{email}": {
            "get": _one("sendCodeOfDomain", "Have the code mailed again", "Done", _ADDRESS, key=True)
        },
        "/domains/{email}": {"get": _one("sendCodeAgain", "As /smtp/domains/{email}", "Done", _ADDRESS, key=True)},
        "/v2/email-service/smtp/sender_domains": {
            "get": _one("listDomains", "List domains with their checks", "Domains")
        },
        "/v2/email-service/smtp/sender_domains/{domain}": {
            "post": _one(
                "addDomain",
                "Add a domain, or have it checked again",
                "DomainAdded",
                domain,
                key=True,
                description="A failure is 200 with `result` false and a text in `error`.",
            )
        },
    }


def _templates() -> dict[str, dict[str, Operation]]:
    id_ = in_path("id", "`id` or `real_id` of a template.")
    owner = in_query("owner", '"me", or "sendpulse", who has none here.')
    return {
        "/templates": {"get": _one("listTemplates", "List templates", "Templates", owner)},
        "/template/{id}": {"get": _one("getTemplate", "Get a template with its body", "Template", id_)},
        "/template": {"post": _one("addTemplate", "Add a template", "TemplateMade", body="NewTemplate", key=True)},
        "/template/edit/{id}": {
            "post": _one("editTemplate", "Change a template", "TemplateMade", id_, body="NewTemplate", key=True)
        },
    }
