"""MSpace's three calls against real programs: the documentation's samples, every error, and where the credits go."""

import base64
import concurrent.futures
import email
import email.policy
import json
import subprocess
import sys
import time
import uuid
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

from tests.integration.bridge.conftest import MESSAGE_BYTES
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.stack import ACCOUNT, RESELLER, Login, Stack
from tests.support.waiting import wait_until, wait_until_steady

CREATE, MANAGE, SEND = "/email/api/reseller/createSubUser", "/email/api/reseller/manageCredits", "/email/api/send"
DENIED = {"status": "error", "message": "Authentication passed failed."}

PYTHON_SAMPLE = """
import urllib.request
import json
import base64
url = "URL/email/api/reseller/manageCredits"
auth = base64.b64encode(b"USERNAME:PASSWORD").decode("ascii")
data = {
"sub_username": "SUB_USER",
"action": "ADD",
"amount": 100
}
req = urllib.request.Request(url, data=json.dumps(data).encode("utf-8"), method="POST")
req.add_header("Authorization", f"Basic {auth}")
req.add_header("Content-Type", "application/json")
with urllib.request.urlopen(req) as response:
    print(response.read().decode("utf-8"))
"""


def basic(login: Login) -> tuple[str, str]:
    return (login.username, login.password)


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


def post(client: httpx.Client, path: str, login: Login | None = None, /, **document: object) -> httpx.Response:
    return client.post(path, json=document, auth=basic(login) if login else httpx.USE_CLIENT_DEFAULT)


def check_error(answer: httpx.Response, status: int, message: str) -> None:
    assert (answer.status_code, answer.json()) == (status, {"status": "error", "message": message})


def make_sub_user(client: httpx.Client, stack: Stack, credits: int = 0) -> Login:
    login = Login(unique("sub"), "developer123")
    answer = post(
        client, CREATE, stack.reseller_login, username=login.username, password=login.password, credits=credits
    )
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "success", "message": "Sub-user created successfully"},
    )
    return login


def curl(url: str, *arguments: str) -> dict[str, object]:
    command = [
        "curl",
        "-sS",
        "-X",
        "POST",
        url,
        "-H",
        "Content-Type: application/json",
        "-H",
        "Accept: application/json",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, timeout=60, check=True)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def received_by(sink: RecordingSink, recipient: str) -> Received:
    return wait_until(
        lambda: next((one for one in sink.received if recipient in one.recipients), None), f"{recipient} has mail"
    ) or pytest.fail("unreachable")


def parsed(received: Received) -> EmailMessage:
    message = email.message_from_bytes(received.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_samples_of_the_documentation(
    shared_stack: Stack, shared_sink: RecordingSink, client: httpx.Client, api_key: str
) -> None:
    """The curl samples of all three calls and the Python sample, with host and credentials changed."""
    stack, url = shared_stack, shared_stack.bridge_url
    login, sub_user, recipient = (
        ":".join(basic(stack.reseller_login)),
        unique("developer"),
        f"{unique('r')}@example.net",
    )
    before = stack.operator.balance(RESELLER).balance
    created = curl(f"{url}{CREATE}", "-u", login, "-d", f"""{{
"username": "{sub_user}",
"password": "developer123",
"firstname": "Dev",
"surname": "Loper",
"organization": "Winsy",
"mobile": "254729651022",
"credits": 50
}}""")  # fmt: skip
    assert created == {"status": "success", "message": "Sub-user created successfully"}
    managed = curl(
        f"{url}{MANAGE}", "-u", login, "-d", f'{{\n"sub_username": "{sub_user}",\n"action": "ADD",\n"amount": 100\n}}'
    )
    assert managed == {
        "status": "success",
        "message": "Credits updated",
        "reseller_balance": before - 150,
        "subuser_balance": 150,
    }
    script = PYTHON_SAMPLE.replace("URL", url).replace("SUB_USER", sub_user)
    script = script.replace("USERNAME", RESELLER).replace("PASSWORD", stack.reseller_login.password)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["subuser_balance"] == 250
    sent = curl(f"{url}{SEND}", "-d", f"""{{
"apiKey": "{api_key}",
"to": "{recipient}",
"subject": "Hello from MSpace",
"body": "<h1>HTML Content</h1>",
"fromName": "MSpace System"
}}""")  # fmt: skip
    assert sent.keys() == {"status", "message", "messageId"}
    assert (sent["status"], sent["message"]) == ("success", "Email queued successfully")
    assert str(sent["messageId"]).removeprefix("msg_").isdecimal()

    received = received_by(shared_sink, recipient)
    message = parsed(received)
    assert str(message["From"]) == "MSpace System <noreply@acme.test>"
    assert (str(message["To"]), str(message["Subject"])) == (recipient, "Hello from MSpace")
    assert message["Date"] and message["Message-ID"]
    assert len(received.headers("DKIM-Signature")) == 2
    html, plain = message.get_body(("html",)), message.get_body(("plain",))
    assert isinstance(html, EmailMessage) and isinstance(plain, EmailMessage)
    assert (html.get_content().strip(), plain.get_content().strip()) == ("<h1>HTML Content</h1>", "HTML Content")


def test_a_sub_user_is_no_reseller_of_its_siblings(shared_stack: Stack, client: httpx.Client) -> None:
    sub_user = make_sub_user(client, shared_stack, credits=5)
    sibling = make_sub_user(client, shared_stack)
    for name in (sibling.username, sub_user.username, "nobody"):
        answer = post(client, MANAGE, sub_user, sub_username=name, action="ADD", amount=1)
        check_error(answer, 404, "The target sub-username was not found.")


def test_create_refuses_with_nothing_half_done(shared_stack: Stack, client: httpx.Client) -> None:
    stack = shared_stack
    taken = make_sub_user(client, stack)
    before = stack.operator.balance(RESELLER).balance
    fields = {"username": unique("new"), "password": "developer123"}
    wrong = Login(RESELLER, "wrong password")
    for login in (wrong, Login("nobody", "whatever it is")):
        answer = post(client, CREATE, login, **fields)
        assert (answer.status_code, answer.json()) == (401, DENIED)
        assert answer.headers["www-authenticate"].startswith("Basic ")
    check_error(post(client, CREATE, stack.reseller_login, **{**fields, "username": taken.username}, credits=5),
                409, "The username is already taken.")  # fmt: skip
    check_error(
        post(client, CREATE, stack.reseller_login, **fields, credits=10**12), 402, "Insufficient reseller credits"
    )
    check_error(post(client, CREATE, stack.reseller_login, **{**fields, "password": "short"}),
                400, "password must be at least 8 characters long")  # fmt: skip
    answer = post(client, CREATE, stack.reseller_login, **{**fields, "username": "two words"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("username")
    assert stack.operator.balance(RESELLER).balance == before
    assert post(client, CREATE, stack.reseller_login, **fields).status_code == 200


def test_credits_move_both_ways_and_never_below_zero(shared_stack: Stack, client: httpx.Client) -> None:
    stack = shared_stack
    name = make_sub_user(client, stack, credits=10).username
    before = stack.operator.balance(RESELLER).balance
    answer = post(client, MANAGE, stack.reseller_login, sub_username=name, action="add", amount="40").json()
    assert (answer["reseller_balance"], answer["subuser_balance"]) == (before - 40, 50)
    answer = post(client, MANAGE, stack.reseller_login, sub_username=name, action="DEDUCT", amount=20).json()
    assert (answer["reseller_balance"], answer["subuser_balance"]) == (before - 20, 30)
    check_error(post(client, MANAGE, stack.reseller_login, sub_username=name, action="DEDUCT", amount=31),
                402, "Insufficient sub-user credits")  # fmt: skip
    check_error(post(client, MANAGE, stack.reseller_login, sub_username=name, action="ADD", amount=10**12),
                402, "Insufficient reseller credits")  # fmt: skip
    assert stack.operator.balance(RESELLER).balance == before - 20


def test_targets_that_are_not_there(shared_stack: Stack, client: httpx.Client) -> None:
    stack = shared_stack
    stack.operator.create_tenant(
        unique("other"), initial_login={"username": (other := unique("o")), "password": "x" * 12}
    )
    for name in ("nobody", RESELLER, other, "operator", "a/b", "two words", "x" * 500, "ü"):
        check_error(post(client, MANAGE, stack.reseller_login, sub_username=name, action="ADD", amount=1),
                    404, "The target sub-username was not found.")  # fmt: skip


def test_a_wrong_password_learns_nothing(shared_stack: Stack, client: httpx.Client) -> None:
    for name in (ACCOUNT, RESELLER, "nobody"):
        answer = post(client, MANAGE, Login(RESELLER, "wrong"), sub_username=name, action="ADD", amount=1)
        assert (answer.status_code, answer.json()) == (401, DENIED)


def test_concurrent_transfers_conserve_credits(shared_stack: Stack, client: httpx.Client) -> None:
    stack = shared_stack
    name = make_sub_user(client, stack, credits=50).username
    before = stack.operator.balance(RESELLER).balance

    def deduct(_: int) -> int:
        return post(client, MANAGE, stack.reseller_login, sub_username=name, action="DEDUCT", amount=20).status_code

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        statuses = sorted(pool.map(deduct, range(10)))
    assert statuses == [200, 200] + [402] * 8
    assert stack.operator.balance(RESELLER).balance == before + 40


def make_sender(stack: Stack, client: httpx.Client) -> tuple[str, str]:
    """A tenant with credits that nobody else uses, and its key."""
    tenant = unique("own")
    stack.operator.create_tenant(tenant, parent=RESELLER)
    stack.operator.grant(tenant, 100)
    stack.operator.create_domain(tenant, f"{tenant}.test")
    api_key = stack.operator.create_api_key(tenant)
    # The address is well formed and refused by the worker, which judges the key first.
    known = {"apiKey": api_key, "to": "nobody@[192.0.2.1]", "subject": "-", "body": "-"}
    wait_until_steady(lambda: post(client, SEND, **known).status_code != 401, "the key is known")
    return tenant, api_key


def test_send_to_several(shared_stack: Stack, shared_sink: RecordingSink, client: httpx.Client) -> None:
    stack = shared_stack
    tenant, api_key = make_sender(stack, client)
    good = [f"{unique('r')}@example.net" for _ in range(3)]
    bad = f"{unique('suppressed')}@example.net"
    stack.operator.suppress(tenant, bad)
    document = {"apiKey": api_key, "subject": "Grüße", "body": "plain words"}
    early: list[httpx.Response] = []

    def suppressed() -> bool:
        answer = post(client, SEND, **document, to=bad)
        if answer.status_code == 200:
            early.append(answer)
        return answer.status_code == 422

    wait_until_steady(suppressed, "the suppression is in force")
    answer = post(client, SEND, **document, to=bad)
    assert answer.status_code == 422
    assert bad in answer.json()["message"] and "scope" in answer.json()["message"]

    answer = post(client, SEND, **document, to=f"{good[0]}, {bad}, {good[1]}")
    body = answer.json()
    assert answer.status_code == 200
    assert [failure["to"] for failure in body["failed"]] == [bad]
    answer = post(client, SEND, **document, to=[good[2]])
    assert "failed" not in answer.json()
    for recipient in good:
        message = parsed(received_by(shared_sink, recipient))
        assert message.get_content_type() == "text/plain"
        assert str(message["Subject"]) == "Grüße"
    stack.wait_until_empty()
    consumed = len(early) + 3
    wait_until(lambda: stack.operator.balance(tenant).consumed == consumed, "three credits are consumed")


def test_the_message_id_is_the_one_of_the_history(
    shared_stack: Stack, shared_sink: RecordingSink, client: httpx.Client, api_key: str
) -> None:
    recipient = f"{unique('r')}@example.net"
    answer = post(client, SEND, apiKey=api_key, to=recipient, subject="s", body="b")
    records = wait_until(lambda: shared_stack.operator.history(ACCOUNT, recipient), "the history has the message")
    assert answer.json()["messageId"] == "msg_" + records[0].name.rpartition("/")[2]


def test_attachments(shared_sink: RecordingSink, client: httpx.Client, api_key: str) -> None:
    recipient, content = f"{unique('r')}@example.net", bytes(range(256)) * 100
    files = [{"filename": "räport.pdf", "content": base64.b64encode(content).decode()}]
    answer = post(client, SEND, apiKey=api_key, to=recipient, subject="s", body="<p>b</p>", attachments=files)
    assert answer.status_code == 200
    (part,) = parsed(received_by(shared_sink, recipient)).iter_attachments()
    assert (part.get_filename(), part.get_payload(decode=True)) == ("räport.pdf", content)


def test_who_asked_is_in_the_trace(shared_sink: RecordingSink, client: httpx.Client, api_key: str) -> None:
    recipient = f"{unique('r')}@example.net"
    assert post(client, SEND, apiKey=api_key, to=recipient, subject="s", body="b").status_code == 200
    assert "[127.0.0.1]" in received_by(shared_sink, recipient).headers("Received")[0]


@pytest.mark.parametrize("key", ["bk_aaaaaaaaaaaa_" + "a" * 32, "nonsense", "bk_", "x y", "ü"])
def test_wrong_keys(client: httpx.Client, key: str) -> None:
    answer = post(client, SEND, apiKey=key, to="a@example.net", subject="s", body="b")
    assert (answer.status_code, answer.json()) == (401, DENIED)
    assert "www-authenticate" not in answer.headers


STRANGER = "bk_aaaaaaaaaaaa_" + "a" * 32
FAULTY_SENDS: list[dict[str, object]] = [
    {},
    {"to": 5},
    {"to": "a@example.net", "subject": "s"},
    {"to": "nobody", "subject": "s", "body": "b"},
    {"to": "a@example.net", "subject": "s", "body": "b", "attachments": [{"filename": "a", "content": "*"}]},
    {"to": ["a@example.net"] * 1001, "subject": "s", "body": "x" * 70_000, "fromName": 5},
]


@pytest.mark.parametrize("document", FAULTY_SENDS)
def test_a_wrong_key_is_told_of_before_the_fields(client: httpx.Client, document: dict[str, object]) -> None:
    answer = post(client, SEND, apiKey=STRANGER, **document)
    assert (answer.status_code, answer.content) == (
        401,
        b'{"status":"error","message":"Authentication passed failed."}',
    )


FAULTY_CALLS: list[tuple[str, bytes]] = [
    (CREATE, b""),
    (CREATE, b"{}"),
    (CREATE, b'{"username":"u","password":"short"}'),
    (CREATE, b'{"username":"u","password":"developer123","credits":-1}'),
    (MANAGE, b"[]"),
    (MANAGE, b'{"sub_username":"u","action":"TAKE","amount":1}'),
    (MANAGE, b'{"sub_username":"u","action":"ADD","amount":"all"}'),
]


@pytest.mark.parametrize(("path", "content"), FAULTY_CALLS)
def test_a_wrong_password_is_told_of_before_the_fields(
    shared_stack: Stack, client: httpx.Client, path: str, content: bytes
) -> None:
    # The user name is nobody's: too many wrong passwords would keep the reseller out for a while.
    answer = client.post(path, content=content, auth=(unique("nobody"), "wrong password"))
    assert (answer.status_code, answer.content) == (
        401,
        b'{"status":"error","message":"Authentication passed failed."}',
    )
    assert answer.headers["www-authenticate"] == 'Basic realm="Reseller API", charset="UTF-8"'
    assert client.post(path, content=content, auth=basic(shared_stack.reseller_login)).status_code == 400


def test_the_login_is_no_api_key(shared_stack: Stack, client: httpx.Client) -> None:
    answer = post(client, SEND, shared_stack.login, apiKey=ACCOUNT, to="a@example.net", subject="s", body="b")
    assert (answer.status_code, answer.json()) == (401, DENIED)


def test_messages_have_a_limit(client: httpx.Client, api_key: str) -> None:
    answer = post(client, SEND, apiKey=api_key, to="a@example.net", subject="s", body="x\n" * MESSAGE_BYTES)
    assert answer.status_code == 413
    assert answer.json()["status"] == "error"


def test_without_credits(shared_stack: Stack, client: httpx.Client) -> None:
    stack = shared_stack
    tenant = unique("poor")
    stack.operator.create_tenant(tenant, parent=RESELLER)
    stack.operator.create_domain(tenant, f"{tenant}.test")
    key = stack.operator.create_api_key(tenant)
    document = {"apiKey": key, "to": "a@example.net", "subject": "s", "body": "b"}
    wait_until_steady(lambda: post(client, SEND, **document).status_code != 401, "the key is known")
    check_error(post(client, SEND, **document), 402, "Insufficient credits")
    stack.operator.grant(tenant, 1)
    wait_until(lambda: post(client, SEND, **document).status_code == 200, "the credit is there")
    check_error(post(client, SEND, **document), 402, "Insufficient credits")


def test_without_a_sender(shared_stack: Stack, client: httpx.Client) -> None:
    key = shared_stack.operator.create_api_key(RESELLER)
    document = {"apiKey": key, "to": "a@example.net", "subject": "s", "body": "b"}
    wait_until_steady(lambda: post(client, SEND, **document).status_code != 401, "the key is known")
    answer = post(client, SEND, **document)
    assert answer.status_code in (400, 403)
    assert "sender" in answer.json()["message"]


@pytest.mark.parametrize("to", ["nobody", "a@", "a@b@c", "a@example.net\r\nRCPT TO:<b@example.net>", "a@-x-.example"])
def test_malformed_addresses(client: httpx.Client, api_key: str, to: str) -> None:
    answer = post(client, SEND, apiKey=api_key, to=to, subject="s", body="b")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("to")


def test_a_stranger_cannot_stall_the_bridge(shared_stack: Stack) -> None:
    """Six bodies of 34 MB at once with a key that nobody has: each took half a minute, and so did everything else."""
    document = {"apiKey": "bk_aaaaaaaaaaaa_" + "a" * 32, "to": "a@example.net", "subject": "s"}
    content = json.dumps({**document, "body": "<p>ab cd</p>\n" * 2_400_000}).encode()
    slowest, done = 0.0, False

    def attack(_: int) -> int:
        with httpx.Client(base_url=shared_stack.bridge_url, timeout=60) as own:
            return own.post(SEND, content=content).status_code

    def probe() -> None:
        nonlocal slowest
        with httpx.Client(base_url=shared_stack.bridge_url, timeout=60) as own:
            while not done:
                started = time.monotonic()
                assert own.get("/healthz").status_code == 200
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(0.01)

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        probing, started = pool.submit(probe), time.monotonic()
        try:
            statuses = set(pool.map(attack, range(6)))
        finally:
            done = True
        probing.result(60)
    assert statuses == {401}
    assert time.monotonic() - started < 60
    assert slowest < 10
    status = Path(f"/proc/{shared_stack.bridge.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 1_000_000, f"the bridge took {peak} kB"


def test_every_password_that_is_accepted_can_log_in(shared_stack: Stack, client: httpx.Client) -> None:
    for password in ("п" * 256, "abc\u00a0defgh", "a" * 8):
        login = Login(unique("sub"), password)
        answer = post(client, CREATE, shared_stack.reseller_login, username=login.username, password=password)
        assert answer.status_code == 200
        answer = client.post(
            MANAGE,
            json={"sub_username": "nobody", "action": "ADD", "amount": 1},
            headers={"authorization": "Basic " + base64.b64encode(f"{login.username}:{password}".encode()).decode()},
        )
        check_error(answer, 404, "The target sub-username was not found.")


def test_a_repeated_call_with_an_idempotency_key_is_made_once(shared_stack: Stack, client: httpx.Client) -> None:
    stack, key = shared_stack, {b"Idempotency-Key": f"Auftrag № {unique('k')}".encode()}
    auth = basic(stack.reseller_login)
    creation = {"username": unique("sub"), "password": "developer123", "credits": 5}
    for _ in range(3):
        answer = client.post(CREATE, json=creation, auth=auth, headers=key)
        assert (answer.status_code, answer.json()["status"]) == (200, "success")
    before = stack.operator.balance(RESELLER).balance
    transfer = {"sub_username": creation["username"], "action": "ADD", "amount": 10}
    answers = [client.post(MANAGE, json=transfer, auth=auth, headers=key) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert stack.operator.balance(RESELLER).balance == before - 10

    answer = client.post(MANAGE, json={**transfer, "amount": 11}, auth=auth, headers=key)
    check_error(answer, 409, "The Idempotency-Key was used before with another request; take a new one.")
    assert client.post(MANAGE, json=transfer, auth=auth).json()["subuser_balance"] == 25


@pytest.mark.parametrize("body", ["<p>once</p>", "<p>once</p>" * 7000], ids=["small", "large"])
def test_a_repeated_send_with_an_idempotency_key_is_made_once(
    shared_stack: Stack, shared_sink: RecordingSink, client: httpx.Client, body: str
) -> None:
    headers, (tenant, api_key) = {"Idempotency-Key": unique("key")}, make_sender(shared_stack, client)
    document = {"apiKey": api_key, "to": f"{unique('once')}@example.net", "subject": "Once", "body": body}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(client.post, SEND, json=document, headers=headers) for _ in range(4)]
        answers = [sent.result() for sent in pending]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {answers[0].text}
    answer = client.post(SEND, json={**document, "subject": "Twice"}, headers=headers)
    check_error(answer, 409, "The Idempotency-Key was used before with another request; take a new one.")
    other = client.post(SEND, json=document)
    assert other.json()["messageId"] not in answers[0].text
    wait_until(lambda: len(arrived(shared_sink, document["to"])) == 2, "two messages arrive")
    shared_stack.wait_until_empty()
    wait_until(lambda: shared_stack.operator.balance(tenant).consumed == 2, "two messages are paid for")
    assert len(arrived(shared_sink, document["to"])) == 2


def arrived(sink: RecordingSink, recipient: str) -> list[Received]:
    return [message for message in sink.received if recipient in message.recipients]


def test_a_rate_limit_is_not_there_by_default(client: httpx.Client, api_key: str) -> None:
    answers = [post(client, SEND, apiKey=api_key, to="", subject="s", body="b") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {400}
