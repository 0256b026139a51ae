"""Every refusal has a status and a text in MSpace's shape; the documented texts are letter-perfect."""

import pytest

from api_bridge.dialects.mspace import errors
from mta.runtime.refusals import Reason, Refusal

STATUSES = {
    Reason.UNAVAILABLE: 503,
    Reason.SPOOL_FULL: 503,
    Reason.NOT_STORED: 503,
    Reason.INVALID_ARGUMENT: 400,
    Reason.MESSAGE_TOO_LARGE: 413,
    Reason.SENDER_NOT_ALLOWED: 403,
    Reason.RECIPIENT_SUPPRESSED: 422,
    Reason.INSUFFICIENT_CREDITS: 402,
    Reason.CREDITS_UNAVAILABLE: 503,
    Reason.UNAUTHENTICATED: 401,
    Reason.PERMISSION_DENIED: 403,
    Reason.TENANT_SUSPENDED: 403,
    Reason.NOT_FOUND: 404,
    Reason.ALREADY_EXISTS: 409,
    Reason.REQUEST_ID_REUSED: 409,
    Reason.STALE_ETAG: 409,
    Reason.FAILED_PRECONDITION: 400,
    Reason.RATE_LIMITED: 429,
    Reason.INTERNAL: 500,
    Reason.MAIL_LOOP: 400,
    Reason.BAD_CONTENT: 400,
    Reason.POSITION_LOST: 410,
}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_status(reason: Reason) -> None:
    problem = errors.problem(Refusal(reason, "text"))
    assert problem.status == STATUSES[reason]
    assert problem.message
    assert ("retry-after" in problem.headers) == (problem.status in (429, 503))


def test_documented_texts() -> None:
    assert errors.problem(Refusal(Reason.UNAUTHENTICATED, "x")).message == "Authentication passed failed."
    assert errors.problem(Refusal(Reason.RATE_LIMITED, "x")).message == "Rate limit or connection error."
    assert errors.problem(Refusal(Reason.UNAVAILABLE, "x")).message == "Rate limit or connection error."
    transfer = errors.transfer_problem(Refusal(Reason.NOT_FOUND, "x"), errors.RESELLER_CREDITS)
    assert (transfer.status, transfer.message) == (404, "The target sub-username was not found.")
    transfer = errors.transfer_problem(Refusal(Reason.INSUFFICIENT_CREDITS, "x"), errors.RESELLER_CREDITS)
    assert (transfer.status, transfer.message) == (402, "Insufficient reseller credits")


def test_texts_of_our_own() -> None:
    assert errors.problem(Refusal(Reason.INSUFFICIENT_CREDITS, "x")).message == "Insufficient credits"
    transfer = errors.transfer_problem(Refusal(Reason.INSUFFICIENT_CREDITS, "x"), errors.SUB_USER_CREDITS)
    assert (transfer.status, transfer.message) == (402, "Insufficient sub-user credits")
    for make in (errors.creation_problem, lambda refusal: errors.transfer_problem(refusal, errors.RESELLER_CREDITS)):
        reused = make(Refusal(Reason.REQUEST_ID_REUSED, "request_id was used before", field="request_id"))
        assert (reused.status, reused.message) == (409, errors.KEY_REUSED)
    creation = errors.creation_problem(Refusal(Reason.ALREADY_EXISTS, "x"))
    assert (creation.status, creation.message) == (409, "The username is already taken.")
    creation = errors.creation_problem(Refusal(Reason.INSUFFICIENT_CREDITS, "x"))
    assert (creation.status, creation.message) == (402, "Insufficient reseller credits")


def test_the_challenge_is_for_the_reseller_paths() -> None:
    refusal = Refusal(Reason.UNAUTHENTICATED, "x")
    assert "www-authenticate" not in errors.problem(refusal).headers
    assert errors.creation_problem(refusal).headers["www-authenticate"].startswith("Basic realm=")
    assert errors.transfer_problem(refusal, errors.RESELLER_CREDITS).headers["www-authenticate"].startswith("Basic ")


def test_how_long_to_wait() -> None:
    assert errors.problem(Refusal(Reason.RATE_LIMITED, "x", retry_after=2.2)).headers["retry-after"] == "3"
    assert errors.problem(Refusal(Reason.RATE_LIMITED, "x")).headers["retry-after"] == "5"


def test_a_malformed_target_is_not_found() -> None:
    """Control calls the reseller's own name, or one that cannot be, an invalid argument."""
    problem = errors.transfer_problem(Refusal(Reason.INVALID_ARGUMENT, "source and destination are the same"), "x")
    assert (problem.status, problem.message) == (404, "The target sub-username was not found.")


def test_internals_stay_inside() -> None:
    problem = errors.problem(Refusal(Reason.INTERNAL, "Exception calling application: relation does not exist"))
    assert problem.message == "Internal error."
    problem = errors.problem(Refusal(Reason.INTERNAL, "x", metadata={"quote": "abc123"}))
    assert problem.message == "Internal error; quote abc123."


def test_fields_have_the_names_of_the_json() -> None:
    refusal = Refusal(Reason.INVALID_ARGUMENT, "initial_login.username has a space", field="initial_login.username")
    assert errors.creation_problem(refusal).message == "username has a space"
    refusal = Refusal(Reason.INVALID_ARGUMENT, "too long", field="tenant.contact.phone")
    assert errors.creation_problem(refusal).message == "mobile: too long"
