"""SendPost: sending, on a running installation."""

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import partial
from typing import Any

import httpx
import pytest

from api_bridge.dialects.sendpost.email import OFF_LOOP_RECIPIENTS
from tests.integration.bridge.conftest import MOCK_DOMAIN
from tests.support.sendpost import Account, api_key, make_account, wait_for_key
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until, wait_until_steady

PATH = "/api/v1/subaccount/email/"

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    """An account for the tests of this module."""
    made = make_account(shared_stack.operator)
    wait_for_key(shared_stack.bridge_url, made.sub_key)
    return made


@pytest.fixture
def send(client: httpx.Client, account: Account) -> Send:
    """Send with the sub-account's key."""

    def post(body: Any = None, path: str = PATH, http_headers: Any = None, **changes: Any) -> httpx.Response:
        message = {
            "from": {"email": f"news@{account.sub_domain}", "name": "News"},
            "to": [{"email": "ann@example.net"}],
            "subject": "Hello",
            "htmlBody": "<p>Hello</p>",
            **changes,
        }
        sent = {name: value for name, value in message.items() if value is not ...} if body is None else body
        return client.post(path, json=sent, headers={**account.sub_headers, **(http_headers or {})})

    return post


def _received(sink: RecordingSink, recipient: str) -> EmailMessage:
    """The message that a recipient got."""
    wait_until(lambda: recipient in sink.recipients, f"{recipient} has a message")
    return next(one.message for one in sink.received if recipient in one.recipients)


def _text(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_each_recipient_gets_a_copy_of_their_own(send: Send, shared_sink: RecordingSink, account: Account) -> None:
    answer = send(
        to=[
            {"email": "p1@example.net", "name": "Änn", "customFields": {"name": "<Ann>", "n": 7, "on": True}},
            {"email": "p2@example.net", "customFields": {"name": "Bob"}, "cc": [{"email": "p2-cc@example.net"}]},
            {"email": "nobody"},
            {"email": "p3@example.net", "bcc": [{"email": "p3 bcc@example.net"}]},
        ],
        subject="For {{name}}",
        htmlBody="<p>{{name}} {{.n}} {{ on }} {{missing}}{{{name}}}</p><a href='https://example.org/'>x</a>",
        preText="Before {{name}}",
        replyTo={"email": "back@example.org", "name": "Back"},
        headers={"X-Own": "1", "Subject": "no"},
        attachments=[{"content": "aGVsbG8=", "filename": "a.txt"}],
        trackOpens=False,
        trackClicks=False,
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [one["errorCode"] for one in told] == [0, 0, 1, 1]
    assert [one["to"] for one in told] == ["p1@example.net", "p2@example.net", "nobody", "p3@example.net"]
    assert "to[2].email" in told[2]["message"]
    assert "to[3].bcc[0].email" in told[3]["message"]
    first = _received(shared_sink, "p1@example.net")
    assert (first["To"], first["From"]) == ("Änn <p1@example.net>", f"News <news@{account.sub_domain}>")
    assert (first["Subject"], first["Reply-To"], first["X-Own"]) == ("For <Ann>", "Back <back@example.org>", "1")
    assert "<p>&lt;Ann&gt; 7 true <Ann></p><a href='https://example.org/'>" in _text(first, "html")
    assert "Before &lt;Ann&gt;" in _text(first, "html")
    assert [one.get_content() for one in first.iter_attachments()] == ["hello"]
    second = _received(shared_sink, "p2-cc@example.net")
    assert (second["To"], second["Cc"], second["Subject"]) == ("p2@example.net", "p2-cc@example.net", "For Bob")


def test_a_copy_is_tracked_and_can_be_unsubscribed(
    send: Send, shared_sink: RecordingSink, account: Account, client: httpx.Client
) -> None:
    html = '<p>{{n}}</p><a href="https://example.org/a?b=1&amp;c=2">x</a><a href="{{unsubscribe}}">no more</a>'
    to = [{"email": f"track{n}@example.net", "customFields": {"n": n, "unsubscribe": "mine"}} for n in (1, 2)]
    told = send(to=to, htmlBody=html, textBody="No more: {{unsubscribe}}", groups=["tracked"]).json()
    pages = [_text(_received(shared_sink, str(one["email"])), "html") for one in to]
    links = [re.findall(r'(?:href|src)="([^"]+)"', page) for page in pages]
    assert [len(some) for some in links] == [3, 3]
    assert not set(links[0]) & set(links[1])
    assert "<p>1</p>" in pages[0]
    click, unsubscribe, picture = (link for link in links[0])
    assert _received(shared_sink, "track1@example.net")["List-Unsubscribe"] == f"<{unsubscribe}>"
    assert f"No more: {unsubscribe}" in _text(_received(shared_sink, "track1@example.net"), "plain")
    assert client.get(picture).status_code == 200
    assert client.get(click).headers["location"] == "https://example.org/a?b=1&c=2"
    assert client.post(unsubscribe, data={"List-Unsubscribe": "One-Click"}).status_code == 200

    def names() -> set[str]:
        path = f"/api/v1/account/message/{told[0]['messageId']}/events"
        answer = client.get(path, headers=account.account_headers)
        return {one["typeName"] for one in answer.json()} if answer.status_code == 200 else set()

    wait_until(lambda: {"opened", "clicked", "unsubscribed"} <= names(), "it is known what was done")
    wait_until(lambda: send(to=to[:1]).json()[0]["errorCode"] == 2, "the recipient who unsubscribed is suppressed")


def test_what_is_refused_is_told_for_each_recipient(
    send: Send, client: httpx.Client, account: Account, shared_sink: RecordingSink
) -> None:
    body = {"manual": [{"email": "suppressed@example.net"}]}
    client.post("/api/v1/subaccount/suppression", json=body, headers=account.sub_headers).raise_for_status()
    to = [{"email": "suppressed@example.net"}, {"email": "good@example.net"}]
    wait_until(lambda: send(to=to[:1]).json()[0]["errorCode"] == 2, "the suppression is known to the workers")
    told = send(to=to).json()
    assert [one["errorCode"] for one in told] == [2, 0]
    assert uuid.UUID(told[0]["messageId"]).version == 7, "it is on record"
    told = send(to=to, **{"from": {"email": "me@elsewhere.test"}})
    assert (told.status_code, [one["errorCode"] for one in told.json()]) == (200, [3, 3])


def test_a_template_of_the_account_is_sent(
    send: Send, client: httpx.Client, account: Account, shared_sink: RecordingSink
) -> None:
    template = {"name": "Greeting", "subject": "Hi {{name}}", "html": "<b>{{name}} {{town}}</b>", "text": "{{name}}"}
    made = client.post("/api/v1/account/template", json=template, headers=account.account_headers).json()
    to = [{"email": "t1@example.net", "customFields": {"name": "Own"}}, {"email": "t2@example.net"}]
    values = {"name": "All", "town": "Ký"}
    unsaid = {"subject": ..., "htmlBody": ..., "to": to, "templateVariables": values, "trackOpens": False}
    assert send(path=f"{PATH}template", template="Greeting", **unsaid).json()[1]["errorCode"] == 0
    for recipient, name in (("t1@example.net", "Own"), ("t2@example.net", "All")):
        received = _received(shared_sink, recipient)
        assert (received["Subject"], _text(received, "plain").strip()) == (f"Hi {name}", name)
        assert f"<b>{name} Ký</b>" in _text(received, "html")
    to = [{"email": "t3@example.net"}]
    assert send(**unsaid | {"to": to, "subject": "Mine", "templateId": made["id"]}).json()[0]["errorCode"] == 0
    assert _received(shared_sink, "t3@example.net")["Subject"] == "Mine"


def test_the_same_send_with_the_same_key_is_made_once(send: Send, shared_sink: RecordingSink) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    to = [{"email": f"once{n}-{key['Idempotency-Key']}@example.net"} for n in range(2)]
    first = send(to=to, http_headers=key)
    again = send(to=to, http_headers=key)
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert first.json() == again.json()
    other = send(to=to, subject="Other", http_headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    marker = send(to=[{"email": f"marker-{key['Idempotency-Key']}@example.net"}])
    assert marker.status_code == 200
    _received(shared_sink, f"marker-{key['Idempotency-Key']}@example.net")
    _received(shared_sink, to[0]["email"])
    assert shared_sink.recipients.count(to[0]["email"]) == 1


def _is_told(names: Callable[[str], set[str]], message: str, name: str) -> bool:
    return name in names(message)


def test_mocked_mail_is_not_sent_and_has_an_outcome(
    send: Send, client: httpx.Client, account: Account, shared_sink: RecordingSink
) -> None:
    outcomes = {"deliver": "delivered", "hardbounce": "hardBounced", "dropped": "smtpDropped"}
    told = send(to=[{"email": f"{name}@{MOCK_DOMAIN}"} for name in outcomes]).json()
    told += send(to=[{"email": "mocked@example.net"}], http_headers={"X-SendPost-Mock-Email": "true"}).json()
    assert [one["errorCode"] for one in told] == [0, 0, 0, 0]
    assert told[3]["to"] == "mocked@example.net"

    def names(message: str) -> set[str]:
        answer = client.get(f"/api/v1/account/message/{message}/events", headers=account.account_headers)
        return {one["typeName"] for one in answer.json()} if answer.status_code == 200 else set()

    for one, name in zip(told, [*outcomes.values(), "delivered"], strict=True):
        wait_until(partial(_is_told, names, one["messageId"], name), f"{one['to']} is {name}")
    assert "mocked@example.net" not in shared_sink.recipients
    path = f"/api/v1/account/message/{told[3]['messageId']}"
    shown = client.get(path, headers=account.account_headers).json()
    assert shown["to"]["email"] == "mocked@example.net"


def test_a_thousand_recipients_are_one_call(send: Send) -> None:
    to = [{"email": f"many{n}@{MOCK_DOMAIN}", "customFields": {"n": n}} for n in range(1000)]
    answer = send(to=to, htmlBody="<p>{{n}}</p>")
    assert answer.status_code == 200
    assert {one["errorCode"] for one in answer.json()} == {0}
    assert len({one["messageId"] for one in answer.json()}) == 1000


def test_nothing_is_sent_without_credits_or_by_a_suspended_account(client: httpx.Client, shared_stack: Stack) -> None:
    poor = make_account(shared_stack.operator, credits=0)
    wait_for_key(shared_stack.bridge_url, poor.sub_key)
    body = {
        "from": {"email": f"a@{poor.sub_domain}"},
        "to": [{"email": "ann@example.net"}, {"email": "bob@example.net"}],
        "subject": "x",
        "textBody": "x",
    }
    answer = client.post(PATH, json=body, headers=poor.sub_headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "insufficient_credits")
    shared_stack.operator.suspend(poor.name, "unpaid")

    def error() -> str:
        return str(client.post(PATH, json=body, headers=poor.sub_headers).json()["error"]["code"])

    # Each worker hears of it on its own.
    wait_until_steady(lambda: error() == "account_suspended", "the suspension is known")


def test_a_message_is_found_with_what_happened_to_it(
    send: Send, client: httpx.Client, account: Account, shared_sink: RecordingSink
) -> None:
    to = [
        {
            "email": "found@example.net",
            "name": "Fred",
            "customFields": {"n": 1},
            "cc": [{"email": "found-cc@example.net", "name": "C"}],
        }
    ]
    told = send(to=to, groups=["g1"], headers={"X-Own": "1"}, subject="Found").json()[0]
    path = f"/api/v1/account/message/{told['messageId']}"

    def events() -> list[Any]:
        answer = client.get(f"{path}/events", headers=account.account_headers)
        return [one["typeName"] for one in answer.json()] if answer.status_code == 200 else []

    wait_until(lambda: "delivered" in events(), "it is known to be delivered")
    assert events() == ["processed", "sent", "delivered"]
    message = client.get(path, headers=account.account_headers).json()
    assert message["messageId"] == message["messageID"] == told["messageId"]
    assert message["submittedAt"] == told["submittedAt"]
    assert message["subAccountId"] == account.number
    assert message["to"] == {
        "email": "found@example.net",
        "name": "Fred",
        "cc": [{"email": "found-cc@example.net", "name": "C"}],
        "bcc": [],
        "customFields": {"n": 1},
    }
    assert (message["subject"], message["groups"], message["headers"]) == ("Found", ["g1"], {"X-Own": "1"})
    assert message["from"] == {"email": f"news@{account.sub_domain}", "name": "News"}
    legacy = client.get(path, headers={**account.account_headers, "X-SendPost-Public-Contract": "legacy"}).json()
    assert legacy["to"]["cc"] == ["found-cc@example.net"]
    assert legacy["to"]["customFields"] == {"n": "1"}
    found = client.get("/api/v1/account/recipient/found@example.net/messages", headers=account.account_headers).json()
    assert found == [message]
    day = message["submittedAt"] // 86_400_000_000_000 * 86_400
    spellings = [
        (f"{datetime.fromtimestamp(day, UTC):%Y-%m-%d}", f"{datetime.fromtimestamp(day, UTC):%Y-%m-%d}"),
        (
            f"{datetime.fromtimestamp(day, UTC):%Y-%m-%dT%H:%M:%S.%f}",
            f"{datetime.fromtimestamp(day + 86400, UTC):%Y-%m-%dT%H:%M:%S.%f+0000}",
        ),
        (
            f"{datetime.fromtimestamp(day, UTC):%Y-%m-%dT%H:%M:%SZ}",
            f"{datetime.fromtimestamp(day + 86400, UTC):%Y-%m-%dT%H:%M:%S+00:00}",
        ),
    ]
    for first, last in spellings:
        query: dict[str, str | int] = {"from": first, "to": last, "limit": 100}
        listed = client.get("/api/v1/account/message/", params=query, headers=account.account_headers)
        assert message in listed.json(), listed.text


def test_an_account_without_a_domain_is_told_for_each_recipient(shared_stack: Stack, client: httpx.Client) -> None:
    name = f"sp-{uuid.uuid4().hex[:10]}"
    shared_stack.operator.create_tenant(name)
    headers = {"X-SubAccount-ApiKey": api_key(shared_stack.operator, name, ("mail",))}
    to = [{"email": f"d{index}@example.net"} for index in range(OFF_LOOP_RECIPIENTS + 1)]

    def answers() -> bool:
        body = {"from": {"email": "a@none.test"}, "to": to, "subject": "x", "textBody": "x"}
        answer = client.post(PATH, json=body, headers=headers)
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200 and {row["errorCode"] for row in answer.json()} == {3}

    wait_until_steady(answers, "the key is known")


def test_a_message_is_found_as_soon_as_it_was_taken(send: Send, client: httpx.Client, account: Account) -> None:
    id_ = send(to=[{"email": "at-once@example.net"}]).json()[0]["messageId"]
    found = client.get(f"/api/v1/account/message/{id_}", headers=account.account_headers)
    assert (found.status_code, found.json()["to"]["email"]) == (200, "at-once@example.net")
    unknown = client.get(f"/api/v1/account/message/{uuid.uuid4()}", headers=account.account_headers)
    assert unknown.status_code == 404
