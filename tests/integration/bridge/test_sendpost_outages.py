"""SendPost while the workers and control come and go: temporary errors, and a repetition that sends once."""

import uuid
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from tests.support.sendpost import Account, make_account, wait_for_key
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

EMAIL = "/api/v1/subaccount/email/"
TRY_LATER = {
    "error": {
        "code": "internal_error",
        "message": "The service cannot take the request now; try again.",
        "type": "api_error",
    }
}


@pytest.fixture
def account(shared_stack: Stack, client: httpx.Client) -> Iterator[Account]:
    """An account; afterwards every program runs again."""
    made = make_account(shared_stack.operator)
    wait_for_key(shared_stack.bridge_url, made.sub_key)
    yield made
    for program in (*shared_stack.workers, shared_stack.control):
        if not program.is_running:
            program.start()
    wait_until(lambda: client.get("/readyz").status_code == 200, "all programs answer again")
    wait_for_key(shared_stack.bridge_url, made.sub_key)


def test_a_send_that_is_repeated_after_an_outage_is_made_once(
    shared_stack: Stack, client: httpx.Client, account: Account, shared_sink: RecordingSink
) -> None:
    key = uuid.uuid4().hex
    to = [f"outage{n}-{key}@example.net" for n in range(25)]
    body = {
        "from": {"email": f"a@{account.sub_domain}"},
        "to": [{"email": one} for one in to],
        "subject": "x",
        "textBody": "x",
    }
    headers = {**account.sub_headers, "Idempotency-Key": key}

    def send() -> httpx.Response:
        return client.post(EMAIL, json=body, headers=headers)

    for worker in shared_stack.workers:
        worker.kill()
    answer = send()
    assert (answer.status_code, answer.json()) == (503, TRY_LATER)
    assert int(answer.headers["retry-after"]) > 0
    for worker in shared_stack.workers:
        worker.start()
    wait_until(lambda: send().status_code == 200, "the workers are back")
    first = send()
    assert [one["errorCode"] for one in first.json()] == [0] * 25
    assert send().json() == first.json()
    wait_until(lambda: set(to) <= set(shared_sink.recipients), "all are there")
    assert [shared_sink.recipients.count(one) for one in to] == [1] * 25


def test_what_needs_control_is_temporarily_refused_without_it(
    shared_stack: Stack, client: httpx.Client, account: Account
) -> None:
    body = {
        "from": {"email": f"a@{account.sub_domain}"},
        "to": [{"email": "c@example.net"}],
        "subject": "x",
        "textBody": "x",
    }
    for _ in range(6):  # each worker has credits on lease then
        assert client.post(EMAIL, json=body, headers=account.sub_headers).status_code == 200
    shared_stack.control.kill()
    # A worker whose last lease is spent says so; the other one goes on.
    sent = partial(client.post, EMAIL, json=body, headers=account.sub_headers)
    wait_until(lambda: sent().status_code == 200, "mail goes on")
    for answer in (
        client.post(f"{EMAIL}template", json={**body, "template": "x"}, headers=account.sub_headers),
        client.get("/api/v1/account/stat?from=2026-01-01&to=2026-01-02", headers=account.account_headers),
        client.get("/api/v1/subaccount/suppression", headers=account.sub_headers),
    ):
        assert (answer.status_code, answer.json()) == (503, TRY_LATER)
        assert int(answer.headers["retry-after"]) > 0
