"""Headers: what is read, what is refused, and what the stored message looks like."""

import email
import email.policy
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from mta.message.address import parse_path
from mta.message.headers import (
    MAX_FIELDS,
    MAX_HEADER,
    Headers,
    MessageError,
    check_body,
    format_date,
    prepare,
    received_field,
    scan,
    subject,
)

DATE = "Fri, 21 Nov 2025 22:19:00 +0000"
RECEIVED = b"Received: by mx.test with ESMTPA id x;\r\n\t" + DATE.encode() + b"\r\n"
SENDER = parse_path("sender@demo.test")


def prepared(content: bytes) -> Headers:
    return prepare(
        scan(content), received=RECEIVED, date=DATE, message_id="<id@demo.test>", sender=SENDER, sender_name=""
    )


def test_fields_and_body_are_found() -> None:
    content = b"From: a@b.co\r\nSUBJECT: one\r\n\ttwo\r\nReceived: x\r\nreceived:y\r\n\r\nbody\r\n"
    headers = scan(content)
    assert [name for name, _, _ in headers.fields] == [b"from", b"subject", b"received", b"received"]
    assert b"".join(content[start:end] for _, start, end in headers.fields) == content[: headers.end]
    assert content[headers.body :] == b"body\r\n"
    assert headers.first(b"subject") == b"one\ttwo"
    assert headers.first(b"to") is None
    assert headers.values(b"received") == [b"x", b"y"]
    assert headers.received == 2
    assert headers.is_ascii
    assert headers.has(b"from")
    assert not headers.has(b"date")
    assert "4 fields" in repr(headers)


@pytest.mark.parametrize(
    ("content", "names", "body"),
    [
        (b"", [], b""),
        (b"\r\n", [], b""),
        (b"\r\nbody", [], b"body"),
        (b"just text\r\nand more: of it\r\n", [], b"just text\r\nand more: of it\r\n"),
        (b" indented\r\n", [], b" indented\r\n"),
        (b"no colon", [], b"no colon"),
        (b"Subject: only header", [b"subject"], b""),
        (b"Subject: only header\r\n", [b"subject"], b""),
        (b"Subject:\r\n\r\n", [b"subject"], b""),
        (b"Subject:x\r\n\r\n\r\nbody", [b"subject"], b"\r\nbody"),
        (b"X!#$%&'*+.^_`|~9-: y\r\n\r\n", [b"x!#$%&'*+.^_`|~9-"], b""),
    ],
)
def test_header_and_body_are_both_optional(content: bytes, names: list[bytes], body: bytes) -> None:
    headers = scan(content)
    assert [name for name, _, _ in headers.fields] == names
    assert content[headers.body :] == body


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"From: a@b.co\r\nFrom: c@d.ee\r\n\r\n", "more than one From"),
        (b"from: a@b.co\r\nX: y\r\n z\r\nFROM: c@d.ee\r\n\r\n", "more than one From"),
        (b"Subject: a\r\nSubject: b\r\n\r\n", "more than one Subject"),
        (b"Content-Type: a\r\ncontent-type: b\r\n\r\n", "more than one Content-Type"),
        (b"To: a\r\nno colon\r\n\r\nbody", r"line 2 of the header \('no colon'\) has no colon"),
        (b"To: a\r\n\tb\r\n: empty\r\n\r\nbody", "line 3 .* no field name"),
        (b"To: a\r\nFrom : b@c.de\r\n\r\nbody", "line 2 .* white space before its colon"),
        (b"To : a\r\n\r\nbody", "white space before its colon"),
        (b"To: a\r\nX Y: b\r\n\r\nbody", "line 2 .* no field name"),
        (b"To: a\r\nX\xc3\xa9: b\r\n\r\nbody", "line 2 .* no field name"),
        (b"To: a\r\n \t\r\nFrom: b@c.de\r\n\r\nbody", "line 2 .* empty but for white space"),
        (b"From a@b.co Fri Nov 21 2025\r\nTo: b\r\n\r\nbody", "mailbox separator"),
        (b">From a@b.co\r\nTo: b\r\n\r\nbody", "mailbox separator"),
        (b"To: a\x00b\r\n\r\n", "0x00"),
        (b"To: a\x0bb\r\n\r\n", "0x0B"),
        (b"To: \xc3\xa9\x7f\r\n\r\n", "0x7F"),
        (b"To: a\nFrom: b@c.de\r\n\r\n", "CR or LF on its own"),
        (b"To: a\rFrom: b@c.de\r\n\r\n", "CR or LF on its own"),
        (b"To: a\r\r\n\r\n", "CR or LF on its own"),
        (b"To: a\n\r\n\r\n", "CR or LF on its own"),
        (b"To: a\r", "CR or LF on its own"),
        (b"To: " + b"x" * 995 + b"\r\n\r\n", "line of the to field is longer than 998"),
        (b"To: a\r\n" + b" x" * 500 + b"\r\n\r\n", "line of the to field is longer than 998"),
        (b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n", "more than 1000 header fields"),
        (b"X: " + b"y" * 70 + b"\r\n" + (b" " + b"y" * 70 + b"\r\n") * 2000 + b"\r\n", "longer than 131072"),
    ],
)
def test_refused_with_the_reason(content: bytes, why: str) -> None:
    with pytest.raises(MessageError, match=why):
        scan(content)


def test_the_limits_themselves_are_accepted() -> None:
    scan(b"To: " + b"x" * 994 + b"\r\n\r\n")
    scan(b"X: y\r\n" * MAX_FIELDS + b"\r\n")
    block = b"X: " + b"y" * 71 + b"\r\n"
    fold = b" " + b"y" * 97 + b"\r\n"
    header = block + fold * ((MAX_HEADER - len(block)) // len(fold))
    assert scan(header + b"\r\nbody").end == len(header)


def test_only_a_header_line_is_limited_not_a_body_without_header() -> None:
    assert scan(b"text " * 100_000).body == 0


def test_octets_above_127_are_reported() -> None:
    assert not scan("Subject: é\r\n\r\n".encode()).is_ascii
    assert scan("Subject: e\r\n\r\né".encode()).is_ascii


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"a\nb", "CR or LF"), (b"a\rb", "CR or LF"), (b"a\n\r", "CR or LF"), (b"\na", "CR or LF"), (b"a\0b", "NUL")],
)
def test_bodies_that_did_not_come_by_smtp_are_checked(body: bytes, why: str) -> None:
    with pytest.raises(MessageError, match=why):
        check_body(scan(b"To: a\r\n\r\n" + body))
    check_body(scan(b"To: a\r\n\r\nfine\r\n\xff\r\n"))


def test_what_is_missing_is_added_in_front_and_nothing_else_changes() -> None:
    content = b"To: x@y.zz\r\nSubject: hi\r\n there\r\n\r\nbody\r\n.\r\n  \r\n"
    result = prepared(content)
    added = b"From: sender@demo.test\r\nDate: " + DATE.encode() + b"\r\nMessage-ID: <id@demo.test>\r\n"
    assert result.content == RECEIVED + added + content
    assert result.received == 1


def test_what_is_there_is_kept() -> None:
    content = b"DATE: x\r\nmessage-id: y\r\nfrom: z@demo.test\r\nReceived: q\r\n\r\nbody"
    result = prepared(content)
    assert result.content == RECEIVED + content
    assert result.received == 2
    assert result.content[result.body :] == b"body"


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"text", b"\r\ntext", b"Subject: x", b"Subject: x\r\n", b"X: y\r\n\r\ntext"]
)
def test_incomplete_messages_become_whole_ones(content: bytes) -> None:
    result = prepared(content)
    parsed = email.message_from_bytes(result.content, policy=email.policy.default)
    assert parsed["From"] == "sender@demo.test"
    assert parsed["Date"] == DATE
    assert parsed["Message-ID"] == "<id@demo.test>"
    assert parsed.get_payload() == content[scan(content).body :].decode()
    assert parsed.defects == []


def test_private_fields_are_taken_out_with_their_continuation_lines() -> None:
    content = (
        b"Bcc: hidden@x.test,\r\n hidden2@x.test\r\nTo: b@c.de\r\nRETURN-PATH: <x@y.zz>\r\nX-Barua-Campaign: 7\r\n"
        b"x-barua-: 8\r\nresent-bcc: z@x.test\r\nX-Baruah: kept\r\nbcc: hidden3@x.test\r\n\r\n"
        b"Bcc: in the body stays\r\n"
    )
    result = prepared(content)
    assert b"hidden" not in result.content
    assert [name for name, _, _ in result.fields][-2:] == [b"to", b"x-baruah"]
    assert result.content.endswith(b"To: b@c.de\r\nX-Baruah: kept\r\n\r\nBcc: in the body stays\r\n")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"To: x\r\n",
        b"Bcc: \xc3\xa9",
        b"Bcc: x\r\n\r\ntext",
        b"To: a\r\nBcc: x\r\nX: y\r\n z\r\n\r\ntext",
        b"To: x\r\n\r\n",
    ],
)
def test_the_offsets_are_those_of_the_new_content(content: bytes) -> None:
    result = prepared(content)
    again = scan(result.content)
    assert (again.fields, again.end, again.body) == (result.fields, result.end, result.body)
    assert (again.is_ascii, again.received) == (result.is_ascii, result.received)


def test_a_from_field_is_made_with_the_display_name() -> None:
    def made(name: str) -> bytes | None:
        result = prepare(scan(b""), received=RECEIVED, date=DATE, message_id="<i@d>", sender=SENDER, sender_name=name)
        return result.first(b"from")

    assert made("Demo, Inc.") == b'"Demo, Inc." <sender@demo.test>'
    assert made("Démo") == b"=?utf-8?b?RMOpbW8=?= <sender@demo.test>"


def test_neither_from_nor_sender_is_refused() -> None:
    with pytest.raises(MessageError, match="no From field"):
        prepare(scan(b"To: x\r\n"), received=RECEIVED, date=DATE, message_id="<i@d>", sender=None, sender_name="")


def test_a_sender_outside_ascii_is_noted() -> None:
    sender = parse_path("jürgen@demo.test")
    result = prepare(scan(b""), received=RECEIVED, date=DATE, message_id="<i@d>", sender=sender, sender_name="")
    assert not result.is_ascii


@pytest.mark.parametrize(
    ("helo", "peer", "first_line"),
    [
        ("client.test", "192.0.2.1", b"Received: from client.test ([192.0.2.1])"),
        ("client.test", "2001:db8::1", b"Received: from client.test ([IPv6:2001:db8::1])"),
        ("[192.0.2.1]", "192.0.2.1", b"Received: from [192.0.2.1] ([192.0.2.1])"),
        ("x) by evil.test (", "192.0.2.1", b"Received: from unknown ([192.0.2.1])"),
        ("x\r\nBcc: y", "192.0.2.1", b"Received: from unknown ([192.0.2.1])"),
        ("", None, b"Received: from unknown"),
        (None, "192.0.2.1", b"Received: from unknown ([192.0.2.1])"),
    ],
)
def test_the_trace_field_names_the_peer_safely(helo: str | None, peer: str | None, first_line: bytes) -> None:
    field = received_field(
        helo=helo, peer=peer, by="mx.test", protocol="ESMTPSA", id_="id1", recipient=SENDER, date=DATE
    )
    rest = b"\r\n\tby mx.test with ESMTPSA id id1\r\n\tfor <sender@demo.test>;\r\n\t" + DATE.encode() + b"\r\n"
    assert field == first_line + rest


def test_the_trace_field_without_peer_and_recipient() -> None:
    field = received_field(helo=None, peer=None, by="mx.test", protocol="HTTP", id_="id1", recipient=None, date=DATE)
    assert field == b"Received: by mx.test with HTTP id id1;\r\n\t" + DATE.encode() + b"\r\n"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"", ""),
        (b"Subject:\r\n", ""),
        (b"Subject: hello\r\n  world \r\n", "hello  world"),
        (b"Subject: =?utf-8?q?caf=C3=A9?=\r\n", "café"),
        ("Subject: café\r\n".encode(), "café"),
        (b"Subject: caf\xe9\r\n", "caf\ufffd"),
        (b"Subject: =?utf-8?q?a=00=0D=0Ab=E2=80=AEc?=\r\n", "a b c"),
        ("Subject: 👩\u200d💻\r\n".encode(), "👩\u200d💻"),
    ],
)
def test_the_subject_is_fit_for_people(field: bytes, text: str) -> None:
    assert subject(scan(field)) == text


def test_a_long_subject_is_cut() -> None:
    field = b"Subject: " + b"\r\n ".join([b"x" * 900] * 20) + b"\r\n"
    assert subject(scan(field)) == "x" * 500


@pytest.mark.parametrize("seconds", [0, 951_782_400, 1_709_164_800, 1_763_763_540.9, 4_102_444_799, 253_402_300_799])
def test_dates_are_those_of_the_standard_library(seconds: float) -> None:
    assert format_date(seconds) == format_datetime(datetime.fromtimestamp(int(seconds), UTC))
