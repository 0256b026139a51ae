"""The error bodies of MailPass: ``{"success": false, "error": {"code": ..., "message": ...}}``.

Four codes are the original's: VALIDATION_ERROR, NO_SMTP_PROVIDER, SEND_LIMIT_EXCEEDED and SEND_FAILED. It documents no
texts but one, "The email field is required.", whose style ours have, and nothing for wrong keys and the like: those
codes are ours. Pure.
"""

import math

from starlette.responses import Response

from api_bridge.endpoint import json_answer
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

VALIDATION_ERROR = "VALIDATION_ERROR"
NO_SMTP_PROVIDER = "NO_SMTP_PROVIDER"
SEND_LIMIT_EXCEEDED = "SEND_LIMIT_EXCEEDED"
SEND_FAILED = "SEND_FAILED"
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = "UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND"

NO_PROVIDER = "No default SMTP provider is configured. Add one and make it the default, or give from_email."
LIMIT = "The sending limit of the SMTP provider is used up. Try again later."
TOO_MANY = "Too many requests; try again later."
UNAVAILABLE = "The service cannot do this now. Try again later."
WRONG_KEY = "The API key is missing or invalid."
NOT_ALLOWED = "The API key does not have the permission for this."
KEY_REUSED = "The Idempotency-Key was used before with another request. Take a new one."
UNKNOWN_MESSAGE = "The message was not found."

RETRY_SECONDS = 5
"""Retry-After when nobody said how long."""

_CODES = {
    400: VALIDATION_ERROR,
    401: UNAUTHORIZED,
    403: FORBIDDEN,
    404: NOT_FOUND,
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: VALIDATION_ERROR,
    429: "RATE_LIMIT_EXCEEDED",
    431: "HEADERS_TOO_LARGE",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
"""By status, for problems that have no code of their own."""
_TEMPORARY = frozenset({Reason.UNAVAILABLE, Reason.NOT_STORED, Reason.SPOOL_FULL, Reason.CREDITS_UNAVAILABLE})
_FAILED = {Reason.RECIPIENT_SUPPRESSED: 422, Reason.INSUFFICIENT_CREDITS: 500, Reason.MAIL_LOOP: 500}
"""Statuses of SEND_FAILED. 500 is the original's; a suppressed address is no failure of the server, and is not tried
again by programs that repeat what a server failed at."""
_FIELDS = {
    "recipients": "to",
    "sender": "from_email",
    "from_display_name": "from_name",
    "content": "html",
    "properties": "metadata",
    "address": "email",
    "suppression.address": "email",
    "suppression.evidence": "diagnostic_code",
    "suppression.note": "bounce_subtype",
    "webhook.url": "url",
    "webhook.event_kinds": "events",
}
"""What clients call the fields of our own calls."""


def invalid(message: str) -> Problem:
    """400: a field is missing or wrong."""
    return Problem(400, message, code=VALIDATION_ERROR)


def failed(message: str, status: int = 500) -> Problem:
    """SEND_FAILED: the message cannot be sent, and to repeat it as it is will not help."""
    return Problem(status, message, code=SEND_FAILED)


def unauthorized() -> Problem:
    """401."""
    return Problem(401, WRONG_KEY, {"www-authenticate": 'Bearer realm="API"'})


def problem(refusal: Refusal) -> Problem:
    """The status, code and text for what control or the MTA refused."""
    reason = refusal.reason
    if reason is Reason.UNAUTHENTICATED:
        return unauthorized()
    if reason in (Reason.PERMISSION_DENIED, Reason.TENANT_SUSPENDED):
        return Problem(403, NOT_ALLOWED if reason is Reason.PERMISSION_DENIED else _sentence(refusal))
    if reason is Reason.RATE_LIMITED:
        return Problem(429, TOO_MANY, _retry(refusal))
    if reason in _TEMPORARY:
        return Problem(503, UNAVAILABLE, _retry(refusal))
    if reason in _FAILED:
        return failed(f"Sending failed: {refusal.message.strip().rstrip('.')}.", _FAILED[reason])
    if reason is Reason.REQUEST_ID_REUSED:
        return Problem(409, KEY_REUSED)
    if reason is Reason.INTERNAL:
        # The text may come from the gRPC library and name internals; the id to quote is ours.
        quote = refusal.metadata.get("quote")
        return Problem(500, f"Internal error; quote {quote}." if quote else "Internal error.")
    if reason is Reason.NOT_FOUND:
        return Problem(404, _sentence(refusal))
    if reason is Reason.MESSAGE_TOO_LARGE:
        return Problem(413, _sentence(refusal))
    return invalid(_sentence(refusal))


def sending_problem(refusal: Refusal, *, from_named: bool) -> Problem:
    """As ``problem``, for a message; ``from_named``: it said who it is from."""
    without_sender = refusal.reason is Reason.SENDER_NOT_ALLOWED and not from_named
    if without_sender or (refusal.reason is Reason.NOT_FOUND and refusal.field == "smtp_provider"):
        return Problem(422, NO_PROVIDER, code=NO_SMTP_PROVIDER)
    if refusal.reason is Reason.RATE_LIMITED:
        return Problem(429, LIMIT, _retry(refusal), SEND_LIMIT_EXCEEDED)
    return problem(refusal)


def render(problem: Problem) -> Response:
    """The error body."""
    code = problem.code if isinstance(problem.code, str) else _CODES.get(problem.status, "ERROR")
    body = {"success": False, "error": {"code": code, "message": problem.message}}
    return json_answer(problem.status, body, problem.headers)


def _retry(refusal: Refusal) -> dict[str, str]:
    return {"retry-after": str(math.ceil(refusal.retry_after) if refusal.retry_after else RETRY_SECONDS)}


def _sentence(refusal: Refusal) -> str:
    """The refusal's text as a sentence that names the field as the client knows it."""
    text = refusal.message.strip()
    name = _FIELDS.get(refusal.field or "")
    if name is not None and refusal.reason in (Reason.INVALID_ARGUMENT, Reason.SENDER_NOT_ALLOWED, Reason.BAD_CONTENT):
        return f"The {name} field is invalid: {text.rstrip('.')}."
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
