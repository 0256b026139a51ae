"""The demo inbox as a program: SMTP in, HTTP out, DKIM verified, everything there again after a restart."""

import asyncio
import json
import smtplib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from control.demo import pages
from control.demo.inbox import subject
from control.demo.store import Entry, Store
from control.supervisor import effective
from mta.runtime.options import InboxOptions, Options, split_address


@pytest.fixture
def inbox(free: Options) -> Iterator[Options]:
    options = replace(free, demo=True, inbox=replace(free.inbox, messages=100))
    process = _start(options)
    yield options
    _stop(process)


def test_a_message_is_listed_and_comes_back_as_it_was(inbox: Options) -> None:
    sent = _send(inbox, "Grüße <b>", ["a@example.com", "b@example.com"])
    (entry,) = _get(inbox, "/messages")
    assert entry.keys() == {"id", "from", "to", "subject", "received_at", "dkim"}
    assert entry["from"] == "noreply@demo.test"
    assert entry["to"] == ["a@example.com", "b@example.com"]
    assert entry["subject"] == "Grüße <b>"
    assert entry["dkim"] == []
    assert entry["received_at"].endswith("Z")
    with urllib.request.urlopen(_url(inbox, f"/messages/{entry['id']}")) as answer:
        assert answer.headers["Content-Type"] == "message/rfc822"
        assert answer.read() == sent


def test_newest_first_with_filters(inbox: Options) -> None:
    for number in range(3):
        _send(inbox, f"message {number}", [f"user{number}@example.com"])
    assert [entry["subject"] for entry in _get(inbox, "/messages")] == ["message 2", "message 1", "message 0"]
    assert [entry["subject"] for entry in _get(inbox, "/messages?limit=1")] == ["message 2"]
    assert [entry["subject"] for entry in _get(inbox, "/messages?to=USER0@example.com")] == ["message 0"]


@pytest.mark.parametrize(("path", "status"), [("/messages/99", 404), ("/messages?limit=0", 400), ("/nowhere", 404)])
def test_bad_requests_are_refused(inbox: Options, path: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        _get(inbox, path)
    assert caught.value.code == status
    caught.value.close()


def test_messages_can_be_removed(inbox: Options) -> None:
    _send(inbox, "gone soon", ["a@example.com"])
    with urllib.request.urlopen(urllib.request.Request(_url(inbox, "/messages"), method="DELETE")) as answer:
        assert json.load(answer) == {"removed": 1}
    assert _get(inbox, "/messages") == []


def test_messages_survive_a_restart(free: Options) -> None:
    first = _start(free)
    _send(free, "stays", ["a@example.com"])
    first.kill()
    first.wait()
    second = _start(free)
    assert [entry["subject"] for entry in _get(free, "/messages")] == ["stays"]
    _stop(second)


def test_internationalized_addresses_are_taken(inbox: Options) -> None:
    host, port = split_address(inbox.inbox.smtp_listen)
    with smtplib.SMTP(host, port) as client:
        client.ehlo()
        client.mail("jörg@demo.test", ["SMTPUTF8"])
        client.rcpt("用户@example.com")
        code, _ = client.data("Subject: Grüße\r\n\r\nhallo\r\n".encode())
        assert code == 250
    (entry,) = _get(inbox, "/messages")
    assert (entry["from"], entry["to"]) == ("jörg@demo.test", ["用户@example.com"])


def test_many_messages_on_one_connection_and_long_lines(inbox: Options) -> None:
    host, port = split_address(inbox.inbox.smtp_listen)
    with smtplib.SMTP(host, port) as client:
        for _ in range(60):
            client.sendmail("", ["a@example.com"], b"Subject: x\r\n\r\n" + b"y" * 5000 + b"\r\n")
    assert len(_get(inbox, "/messages")) == 60


def test_the_page_is_escaped_and_forbids_scripts(inbox: Options) -> None:
    _send(inbox, "<script>alert(1)</script>", ["a@example.com"])
    with urllib.request.urlopen(_url(inbox, "/")) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        text = answer.read().decode()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_oldest_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=3)
    for number in range(60):
        store.add("a@demo.test", ["b@example.com"], str(number), b"")
    assert [entry.subject for entry in store.entries()] == ["59", "58", "57"]
    store.close()
    store = Store(tmp_path, limit=3)
    assert len(store.unverified(100)) == 3
    store.close()


def test_results_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=10)
    number = store.add("a@demo.test", ["b@example.com"], "x", b"")
    result = {"domain": "demo.test", "selector": "s", "algorithm": "rsa-sha256", "result": "pass"}
    store.verified(number, [result])
    assert store.entries()[0].dkim == [result]
    assert store.unverified(10) == []
    store.close()


async def test_a_list_waits_for_verification() -> None:
    class OneEntry:
        verified = False

        def entries(self, limit: int | None, recipient: str | None) -> list[Entry]:
            return [Entry(1, "a", ["b"], "s", 0.0, [] if self.verified else None)]

    store = OneEntry()

    async def verify(entries: list[Entry]) -> None:
        assert [entry.id for entry in entries] == [1]
        await asyncio.sleep(0)
        store.verified = True

    import httpx

    application = pages.application(store, verify)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=application), base_url="http://inbox") as client:
        assert (await client.get("/messages")).json()[0]["dkim"] == []


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"Subject: plain\r\n", "plain"),
        (b"Subject: folded\r\n over lines\r\n", "folded over lines"),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n", "Grüße"),
        (b"Subject: =?nonsense?q?x?=\r\n", ""),
        (b"Subject: =?utf-8?b?!!!?=\r\n", ""),
        (b"X-Other: 1\r\n", ""),
        ("Subject: Grüße\r\n".encode(), "Grüße"),
        (b"", ""),
    ],
)
def test_subjects_are_decoded(header: bytes, text: str) -> None:
    assert subject(header + b"\r\nbody") == text


def _send(options: Options, text: str, recipients: list[str]) -> bytes:
    message = EmailMessage()
    message["From"] = "noreply@demo.test"
    message["Subject"] = text
    message.set_content("hello\n.\n")
    content = message.as_bytes().replace(b"\n", b"\r\n")
    host, port = split_address(options.inbox.smtp_listen)
    with smtplib.SMTP(host, port) as client:
        client.sendmail("noreply@demo.test", recipients, content)
    return content


def _start(options: Options) -> subprocess.Popen[bytes]:
    home = options.home_path
    (home / "secrets").mkdir(parents=True, exist_ok=True)
    (home / "secrets" / "operator.token").write_text("00" * 32)
    config = effective.write(options)
    process = subprocess.Popen(
        [sys.executable, "-m", "control.demo.inbox", "--config", str(config)], env={"PYTHONPATH": ":".join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            _get(options, "/healthz")
            return process
        except OSError:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(60) == 0


def _url(options: Options, path: str) -> str:
    return f"http://{options.inbox.http_listen}{path}"


def _get(options: Options, path: str) -> Any:
    with urllib.request.urlopen(_url(options, path), timeout=60) as answer:
        return json.load(answer)


def test_inbox_options_have_a_bound() -> None:
    assert InboxOptions().messages > 0
