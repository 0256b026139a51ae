"""Links in messages, live: only signed ones do anything, redirects lead where we signed, unsubscribing is for POST."""

import socket
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import pytest

from barua.control.v1 import history_service_pb2, suppression_service_pb2
from barua.control.v1.history_service_pb2 import MessageRecord, MessageRecordFilter
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.journal.v1.event_pb2 import Event
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from api_bridge.tracking import markup
from api_bridge.tracking.tracker import Tracker
from mta.runtime.keyring import KeyFile
from tests.integration.bridge.conftest import MOCK_DOMAIN
from tests.support.stack import ACCOUNT, Stack
from tests.support.waiting import wait_until

FORM = {"List-Unsubscribe": "One-Click"}
TARGET = "https://shop.test/a?b=1&c=%20d#e"
HTML = f"<p><a href='{TARGET.replace('&', '&amp;')}'>x</a></p></body>"


class Letter:
    """A message that went out with links in it, and what became of it."""

    def __init__(self, stack: Stack, tracker: Tracker, api_key: str, recipient: str = "") -> None:
        self._stack = stack
        self.recipient = recipient or f"{uuid.uuid4().hex}@example.net"
        self.reference = tracker.reference()
        html = tracker.track(HTML, self.reference)
        self.link = markup.survey(html).targets[0].url
        self.picture = html.partition('src="')[2].partition('"')[0]
        self.unsubscribe = tracker.unsubscribe_url(self.reference)
        content = EmailMessage()
        content["From"], content["To"], content["Subject"] = "news@acme.test", self.recipient, "Links"
        for name, value in tracker.unsubscribe_fields(self.reference).items():
            content[name] = value
        content.set_content(html, "html")
        request = injection_service_pb2.SubmitMessageRequest(
            sender="news@acme.test",
            recipients=[self.recipient],
            content=content.as_bytes(policy=SMTP),
            reference=self.reference,
            tags=["letters"],
            properties='{"dialect": "test"}',
        )
        stub = InjectionServiceStub(stack.operator.node)
        answer = stub.SubmitMessage(request, timeout=60, metadata=(("authorization", f"Bearer {api_key}"),))
        assert answer.results[0].status.code == 0, answer
        self.name = f"tenants/{ACCOUNT}/messages/{answer.results[0].recipient_id}"

    @property
    def record(self) -> MessageRecord | None:
        """Its record as far as there is one."""
        request = history_service_pb2.ListMessageRecordsRequest(
            parent=f"tenants/{ACCOUNT}",
            filter=MessageRecordFilter(reference=self.reference, tag="letters"),
            view=history_service_pb2.RECORD_VIEW_EVENTS,
        )
        stub = HistoryServiceStub(self._stack.operator.control)
        found = self._stack.operator.call(stub.ListMessageRecords, request).message_records
        return found[0] if found else None

    def doings(self) -> list[int]:
        """What the recipient did, as far as it is on record."""
        events = self.record.events if self.record else ()
        return [event.kind for event in events if event.kind >= Event.KIND_OPENED]

    def wait(self, *kinds: int) -> None:
        """Wait until exactly this is on record."""
        wait_until(lambda: self.doings() == list(kinds), f"{kinds} on record of {self.name}", 60)

    def is_suppressed(self) -> bool:
        """Whether the recipient gets no more mail."""
        stub = SuppressionServiceStub(self._stack.operator.control)
        request = suppression_service_pb2.GetSuppressionRequest(name=f"tenants/{ACCOUNT}/suppressions/{self.recipient}")
        try:
            self._stack.operator.call(stub.GetSuppression, request)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
            return False
        return True


@pytest.fixture(scope="module")
def tracker(shared_stack: Stack) -> Tracker:
    return Tracker.load(shared_stack.options)


@pytest.fixture
def letter(shared_stack: Stack, tracker: Tracker, api_key: str) -> Letter:
    return Letter(shared_stack, tracker, api_key)


@pytest.fixture
def forged(shared_stack: Stack, tmp_path: Path) -> Iterator[Tracker]:
    """A tracker with a key of its own."""
    path = tmp_path / "tracking.key"
    path.write_text("f0" * 32)
    path.chmod(0o600)
    yield Tracker(shared_stack.options.bridge.public_url, KeyFile(path))


def test_opening_and_following_are_recorded_and_lead_on(client: httpx.Client, letter: Letter) -> None:
    agent = {"user-agent": "Mail/1.0"}
    picture = client.get(letter.picture, headers=agent)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert picture.content.startswith(b"\x89PNG")
    assert "no-store" in picture.headers["cache-control"]
    letter.wait(Event.KIND_OPENED)
    answer = client.get(letter.link, headers=agent)
    assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
    letter.wait(Event.KIND_OPENED, Event.KIND_CLICKED)
    record = letter.record
    assert record is not None
    assert (record.open_count, record.click_count, list(record.tags)) == (1, 1, ["letters"])
    (clicked,) = (event for event in record.events if event.kind == Event.KIND_CLICKED)
    assert (clicked.url, clicked.user_agent, clicked.ip_address) == (TARGET, "Mail/1.0", "127.0.0.1")
    # Programs that look whether a link lives are led on, and leave no trace.
    assert client.head(letter.link).headers["location"] == TARGET
    assert client.head(letter.picture).status_code == 200


def test_w9_no_link_leads_anywhere_that_was_not_signed(
    client: httpx.Client, letter: Letter, forged: Tracker, shared_stack: Stack
) -> None:
    prefix, _, token = letter.link.rpartition("/")
    other = letter.picture.rpartition("/")[2].removesuffix(".png")
    unsigned = [
        "https://evil.test/",
        "//evil.test/",
        "javascript:alert(1)",
        "aHR0cDovL2V2aWwudGVzdC8",
        "",
        ".",
        "%0d%0a",
    ]
    flipped = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :] for place in range(len(token))
    ]
    stranger = markup.survey(forged.track(HTML, letter.reference)).targets[0].url.rpartition("/")[2]
    wrong = [
        *unsigned[1:5],
        *flipped,
        other,
        stranger,
        token + "A",
        token[:-1],
        f"{token}%0d%0aX-Evil:%201",
        f"{token}=",
    ]
    for value in wrong:
        for path in (f"{prefix}/{value}", f"{prefix}/{value}?url=https://evil.test/"):
            answer = client.get(path)
            assert answer.status_code in {400, 404}, value
            assert "location" not in answer.headers
            assert "x-evil" not in answer.headers
    # A query changes nothing: where it leads is in the token alone.
    answer = client.get(f"{letter.link}?redirecturl=https://evil.test/&url=//evil.test")
    assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
    letter.wait(Event.KIND_CLICKED)


def test_w10_unsubscribing_is_for_post_and_for_the_token(
    client: httpx.Client, letter: Letter, forged: Tracker, shared_stack: Stack, tracker: Tracker, api_key: str
) -> None:
    url = urlsplit(letter.unsubscribe).path
    for method in ("GET", "HEAD", "OPTIONS"):
        answer = client.request(method, url)
        assert answer.status_code in {200, 204}
        assert not answer.history
    page = client.get(url)
    assert page.headers["content-type"].startswith("text/html")
    assert 'method="post"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    token = url.rpartition("/")[2]
    flipped = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :] for place in range(len(token))
    ]
    click = letter.link.rpartition("/")[2]
    for value in (*flipped, click, forged.unsubscribe_url(letter.reference).rpartition("/")[2], token[:-2], "x"):
        assert client.post(f"/t/u/{value}", data=FORM).status_code == 400, value
    for wrong in (b"", b"List-Unsubscribe=No", b"x=y", b"{}", b"\xff\xfe", b"&" * 3000):
        answer = client.post(url, content=wrong, headers={"content-type": "application/x-www-form-urlencoded"})
        assert answer.status_code == 400, wrong
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "multipart/mixed; boundary*=x'y'z", "\xff"):
        answer = client.post(url, content=b"--x\r\n\r\n--x--", headers=[(b"content-type", kind.encode("latin-1"))])
        assert answer.status_code == 400, kind
    assert client.post(url, content=b"x" * 100_000).status_code == 413
    for method in ("PUT", "DELETE", "PATCH"):
        assert client.request(method, url, data=FORM).status_code == 405
    second = Letter(shared_stack, tracker, api_key)
    done = [
        client.post(url, data=FORM),
        client.post(url, files={"List-Unsubscribe": (None, "One-Click")}),
        client.post(url, data=FORM, headers={"origin": "https://mail.test", "cookie": "a=b"}),
    ]
    assert [(answer.status_code, "location" in answer.headers) for answer in done] == [(200, False)] * 3
    letter.wait(Event.KIND_UNSUBSCRIBED)
    wait_until(letter.is_suppressed, "the recipient is suppressed", 60)
    assert second.doings() == []
    assert not second.is_suppressed()


def test_tokens_are_not_in_the_log(client: httpx.Client, letter: Letter, shared_stack: Stack) -> None:
    client.get(letter.unsubscribe)
    wait_until(lambda: '"/t/u/"' in shared_stack.bridge.log_end() or "/t/u/" in shared_stack.bridge.log_end(), "a line")
    log = shared_stack.options.path("log", "bridge.log").read_text()
    for url in (letter.unsubscribe, letter.link, letter.picture):
        assert url.rpartition("/")[2][10:40] not in log


def test_a_request_with_a_raw_line_end_is_no_request(shared_stack: Stack, letter: Letter) -> None:
    address = urlsplit(shared_stack.bridge_url)
    path = urlsplit(letter.link).path
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"GET {path}\rX HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.long
def test_the_mock_recipient_opens_and_clicks(shared_stack: Stack, tracker: Tracker, api_key: str) -> None:
    letter = Letter(shared_stack, tracker, api_key, f"test@{MOCK_DOMAIN}")
    letter.wait(Event.KIND_OPENED, Event.KIND_CLICKED)
    record = letter.record
    assert record is not None
    assert record.state is MessageRecord.STATE_DELIVERED
    opened = record.first_open_time.ToDatetime() - record.update_time.ToDatetime()
    clicked = record.first_click_time.ToDatetime() - record.first_open_time.ToDatetime()
    assert 2 <= opened.total_seconds() <= 5
    assert 1 <= clicked.total_seconds() <= 3
