"""SendPost: from the call that makes a webhook to the posts it gets, signed with the account's key."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from mta.runtime.options import Options
from tests.support.dns import DnsServer
from tests.support.sendpost import make_account, wait_for_key
from tests.support.sink import RecordingSink
from tests.support.stack import Stack, changed
from tests.support.waiting import wait_until


@dataclass
class Endpoint:
    """Where events are posted: header fields in lower case, and the body as it came."""

    port: int = 0
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """One that takes everything."""
    found = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def _reach_loopback(options: Options) -> Options:
    return changed(options, "control.webhooks", allow_http=True, allowed_networks=["127.0.0.0/8"])


@pytest.mark.long
def test_events_are_posted_and_signed_with_the_account_key(tmp_path: Path, endpoint: Endpoint) -> None:
    with DnsServer() as dns, RecordingSink() as sink:
        dns.set("example.net", "A", "127.0.0.1")
        with Stack(tmp_path, dns=dns, delivery_port=sink.port, change=_reach_loopback) as stack:
            account = make_account(stack.operator)
            wait_for_key(stack.bridge_url, account.sub_key)
            base = f"{stack.bridge_url}/api/v1"
            hook = {"url": f"http://127.0.0.1:{endpoint.port}/hook", "processed": True}
            made = httpx.post(f"{base}/account/webhook", json=hook, headers=account.account_headers)
            assert made.status_code == 201, made.text
            message = {
                "from": {"email": f"news@{account.sub_domain}"},
                "to": [{"email": "signed@example.net", "customFields": {"a": 1}}],
                "subject": "Hello",
                "textBody": "Hello",
                "groups": ["g"],
            }
            sent = httpx.post(f"{base}/subaccount/email/", json=message, headers=account.sub_headers).json()[0]
            assert sent["errorCode"] == 0

            def kinds() -> set[int]:
                return {json.loads(body)["event"]["type"] for _, body in endpoint.posts}

            wait_until(lambda: {0, 2} <= kinds(), "processed and delivered are told", 60)
            for headers, body in endpoint.posts:
                signature = hmac.new(account.key.encode(), body, hashlib.sha256).hexdigest()
                assert headers["x-sendpost-signature"] == signature
                assert headers["x-sendpost-signature-alg"] == "hmac-sha256"
                assert headers["x-sendpost-webhook-attempt"] == "1"
                told = json.loads(body)
                if told["event"]["to"] != "signed@example.net":
                    continue
                assert told["event"]["messageId"] == sent["messageId"]
                assert told["emailMessage"]["groups"] == ["g"]
