"""Replies, message data and paths: what is written is read back the same, however it is cut.

Noise gives the declared errors and no others.
"""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from mta.smtp.data import DataReceiver, DataVerdict, has_strict_line_ends, stuff
from mta.smtp.grammar import GrammarError, parse_mail, parse_rcpt, sendable_path
from mta.smtp.reply import Reply, ReplyError, ReplyParser

texts = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60).filter(
    lambda text: not (text[:1].isdigit() and text[1:2] == ".")
)


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    code = draw(st.integers(200, 599))
    enhanced = None
    if code // 100 != 3 and draw(st.booleans()):
        enhanced = f"{code // 100}.{draw(st.integers(0, 999))}.{draw(st.integers(0, 999))}"
    return Reply(code, enhanced, *draw(st.lists(texts, min_size=1, max_size=5)))


@settings(deadline=None)
@given(st.lists(replies(), max_size=5), st.integers(1, 50))
def test_replies_round_trip(expected: list[Reply], length: int) -> None:
    # RFC 2034 §3 wants the enhanced code on each line; only classes 2, 4 and 5 have one, and so do their codes here.
    expected = [reply for reply in expected if reply.code // 100 in (2, 4, 5) or reply.enhanced is None]
    wire = b"".join(reply.render() for reply in expected)
    for step in (length, len(wire) or 1):
        parser = ReplyParser()
        received = []
        for start in range(0, len(wire), step):
            parser.feed(wire[start : start + step])
            while (reply := parser.next_reply()) is not None:
                received.append(reply)
        assert received == expected
        assert parser.empty


@settings(deadline=None)
@given(st.text(max_size=700), st.text(max_size=700))
def test_any_text_renders_as_well_formed_lines(first: str, second: str) -> None:
    wire = Reply(550, "5.7.1", first, second).render()
    lines = wire.split(b"\r\n")
    assert len(lines) == 3
    assert lines[2] == b""
    assert all(len(line) <= 510 and line.decode("ascii").isprintable() for line in lines[:2])


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"250 ", b"250-", b"\r\n", b"2.1.0 "])), max_size=20)
)
def test_reply_parser_gives_printable_replies_or_its_error(pieces: list[bytes]) -> None:
    parser = ReplyParser()
    with contextlib.suppress(ReplyError):
        for piece in pieces:
            parser.feed(piece)
            while (reply := parser.next_reply()) is not None:
                assert 200 <= reply.code <= 599
                assert all(line.isprintable() for line in reply.lines)
                assert reply.render()


wire_parts = st.lists(
    st.sampled_from([b"\r\n", b".", b"..", b"a", b"\r\n.", b"\n", b"\r", b"xyz" * 5, b"\0"]), max_size=25
)


def receive(wire: bytes, length: int, limit: int) -> tuple[DataVerdict, bytes, bytes | None]:
    receiver = DataReceiver(limit)
    for start in range(0, len(wire), length):
        rest = receiver.feed(wire[start : start + length])
        if rest is not None:
            return receiver.verdict, receiver.content, rest + wire[start + length :]
    return receiver.verdict, receiver.content, None


@settings(max_examples=300, deadline=None)
@given(wire_parts, st.integers(1, 20), st.integers(1, 60))
def test_received_data_means_the_same_however_it_is_cut(parts: list[bytes], length: int, limit: int) -> None:
    wire = b"".join(parts) + b"\r\n.\r\nQUIT\r\n"
    outcomes = {receive(wire, step, limit) for step in (1, length, len(wire))}
    assert len(outcomes) == 1


@settings(max_examples=300, deadline=None)
@given(wire_parts, st.integers(1, 20))
def test_data_round_trip(parts: list[bytes], length: int) -> None:
    content = b"".join(parts).replace(b"\0", b"")
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    strict = content.replace(b"\r\n", b"").translate(None, b"\r\n") == content.replace(b"\r\n", b"")
    assert has_strict_line_ends(content) is strict
    if strict:
        assert receive(stuff(content) + b".\r\n", length, 10**6) == (DataVerdict.GOOD, content, b"")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from('a."\\@<>: ,[]1=+ä'), max_size=25))
def test_a_path_that_parses_can_be_sent_and_parses_to_itself(text: str) -> None:
    for parse, verb in ((parse_mail, "FROM:"), (parse_rcpt, "TO:")):
        try:
            path, _ = parse(f"{verb}<{text}>")
        except GrammarError as error:
            assert error.code == 501
            continue
        assert parse(f"{verb}<{path}>") == (path, {})
        assert sendable_path(path) == path


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_sendable_path_cannot_leave_its_brackets(text: str) -> None:
    try:
        path = sendable_path(text)
    except ValueError:
        return
    assert "\r" not in path
    assert "\n" not in path
    if '"' not in path:
        assert ">" not in path
        assert " " not in path
