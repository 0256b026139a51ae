"""A request with an idempotency key is made once, whatever is lost or killed on its way.

Counted is what control has on record for a recipient: one record is one message that was taken.
"""

import concurrent.futures
import json
import signal
import socket
from collections.abc import Iterator, Sequence

import httpx
import pytest

from tests.integration.bridge.test_mspace import unique
from tests.support.sendpost import Account, make_account, wait_for_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

PATH = "/api/v1/subaccount/email"

Body = dict[str, object]


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    made = make_account(shared_stack.operator)
    wait_for_key(shared_stack.bridge_url, made.sub_key)
    return made


@pytest.fixture
def stack(shared_stack: Stack, client: httpx.Client) -> Iterator[Stack]:
    """The installation; afterwards every program runs again."""
    yield shared_stack
    for program in (*shared_stack.workers, shared_stack.bridge):
        program.signal(signal.SIGCONT)
        if not program.is_running:
            program.start()
    wait_until(lambda: ready(client), "all programs answer again")


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def message(account: Account, *recipients: str) -> Body:
    return {
        "from": {"email": f"news@{account.sub_domain}"},
        "to": [{"email": recipient} for recipient in recipients],
        "subject": "Once",
        "textBody": "Hello",
    }


def fields(account: Account, key: str) -> dict[str, str]:
    return {**account.sub_headers, "Idempotency-Key": key, "Content-Type": "application/json"}


def send(client: httpx.Client, account: Account, key: str, body: Body) -> httpx.Response | None:
    """The answer; None: there was none."""
    try:
        return client.post(PATH, content=json.dumps(body), headers=fields(account, key))
    except httpx.TransportError:
        return None


def until_sent(client: httpx.Client, account: Account, key: str, body: Body) -> list[str]:
    """Repeat the request as a client should; the ids of its messages."""
    answers: list[httpx.Response | None] = []

    def is_sent() -> bool:
        answers.append(send(client, account, key, body))
        return answers[-1] is not None and answers[-1].status_code == 200

    wait_until(is_sent, "the request succeeds", 60)
    assert answers[-1] is not None
    return [one["messageId"] for one in answers[-1].json()]


def check_once(stack: Stack, account: Account, recipients: Sequence[str]) -> None:
    """Control has one record for each."""

    def counts() -> list[int]:
        return [len(stack.operator.history(account.sub_account, recipient)) for recipient in recipients]

    wait_until(lambda: all(counts()), "every message is on record")
    assert counts() == [1] * len(recipients)


def test_a_repetition_gets_the_same_answer(stack: Stack, client: httpx.Client, account: Account) -> None:
    one, many = (
        message(account, f"{unique('r')}@example.net"),
        message(account, *(f"{unique('r')}@example.net" for _ in "abc")),
    )
    for body in one, many:
        key = unique("key")
        assert until_sent(client, account, key, body) == until_sent(client, account, key, body)
        other = send(client, account, key, body | {"subject": "Another"})
        assert other is not None
        assert other.status_code == 409
    check_once(stack, account, [to["email"] for body in (one, many) for to in body["to"]])  # type: ignore[attr-defined]


def test_a_lost_answer(stack: Stack, client: httpx.Client, account: Account) -> None:
    """The client is gone before the answer is written: the worker is slow, and does not hear of it."""
    recipient, key = f"{unique('r')}@example.net", unique("key")
    body = json.dumps(message(account, recipient)).encode()
    length = {"Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in (fields(account, key) | length).items())
    address = stack.options.bridge.listen.rpartition(":")
    for worker in stack.workers:
        worker.signal(signal.SIGSTOP)
    with socket.create_connection((address[0], int(address[2]))) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode() + body)
    for worker in stack.workers:
        worker.signal(signal.SIGCONT)
    until_sent(client, account, key, json.loads(body))
    check_once(stack, account, [recipient])


@pytest.mark.parametrize("what", ["worker", "bridge"])
def test_a_program_is_killed_in_the_middle(what: str, stack: Stack, client: httpx.Client, account: Account) -> None:
    """Requests with one recipient and with several; each client repeats its own until it hears of success."""
    bodies = [message(account, *(f"{unique('r')}@example.net" for _ in range(1 + number % 3))) for number in range(48)]
    keys = [unique("key") for _ in bodies]
    victim = stack.workers[0] if what == "worker" else stack.bridge
    first: list[int] = []

    def deliver(number: int) -> list[str]:
        with httpx.Client(base_url=stack.bridge_url, timeout=60) as own:
            answer = send(own, account, keys[number], bodies[number])
            first.append(answer.status_code if answer is not None else 0)
            ids = until_sent(own, account, keys[number], bodies[number])
            if answer is not None and answer.status_code == 200:
                assert ids == [one["messageId"] for one in answer.json()]
            return ids

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(deliver, number) for number in range(len(bodies))]
        wait_until(lambda: len(first) >= 12, "some are sent")
        victim.kill()
        victim.start()
        ids = [one for sent in sending for one in sent.result(90)]
    assert len(ids) == len(set(ids))
    assert set(first) <= {200, 503, 0}
    check_once(stack, account, [to["email"] for body in bodies for to in body["to"]])  # type: ignore[attr-defined]


def test_while_its_worker_is_away_a_key_is_for_later(stack: Stack, client: httpx.Client, account: Account) -> None:
    """Another worker does not know whether it was sent: nobody but the one that does may answer."""
    keys = [unique("key") for _ in range(30)]  # as good as surely some for each worker
    bodies = [message(account, f"{unique('r')}@example.net") for _ in keys]
    sent = [until_sent(client, account, key, body) for key, body in zip(keys, bodies, strict=True)]
    stack.workers[0].kill()
    with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
        answers = list(pool.map(lambda key, body: send(client, account, key, body), keys, bodies))
    statuses = {answer.status_code for answer in answers if answer is not None}
    assert statuses == {200, 503}
    stack.workers[0].start()
    assert [until_sent(client, account, key, body) for key, body in zip(keys, bodies, strict=True)] == sent
