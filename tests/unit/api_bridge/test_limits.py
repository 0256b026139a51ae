"""Rate limits over HTTP: off, on, and in the shape of each API."""

import base64
from typing import Any

import pytest

from api_bridge.backend import Backend
from mta.runtime.options import DialectsOptions, MailPassOptions, MSpaceOptions, SendPostOptions, SendPulseOptions
from mta.runtime.refusals import Reason, Refusal

from .conftest import Start

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY, OTHER = (f"bk_{letter * 12}_{'a' * 32}" for letter in "ab")
LIMITED: dict[str, Any] = {"requests_per_second": 0.1, "burst": 2}
SEND = {"to": "a@b.example", "subject": "s", "body": "b"}


def login(name: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:secret-password".encode()).decode()}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


CALLS: dict[str, Any] = {
    "mspace": lambda key: ("/api/send", {}, {**SEND, "apiKey": key}),
    "mspace login": lambda key: ("/api/reseller/createSubUser", login(key), {"username": "u", "password": "p" * 8}),
    "sendpulse": lambda key: ("/smtp/emails", bearer(key), {"email": {}}),
    "mailpass": lambda key: ("/api/v1/mail/send", bearer(key), {"to": "a@b.example"}),
    "sendpost": lambda key: ("/api/v1/subaccount/email/", {"x-subaccount-apikey": key}, {}),
}


async def nobody(*_: object, **__: object) -> None:
    raise Refusal(Reason.UNAVAILABLE, "the service cannot be reached", retry_after=5)


@pytest.mark.parametrize("name", list(CALLS))
async def test_each_key_has_its_own_limit(start: Start, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(Backend, "_ask_control", nobody)
    monkeypatch.setattr(Backend, "submit", nobody)
    options = DialectsOptions(
        mspace=MSpaceOptions(**LIMITED),
        sendpulse=SendPulseOptions(**LIMITED),
        mailpass=MailPassOptions(**LIMITED),
        sendpost=SendPostOptions(**LIMITED),
    )
    bridge = await start(dialects=options)

    async def ask(key: str) -> tuple[int, Any]:
        path, headers, document = CALLS[name](key)
        answer = await bridge.client.post(path, json=document, headers=headers)
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 10
        return answer.status_code, answer.json()

    assert 429 not in [(await ask(KEY))[0] for _ in range(2)]
    status, body = await ask(KEY)
    assert status == 429
    assert isinstance(body, dict)
    assert (await ask(OTHER))[0] != 429
