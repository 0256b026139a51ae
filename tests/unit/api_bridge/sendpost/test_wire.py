"""SendPost over HTTP with nobody behind the bridge: what is refused before, and what an outage looks like."""

import json
from typing import Any

import pytest

from mta.runtime.options import DialectsOptions, SendPostOptions

from ..conftest import Bridge, Start

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "bk_" + "a" * 12 + "_" + "a" * 32
KEYS = {"X-SubAccount-ApiKey": KEY, "X-Account-ApiKey": KEY}
EMAIL = "/api/v1/subaccount/email/"
LETTER: dict[str, Any] = {
    "from": {"email": "a@b.test"},
    "to": [{"email": "c@d.test"}],
    "subject": "x",
    "textBody": "x",
}
RANGE = "from=2026-01-01&to=2026-01-02"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", EMAIL, LETTER),
        ("POST", f"{EMAIL}template", {**LETTER, "template": "x"}),
        ("GET", f"/api/v1/account/stat?{RANGE}", None),
        ("GET", "/api/v1/account/message/0198a1b2-0000-7000-8000-000000000000", None),
        ("GET", f"/api/v1/subaccount/suppression?{RANGE}", None),
    ],
)
async def test_an_outage_is_temporary(bridge: Bridge, method: str, path: str, body: Any) -> None:
    answer = await bridge.client.request(method, path, json=body, headers=KEYS)
    assert answer.status_code == 503
    assert answer.json() == {
        "error": {
            "code": "internal_error",
            "message": "The service cannot take the request now; try again.",
            "type": "api_error",
        }
    }
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The request body is empty: send a JSON object."),
        (b"[]", "The request body must be a JSON object, not a bare value or array."),
        (b'{"to": ', "The request body is not JSON: line 1 column 8 cannot be read."),
        (b'{"to": 1, "to": 2}', 'The request body has the field "to" twice.'),
        (b'{"to": NaN}', "The request body holds NaN, which is not JSON."),
        (b'{"to": "\\ud800"}', "The request body holds half of a surrogate pair (\\ud800 to \\udfff alone)."),
        (b"\xff", "The request body is not UTF-8: octet 0 cannot be read."),
    ],
)
async def test_what_is_no_json_is_not_in_the_right_form(bridge: Bridge, content: bytes, message: str) -> None:
    answer = await bridge.client.post(EMAIL, content=content, headers=KEYS)
    error = {"code": "validation_error", "message": message, "type": "invalid_request_error"}
    assert (answer.status_code, answer.json()) == (422, {"error": error})


async def test_requests_of_a_key_can_be_limited(start: Start) -> None:
    bridge = await start(dialects=DialectsOptions(sendpost=SendPostOptions(requests_per_second=0.01, burst=1)))
    first = await bridge.client.post(EMAIL, content=b"", headers=KEYS)
    second = await bridge.client.post(EMAIL, content=b"", headers=KEYS)
    assert (first.status_code, second.status_code) == (422, 429)
    assert second.json()["error"] == {
        "code": "rate_limit_exceeded",
        "message": "Too many requests; try again later.",
        "type": "rate_limit_error",
    }
    assert int(second.headers["retry-after"]) > 0


async def test_the_operator_may_prefer_the_legacy_contract(start: Start) -> None:
    options = SendPostOptions(contract="legacy", legacy_sunset="2027-06-30")
    bridge = await start(dialects=DialectsOptions(sendpost=options))
    for headers, applied in (({}, "legacy"), ({"X-SendPost-Public-Contract": "v1"}, "v1")):
        for path in (EMAIL, "/api/v1/account/nothing"):
            answer = await bridge.client.post(path, content=b"", headers={**KEYS, **headers})
            if path == EMAIL:
                assert answer.headers["x-sendpost-public-contract"] == applied
                assert answer.headers.get("sunset") == (
                    "Wed, 30 Jun 2027 23:59:59 GMT" if applied == "legacy" else None
                )
            assert set(answer.json()) == {"error"}


async def test_two_keys_are_none(bridge: Bridge) -> None:
    headers = [("X-SubAccount-ApiKey", KEY), ("X-SubAccount-ApiKey", KEY)]
    answer = await bridge.client.post(EMAIL, content=json.dumps(LETTER).encode(), headers=headers)
    assert answer.status_code == 401


async def test_idempotency_keys_that_cannot_be_one(bridge: Bridge) -> None:
    for key in ("", "x" * 201):
        answer = await bridge.client.post(EMAIL, json=LETTER, headers={**KEYS, "Idempotency-Key": key})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_mocked_send_is_refused_where_nothing_can_be_mocked(bridge: Bridge) -> None:
    for value in ("true", "perhaps"):
        answer = await bridge.client.post(EMAIL, json=LETTER, headers={**KEYS, "X-SendPost-Mock-Email": value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-SendPost-Mock-Email")
