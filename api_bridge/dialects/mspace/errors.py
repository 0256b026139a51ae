"""The error bodies of MSpace: ``{"status": "error", "message": text}``.

Four texts are the original's, full stops and grammar included, because its customers compare them. The original
documents no HTTP statuses; real ones are used, unless the option ``errors_as_200`` is on. Texts for what the
original does not document are ours and name the field and the mend. Pure.
"""

import math
import re

from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

AUTHENTICATION = "Authentication passed failed."
"""Wrong or missing login or API key."""
RESELLER_CREDITS = "Insufficient reseller credits"
"""The reseller has fewer credits than a sub-user is to get."""
TARGET_NOT_FOUND = "The target sub-username was not found."
"""No such sub-user below this reseller."""
TRY_LATER = "Rate limit or connection error."
"""Too many requests (429), or the message or transfer cannot be taken now (503)."""
SUB_USER_CREDITS = "Insufficient sub-user credits"
"""The sub-user has fewer credits than are to be taken back."""
CREDITS = "Insufficient credits"
"""The account of the API key cannot pay for the message."""
USERNAME_TAKEN = "The username is already taken."
"""Usernames are unique on the whole server."""

KEY_REUSED = "The Idempotency-Key was used before with another request; take a new one."
"""The fields of a repetition must be those of the first request."""

CHALLENGE = 'Basic realm="Reseller API", charset="UTF-8"'
"""The WWW-Authenticate field of the reseller paths (RFC 7617)."""
RETRY_SECONDS = 5
"""Retry-After when nobody said how long."""

_TEMPORARY = frozenset(
    {Reason.UNAVAILABLE, Reason.NOT_STORED, Reason.SPOOL_FULL, Reason.CREDITS_UNAVAILABLE, Reason.RATE_LIMITED}
)
_JSON_NAMES = {
    "initial_login.username": "username",
    "initial_login.password": "password",
    "initial_credits": "credits",
    "tenant.contact.first_name": "firstname",
    "tenant.contact.surname": "surname",
    "tenant.contact.organization": "organization",
    "tenant.contact.phone": "mobile",
    "recipients": "to",
    "from_display_name": "fromName",
    "content": "body",
}


def unauthenticated(challenge: bool) -> Problem:
    """401; with ``challenge`` the client is told to use HTTP Basic."""
    return Problem(401, AUTHENTICATION, {"www-authenticate": CHALLENGE} if challenge else {})


def problem(refusal: Refusal, insufficient: str = CREDITS, challenge: bool = False) -> Problem:
    """The status and text for what control or the MTA refused; ``insufficient`` says whose credits it was about."""
    reason = refusal.reason
    if reason is Reason.UNAUTHENTICATED:
        return unauthenticated(challenge)
    if reason is Reason.INSUFFICIENT_CREDITS:
        return Problem(402, insufficient)
    if reason is Reason.REQUEST_ID_REUSED:
        return Problem(409, KEY_REUSED)
    if reason in _TEMPORARY:
        status = 429 if reason is Reason.RATE_LIMITED else 503
        seconds = math.ceil(refusal.retry_after) if refusal.retry_after else RETRY_SECONDS
        return Problem(status, TRY_LATER, {"retry-after": str(seconds)})
    if reason is Reason.INTERNAL:
        # The text may come from the gRPC library and name internals; the id to quote is ours.
        quote = refusal.metadata.get("quote")
        return Problem(500, f"Internal error; quote {quote}." if quote else "Internal error.")
    return Problem(refusal.rendering.http, _in_json_names(refusal))


def creation_problem(refusal: Refusal) -> Problem:
    """As ``problem``, for createSubUser."""
    if refusal.reason is Reason.ALREADY_EXISTS:
        return Problem(409, USERNAME_TAKEN)
    return problem(refusal, RESELLER_CREDITS, challenge=True)


def transfer_problem(refusal: Refusal, insufficient: str) -> Problem:
    """As ``problem``, for manageCredits.

    Control calls a name that cannot be one, or the reseller's own, an invalid argument. Amounts are checked before, so
    that can only mean the target.
    """
    # PERMISSION_DENIED: an account that is no reseller has no sub-users.
    if refusal.reason in (Reason.NOT_FOUND, Reason.INVALID_ARGUMENT, Reason.PERMISSION_DENIED):
        return Problem(404, TARGET_NOT_FOUND)
    return problem(refusal, insufficient, challenge=True)


def _in_json_names(refusal: Refusal) -> str:
    field = refusal.field or ""
    name = _JSON_NAMES.get(field)
    if name is None or refusal.reason is not Reason.INVALID_ARGUMENT:
        return refusal.message
    text = re.sub(rf"\b{re.escape(field)}\b", name, refusal.message)
    return text if text != refusal.message else f"{name}: {text}"
