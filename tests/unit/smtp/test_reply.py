"""Replies: values, rendering that nothing can split, parsing within limits."""

import pytest

from mta.smtp import codes
from mta.smtp.reply import (
    REPLY_LINE_LIMIT,
    REPLY_LINES_LIMIT,
    REPLY_SIZE_LIMIT,
    Reply,
    ReplyError,
    ReplyParser,
    printable_text,
)


def parse(data: bytes) -> Reply | None:
    parser = ReplyParser()
    parser.feed(data)
    return parser.next_reply()


def test_render() -> None:
    assert Reply(250, "2.1.0", "OK").render() == b"250 2.1.0 OK\r\n"
    assert Reply(354, None).render() == b"354 \r\n"
    assert Reply(550, "5.7.1", "a", "b").render() == b"550-5.7.1 a\r\n550 5.7.1 b\r\n"


def test_foreign_text_cannot_split_a_reply() -> None:
    wire = Reply(550, "5.7.1", "no\r\n250 yes\0\x1b[1mé\u2028" + "x" * 600, "second\nline").render()
    first, second, rest = wire.split(b"\r\n")
    assert rest == b""
    assert len(first) == 510
    assert first.startswith(b"550-5.7.1 no  250 yes  [1m??xxx")
    assert second == b"550 5.7.1 second line"


@pytest.mark.parametrize("length", [495, 496, 497, 600])
def test_longest_line_is_512_octets(length: int) -> None:
    wire = Reply(250, "2.0.0", "x" * length).render()
    assert len(wire) == min(512, length + 12)


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [(199, None), (600, None), (250, "5.0.0"), (250, "2.0"), (250, "2.0.0000"), (550, "x"), (550, "")],
)
def test_impossible_replies(code: int, enhanced: str | None) -> None:
    with pytest.raises(ValueError, match=r"reply"):
        Reply(code, enhanced, "x")


def test_value() -> None:
    assert Reply(250, "2.0.0", "OK") == codes.OK
    assert len({Reply(250, "2.0.0", "OK"), codes.OK, codes.BYE}) == 2
    assert Reply(250, None, "OK") != codes.OK
    assert codes.OK != "250"
    assert repr(codes.OK) == "Reply(250, '2.0.0', 'OK')"
    assert str(Reply(550, "5.7.1", "a", "b")) == "550 5.7.1 a b"
    assert codes.OK.positive
    assert not codes.START_DATA.positive


def test_every_named_reply_renders() -> None:
    replies = [value for value in vars(codes).values() if isinstance(value, Reply)]
    assert len(replies) > 50
    for reply in replies:
        assert parse(reply.render()) == reply
        if reply.code // 100 != 3:
            assert reply.enhanced


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 OK\r\n", Reply(250, None, "OK")),
        (b"250\r\n", Reply(250, None)),
        (b"250 \r\n", Reply(250, None)),
        (b"250 OK\n", Reply(250, None, "OK")),
        (b"250 2.1.5 OK\r\n", Reply(250, "2.1.5", "OK")),
        (b"250 2.1.5\r\n", Reply(250, "2.1.5")),
        (b"250 5.1.5 OK\r\n", Reply(250, None, "5.1.5 OK")),
        (b"250 2.1.5000 OK\r\n", Reply(250, None, "2.1.5000 OK")),
        (b"550-5.7.1 a\r\n550-5.7.1\r\n550 5.7.11 b\r\n", Reply(550, "5.7.1", "a", "", "5.7.11 b")),
        (b"250-mx.test\r\n250 SIZE 1\r\n", Reply(250, None, "mx.test", "SIZE 1")),
        (b"250-a\r\n250\r\n", Reply(250, None, "a", "")),
        (b"599 what\r\n", Reply(599, None, "what")),
        (b"450 gr\xc3\xbc\xc3\x9fe \xff\x00\x1b\t\xe2\x80\xae.\r\n", Reply(450, None, "grüße \ufffd?? ?.")),
        (b"450 a\rb\r\n", Reply(450, None, "a?b")),
    ],
)
def test_parse(data: bytes, expected: Reply) -> None:
    assert parse(data) == expected
    parser = ReplyParser()
    replies = []
    for octet in data * 2:
        parser.feed(bytes([octet]))
        replies.append(parser.next_reply())
    assert [reply for reply in replies if reply is not None] == [expected, expected]
    assert parser.empty


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"25\r\n",
        b"2x0 OK\r\n",
        b"150 go on\r\n",
        b"600 what\r\n",
        b"+OK\r\n",
        b"250OK\r\n",
        b"250\tOK\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n251-b\r\n",
        b"250-a\r\nx\r\n",
        b"\xb2\xb2\xb2 OK\r\n",
    ],
)
def test_not_a_reply(data: bytes) -> None:
    with pytest.raises(ReplyError):
        parse(data)


def test_line_limit_and_one_more() -> None:
    line = b"250 " + b"x" * (REPLY_LINE_LIMIT - 6) + b"\r\n"
    reply = parse(line)
    assert reply is not None
    assert len(reply.text) == REPLY_LINE_LIMIT - 6
    with pytest.raises(ReplyError):
        parse(b"250 x" + line[4:])
    with pytest.raises(ReplyError):
        parse(b"x" * REPLY_LINE_LIMIT)


def test_lines_limit_and_one_more() -> None:
    reply = parse(b"250-x\r\n" * (REPLY_LINES_LIMIT - 1) + b"250 x\r\n")
    assert reply is not None
    assert len(reply.lines) == REPLY_LINES_LIMIT
    with pytest.raises(ReplyError):
        parse(b"250-x\r\n" * REPLY_LINES_LIMIT + b"250 x\r\n")


def test_size_limit_and_one_more() -> None:
    line = b"x" * 1024
    lines = REPLY_SIZE_LIMIT // 1024
    assert parse((b"250-" + line + b"\r\n") * (lines - 1) + b"250 " + line + b"\r\n") is not None
    with pytest.raises(ReplyError):
        parse((b"250-" + line + b"\r\n") * lines + b"250 x\r\n")


def test_clear_forgets() -> None:
    parser = ReplyParser()
    parser.feed(b"250-a\r\n25")
    assert parser.next_reply() is None
    assert (parser.empty, parser.buffered) == (False, 2)
    parser.clear()
    assert parser.empty
    parser.feed(b"220 b\r\n")
    assert parser.next_reply() == Reply(220, None, "b")


def test_printable_text_keeps_other_scripts() -> None:
    assert printable_text("日本\r\n".encode()) == "日本??"
