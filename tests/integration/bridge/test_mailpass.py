"""MailPass on a running installation: what is sent, what is told of it, and once only."""

import re
import subprocess
import time
import uuid
from typing import Any

import httpx
import pytest

from tests.support.languages import SECONDS
from tests.support.mailpass import (
    BATCH,
    SEND,
    STATUS,
    Account,
    limit,
    make_account,
    make_key,
    sending,
    wait_until_known,
)
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until, wait_until_steady

HOST = "mta.barua.test"


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """An account for the tests of this module."""
    made = make_account(shared_stack.operator)
    with httpx.Client(base_url=shared_stack.bridge_url, timeout=60) as client:
        wait_until_known(client, made)
    return made


def recipient(word: str) -> str:
    """An address of its own."""
    return f"{word}-{uuid.uuid4().hex[:8]}@example.net"


def arrived(sink: RecordingSink, address: str) -> Received:
    """The message that came for an address."""

    def found() -> list[Received]:
        return [one for one in sink.received if address in one.recipients]

    wait_until(found, f"mail for {address} is there")
    return found()[0]


def told(client: httpx.Client, account: Account, id_: str, wanted: str = "") -> dict[str, Any]:
    """What became of a message, once it is ``wanted`` if that is given."""

    def ask() -> dict[str, Any]:
        answer = client.get(f"{STATUS}/{id_}", headers=account.headers)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    if wanted:
        wait_until(lambda: ask()["message"]["status"] == wanted, f"{id_} is {wanted}")
    return ask()


def test_everything_of_the_documentation(client: httpx.Client, account: Account, shared_sink: RecordingSink) -> None:
    to, cc, bcc = recipient("to"), recipient("cc"), recipient("bcc")
    answer = client.post(
        SEND,
        headers=account.headers,
        json={
            "to": to,
            "subject": "Order Confirmation – ✓",
            "html": '<h1>Your order has been confirmed</h1><a href="https://example.com/o">see</a>',
            "text": "Your order has been confirmed",
            "from_email": account.sender,
            "from_name": "Your App",
            "reply_to": "reply@yourdomain.com",
            "cc": [cc],
            "bcc": [bcc],
            "tags": ["order", "confirmation"],
            "metadata": {"order_id": "12345"},
        },
    )
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert answer.json() == {
        "success": True,
        "data": {"message_id": data["message_id"], "status": "sent", "to": to, "from": account.sender},
    }
    parts = re.fullmatch(rf"<[0-9a-z]{{6}}\.([0-9]{{10}})@{HOST}>", data["message_id"])
    assert parts is not None and abs(int(parts[1]) - time.time()) < 300
    received = arrived(shared_sink, to)
    assert received.headers("Message-ID") == [data["message_id"]]
    assert received.headers("From") == [f"Your App <{account.sender}>"]
    assert (received.headers("To"), received.headers("Cc")) == ([to], [cc])
    assert (received.headers("Reply-To"), received.headers("Bcc")) == (["reply@yourdomain.com"], [])
    assert received.headers("Subject") == ["Order Confirmation – ✓"]
    assert bcc.encode() not in received.content
    for copy in (cc, bcc):
        assert arrived(shared_sink, copy).headers("Message-ID") == [data["message_id"]]
    plain = received.message.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().strip() == "Your order has been confirmed"
    found = told(client, account, data["message_id"])
    message = found["message"]
    assert found == {
        "message": {
            "message_id": data["message_id"],
            "from_email": account.sender,
            "to_email": to,
            "subject": "Order Confirmation – ✓",
            "status": "sent",
            "error_message": None,
            "sent_at": message["created_at"],
            "created_at": message["created_at"],
        },
        "events": [],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", message["created_at"])


def test_opens_and_clicks_are_told(client: httpx.Client, account: Account, shared_sink: RecordingSink) -> None:
    to = recipient("tracked")
    link_to = '<p>Hi</p><a href="https://example.com/o">see</a>'
    data = sending(client, account, to=to, html=link_to).json()["data"]
    html = arrived(shared_sink, to).message.get_body(("html",))
    assert html is not None
    picture, link = (
        re.search(r'<img src="([^"]+)"', html.get_content()),
        re.search(r'href="([^"]+)"', html.get_content()),
    )
    assert picture is not None
    assert link is not None
    assert client.get(picture[1], headers={"User-Agent": "Mozilla/5.0"}).status_code == 200
    followed = client.get(link[1], headers={"User-Agent": "Mozilla/5.0"})
    assert (followed.status_code, followed.headers["location"]) == (302, "https://example.com/o")
    wait_until(lambda: len(told(client, account, data["message_id"])["events"]) == 2, "both events are told")
    events = told(client, account, data["message_id"])["events"]
    assert [event["event_type"] for event in events] == ["open", "click"]
    assert set(events[0]) == {"event_type", "ip_address", "user_agent", "created_at"}
    assert events[1]["url"] == "https://example.com/o"
    assert {(event["ip_address"], event["user_agent"]) for event in events} == {("127.0.0.1", "Mozilla/5.0")}


def test_the_least_there_can_be(client: httpx.Client, account: Account, shared_sink: RecordingSink) -> None:
    to = recipient("least")
    answer = sending(client, account, to=to, html=..., text="Only text", from_name="Äpp", cc=None, metadata=None)
    assert answer.json()["data"]["from"] == f"noreply@{account.domain}"
    received = arrived(shared_sink, to)
    assert received.headers("From") == [f"Äpp <noreply@{account.domain}>"]
    assert received.message.get_content_type() == "text/plain"


@pytest.mark.parametrize("prefix", ["mp_live_", "mp_test_"])
def test_keys_may_look_as_the_originals(client: httpx.Client, account: Account, prefix: str) -> None:
    headers = {"Authorization": f"bearer {prefix}{account.key}"}
    body = {"to": recipient("key"), "subject": "s", "text": "t"}
    assert client.post(SEND, headers=headers, json=body).status_code == 200


def test_a_batch(client: httpx.Client, account: Account, shared_sink: RecordingSink) -> None:
    first, second, other = recipient("a"), recipient("b"), "sales@" + account.domain
    answer = client.post(
        BATCH,
        headers=account.headers,
        json={
            "messages": [
                {"to": first, "subject": "Hello A", "html": "<p>Hi A</p>"},
                {"to": second, "subject": "Hello B", "text": "Hi B", "from_email": other, "from_name": "B"},
                {"to": "nobody", "subject": "s", "text": "t"},
                {"to": recipient("c"), "text": "no subject"},
                "not an object",
            ],
            "from_email": account.sender,
            "from_name": "Your App",
        },
    )
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]["messages"]
    ids = [row.get("queue_id") for row in rows]
    assert answer.json() == {
        "success": True,
        "data": {
            "total": 5,
            "queued": 2,
            "failed": 3,
            "messages": [
                {"to": first, "status": "queued", "queue_id": ids[0], "message_id": rows[0]["message_id"]},
                {"to": second, "status": "queued", "queue_id": ids[1], "message_id": rows[1]["message_id"]},
                {"to": "nobody", "status": "failed", "error": "The to field must be a valid email address."},
                {"to": rows[3]["to"], "status": "failed", "error": "The subject field is required."},
                {"to": "", "status": "failed", "error": "The message must be a JSON object."},
            ],
        },
    }
    assert all(type(id_) is int for id_ in ids[:2])
    assert arrived(shared_sink, first).headers("From") == [f"Your App <{account.sender}>"]
    assert arrived(shared_sink, second).headers("From") == [f"B <{other}>"]
    message = told(client, account, ids[0], "sent")["message"]
    assert (message["to_email"], message["error_message"]) == (first, None)
    assert message["message_id"] == rows[0]["message_id"]
    assert message["sent_at"] >= message["created_at"]
    bare = message["message_id"].strip("<>")
    for spelling in (bare, bare.replace("@", "%40"), f"%3C{bare}%3E", f"<{bare}>"):
        assert told(client, account, spelling)["message"] == message


def test_what_was_refused_says_why(client: httpx.Client, account: Account) -> None:
    to = f"reject-550-{uuid.uuid4().hex[:8]}@example.net"
    id_ = sending(client, account, to=to).json()["data"]["message_id"]
    found = told(client, account, id_, "failed")
    assert found["message"]["error_message"].startswith("550 5.1.1")
    assert found["message"]["sent_at"] is None
    assert [event["event_type"] for event in found["events"]] == ["bounce"]


def test_a_batch_over_the_limit_is_refused_as_a_whole(shared_stack: Stack, client: httpx.Client) -> None:
    account = make_account(shared_stack.operator)
    wait_until_known(client, account)
    limit(shared_stack.operator, account.tenant, daily=3)
    messages = [{"to": recipient("over"), "subject": "s", "text": "t"} for _ in range(4)]
    earlier = 0

    def over() -> bool:
        nonlocal earlier
        answer = client.post(BATCH, headers=account.headers, json={"messages": messages})
        if answer.status_code == 200:  # by a worker that did not know of the limit yet
            earlier += answer.json()["data"]["queued"]
        return answer.status_code == 429 and answer.json()["error"]["code"] == "SEND_LIMIT_EXCEEDED"

    wait_until(over, "the limit is known")

    def taken() -> bool:
        fewer = client.post(BATCH, headers=account.headers, json={"messages": messages[:3]})
        return fewer.status_code == 200 and fewer.json()["data"]["queued"] == 3

    wait_until(taken, "the worker that has what is left of the limit takes them")
    wait_until(lambda: len(shared_stack.operator.history(account.tenant)) == earlier + 3, "they are on record")


def test_the_same_request_is_done_once(client: httpx.Client, account: Account, shared_sink: RecordingSink) -> None:
    for path, body in (
        (SEND, {"to": recipient("once"), "subject": "s", "text": "t", "cc": [recipient("once-cc")]}),
        (BATCH, {"messages": [{"to": recipient("once"), "subject": "s", "text": "t"}, {"to": "nobody"}]}),
    ):
        headers = {**account.headers, "Idempotency-Key": uuid.uuid4().hex}
        answers = [client.post(path, headers=headers, json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
        assert len({answer.content for answer in answers}) == 1
        other = client.post(path, headers=headers, json=body | {"from_name": "Other"})
        assert (other.status_code, other.json()["error"]["code"]) == (409, "CONFLICT")
        to = body.get("to") or body["messages"][0]["to"]  # type: ignore[index]
        arrived(shared_sink, str(to))
        assert shared_sink.recipients.count(str(to)) == 1


def test_copies_to_suppressed_addresses_are_left_out(
    shared_stack: Stack, client: httpx.Client, account: Account, shared_sink: RecordingSink
) -> None:
    gone, to = recipient("gone"), recipient("there")
    shared_stack.operator.suppress(account.tenant, gone)

    def refused() -> bool:
        return sending(client, account, to=gone).status_code == 422

    wait_until_steady(refused, "the suppression is known")
    both = sending(client, account, to=gone, cc=[to])
    assert (both.status_code, both.json()["error"]["code"]) == (422, "SEND_FAILED")
    assert sending(client, account, to=to, cc=[gone], bcc=[recipient("b")]).status_code == 200
    arrived(shared_sink, to)
    assert shared_sink.recipients.count(to) == 1


def test_bounces(shared_stack: Stack, client: httpx.Client, account: Account) -> None:
    key = make_key(shared_stack.operator, account.tenant, ["mail", "suppressions"])
    headers = {"Authorization": f"Bearer {key}"}
    addresses = {kind: recipient(kind) for kind in ("hard", "soft", "complaint")}
    ids = {}
    for kind, address in addresses.items():
        body = {"email": address, "bounce_type": kind, "diagnostic_code": "550 5.1.1 No", "bounce_subtype": "general"}
        answer = client.post("/api/v1/bounces", headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        ids[kind] = answer.json()["data"]["bounce_id"]
        assert answer.json() == {"success": True, "data": {"bounce_id": ids[kind]}}
    listed = client.get("/api/v1/bounces?limit=2&offset=1", headers=headers).json()["data"]
    newest = sorted(addresses, key=lambda kind: ids[kind], reverse=True)
    assert [row["bounce_type"] for row in listed["bounces"]] == newest[1:3]
    assert (listed["limit"], listed["offset"], listed["total"] >= 3) == (2, 1, True)
    row = next(row for row in listed["bounces"] if row["bounce_type"] == newest[1])
    assert row == {
        "id": ids[newest[1]],
        "email": addresses[newest[1]],
        "bounce_type": newest[1],
        "bounce_subtype": "general",
        "diagnostic_code": "550 5.1.1 No",
        "created_at": row["created_at"],
    }
    for address in addresses.values():
        wait_until(lambda to=address: sending(client, account, to=to).status_code == 422, "it is suppressed")  # type: ignore[misc]
    denied = client.get("/api/v1/bounces", headers=account.headers)
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "FORBIDDEN")


def test_webhooks(shared_stack: Stack, client: httpx.Client, account: Account) -> None:
    key = make_key(shared_stack.operator, account.tenant, ["webhooks"])
    headers = {"Authorization": f"Bearer {key}"}
    path = "/api/v1/webhooks"
    made = client.post(path, headers=headers, json={"url": "https://example.com/a"})
    assert made.status_code == 200, made.text
    data = made.json()["data"]
    assert data["secret"].startswith("whsec_")
    own = client.post(
        path, headers=headers, json={"url": "https://example.com/b", "events": ["email.bounced"], "secret": "s" * 16}
    ).json()["data"]
    assert (own["secret"], own["events"], own["is_active"], own["status"]) == (
        "s" * 16,
        ["email.bounced"],
        True,
        "active",
    )
    del data["secret"], own["secret"]
    listed = client.get(f"{path}?limit=1000", headers=headers).json()["data"]
    assert listed == {"webhooks": [data, own], "total": 2, "limit": 100, "offset": 0}
    assert client.get(f"{path}?offset=1", headers=headers).json()["data"]["webhooks"] == [own]
    one = f"{path}/{own['id']}"
    changed = client.put(one, headers=headers, json={"is_active": False, "events": ["email.sent"]}).json()["data"]
    assert changed == {**own, "is_active": False, "status": "disabled", "events": ["email.sent"]}
    assert client.get(one, headers=headers).json()["data"] == changed
    assert client.put(one, headers=headers, json={}).json()["data"] == changed
    assert client.delete(one, headers=headers).json() == {"success": True, "data": {"id": own["id"], "deleted": True}}
    for method in ("GET", "PUT", "DELETE"):
        gone = client.request(method, one, headers=headers, json={})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "NOT_FOUND")
    for bad in (
        {},
        {"url": "http://example.com/"},
        {"url": "https://10.0.0.1/"},
        {"url": "https://example.com/", "events": ["x"]},
    ):
        refused = client.post(path, headers=headers, json=bad)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "VALIDATION_ERROR"), bad


# The documentation's samples: only host, port, key and the sender's domain are other ones.
CURL_SAMPLES = r"""
# Single send
curl -X POST https://dev.mailpass.im/api/v1/mail/send \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "to": "user@example.com",
    "subject": "Hello",
    "html": "<p>Hello World</p>"
  }'

# Batch send
curl -X POST https://dev.mailpass.im/api/v1/mail/send-batch \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "messages": [
      {"to": "a@example.com", "subject": "Hi A", "html": "<p>Hello A</p>"},
      {"to": "b@example.com", "subject": "Hi B", "html": "<p>Hello B</p>"}
    ],
    "from_email": "support@yourdomain.com"
  }'

# Check status
curl https://dev.mailpass.im/api/v1/mail/status/MESSAGE_ID \
  -H "Authorization: Bearer YOUR_API_KEY"
"""
JAVASCRIPT_SAMPLE = """
// Single send
const response = await fetch('https://dev.mailpass.im/api/v1/mail/send', {
  method: 'POST',
  headers: {
    'Authorization': 'Bearer YOUR_API_KEY',
    'Content-Type': 'application/json'
  },
  body: JSON.stringify({
    to: 'user@example.com',
    subject: 'Hello',
    html: '<p>Hello World</p>'
  })
});
const data = await response.json();
console.log(data.data.message_id);
"""


def test_the_documentations_samples(shared_stack: Stack, client: httpx.Client) -> None:
    account = make_account(shared_stack.operator)
    wait_until_known(client, account)

    def mine(sample: str, account: Account) -> str:
        changes = {
            "https://dev.mailpass.im": shared_stack.bridge_url,
            "YOUR_API_KEY": account.key,
            "yourdomain.com": account.domain,
        }
        for old, new in changes.items():
            sample = sample.replace(old, new)
        return sample

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        return done.stdout

    script = mine(JAVASCRIPT_SAMPLE, account)
    id_ = run("node", "--input-type=module", "-e", script).strip()
    assert told(client, account, id_)["message"]["to_email"] == "user@example.com"
    # There is no mail server for example.com here, so what was sent to it bounces: an account sends once.
    other = make_account(shared_stack.operator)
    wait_until_known(client, other)
    id_ = sending(client, other).json()["data"]["message_id"]
    # The id is put in as the answer has it, brackets and all, and quoted from the shell as anybody has to.
    samples = (
        mine(CURL_SAMPLES, other).replace(f"{STATUS}/MESSAGE_ID", f"'{STATUS}/{id_}'").replace("curl ", "curl -sS ")
    )
    single, batch, status = (
        part for part in run("bash", "-ec", samples.replace("\n# ", "\necho\n# ")).split("\n") if part
    )
    assert '"status":"sent"' in single
    assert '"queued":2,"failed":0' in batch
    assert f'"message_id":"{id_}"' in status


def test_an_account_without_a_sender_is_told_what_is_wrong_with_its_message(
    shared_stack: Stack, client: httpx.Client
) -> None:
    bare = make_account(shared_stack.operator, domain=False)
    wait_until_known(client, bare)
    answer = sending(client, bare, to="nobody")
    assert answer.json()["error"]["message"] == "The to field must be a valid email address."
    rows = client.post(BATCH, headers=bare.headers, json={"messages": [{"to": "nobody"}]}).json()["data"]["messages"]
    assert [row["status"] for row in rows] == ["failed"]
