"""The remote servers of the tests do what their scripts say, as smtplib sees it."""

import json
import smtplib
from pathlib import Path

import pytest

from tests.support.certs import Authority
from tests.support.sink import RecordingSink
from tests.support.smtpsink import SmtpSink

CONTENT = b"Subject: hello\r\n\r\n.a line\r\n"


def test_the_recording_sink_answers_as_the_address_says(tmp_path: Path) -> None:
    with RecordingSink(journal=tmp_path / "journal") as sink, smtplib.SMTP("127.0.0.1", sink.port) as client:
        refused = client.sendmail("a@bench.test", ["reject-550@x.test", "defer-451@x.test", "ok@x.test"], CONTENT)
        codes = {address: code for address, (code, _) in refused.items()}
        assert codes == {"reject-550@x.test": 550, "defer-451@x.test": 451}
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@bench.test", ["greylist-1@x.test"], CONTENT)
        client.sendmail("a@bench.test", ["greylist-1@x.test"], CONTENT)
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail("a@bench.test", ["data-554@x.test"], CONTENT)
        assert sink.recipients == ["ok@x.test", "greylist-1@x.test"]
        assert sink.received[0].content == CONTENT
        assert sink.attempts("greylist-1@x.test") == 2
    lines = (tmp_path / "journal").read_text().splitlines()
    assert [json.loads(line)["recipients"] for line in lines] == [["ok@x.test"], ["greylist-1@x.test"]]


def test_the_recording_sink_drops_after_the_final_dot() -> None:
    with RecordingSink() as sink:
        with smtplib.SMTP("127.0.0.1", sink.port) as client, pytest.raises(smtplib.SMTPServerDisconnected):
            client.sendmail("a@bench.test", ["drop-1@x.test"], CONTENT)
        with smtplib.SMTP("127.0.0.1", sink.port) as client:
            client.sendmail("a@bench.test", ["drop-1@x.test"], CONTENT)
        assert sink.recipients == ["drop-1@x.test"]


def test_the_recording_sink_speaks_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.issue("localhost", "127.0.0.1").server_context()
    with RecordingSink(tls=context, require_tls=True) as sink, smtplib.SMTP("127.0.0.1", sink.port) as client:
        client.starttls(context=authority.client_context())
        client.sendmail("a@bench.test", ["ok@x.test"], CONTENT)
        assert sink.received[0].tls


def test_smtp_sink_counts_and_dumps(tmp_path: Path) -> None:
    with SmtpSink(dump_folder=tmp_path / "dumps") as sink:
        with smtplib.SMTP("127.0.0.1", sink.port) as client:
            client.sendmail("a@bench.test", ["one@x.test", "two@x.test"], CONTENT)
            client.sendmail("", ["one@x.test"], CONTENT)
        sink.wait(2, timeout_seconds=5)
        received = sorted(sink.received(), key=lambda item: item.sender)
    assert [item.sender for item in received] == ["", "a@bench.test"]
    assert received[1].recipients == ("one@x.test", "two@x.test")
    assert received[1].content == CONTENT
    assert received[1].headers("Subject") == ["hello"]
