"""The command-line splitter: what is a line, what is a fault, and where the limit lies."""

import pytest

from mta.smtp.linebuffer import LINE_BUFFER_LIMIT, LineBuffer, LineError, LineFault


def feed(data: bytes) -> LineBuffer:
    lines = LineBuffer()
    lines.feed(data)
    return lines


def test_lines_in_one_piece() -> None:
    lines = feed(b"one\r\n\r\ntwo\r\nrest")
    assert [lines.next_line() for _ in range(4)] == [b"one", b"", b"two", None]
    assert len(lines) == 4
    assert lines.take_rest() == b"rest"
    assert len(lines) == 0


def test_line_octet_by_octet() -> None:
    lines = LineBuffer()
    for octet in b"one\r":
        lines.feed(bytes([octet]))
        assert lines.next_line() is None
    lines.feed(b"\ntwo\r\n")
    assert lines.next_line() == b"one"
    assert lines.next_line() == b"two"


def test_feeding_behind_an_unread_line() -> None:
    lines = feed(b"one\r\ntwo\r\nth")
    assert lines.next_line() == b"one"
    lines.feed(b"ree\r\n")
    assert lines.next_line() == b"two"
    assert lines.next_line() == b"three"
    assert lines.next_line() is None


@pytest.mark.parametrize("data", [b"\n", b"a\n", b"a\rb\r\n", b"\r\r\n", b"a\n\r\n"])
def test_bare_cr_or_lf(data: bytes) -> None:
    with pytest.raises(LineError) as caught:
        feed(data).next_line()
    assert caught.value.fault is LineFault.BARE_CR_OR_LF


def test_nul_takes_its_line_along() -> None:
    lines = feed(b"a\0b\r\nnext\r\n")
    with pytest.raises(LineError) as caught:
        lines.next_line()
    assert caught.value.fault is LineFault.NUL
    assert lines.next_line() == b"next"


@pytest.mark.parametrize("piece", [1, 1000, 10**6])
def test_limit_and_one_more(piece: int) -> None:
    for excess in (0, 1):
        data = b"x" * (LINE_BUFFER_LIMIT - 2 + excess) + b"\r\n"
        lines = LineBuffer()
        taken: object = None
        for start in range(0, len(data), piece):
            lines.feed(data[start : start + piece])
            try:
                taken = lines.next_line()
            except LineError as error:
                taken = error.fault
                break
        assert taken == (LineFault.ENDLESS if excess else data[:-2])


def test_put_back() -> None:
    lines = feed(b"one\r\ntwo\r\n")
    lines.next_line()
    lines.put_back(lines.take_rest())
    assert lines.next_line() == b"two"
