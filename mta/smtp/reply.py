"""SMTP replies: the value, its rendering, and an incremental parser.

A :class:`Reply` is what one side says in answer to one command: a three-digit code, perhaps an enhanced status code
(RFC 3463), and one or more lines of text. Replies are values: compare, hash and share them; a reply that is sent often
is best made once (see :mod:`mta.smtp.codes`), because the rendered bytes are kept.

Rendering never lets foreign text out as it came: each line is printable ASCII and at most 512 octets with its code and
CRLF (RFC 5321 §4.5.3.1.5), so text taken from the peer cannot split a reply into two.

Parsing turns a peer's bytes into replies whose text is printable, so it may be logged and stored. The parser accepts a
bare LF as the end of a reply line (old servers send it, and a reply, unlike message data, has no way to hide anything
behind it), and nothing else that is out of form.

Errors: :class:`ReplyError` (a ``ValueError``) when the peer's bytes are no reply; the parser is unusable afterwards.
``ValueError`` when a caller builds an impossible reply.

Limits: ``REPLY_LINE_LIMIT``, ``REPLY_LINES_LIMIT``, ``REPLY_SIZE_LIMIT``, ``RENDERED_LINE_LIMIT``.
Loop rules: pure; no I/O, no clock, not thread-safe.
"""

import re
from functools import lru_cache
from typing import Final

REPLY_LINE_LIMIT: Final = 2048
"""Octets of one received reply line with its line end. RFC 5321 allows 512; servers with long policy URLs exceed it."""

REPLY_LINES_LIMIT: Final = 128
"""Lines of one received reply. The longest EHLO answers in the wild have some thirty."""

REPLY_SIZE_LIMIT: Final = 65_536
"""Octets of one received reply over all its lines: what a hostile server can make us keep."""

RENDERED_LINE_LIMIT: Final = 512
"""Octets of one line we send, with code and CRLF (RFC 5321 §4.5.3.1.5)."""

_CHECKED_CODES_LIMIT: Final = 1024
_checked_codes: set[tuple[int, str | None]] = set()
"""Pairs found valid before: a look-up costs a fifth of the check, and a message costs several replies."""

_enhanced_code = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})", re.ASCII).fullmatch
_enhanced_prefix = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |$)", re.ASCII).match


class ReplyError(ValueError):
    """The peer sent bytes that are not an SMTP reply, or a reply beyond the limits. The text says what was wrong."""


class Reply:
    """One SMTP reply. Immutable by agreement: no attribute is assigned after construction.

    ``code``      200 to 599.
    ``enhanced``  an enhanced status code such as ``"5.7.1"``, whose class must be the code's first digit, or ``None``.
    ``lines``     the text lines without codes; at least one (it may be empty).

    Raises ``ValueError`` for a code out of range or an enhanced code that is malformed or of another class.
    """

    __slots__ = ("_wire", "code", "enhanced", "lines")

    def __init__(self, code: int, enhanced: str | None, *lines: str) -> None:
        if (code, enhanced) not in _checked_codes:
            _check_codes(code, enhanced)
        self.code = code
        self.enhanced = enhanced
        self.lines: tuple[str, ...] = lines or ("",)
        self._wire: bytes | None = None

    @property
    def text(self) -> str:
        """All lines as one, joined by a space."""
        return " ".join(self.lines)

    @property
    def positive(self) -> bool:
        """The command did what was asked (2yz)."""
        return 200 <= self.code < 300

    def render(self) -> bytes:
        """The reply as it goes over the wire, with CRLF after each line. Text is made printable ASCII and cut."""
        wire = self._wire
        if wire is None:
            wire = self._wire = self._encode()
        return wire

    def _encode(self) -> bytes:
        if len(self.lines) == 1:
            text = self.lines[0]
            line = f"{self.code} {text}" if self.enhanced is None else f"{self.code} {self.enhanced} {text}"
            if line.isascii() and line.isprintable() and len(line) <= RENDERED_LINE_LIMIT - 2:
                return line.encode("ascii") + b"\r\n"
        status = "" if self.enhanced is None else self.enhanced + " "
        room = RENDERED_LINE_LIMIT - 6 - len(status)
        texts = [status + printable_ascii(line)[:room] for line in self.lines]
        last = texts.pop()
        return "".join([f"{self.code}-{text}\r\n" for text in texts] + [f"{self.code} {last}\r\n"]).encode("ascii")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return (self.code, self.enhanced, self.lines) == (other.code, other.enhanced, other.lines)

    def __hash__(self) -> int:
        return hash((self.code, self.enhanced, self.lines))

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.enhanced!r}, {', '.join(map(repr, self.lines))})"

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


def _check_codes(code: int, enhanced: str | None) -> None:
    if not 200 <= code <= 599:
        raise ValueError(f"an SMTP reply code lies between 200 and 599, not {code}")
    if enhanced is not None:
        match = _enhanced_code(enhanced)
        if match is None or int(match[1]) != code // 100:
            raise ValueError(f"{enhanced!r} is not an enhanced status code for a reply {code}")
    if len(_checked_codes) < _CHECKED_CODES_LIMIT:
        _checked_codes.add((code, enhanced))


def printable_ascii(text: str) -> str:
    """``text`` with everything outside printable ASCII replaced: control characters by a space, the rest by ``?``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if " " <= char <= "~" else " " if char < " " else "?" for char in text)


def printable_text(data: bytes) -> str:
    """Text of a peer made safe to log and store: UTF-8 where it is that, one ``?`` for each unprintable character."""
    text = data.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char == "\t" else "?" for char in text)


class ReplyParser:
    """Bytes in, replies out. Remembers how far it searched, so a slow peer costs no more than a fast one."""

    __slots__ = ("_code", "_data", "_lines", "_searched", "_size", "_start")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything received, as after STARTTLS (RFC 3207 §4.2)."""
        self._data = b""
        self._start = 0
        self._searched = 0
        self._code = 0
        self._size = 0
        self._lines: list[bytes] = []

    @property
    def empty(self) -> bool:
        """Nothing is buffered: neither unread bytes nor the first lines of a longer reply."""
        return self._start == len(self._data) and not self._lines

    @property
    def buffered(self) -> int:
        """Octets received that are not yet part of a line taken."""
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Add bytes from the peer."""
        if self._start == len(self._data):
            self._data = data
            self._searched = 0
        else:
            self._searched -= self._start
            self._data = self._data[self._start :] + data
        self._start = 0

    def next_reply(self) -> Reply | None:
        """The next whole reply, or ``None`` when more bytes are needed. Raises :class:`ReplyError`."""
        while True:
            data = self._data
            start = self._start
            end = data.find(b"\n", self._searched)
            if end < 0:
                if len(data) - start >= REPLY_LINE_LIMIT:
                    raise ReplyError(f"a reply line is longer than {REPLY_LINE_LIMIT} octets")
                self._searched = len(data)
                return None
            if end - start >= REPLY_LINE_LIMIT:
                raise ReplyError(f"a reply line is longer than {REPLY_LINE_LIMIT} octets")
            self._start = self._searched = end + 1
            if end > start and data[end - 1] == 13:
                end -= 1
            reply = self._take_line(data[start:end])
            if reply is not None:
                return reply

    def _take_line(self, line: bytes) -> Reply | None:
        if line[3:4] == b"-":
            self._add(_code_of(line), line[4:])
            return None
        if not self._lines:
            return _remembered_reply(line) if len(line) <= _MEMORY_LINE_LIMIT else _one_line_reply(line)
        code = _code_of(line)
        lines = self._add(code, line[4:])
        self._lines = []
        self._size = 0
        return _build(code, lines)

    def _add(self, code: int, text: bytes) -> list[bytes]:
        lines = self._lines
        if lines and code != self._code:
            raise ReplyError(f"the lines of one reply carry different codes, {self._code} and {code}")
        self._code = code
        self._size += len(text)
        if len(lines) >= REPLY_LINES_LIMIT or self._size > REPLY_SIZE_LIMIT:
            raise ReplyError(f"a reply is longer than {REPLY_LINES_LIMIT} lines or {REPLY_SIZE_LIMIT} octets")
        lines.append(text)
        return lines


def _code_of(line: bytes) -> int:
    digits = line[:3]
    if len(digits) != 3 or not digits.isdigit() or not b"200" <= digits <= b"599":
        raise ReplyError(f"a reply line starts with no reply code: {printable_text(line[:40])!r}")
    if line[3:4] not in (b" ", b"-", b""):
        raise ReplyError(f"a reply code is followed by neither space nor hyphen: {printable_text(line[:40])!r}")
    return int(digits)


_MEMORY_LINE_LIMIT: Final = 128


def _one_line_reply(line: bytes) -> Reply:
    code = _code_of(line)
    text = printable_text(line[4:])
    match = _enhanced_prefix(text)
    if match is None or int(match[1]) != code // 100:
        return Reply(code, None, text)
    enhanced = match[0]
    return Reply(code, enhanced, text[len(enhanced) + 1 :])


_remembered_reply = lru_cache(maxsize=512)(_one_line_reply)
"""For short lines: a server says the same few to each transaction (0.1 us against 3 us)."""


def _build(code: int, lines: list[bytes]) -> Reply:
    texts = [printable_text(line) for line in lines]
    match = _enhanced_prefix(texts[0])
    if match is None or int(match[1]) != code // 100:
        return Reply(code, None, *texts)
    enhanced = match[0]
    return Reply(code, enhanced, *[_without_prefix(text, enhanced) for text in texts])


def _without_prefix(text: str, enhanced: str) -> str:
    if text == enhanced:
        return ""
    return text[len(enhanced) + 1 :] if text.startswith(enhanced + " ") else text
