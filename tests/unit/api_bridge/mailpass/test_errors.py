"""Every refusal has a status and a code in MailPass's shape; and answers when nobody is behind the bridge."""

import msgspec
import pytest

from api_bridge.backend import Backend
from api_bridge.dialects.mailpass import errors
from api_bridge.dialects.mailpass.calls import bearer
from mta.runtime.options import DialectsOptions, MailPassOptions
from mta.runtime.refusals import Reason, Refusal

from ..conftest import Bridge, Start

SEND = "/api/v1/mail/send"
KEY = "bk_" + "a" * 12 + "_" + "b" * 32
GOOD = {"to": "ann@example.net", "subject": "s", "text": "t"}
EXPECTED = {
    Reason.UNAVAILABLE: (503, "SERVICE_UNAVAILABLE"),
    Reason.SPOOL_FULL: (503, "SERVICE_UNAVAILABLE"),
    Reason.NOT_STORED: (503, "SERVICE_UNAVAILABLE"),
    Reason.CREDITS_UNAVAILABLE: (503, "SERVICE_UNAVAILABLE"),
    Reason.INVALID_ARGUMENT: (400, "VALIDATION_ERROR"),
    Reason.MESSAGE_TOO_LARGE: (413, "PAYLOAD_TOO_LARGE"),
    Reason.SENDER_NOT_ALLOWED: (400, "VALIDATION_ERROR"),
    Reason.RECIPIENT_SUPPRESSED: (422, "SEND_FAILED"),
    Reason.INSUFFICIENT_CREDITS: (500, "SEND_FAILED"),
    Reason.UNAUTHENTICATED: (401, "UNAUTHORIZED"),
    Reason.PERMISSION_DENIED: (403, "FORBIDDEN"),
    Reason.TENANT_SUSPENDED: (403, "FORBIDDEN"),
    Reason.NOT_FOUND: (404, "NOT_FOUND"),
    Reason.ALREADY_EXISTS: (400, "VALIDATION_ERROR"),
    Reason.REQUEST_ID_REUSED: (409, "CONFLICT"),
    Reason.STALE_ETAG: (400, "VALIDATION_ERROR"),
    Reason.FAILED_PRECONDITION: (400, "VALIDATION_ERROR"),
    Reason.RATE_LIMITED: (429, "RATE_LIMIT_EXCEEDED"),
    Reason.INTERNAL: (500, "INTERNAL_ERROR"),
    Reason.MAIL_LOOP: (500, "SEND_FAILED"),
    Reason.BAD_CONTENT: (400, "VALIDATION_ERROR"),
    Reason.POSITION_LOST: (400, "VALIDATION_ERROR"),
}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_status_and_code(reason: Reason) -> None:
    response = errors.render(errors.problem(Refusal(reason, "the text")))
    body = msgspec.json.decode(response.body)
    assert (response.status_code, body["error"]["code"]) == EXPECTED[reason]
    assert body["success"] is False
    assert body["error"]["message"].endswith(".")
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


@pytest.mark.parametrize(
    ("refusal", "named", "code"),
    [
        (Refusal(Reason.SENDER_NOT_ALLOWED, "x", field="sender"), False, "NO_SMTP_PROVIDER"),
        (Refusal(Reason.SENDER_NOT_ALLOWED, "x", field="sender"), True, "VALIDATION_ERROR"),
        (Refusal(Reason.NOT_FOUND, "x", field="smtp_provider"), True, "NO_SMTP_PROVIDER"),
        (Refusal(Reason.RATE_LIMITED, "x", retry_after=7.2), True, "SEND_LIMIT_EXCEEDED"),
    ],
)
def test_codes_of_sending(refusal: Refusal, named: bool, code: str) -> None:
    assert errors.sending_problem(refusal, from_named=named).code == code


def test_our_own_mistakes_tell_nothing() -> None:
    problem = errors.problem(Refusal(Reason.INTERNAL, "grpc: 10.0.0.1 said no", metadata={"quote": "abc"}))
    assert (problem.status, problem.message) == (500, "Internal error; quote abc.")
    assert errors.problem(Refusal(Reason.INTERNAL, "grpc: 10.0.0.1 said no")).message == "Internal error."


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([f"Bearer {KEY}"], f"Bearer {KEY}"),
        ([f"bearer  {KEY} "], f"Bearer {KEY}"),
        ([f"Bearer mp_live_{KEY}"], f"Bearer {KEY}"),
        ([f"Bearer mp_test_{KEY}"], f"Bearer {KEY}"),
        ([f"Bearer mp_live_mp_live_{KEY}"], None),
        ([f"Bearer {KEY}", f"Bearer {KEY}"], None),
        ([f"Basic {KEY}"], None),
        (["Bearer"], None),
        ([""], None),
        ([], None),
    ],
)
def test_keys(fields: list[str], found: str | None) -> None:
    assert bearer(fields) == found


@pytest.mark.asyncio(loop_scope="session")
async def test_with_nobody_behind_the_client_is_told_to_try_again(bridge: Bridge) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    expected = {
        "success": False,
        "error": {"code": "SERVICE_UNAVAILABLE", "message": "The service cannot do this now. Try again later."},
    }
    for answer in (
        await bridge.client.post(SEND, json=GOOD, headers=headers),
        await bridge.client.get("/api/v1/mail/status/1", headers=headers),
    ):
        assert (answer.status_code, answer.json()) == (503, expected)
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.asyncio(loop_scope="session")
async def test_sixty_a_minute_as_the_original_has_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object) -> None:
        """At once: what takes longer than a second is another one that may come."""

    monkeypatch.setattr(Backend, "_ask_control", nobody)
    limited = MailPassOptions(requests_per_second=1.0, burst=60)
    bridge = await start(dialects=DialectsOptions(mailpass=limited))
    headers = {"Authorization": f"Bearer {KEY}"}
    answers = [await bridge.client.get("/api/v1/mail/status/x", headers=headers) for _ in range(62)]
    assert {answer.status_code for answer in answers[:60]} == {404}
    over = [answer for answer in answers[60:] if answer.status_code == 429]
    assert over
    assert over[0].json() == {
        "success": False,
        "error": {"code": "RATE_LIMIT_EXCEEDED", "message": "Too many requests; try again later."},
    }
    assert over[0].headers["retry-after"] == "1"
