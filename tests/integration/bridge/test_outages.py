"""The bridge while programs behind it come and go: in this order, on one installation."""

import concurrent.futures
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.integration.bridge.test_mspace import MANAGE, SEND, basic, post, unique
from tests.integration.mta.accounts import accepted
from tests.support.stack import ACCOUNT, Stack
from tests.support.waiting import wait_until

Send = Callable[[], httpx.Response]
TRY_LATER = {"status": "error", "message": "Rate limit or connection error."}


@pytest.fixture
def send(shared_stack: Stack, client: httpx.Client, api_key: str) -> Iterator[Send]:
    """Sends one message; afterwards every program runs again."""

    def send_one() -> httpx.Response:
        return post(client, SEND, apiKey=api_key, to=f"{unique('r')}@example.net", subject="s", body="b")

    yield send_one
    for program in (*shared_stack.workers, shared_stack.control, shared_stack.node):
        if not program.is_running:
            program.start()
    wait_until(lambda: client.get("/readyz").status_code == 200, "all programs answer again")
    wait_until(lambda: send_one().status_code == 200, "mail is taken again")


def test_health_when_all_is_well(client: httpx.Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "control": "ok", "mta": "ok"})


def test_one_worker_is_enough(shared_stack: Stack, client: httpx.Client, send: Send) -> None:
    assert client.get("/healthz").status_code == 200
    shared_stack.workers[0].kill()
    wait_until(lambda: send().status_code == 200, "the other worker takes mail")
    assert [send().status_code for _ in range(10)] == [200] * 10
    assert client.get("/readyz").status_code == 200


def test_without_workers(shared_stack: Stack, client: httpx.Client, send: Send) -> None:
    assert client.get("/healthz").status_code == 200
    for worker in shared_stack.workers:
        worker.kill()
    answer = send()
    assert (answer.status_code, answer.json()) == (503, TRY_LATER)
    assert int(answer.headers["retry-after"]) > 0
    wait_until(lambda: client.get("/readyz").status_code == 503, "the bridge notices")
    assert client.get("/readyz").json()["mta"] == "unavailable"
    assert client.get("/healthz").status_code == 200
    shared_stack.workers[1].start()
    wait_until(lambda: send().status_code == 200, "one worker is back")


def test_without_control(shared_stack: Stack, client: httpx.Client, send: Send) -> None:
    before = accepted(shared_stack)

    def all_have_credits() -> bool:
        assert send().status_code == 200
        return all(now > then for now, then in zip(accepted(shared_stack), before, strict=True))

    wait_until(all_have_credits, "each worker has taken mail")
    shared_stack.control.kill()
    assert send().status_code == 200
    answer = post(client, MANAGE, shared_stack.reseller_login, sub_username=ACCOUNT, action="ADD", amount=1)
    assert (answer.status_code, answer.json()) == (503, TRY_LATER)
    wait_until(lambda: client.get("/readyz").status_code == 503, "the bridge notices")
    assert client.get("/readyz").json()["control"] == "unavailable"
    shared_stack.control.start()
    wait_until(
        lambda: (
            client.post(
                MANAGE,
                json={"sub_username": ACCOUNT, "action": "ADD", "amount": 1},
                auth=basic(shared_stack.reseller_login),
            ).status_code
            == 200
        ),
        "control is back",
    )


def test_a_stopped_bridge_answers_what_it_began(shared_stack: Stack, client: httpx.Client, send: Send) -> None:
    """SIGTERM in the middle of requests: each is answered or was never taken; none ends half-way."""
    statuses: list[int] = []

    def send_until_refused() -> None:
        while True:
            try:
                statuses.append(send().status_code)
            except httpx.TransportError:
                return

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(send_until_refused) for _ in range(4)]
        wait_until(lambda: len(statuses) > 20, "requests are under way")
        shared_stack.bridge.stop()
        for sender in pending:
            sender.result(60)
    assert set(statuses) == {200}
    shared_stack.bridge.start()
    wait_until(lambda: shared_stack.bridge.is_running and ready(client), "the bridge is back")


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
