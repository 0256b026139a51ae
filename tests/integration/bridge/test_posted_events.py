"""Webhooks that were made through the APIs, told of mail that was sent through the APIs: every program takes part."""

import asyncio
import hashlib
import hmac
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from barua.control.v1 import webhook_pb2, webhook_service_pb2
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub

from mta.runtime.options import Options
from tests.integration.control.receiver import Receiver, Request, receiving
from tests.support import mailpass, sendpost
from tests.support.certs import Authority
from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import Stack, changed
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whose certificates control believes."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def endpoint(authority: Authority) -> Iterator[Receiver]:
    """An HTTPS endpoint, in a thread of its own."""
    context = authority.issue("127.0.0.1").server_context()
    made: list[Receiver] = []
    up, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with receiving(context) as receiver:
            made.append(receiver)
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert up.wait(20)
    yield made[0]
    over.set()
    thread.join(60)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Stack]:
    """An installation whose webhooks may reach this machine, and where a send waits for refusals."""

    def change(options: Options) -> Options:
        options = changed(
            options, "control.webhooks", allowed_networks=["127.0.0.0/8"], ca_file=str(authority.ca_file), pace=0.01
        )
        mail = options.bridge.dialects.mailpass
        waiting = changed(Options(), "bridge.dialects", mailpass=type(mail)(wait_seconds=15.0)).bridge.dialects
        return changed(options, "bridge", dialects=waiting)

    with DnsServer() as dns, RecordingSink() as sink:
        dns.set("example.net", "A", "127.0.0.1")
        folder: Path = tmp_path_factory.mktemp("posted")
        with Stack(folder, dns=dns, delivery_port=sink.port, change=change) as running:
            yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    """An HTTP client for the bridge."""
    with httpx.Client(base_url=stack.bridge_url, timeout=60) as opened:
        yield opened


def posted(endpoint: Receiver, mark: str) -> list[Request]:
    """What came to one path of the endpoint."""
    return [request for request in list(endpoint.requests) if request.path == f"/{mark}"]


def url(endpoint: Receiver, mark: str) -> str:
    """A path of the endpoint."""
    return f"https://127.0.0.1:{endpoint.port}/{mark}"


def digest(key: str, request: Request) -> str:
    """What a receiver computes."""
    return hmac.new(key.encode(), request.body, hashlib.sha256).hexdigest()


def test_sendpost(stack: Stack, client: httpx.Client, endpoint: Receiver) -> None:
    account = sendpost.make_account(stack.operator)
    sendpost.wait_for_key(stack.bridge_url, account.sub_key)
    general, own = uuid.uuid4().hex, uuid.uuid4().hex
    flags = dict.fromkeys(("processed", "sent", "delivered", "dropped", "hardBounced", "opened", "clicked"), True)
    made = client.post(
        "/api/v1/account/webhook", headers=account.account_headers, json={"url": url(endpoint, general), **flags}
    )
    assert made.status_code == 201, made.text

    def send(**changes: Any) -> str:
        body = {
            "from": {"email": f"news@{account.sub_domain}", "name": "News"},
            "to": [{"email": "ann@example.net", "name": "Ann", "customFields": {"first": "Ann"}}],
            "subject": "Hi {{first}}",
            "htmlBody": '<p>Hi {{first}}</p><a href="https://example.com/">x</a>',
            "groups": ["welcome"],
            "headers": {"X-Order": "7"},
            "trackOpens": True,
            "trackClicks": True,
            **changes,
        }
        answer = client.post("/api/v1/subaccount/email/", headers=account.sub_headers, json=body)
        assert answer.json()[0]["errorCode"] == 0, answer.text
        id_: str = answer.json()[0]["messageId"]
        return id_

    id_ = send()
    wait_until(lambda: len(posted(endpoint, general)) == 3, "processed, sent and delivered are told")
    events = {}
    for request in posted(endpoint, general):
        assert request.headers["x-sendpost-signature"] == digest(account.key, request)
        body = json.loads(request.body)
        events[body["event"]["typeName"]] = body
        assert body["event"]["messageId"] == body["emailMessage"]["messageID"] == id_
    assert set(events) == {"processed", "sent", "delivered"}
    message = events["delivered"]["emailMessage"]
    assert message["from"] == {"email": f"news@{account.sub_domain}", "name": "News"}
    assert message["to"]["customFields"] == message["customFields"] == {"first": "Ann"}
    assert (message["groups"], message["headers"], message["trackOpens"]) == (["welcome"], {"X-Order": "7"}, True)
    assert message["subAccountID"] == account.number
    assert events["delivered"]["event"]["subject"] == "Hi Ann"
    send(to=[{"email": f"reject-550-{general}@example.net"}], webhookEndpoint=url(endpoint, own))
    wait_until(lambda: len(posted(endpoint, own)) == 3, "the message's own endpoint is told")
    assert {json.loads(request.body)["event"]["typeName"] for request in posted(endpoint, own)} == {
        *("processed", "sent", "hardBounced")
    }
    assert all(
        request.headers["x-sendpost-signature"] == digest(account.key, request) for request in posted(endpoint, own)
    )
    assert len(posted(endpoint, general)) == 3


def test_mailpass(stack: Stack, client: httpx.Client, endpoint: Receiver) -> None:
    account = mailpass.make_account(stack.operator)
    mailpass.wait_until_known(client, account)
    key = mailpass.make_key(stack.operator, account.tenant, ["webhooks"])
    mark = uuid.uuid4().hex
    made = client.post(
        "/api/v1/webhooks", headers={"Authorization": f"Bearer {key}"}, json={"url": url(endpoint, mark)}
    ).json()["data"]
    data = mailpass.sending(client, account, tags=["order"], metadata={"order_id": "12345"}).json()["data"]
    wait_until(lambda: len(posted(endpoint, mark)) == 2, "sent and delivered are told")
    for request in posted(endpoint, mark):
        body = json.loads(request.body)
        assert request.headers["x-webhook-signature"] == "sha256=" + digest(made["secret"], request)
        assert request.headers["x-webhook-event"] == body["event"]
        assert body["data"]["message_id"] == data["message_id"]
        assert (body["data"]["tags"], body["data"]["metadata"]) == (["order"], {"order_id": "12345"})
        assert (body["data"]["from_email"], body["data"]["to_email"]) == (data["from"], "ann@example.net")
    refused = mailpass.sending(client, account, to=f"reject-550-{mark}@example.net")
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "SEND_FAILED")
    assert refused.json()["error"]["message"].startswith("The message was refused: 550 5.1.1")
    wait_until(lambda: len(posted(endpoint, mark)) == 4, "sent and bounced are told")
    bounced = {json.loads(request.body)["event"] for request in posted(endpoint, mark)[2:]}
    assert bounced == {"email.sent", "email.bounced"}


def test_sendpulse(stack: Stack, client: httpx.Client, endpoint: Receiver) -> None:
    """That service configures webhooks in its dashboard: here it is the operator, whatever the mail came through."""
    account = mailpass.make_account(stack.operator)
    mailpass.wait_until_known(client, account)
    mark = uuid.uuid4().hex
    webhook = webhook_pb2.Webhook(
        url=url(endpoint, mark),
        event_kinds=[webhook_pb2.Webhook.EVENT_KIND_DELIVERED, webhook_pb2.Webhook.EVENT_KIND_BOUNCED],
        payload_format=webhook_pb2.Webhook.PAYLOAD_FORMAT_SENDPULSE,
    )
    request = webhook_service_pb2.CreateWebhookRequest(parent=f"tenants/{account.tenant}", webhook=webhook)
    stack.operator.call(WebhookServiceStub(stack.operator.control).CreateWebhook, request)
    good, bad = f"{mark}@example.net", f"reject-550-{mark}@example.net"
    rows = [{"to": to, "subject": "Hello", "text": "Hi"} for to in (good, bad)]
    answer = client.post(mailpass.BATCH, headers=account.headers, json={"messages": rows})
    ids = {row["to"]: row["queue_id"] for row in answer.json()["data"]["messages"]}

    def items() -> list[dict[str, Any]]:
        return [item for request in posted(endpoint, mark) for item in json.loads(request.body)]

    wait_until(lambda: len(items()) == 3, "all is told")
    assert {(item["event"], item["recipient"], item["message_id"]) for item in items()} == {
        ("delivered", good, ids[good]),
        ("undelivered", bad, ids[bad]),
        ("hard_bounces", bad, ids[bad]),
    }
    refused = next(item for item in items() if item["event"] == "undelivered")
    assert (refused["smtp_server_response_code"], refused["smtp_server_response_subcode"]) == ("550", "5.1.1")
