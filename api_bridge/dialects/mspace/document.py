"""The OpenAPI document of MSpace. Data."""

from typing import Any

from api_bridge.dialects.mspace import shapes
from api_bridge.openapi import (
    BASIC_SCHEME,
    IDEMPOTENCY_KEY,
    JSON,
    Document,
    Operation,
    answer,
    array,
    document,
    either,
    failures,
    json_body,
    operation,
    or_null,
    record,
    ref,
    text,
    whole,
)

DESCRIPTION = """Sub-users, credits and messages of a reseller.

The first two calls take the reseller's login as HTTP Basic, the third has its API key in the body."""

_ERROR = record(
    {"status": text(enum=["error"]), "message": text("What is wrong.")},
    required=("status", "message"),
    additionalProperties=False,
)
_DONE = record(
    {"status": text(enum=["success"]), "message": text()}, required=("status", "message"), additionalProperties=False
)
_AMOUNT = either(whole(maximum=shapes.MAX_CREDITS, minimum=1), text(pattern="^ *[+]?[0-9]{1,18} *$"))
_CREDITS = either(
    whole(maximum=shapes.MAX_CREDITS, minimum=0), text(pattern="^( *[+]?[0-9]{1,18} *)?$"), {"type": "null"}
)
_SCHEMAS = {
    "Error": _ERROR,
    "CreateSubUser": record(
        {
            "username": text("Unique on the server.", minLength=1),
            "password": text(minLength=shapes.MIN_PASSWORD),
            "credits": {**_CREDITS, "description": "Given to the sub-user at once."},
            "mobile": either(text("With the country's code."), whole(), {"type": "null"}),
            "firstname": or_null(text()),
            "surname": or_null(text()),
            "organization": or_null(text()),
        },
        required=("username", "password"),
    ),
    "Created": _DONE,
    "ManageCredits": record(
        {
            "sub_username": text(minLength=1),
            "action": text("In any case.", enum=["ADD", "DEDUCT", "add", "deduct"]),
            "amount": _AMOUNT,
        },
        required=("sub_username", "action", "amount"),
    ),
    "CreditsManaged": record(
        {
            "status": text(enum=["success"]),
            "message": text(),
            "reseller_balance": whole(),
            "subuser_balance": whole(),
        },
        required=("status", "message", "reseller_balance", "subuser_balance"),
        additionalProperties=False,
    ),
    "Attachment": record(
        {
            "filename": text(minLength=1),
            "content": text("Base64."),
            "contentType": or_null(text("Otherwise by the file's name.")),
        },
        required=("filename", "content"),
    ),
    "Send": record(
        {
            "apiKey": text(minLength=1),
            "to": either(
                text("One address, or several with commas between.", minLength=1),
                array(text(), minItems=1, maxItems=shapes.MAX_RECIPIENTS),
            ),
            "subject": text(minLength=1),
            "body": text("HTML if it has a tag, otherwise plain text.", minLength=1),
            "fromName": or_null(text("The sender's name; its address is the account's.")),
            "attachments": or_null(array(ref("Attachment"), maxItems=shapes.MAX_ATTACHMENTS)),
        },
        required=("apiKey", "to", "subject", "body"),
    ),
    "Sent": record(
        {
            "status": text(enum=["success"]),
            "message": text(),
            "messageId": text(pattern="^msg_[0-9]+$"),
            "failed": array(
                record({"to": text(), "message": text()}, required=("to", "message")),
                "Recipients that were refused while others were not.",
            ),
        },
        required=("status", "message", "messageId"),
        additionalProperties=False,
    ),
}
_CREATE = operation(
    "createSubUser",
    "Make a sub-user",
    parameters=[IDEMPOTENCY_KEY],
    body=json_body(ref("CreateSubUser"), examples=[{"username": "developer", "password": "developer123"}]),
    answers={200: answer("Made.", ref("Created")), **failures("Error", 401, 402, 403, 409, 422)},
    security=[{"login": []}],
)
_MANAGE = operation(
    "manageCredits",
    "Give credits to a sub-user, or take them back",
    parameters=[IDEMPOTENCY_KEY],
    body=json_body(ref("ManageCredits"), examples=[{"sub_username": "developer", "action": "ADD", "amount": 100}]),
    answers={200: answer("Moved.", ref("CreditsManaged")), **failures("Error", 401, 402, 403, 404, 409)},
    security=[{"login": []}],
)
_SEND = operation(
    "send",
    "Queue a message",
    parameters=[IDEMPOTENCY_KEY],
    body=json_body(
        ref("Send"),
        examples=[{"apiKey": "YOUR_API_KEY", "to": "recipient@example.com", "subject": "Hello", "body": "<p>Hi</p>"}],
    ),
    answers={200: answer("It is on disk.", ref("Sent")), **failures("Error", 401, 402, 403, 409, 422)},
    security=[],
)

_CALLS = {"/reseller/createSubUser": _CREATE, "/reseller/manageCredits": _MANAGE, "/send": _SEND}


def openapi(prefixes: tuple[str, ...], errors_as_200: bool) -> Document:
    """The document; the first of ``prefixes`` gives the operations their plain names."""
    paths: dict[str, dict[str, Operation]] = {}
    for number, prefix in enumerate(prefixes):
        for path, described in _CALLS.items():
            name = described["operationId"] + (f"{number + 1}" if number else "")
            answers = _all_as_200(described["responses"]) if errors_as_200 else described["responses"]
            paths[prefix + path] = {"post": {**described, "operationId": name, "responses": answers}}
    return document(
        "MSpace Bulk Email",
        DESCRIPTION,
        paths=paths,
        schemas=_SCHEMAS,
        security_schemes={"login": BASIC_SCHEME},
    )


def _all_as_200(answers: dict[str, Any]) -> dict[str, Any]:
    """The answers when every status is 200."""
    done = answers["200"]["content"][JSON]["schema"]
    return {"200": answer("What became of it: see `status`.", either(done, ref("Error")))}
