"""Message data in both directions, with its limits. The smuggling forms are in tests/golden/smtp/v1_*.txt."""

import pytest

from mta.smtp.data import DataReceiver, DataVerdict, has_strict_line_ends, stuff


def receive(wire: bytes, *, limit: int = 10**6, piece: int | None = None) -> tuple[DataReceiver, bytes | None]:
    receiver = DataReceiver(limit)
    rest = None
    step = piece or len(wire)
    for start in range(0, len(wire), step):
        rest = receiver.feed(wire[start : start + step])
        if rest is not None:
            return receiver, rest + wire[start + step :]
    return receiver, rest


PIECES = [None, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n..\r\n...\r\nb.\r\n.\r\n", b"a\r\n.\r\n..\r\nb.\r\n"),
        (b"a\r\n.b\r\n\r\n.\r\n", b"a\r\nb\r\n\r\n"),
    ],
)
def test_good(wire: bytes, content: bytes, piece: int | None) -> None:
    receiver, rest = receive(wire + b"NOOP\r\n.\r\n", piece=piece)
    assert (receiver.verdict, receiver.content, rest) == (DataVerdict.GOOD, content, b"NOOP\r\n.\r\n")


@pytest.mark.parametrize("size", [4095, 4096, 4097, 65535, 65536, 65537])
def test_dots_at_buffer_edges(size: int) -> None:
    for before in range(size - 4, size + 1):
        content = b"x" * (before - 2) + b"\r\n.\r\n..y\r\n"
        receiver, rest = receive(stuff(content) + b".\r\n", piece=size)
        assert (receiver.verdict, receiver.content, rest) == (DataVerdict.GOOD, content, b"")


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("wire", "verdict"),
    [
        (b"a\nb\r\n.\r\n", DataVerdict.BARE_LINE_END),
        (b"a\rb\r\n.\r\n", DataVerdict.BARE_LINE_END),
        (b"a\n\r\n.\r\n", DataVerdict.BARE_LINE_END),
        (b"a\r\r\n.\r\n", DataVerdict.BARE_LINE_END),
        (b"\n\r\r\n.\r\n", DataVerdict.BARE_LINE_END),
        (b"a\0b\r\n.\r\n", DataVerdict.NUL),
        (b"a\r\n\0.\r\n.\r\n", DataVerdict.DISGUISED_END),
        (b".\x0b\r\n.\r\n", DataVerdict.DISGUISED_END),
        (b"..\x0b\r\n.\r\n", DataVerdict.GOOD),
    ],
)
def test_verdicts(wire: bytes, verdict: DataVerdict, piece: int | None) -> None:
    receiver, rest = receive(wire + b"NOOP\r\n", piece=piece)
    assert (receiver.verdict, rest) == (verdict, b"NOOP\r\n")
    assert bool(receiver.content) is (verdict is DataVerdict.GOOD)


@pytest.mark.parametrize("piece", [None, 1, 3, 64])
@pytest.mark.parametrize("line", [b"xx\r\n", b".\r\n", b".x\r\n", b"\r\n"])
def test_limit_and_one_more(line: bytes, piece: int | None) -> None:
    content = line * 60
    limit = len(content)
    receiver, _ = receive(stuff(content) + b".\r\n", limit=limit, piece=piece)
    assert (receiver.verdict, receiver.content) == (DataVerdict.GOOD, content)
    receiver, rest = receive(stuff(content) + b".\r\nNOOP\r\n", limit=limit - 1, piece=piece)
    assert (receiver.verdict, receiver.content, rest) == (DataVerdict.TOO_LARGE, b"", b"NOOP\r\n")


def test_too_large_beats_every_other_fault_however_it_is_cut() -> None:
    wire = b"a\nb\0c\r\n" * 100 + b".\r\n"
    for piece in (None, 1, 50, 799):
        assert receive(wire, limit=100, piece=piece)[0].verdict is DataVerdict.TOO_LARGE


def test_memory_is_bounded_while_a_huge_message_is_read() -> None:
    receiver = DataReceiver(1000)
    for _ in range(1000):
        assert receiver.feed(b"x" * 1000) is None
        assert receiver._held is not None
        assert len(receiver._held) <= 1000 * 4 // 3 + 16
    assert receiver.feed(b"\r\n.") is None
    assert receiver.feed(b"\r\nQUIT\r\n") == b"QUIT\r\n"
    assert receiver.verdict is DataVerdict.TOO_LARGE


def test_stuff() -> None:
    assert stuff(b"") == b""
    assert stuff(b"a") == b"a\r\n"
    assert stuff(b"a\r\n") == b"a\r\n"
    assert stuff(b".\r\n.a\r\n..\r\n\r\n.") == b"..\r\n..a\r\n...\r\n\r\n..\r\n"


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\n.\r\n", b"a\r", b"a\0\r\n", b"a\n"])
def test_stuff_refuses(content: bytes) -> None:
    with pytest.raises(ValueError, match="bare"):
        stuff(content)


def test_strict_line_ends() -> None:
    assert has_strict_line_ends(b"")
    assert has_strict_line_ends(b"\r\n\r\n")
    assert not has_strict_line_ends(b"\n\r")
    assert not has_strict_line_ends(b"a\rb\nc\r\n")
