"""Every sample and payload that calls a JSON API, run against a live server over HTTPS."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from barua.control.v1 import oauth_client_pb2, oauth_service_pb2, oauth_service_pb2_grpc

from tests.integration.samples import samples
from tests.support.languages import run
from tests.support.sink import RecordingSink
from tests.support.stack import ACCOUNT, RESELLER, Stack
from tests.support.waiting import wait_until

MSPACE = [name for quick in (True, False) for name in samples.names("mspace", quick=quick) if "smtp" not in name]
MAILPASS = samples.names("mailpass", quick=True)
SENDPULSE_SENDS = ("send_template_own", "send_template", "send_copies", "send_attachments", "send_attachments_binary")


def quick_and_long(names: list[str]) -> list[Any]:
    """Parameters; those in languages that take long are marked."""
    return [
        pytest.param(name, marks=[] if samples.language(name) in samples.QUICK else [pytest.mark.long])
        for name in names
    ]


@pytest.fixture
def client(stack: Stack, authority: Path) -> Iterator[httpx.Client]:
    """A client of the bridge over verified TLS."""
    with httpx.Client(base_url=base(stack), verify=stack.authority.client_context(), timeout=60) as opened:
        yield opened


def base(stack: Stack) -> str:
    """The bridge, by the name in its certificate."""
    return f"https://localhost:{port(stack)}"


def port(stack: Stack) -> int:
    """The bridge's port."""
    return int(stack.options.bridge.listen.rpartition(":")[2])


def unique(word: str) -> str:
    """A name that nobody had before."""
    return f"{word}{uuid.uuid4().hex[:10]}"


def arrived(sink: RecordingSink, recipient: str) -> None:
    """Wait until a recipient has mail."""
    wait_until(lambda: recipient in sink.recipients, f"{recipient} has mail", 60)


@pytest.mark.parametrize("name", quick_and_long(MSPACE))
def test_mspace(
    stack: Stack, sink: RecordingSink, client: httpx.Client, api_key: str, authority: Path, tmp_path: Path, name: str
) -> None:
    sub_user, recipient = unique("dev"), f"{unique('r')}@example.com"
    if "manage" in name:
        body = {"username": sub_user, "password": "developer123"}
        login = (RESELLER, stack.reseller_login.password)
        client.post("/email/api/reseller/createSubUser", json=body, auth=login).raise_for_status()
    text = samples.program(name, {
        "https://bulkemail.mspace.co.ke": base(stack),
        "hostname: 'bulkemail.mspace.co.ke',": f"hostname: 'localhost', port: {port(stack)},",
        "YOUR_USERNAME": RESELLER, "YOUR_PASSWORD": stack.reseller_login.password, "YOUR_API_KEY": api_key,
        '"developer"': f'"{sub_user}"', "'developer'": f"'{sub_user}'", "recipient@example.com": recipient,
    })  # fmt: skip
    answer = json.loads(run(samples.language(name), text, tmp_path, authority))
    assert answer["status"] == "success", answer
    if "/create_sub_user." in name:
        assert answer == {"status": "success", "message": "Sub-user created successfully"}
        add = {"sub_username": sub_user, "action": "ADD", "amount": 1}
        login = (RESELLER, stack.reseller_login.password)
        managed = client.post("/email/api/reseller/manageCredits", json=add, auth=login).json()
        assert managed["subuser_balance"] == 51
    elif "/manage_credits." in name:
        assert (answer["message"], answer["subuser_balance"]) == ("Credits updated", 100)
    else:
        assert answer["message"] == "Email queued successfully"
        assert answer["messageId"].startswith("msg_")
        arrived(sink, recipient)


@pytest.mark.parametrize("name", quick_and_long([name for name in MAILPASS if "status" not in name]))
def test_mailpass(stack: Stack, sink: RecordingSink, api_key: str, authority: Path, tmp_path: Path, name: str) -> None:
    changes = {"https://dev.mailpass.im": base(stack), "YOUR_API_KEY": api_key}
    recipients = {
        written: f"{unique('r')}@example.com"
        for written in ("user@example.com", "a@example.com", "b@example.com")
        if written in samples.program(name, {})
    }
    printed = run(samples.language(name), samples.program(name, changes | recipients), tmp_path / "send", authority)
    for recipient in recipients.values():
        arrived(sink, recipient)
    if "batch" in name:
        data = json.loads(printed)["data"]
        assert (data["total"], data["queued"], data["failed"]) == (2, 2, 0)
        asked = str(data["messages"][0]["queue_id"])
    else:
        asked = printed.strip() if name.endswith("mjs") else json.loads(printed)["data"]["message_id"]
        assert asked.startswith("<") and asked.endswith(">")
    # A shell would take the brackets for redirections.
    status = samples.program("mailpass/status.sh", changes | {"MESSAGE_ID": asked.strip("<>")})
    answer = json.loads(run("sh", status, tmp_path / "status", authority))
    assert answer["success"] is True
    assert answer["data"]["message"]["to_email"] in recipients.values()


@pytest.mark.parametrize("name", ["send", "send_batch"])
def test_mailpass_payloads(client: httpx.Client, sink: RecordingSink, api_key: str, name: str) -> None:
    text = (samples.SOURCES / "mailpass" / f"{name}.json").read_text()
    tag = unique("r")
    text = text.replace("@example.com", f"+{tag}@example.com")
    path = f"/api/v1/mail/{name.replace('_', '-')}"
    answer = client.post(path, content=text, headers=json_headers(api_key)).json()
    assert answer["success"] is True, answer
    for who in ("user", "cc", "bcc") if name == "send" else ("a", "b"):
        arrived(sink, f"{who}+{tag}@example.com")


@pytest.mark.parametrize("name", SENDPULSE_SENDS)
def test_sendpulse_sends(client: httpx.Client, sink: RecordingSink, token: str, name: str) -> None:
    text, tag = (samples.SOURCES / "sendpulse" / f"{name}.json").read_text(), unique("r")
    if name == "send_template":
        template = {"name": tag, "body": "PHA+SGVsbG8ge3tuYW1lfX0sIHt7Y29kZX19PC9wPg==", "lang": "en"}
        made = client.post("/template", json=template, headers=json_headers(token)).json()
        text = text.replace('"id": 123456', f'"id": {made["real_id"]}')
    for number in (1, 2, 3):
        text = text.replace(f"recipient{number}@", f"recipient{number}+{tag}@")
    answer = client.post("/smtp/emails", content=text, headers=json_headers(token))
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"] is True
    for entry in [one for key in ("to", "cc", "bcc") for one in json.loads(text)["email"].get(key, ())]:
        arrived(sink, entry["email"])
    if name == "send_template":
        (received,) = [one for one in sink.received if any(tag in who for who in one.recipients)]
        assert "Hello George, 123456" in received.message.get_body(("html",)).get_content()  # type: ignore[union-attr]


def test_sendpulse_lists(client: httpx.Client, stack: Stack, token: str) -> None:
    headers = json_headers(token)

    def payload(name: str) -> Any:
        return json.loads((samples.SOURCES / "sendpulse" / f"{name}.json").read_text())

    emails = payload("unsubscribe")
    addresses = [entry["email"] for entry in emails]
    assert client.post("/smtp/unsubscribe", json={"emails": emails}, headers=headers).json() == {"result": True}
    listed = {row["email"].lower() for row in client.get("/smtp/unsubscribe", headers=headers).json()}
    assert {address.lower() for address in addresses} <= listed
    resubscribe = payload("resubscribe")
    client.post("/smtp/unsubscribe", json=[{"email": resubscribe["email"]}], headers=headers).raise_for_status()
    answer = client.post("/smtp/resubscribe", json=resubscribe, headers=headers)
    assert answer.json().get("result") is True, answer.text
    removed = client.request("DELETE", "/smtp/unsubscribe", json={"emails": addresses}, headers=headers)
    assert removed.json() == {"result": True}
    for address in addresses:
        found = client.get("/smtp/unsubscribe/search", params={"email": address}, headers=headers)
        assert found.json() == {"result": False}
    assert client.post("/senders", json=payload("add_sender"), headers=headers).json() == {"result": True}
    domain = "/v2/email-service/smtp/sender_domains/mydomain.com"
    assert client.post(domain, headers=headers).json() == {"data": {"result": True, "error": None}}


def json_headers(credential: str) -> dict[str, str]:
    """Header fields of a call with a bearer."""
    return {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    """A token of ``acme``, issued to an OAuth client as its customers ask for one."""
    stub = oauth_service_pb2_grpc.OAuthServiceStub(stack.operator.control)
    wanted = oauth_service_pb2.CreateOAuthClientRequest(
        parent=f"tenants/{ACCOUNT}", oauth_client=oauth_client_pb2.OAuthClient(display_name="samples", scopes=SCOPES)
    )
    made = stack.operator.call(stub.CreateOAuthClient, wanted)
    body = {"grant_type": "client_credentials", "client_id": made.client_id, "client_secret": made.client_secret}
    url = f"{base(stack)}/oauth/access_token"

    def issued() -> str:
        answer = httpx.post(url, json=body, verify=stack.authority.client_context(), timeout=60)
        return str(answer.json().get("access_token", ""))

    return wait_until(issued, "a token is issued")


SCOPES = ("mail", "messages", "suppressions", "senders", "domains", "templates")
