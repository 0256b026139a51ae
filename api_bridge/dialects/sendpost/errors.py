"""The error bodies of SendPost: ``{"error": {"code", "message", "type", "param"?, "details"?}}``.

Code and type follow from the status unless a ``SendPostProblem`` says more. The legacy contract documents no body; it
gets the same. Statuses are those of the contract, with its oddities: 403 for something that exists already, 406 for an
unknown id on older paths, 422 for a body that is not in the right form. Pure.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.responses import Response

from api_bridge.endpoint import json_answer
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

WRONG_KEY = "The API key is missing or not valid for this path."
"""401."""
TRY_LATER = "The service cannot take the request now; try again."
"""503."""
RETRY_SECONDS = 5
"""Retry-After when nobody said how long."""

_NONE: Mapping[str, str] = MappingProxyType({})
_TEMPORARY = frozenset({Reason.UNAVAILABLE, Reason.NOT_STORED, Reason.SPOOL_FULL, Reason.CREDITS_UNAVAILABLE})
_KINDS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        400: ("invalid_request", "invalid_request_error"),
        401: ("authentication_failed", "authentication_error"),
        402: ("insufficient_credits", "invalid_request_error"),
        403: ("resource_exists", "conflict_error"),
        404: ("resource_not_found", "not_found_error"),
        405: ("invalid_request", "invalid_request_error"),
        406: ("resource_not_found", "not_found_error"),
        408: ("invalid_request", "invalid_request_error"),
        409: ("resource_exists", "conflict_error"),
        413: ("validation_error", "invalid_request_error"),
        415: ("invalid_request", "invalid_request_error"),
        422: ("validation_error", "invalid_request_error"),
        429: ("rate_limit_exceeded", "rate_limit_error"),
        500: ("internal_error", "api_error"),
        503: ("internal_error", "api_error"),
    }
)
"""Code and type of each status."""
_STATUSES: Mapping[Reason, int] = MappingProxyType(
    {
        Reason.UNAUTHENTICATED: 401,
        Reason.PERMISSION_DENIED: 401,
        Reason.TENANT_SUSPENDED: 403,
        Reason.INSUFFICIENT_CREDITS: 402,
        Reason.NOT_FOUND: 404,
        Reason.ALREADY_EXISTS: 403,
        Reason.REQUEST_ID_REUSED: 409,
        Reason.STALE_ETAG: 409,
        Reason.FAILED_PRECONDITION: 400,
        Reason.MESSAGE_TOO_LARGE: 413,
        Reason.SENDER_NOT_ALLOWED: 403,
        Reason.RECIPIENT_SUPPRESSED: 422,
        Reason.BAD_CONTENT: 422,
        Reason.MAIL_LOOP: 422,
        Reason.RATE_LIMITED: 429,
        Reason.POSITION_LOST: 400,
    }
)
_CODES: Mapping[Reason, tuple[str, str]] = MappingProxyType(
    {
        Reason.TENANT_SUSPENDED: ("account_suspended", "authentication_error"),
        Reason.SENDER_NOT_ALLOWED: ("domain_not_verified", "invalid_request_error"),
        Reason.REQUEST_ID_REUSED: ("idempotency_key_reused", "conflict_error"),
        Reason.STALE_ETAG: ("resource_changed", "conflict_error"),
    }
)
"""Reasons whose code and type are not those of their status."""


class SendPostProblem(Problem):
    """A problem with the details that this API tells. Empty ``code`` and ``type``: those of the status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str = "",
        kind: str = "",
        details: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] = _NONE,
    ) -> None:
        super().__init__(status, message, headers)
        self.param = param
        self.code = code
        self.kind = kind
        self.details = details


def unauthorized() -> Problem:
    """401: no key, or not the one for this path."""
    return SendPostProblem(401, WRONG_KEY)


def invalid_query(param: str, message: str) -> Problem:
    """400: a parameter of the query cannot be so. ``message`` begins with its name."""
    return SendPostProblem(400, message, param=param)


def invalid_body(param: str | None, message: str) -> Problem:
    """422: the body is not in the right form. ``message`` begins with the field's name, if one is at fault."""
    details = [(param, message)] if param else []
    return SendPostProblem(422, message, param=param, details=details)


def unknown(what: str, status: int = 404) -> Problem:
    """404, on older paths 406: there is no such ``what``, which begins the sentence, such as "Domain"."""
    return SendPostProblem(status, f"{what} not found.")


def exists(message: str, param: str | None = None) -> Problem:
    """403: there is one with this name or URL already."""
    return SendPostProblem(403, message, param=param)


def problem(refusal: Refusal, *, changing: bool = False, unknown_status: int = 404) -> Problem:
    """The answer for what control or the MTA refused. ``changing``: the request has a body, which is at fault then."""
    reason = refusal.reason
    if reason in _TEMPORARY:
        return SendPostProblem(503, TRY_LATER, headers=_retry_after(refusal))
    if reason is Reason.INTERNAL:
        # The text may come from the gRPC library and name internals; the id to quote is ours.
        quote = refusal.metadata.get("quote")
        return SendPostProblem(500, f"Internal error; quote {quote}." if quote else "Internal error.")
    if reason is Reason.UNAUTHENTICATED:
        return unauthorized()
    if reason is Reason.NOT_FOUND:
        return SendPostProblem(unknown_status, _sentence(refusal.message))
    status = _STATUSES.get(reason, 422 if changing else 400)
    code, kind = _CODES.get(reason, ("", ""))
    headers = _retry_after(refusal) if reason is Reason.RATE_LIMITED else _NONE
    named = refusal.field is not None and refusal.message.startswith(refusal.field)
    text = _sentence(refusal.message, named=named)
    details = [(refusal.field, text)] if refusal.field and status == 422 else []
    param = "Idempotency-Key" if reason is Reason.REQUEST_ID_REUSED else refusal.field
    return SendPostProblem(status, text, param=param, code=code, kind=kind, details=details, headers=headers)


def render(problem: Problem, fields: Mapping[str, str] = _NONE) -> Response:
    """The error answer, with the header ``fields`` of the contract."""
    code, kind = _KINDS.get(problem.status, ("internal_error", "api_error"))
    error: dict[str, Any] = {"code": code, "message": problem.message, "type": kind}
    if isinstance(problem, SendPostProblem):
        error["code"], error["type"] = problem.code or code, problem.kind or kind
        if problem.param:
            error["param"] = problem.param
        if problem.details:
            error["details"] = [{"field": field, "message": message} for field, message in problem.details]
    return json_answer(problem.status, {"error": error}, {**problem.headers, **fields})


def _retry_after(refusal: Refusal) -> Mapping[str, str]:
    seconds = math.ceil(refusal.retry_after) if refusal.retry_after else RETRY_SECONDS
    return {"retry-after": str(seconds)}


def _sentence(text: str, *, named: bool = False) -> str:
    """A text of control as a sentence; ``named``: it begins with the name of a field, which stays, as addresses do."""
    first = text.split(" ")[0]
    if not named and text[:1].islower() and " " in text and "_" not in first and "@" not in first:
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
