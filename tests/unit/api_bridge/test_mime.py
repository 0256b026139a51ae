"""Composing: the standard library's parser is the judge of every message."""

import base64
import email
import email.policy
import time
import tracemalloc
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge import mime
from api_bridge.fieldtext import FieldError
from api_bridge.mime import Attachment, Mailbox, Message

TO = [Mailbox("recipient@example.com")]
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=400)


def parsed(parts: Message) -> EmailMessage:
    content = mime.compose(parts)
    assert content.isascii()
    assert b"\0" not in content
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects
    return message


def text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert isinstance(part, EmailMessage)
    return content_of(part).removesuffix("\n")


def content_of(part: EmailMessage) -> str:
    return str(part.get_content()).replace("\r\n", "\n")


def test_html_gets_a_text_part() -> None:
    message = parsed(Message("Hello from MSpace", TO, html="<h1>HTML Content</h1>"))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert text_of(message, "plain") == "HTML Content"
    assert text_of(message, "html") == "<h1>HTML Content</h1>"
    assert message.keys() == ["Subject", "To", "MIME-Version", "Content-Type"]


def test_html_without_any_words_stays_alone() -> None:
    assert parsed(Message("s", TO, html="<img src=x>")).get_content_type() == "text/html"


def test_plain_text_stays_plain() -> None:
    message = parsed(Message("s", TO, text="Hello\r\nyou\rthere\n"))
    assert message.get_content_type() == "text/plain"
    assert message["Content-Transfer-Encoding"] == "7bit"
    assert content_of(message) == "Hello\nyou\nthere\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain words", "7bit"),
        ("x" * 990, "7bit"),
        ("x" * 991, "quoted-printable"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE} and more", "quoted-printable"),
        ("\N{SNOWMAN}" * 20, "base64"),
        ("bell\x07", "quoted-printable"),
        ("nul\0 between words", "quoted-printable"),
        ("=" * 1000, "base64"),
        ("x\n" * 1000 + "y" * 990, "7bit"),
        ("x\n" * 1000 + "y" * 991, "quoted-printable"),
    ],
)
def test_the_smallest_safe_encoding_is_chosen(text: str, encoding: str) -> None:
    message = parsed(Message("s", TO, text=text))
    assert message["Content-Transfer-Encoding"] == encoding
    assert content_of(message) == text + "\n"


def test_lines_that_confuse_transports_survive() -> None:
    text = ".\n..\nFrom here\n--boundary\n trailing \nend\t"
    assert text_of(parsed(Message("s", TO, text=text)), "plain") == text


def test_attachments() -> None:
    files = [
        Attachment("report.pdf", b"%PDF\0\xff" * 1000),
        Attachment("übersicht 2026.csv", b"a;b\n", "text/csv; charset=UTF-8"),
        Attachment("x" * 400 + ".bin", b""),
    ]
    message = parsed(Message("s", TO, html="<p>x</p>", attachments=files))
    assert message.get_content_type() == "multipart/mixed"
    found = list(message.iter_attachments())
    assert [part.get_filename() for part in found] == [file.filename for file in files]
    assert [part.get_content_type() for part in found] == ["application/pdf", "text/csv", "application/octet-stream"]
    assert [part.get_payload(decode=True) for part in found] == [file.content for file in files]
    assert text_of(message, "plain") == "x"


@pytest.mark.parametrize(
    "kind", ["text", "text/", "message/rfc822", "multipart/mixed", "a/b\r\nX: y", "a/b; name=x", "a b/c", "x/y\u2028"]
)
def test_content_types_that_are_none(kind: str) -> None:
    with pytest.raises(FieldError, match="attachments contentType"):
        mime.compose(Message("s", TO, text="x", attachments=[Attachment("f", b"", kind)]))


@pytest.mark.parametrize("name", [*sorted(mime.RESERVED), "Content-Type", "ARC-Seal", "Resent-To", "X-Barua-Id", "BCC"])
def test_reserved_header_fields_are_refused(name: str) -> None:
    with pytest.raises(FieldError, match="cannot be set"):
        mime.compose(Message("s", TO, text="x", headers=[(name, "v")]))


def test_reply_to_and_own_header_fields() -> None:
    parts = Message(
        "s", TO, text="x", reply_to=Mailbox("r@example.com", "Réply, Inc.", "reply_to"), headers=[("X-Tag", "ä" * 90)]
    )
    message = parsed(parts)
    assert message["Reply-To"].addresses[0].display_name == "Réply, Inc."
    assert message["Reply-To"].addresses[0].addr_spec == "r@example.com"
    assert message["X-Tag"] == "ä" * 90


def test_many_recipients_are_folded() -> None:
    boxes = [Mailbox(f"recipient-number-{number}@example.com") for number in range(200)]
    message = parsed(Message("s", boxes, text="x"))
    assert [box.addr_spec for box in message["To"].addresses] == [box.address for box in boxes]


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("a@example.com", "a@example.com"),
        ("a.b+c/d=e'f@sub.example.com", "a.b+c/d=e'f@sub.example.com"),
        ('"a b,c"@example.com', '"a b,c"@example.com'),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "a@xn--bcher-kva.example"),
    ],
)
def test_addresses(given_text: str, expected: str) -> None:
    assert mime.address("to", given_text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "@b", "a@", "a b@c", "a@b c", "<a@b>", "A <a@b>", "a@b>", "a@b,c@d", "a@b;c", "a@@b", '"a@b'),
        *("a@b\r\nBcc: x@y", "a\0@b", "a@b\n", "a@[1]\r", '"a\r"@b', "a@\u2028", "\ud800@x", "a@x\ud800"),
        *("ü@example.com", "a@" + "x" * 400),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(FieldError, match=r"^to has "):
        mime.address("to", text)


@given(ANY, ANY, ANY, ANY, ANY, ANY)
def test_the_header_has_the_fields_that_were_asked_for_and_no_others(
    subject: str, name: str, header_name: str, header_value: str, filename: str, content_type: str
) -> None:
    parts = Message(
        subject,
        [Mailbox("a@example.com", name)],
        text="body",
        headers=[(header_name, header_value)],
        attachments=[Attachment(filename, b"x", content_type)],
    )
    try:
        content = mime.compose(parts)
    except FieldError:
        return
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    assert message.keys() == ["Subject", "To", header_name, "MIME-Version", "Content-Type"]
    attachment = message.get_payload(1)
    assert isinstance(attachment, email.message.Message)
    assert attachment.keys() == ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"]


@pytest.mark.parametrize("inject", ["\r\nBcc: x@y.z", "\nBcc: x@y.z", "\rBcc: x", "\0", "\x85Bcc: x", "\u2028Bcc: x"])
@pytest.mark.parametrize("where", ["subject", "name", "header", "header name", "filename", "type", "reply", "address"])
def test_injection_is_refused_everywhere(inject: str, where: str) -> None:
    def tainted(place: str, text: str) -> str:
        return text + inject if place == where else text

    parts = Message(
        tainted("subject", "s"),
        [Mailbox(tainted("address", "a@example.com"), tainted("name", "n"))],
        text="x",
        reply_to=Mailbox("r@example.com", tainted("reply", "r")),
        headers=[(tainted("header name", "X-A"), tainted("header", "v"))],
        attachments=[Attachment(tainted("filename", "f"), b"", tainted("type", "a/b"))],
    )
    with pytest.raises(FieldError):
        mime.compose(parts)


@given(TEXT, TEXT)
def test_bodies_come_back_as_they_were(html: str, text: str) -> None:
    message = parsed(Message("s", TO, html="<p>" + html, text="x" + text))
    assert text_of(message, "html") == ("<p>" + html).removesuffix("\n")
    assert text_of(message, "plain") == ("x" + text).removesuffix("\n")


@given(st.binary(max_size=3000))
def test_files_come_back_as_they_were(content: bytes) -> None:
    message = parsed(Message("s", TO, text="x", attachments=[Attachment("f.bin", content)]))
    (part,) = message.iter_attachments()
    assert part.get_payload(decode=True) == content
    assert base64.b64decode(str(part.get_payload()).replace("\r\n", "")) == content


def test_no_text_is_derived_from_very_long_html() -> None:
    message = parsed(Message("s", TO, html="<p>word</p>" * 100_000))
    assert message.get_content_type() == "text/html"
    message = parsed(Message("s", TO, html="<p>word</p>" * 10_000))
    assert message.get_content_type() == "multipart/alternative"


@pytest.mark.parametrize("text", ["\n" * 10_000_000, "\u00e9" + "=" * 10_000_000, "\x07" * 10_000_000])
def test_composing_takes_a_small_multiple_of_the_text(text: str) -> None:
    tracemalloc.start()
    mime.compose(Message("s", TO, text=text))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(text)


@pytest.mark.parametrize("size", [0, 1, 57, 58, 58_367, 58_368, 58_369, 200_000])
def test_files_of_any_size_come_back(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    message = parsed(Message("s", TO, text="t", attachments=[Attachment("f.bin", content)]))
    (part,) = message.iter_attachments()
    assert part.get_payload(decode=True) == content


# -- everything at once ------------------------------------------------------------------------------------------------


def test_a_message_with_everything() -> None:
    message = parsed(
        Message(
            "s",
            TO,
            html="<html><body class=x><img src='cid:logo@x'>Hello</body></html>",
            text="Hello",
            amp="<!doctype html><html amp4email></html>",
            author=Mailbox("shop@example.com", "Shöp"),
            cc=[Mailbox("c@example.com", "C"), Mailbox("d@example.com")],
            reply_to=Mailbox("r@example.com"),
            headers=[("X-A", "1"), ("x-a", "2")],
            attachments=[
                Attachment("logo.png", b"png", content_id="logo@x"),
                Attachment("a.txt", b"file", "text/plain; charset=utf-8"),
            ],
            preheader='Soon & "here" <b>',
            unsubscribe="https://mail.example.com/t/u/token",
        )
    )
    assert message.keys() == [
        *("From", "Subject", "To", "Cc", "Reply-To", "X-A", "x-a"),
        *("List-Unsubscribe", "List-Unsubscribe-Post", "MIME-Version", "Content-Type"),
    ]
    assert message["From"].addresses[0].display_name == "Shöp"
    assert [one.addr_spec for one in message["Cc"].addresses] == ["c@example.com", "d@example.com"]
    assert message["List-Unsubscribe"] == "<https://mail.example.com/t/u/token>"
    assert message.get_content_type() == "multipart/mixed"
    alternative, file = message.iter_parts()
    assert [part.get_content_type() for part in alternative.iter_parts()] == [
        *("text/plain", "text/x-amp-html", "multipart/related"),
    ]
    page, picture = list(alternative.iter_parts())[2].iter_parts()
    assert picture["Content-ID"] == "<logo@x>"
    assert picture.get_content_disposition() == "inline"
    assert file.get_content_disposition() == "attachment"
    assert isinstance(page, EmailMessage)
    shown = content_of(page)
    assert shown.startswith('<html><body class=x><div style="display:none')
    assert "Soon &amp; &quot;here&quot; &lt;b&gt;" in shown


@pytest.mark.parametrize("size", range(1, 70))
def test_lines_with_encoded_words_are_short(size: int) -> None:
    """RFC 2047 §2."""
    people = [Mailbox(f"{'a' * length}@example.com", "é" * size) for length in (1, 10, 60)]
    content = mime.compose(Message("é" * size, people, author=people[1], reply_to=people[1], cc=people, text="x"))
    head = content.partition(b"\r\n\r\n")[0]
    assert all(len(line) <= 76 for line in head.split(b"\r\n") if b"=?" in line)
    message = email.message_from_bytes(content, policy=email.policy.default)
    for name in ("To", "Cc"):
        assert [one.addr_spec for one in message[name].addresses] == [person.address for person in people]


def test_without_anybody_to_name() -> None:
    content = mime.compose(Message("s", [], text="x"))
    assert b"\r\nTo: undisclosed-recipients:;\r\n" in content


def test_copies_share_a_body() -> None:
    message = Message("s", TO, html="<p>Hello</p>", attachments=[Attachment("f", b"x")])
    shared = mime.body(message)
    for number in range(3):
        copy = Message(f"s{number}", [Mailbox(f"r{number}@example.com")])
        content = mime.compose(copy, shared)
        assert content.endswith(shared)
        assert email.message_from_bytes(content)["To"] == f"r{number}@example.com"


def test_a_clients_own_list_unsubscribe_stays_alone() -> None:
    own = [("list-unsubscribe", "<mailto:x@example.com>")]
    message = parsed(Message("s", TO, text="x", headers=own, unsubscribe="https://mail.example.com/"))
    assert message.get_all("List-Unsubscribe") == ["<mailto:x@example.com>"]
    assert message["List-Unsubscribe-Post"] is None


@pytest.mark.parametrize("url", ["https://x/>\r\nBcc: a@b.c", "javascript:x", "https://x/ä", "https://x/" + "x" * 900])
def test_urls_that_cannot_be_told(url: str) -> None:
    with pytest.raises(FieldError, match="unsubscribe"):
        mime.compose(Message("s", TO, text="x", unsubscribe=url))


@pytest.mark.parametrize("where", ["author", "cc", "content id"])
@pytest.mark.parametrize("inject", ["\r\nBcc: x@y.z", "\n", "\r", "\0", "\x85", "\u2028", "\t", "\ud800"])
def test_injection_is_refused_in_the_newer_places(where: str, inject: str) -> None:
    author = Mailbox("a@example.com", "n" + inject * (where == "author"))
    cc = [Mailbox("c@example.com", "n" + inject * (where == "cc"))]
    picture = Attachment("f", b"x", content_id="i" + inject * (where == "content id"))
    with pytest.raises(FieldError):
        mime.compose(Message("s", TO, html="<p>", author=author, cc=cc, attachments=[picture]))


@pytest.mark.parametrize("content_id", ["<i>", "i>", "i\u00e4", "i j", "i" * 201])
def test_content_ids_that_cannot_be_written(content_id: str) -> None:
    with pytest.raises(FieldError, match="contentId"):
        mime.compose(Message("s", TO, html="<p>", attachments=[Attachment("f", b"x", content_id=content_id)]))


def test_too_many_header_fields() -> None:
    with pytest.raises(FieldError, match="headers"):
        mime.compose(Message("s", TO, text="x", headers=[("X-A", "1")] * (mime.MAX_HEADERS + 1)))


@given(st.lists(st.tuples(st.from_regex(r"X-[A-Za-z]{1,8}", fullmatch=True), ANY), max_size=8))
def test_there_are_as_many_fields_as_were_asked_for(headers: list[tuple[str, str]]) -> None:
    try:
        content = mime.compose(Message("s", TO, text="x", headers=headers, author=TO[0]))
    except FieldError:
        return
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    names = [name for name, _ in headers if not name.lower().startswith(mime.RESERVED_PREFIXES)]
    assert message.keys() == [
        "From",
        "Subject",
        "To",
        *names,
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]


def test_searching_the_place_of_the_preheader_takes_linear_time() -> None:
    start = time.process_time()
    mime.with_preheader("<body " * 200_000, "x")
    assert time.process_time() - start < 2
