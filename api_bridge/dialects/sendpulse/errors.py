"""The error bodies of SendPulse: ``{"message": text, "error_code": number}``, with the original's texts and codes.

``Known`` names everything the original documents, letter by letter, since its customers compare texts. What it does not
document has a text of ours, which names the field, and the HTTP status as its code. Clients that get 401 fetch a token
and try again, most of them without end, so 401 is for credentials alone: what is not allowed is 403, what cannot be
done 422. Pure.
"""

import math
from dataclasses import dataclass

from starlette.responses import Response

from api_bridge.endpoint import json_answer
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal


@dataclass(frozen=True, slots=True)
class Known:
    """An error of the original."""

    status: int
    code: int
    message: str

    def problem(self, headers: dict[str, str] | None = None) -> Problem:
        """To be raised."""
        return Problem(self.status, self.message, headers or {}, self.code)


UNAUTHORIZED = Known(401, 401, "Unauthorized!")
"""No token, or one that is not valid."""
NOT_ALLOWED = Known(403, 800, "Unauthorized action.")
"""The account may not do this."""
EXPIRED = Known(403, 403, "Account expired")
"""The account, or one above it, is suspended."""
NOT_FOUND = Known(404, 404, "Not Found")
"""There is no such path."""
TOO_FAST = Known(429, 2020202020, "More than 10 requests per second")
"""The rate of the options is exceeded."""
TARIFF = Known(422, 422, "Your tariff does not allow the operation")
"""The credentials do not have the scope for it."""

EMAIL_MISSING = Known(422, 422, "Argument email missing")
BADLY_FORMED = Known(422, 999, "Badly formed incoming data")
FROM_INVALID = Known(422, 422, "Argument from is invalid")
FROM_EMAIL_MISSING = Known(422, 10, "Argument from.email missing")
FROM_EMAIL_INVALID = Known(422, 10, "Argument from.email is invalid")
TO_INVALID = Known(422, 11, "Argument email.to is invalid")
SUBJECT_MISSING = Known(422, 12, "Argument subject missing")
BODY_MISSING = Known(422, 13, "Missed email body")
TEMPLATE_INVALID = Known(422, 422, "Argument template is invalid")
TEMPLATE_ID_MISSING = Known(422, 10, "Argument template.id missing")
VARIABLES_INVALID = Known(422, 731, "Variables list passed in wrong format")
TEMPLATE_NOT_FOUND = Known(422, 31, "Template not found")
TEMPLATE_EMPTY = Known(422, 32, "Template body is empty")
BINARY_INVALID = Known(422, 422, "Argument attachments_binary is invalid")
RECIPIENT_INVALID = Known(422, 422, "Recipient email is invalid")
TOO_MANY_RECIPIENTS = Known(422, 550, "5.5.3 Too many recipients")
TOO_LARGE = Known(422, 422, "Message size limit exceeded")
SENDER_NOT_VALID = Known(422, 422, "Sender is not valid")
NO_SMTP_USER = Known(422, 400, "No such SMTP user, you need to create SMTP account first")
LIMITED = Known(422, 422, "Sending from your account is currently limited. Please try later.")
QUOTA = Known(422, 422, "Sending quota or bandwidth exceeded")

NO_SUCH_EMAIL = Known(400, 14, "No such email")
EMAILS_INCORRECT = Known(400, 832, "Emails param empty or incorrect")
NO_SUCH_EMAILS = Known(400, 14, "No such emails")
EMPTY_EMAILS = Known(400, 14, "Empty emails")
EMPTY_EMAIL = Known(422, 422, "Empty email parameter")
WRONG_EMAIL = Known(422, 422, "Wrong email parameter")

EMAIL_INVALID = Known(422, 422, "Argument email is invalid")
SENDER_MISSING = Known(422, 422, "Argument sender missing")
LANG_INVALID = Known(422, 422, "Argument lang must be string")
NOT_BLOCKED = Known(422, 422, "Blocked email not found")
FIVE_A_DAY = Known(422, 422, "No more than 5 are allowed per day")
RESUBSCRIBE_NO_SMTP_USER = Known(422, 503, "Smtp user not found")

DMARC = Known(422, 422, "DMARC policy error. Please, use another sender domain.")
NAME_MISSING = Known(422, 422, "Argument name missing")
NAME_INVALID = Known(422, 422, "Argument name is invalid")
SENDER_EXISTS = Known(422, 902, "Email already in use")
SENDER_REFUSED = Known(422, 904, "This email in blacklist")

TEMPLATE_BODY_MISSING = Known(422, 422, "Argument body missing")
TEMPLATE_BODY_INVALID = Known(422, 422, "Argument body is invalid string")
TEMPLATE_NAME_TAKEN = Known(422, 573, "Template with such name already exist")
NO_TEMPLATE_TO_EDIT = Known(404, 31, "Template not found")
NO_TEMPLATE_TO_READ = Known(404, 290, "Template not found")

TRY_LATER = "The service is temporarily unavailable. Please try again later."
"""With 503: nothing is known to be done; it can be tried again."""
RETRY_SECONDS = 5
"""Retry-After when nobody said how long."""

_TEMPORARY = frozenset({Reason.UNAVAILABLE, Reason.NOT_STORED, Reason.SPOOL_FULL, Reason.CREDITS_UNAVAILABLE})


def invalid(field: str, code: int = 422) -> Problem:
    """422: a parameter of which the original documents no error, in its words."""
    return Problem(422, f"Argument {field} is invalid", code=code)


def problem(refusal: Refusal) -> Problem:
    """What is refused in the same way whatever the call; each call first looks for the refusals that are its own."""
    reason = refusal.reason
    if reason is Reason.UNAUTHENTICATED:
        return UNAUTHORIZED.problem()
    if reason is Reason.TENANT_SUSPENDED:
        return EXPIRED.problem()
    if reason is Reason.PERMISSION_DENIED:
        return NOT_ALLOWED.problem()
    if reason is Reason.REQUEST_ID_REUSED:
        return Problem(409, "The Idempotency-Key was used before with another request; take a new one.")
    if reason is Reason.RATE_LIMITED:
        return Problem(429, LIMITED.message, retry_after(refusal))
    if reason in _TEMPORARY:
        return Problem(503, TRY_LATER, retry_after(refusal))
    if reason is Reason.INTERNAL:
        # The text may come from the gRPC library and name internals; the id to quote is ours.
        quote = refusal.metadata.get("quote")
        return Problem(500, f"Internal error; quote {quote}." if quote else "Internal error.")
    if reason is Reason.NOT_FOUND:
        return NOT_FOUND.problem()
    return Problem(422, refusal.message, code=422)


def tariff(refusal: Refusal) -> Problem:
    """As ``problem``, for calls that the original refuses with the tariff if the account may not make them."""
    return TARIFF.problem() if refusal.reason is Reason.PERMISSION_DENIED else problem(refusal)


def sending(refusal: Refusal) -> Problem:
    """As ``problem``, for what the MTA says to a message."""
    reason = refusal.reason
    if reason is Reason.SENDER_NOT_ALLOWED:
        return SENDER_NOT_VALID.problem()
    if reason is Reason.INSUFFICIENT_CREDITS:
        return QUOTA.problem()
    if reason is Reason.RATE_LIMITED:
        return LIMITED.problem(retry_after(refusal))
    if reason is Reason.MESSAGE_TOO_LARGE:
        return TOO_LARGE.problem()
    if reason is Reason.INVALID_ARGUMENT and refusal.field == "recipients":
        return TOO_MANY_RECIPIENTS.problem() if "limit" in refusal.metadata else RECIPIENT_INVALID.problem()
    return problem(refusal)


def render(problem: Problem, **more: int) -> Response:
    """The error answer, with ``more`` in it. Problems of the frame's own have no code and get that of their status."""
    if problem.code is None and problem.status == NOT_FOUND.status:
        problem = NOT_FOUND.problem()
    elif problem.code is None and problem.status == TOO_FAST.status and problem.message != LIMITED.message:
        problem = TOO_FAST.problem(dict(problem.headers))
    code = problem.status if problem.code is None else problem.code
    return json_answer(problem.status, {"message": problem.message, "error_code": code, **more}, problem.headers)


def retry_after(refusal: Refusal) -> dict[str, str]:
    """The header field that says how long to wait."""
    return {"retry-after": str(math.ceil(refusal.retry_after) if refusal.retry_after else RETRY_SECONDS)}
