"""Bounded splitter of command lines.

Operations: add bytes; take the next line without its CRLF; take or put back everything that is left (message data).
Goals: time linear in the bytes received however they are cut, and bounded memory. Plan: keep one ``bytes`` object, a
start and how far it has been searched for LF. A peer that sends a line octet by octet makes us copy the unfinished
line each time, which the limit keeps below what receiving the octet costs.

A line ends with CRLF and nothing else. A bare LF or bare CR is an error, because a peer and a relay in front of it
that disagree about where a line ends can be played against each other (SMTP smuggling, CVE-2023-51764 and others).

Errors: :class:`LineError` with its :class:`LineFault`. After ``BARE_CR_OR_LF`` or ``ENDLESS`` the position in the
stream is not to be trusted: close. After ``NUL`` the line has been taken and the next may follow.

Limits: ``LINE_BUFFER_LIMIT``. Bytes that follow a whole line are not limited here; the caller stops reading while it
has a command to answer. Loop rules: pure; not thread-safe.
"""

import enum
from typing import Final

LINE_BUFFER_LIMIT: Final = 16_384
"""Octets of one line with its CRLF that are held at all: the longest permitted line (AUTH, 12,288) and a margin in
which a line that is too long is answered rather than cut off."""


class LineFault(enum.Enum):
    """What is wrong with a line."""

    BARE_CR_OR_LF = "bare CR or LF"
    NUL = "NUL character"
    ENDLESS = "line without end"


class LineError(Exception):
    """A line cannot be taken; ``fault`` says why."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class LineBuffer:
    """See the module text."""

    __slots__ = ("_data", "_searched", "_start")

    def __init__(self) -> None:
        self._data = b""
        self._start = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        if self._start == len(self._data):
            self._data = data
            self._searched = 0
        else:
            self._searched -= self._start
            self._data = self._data[self._start :] + data
        self._start = 0

    def next_line(self) -> bytes | None:
        """The next line without its CRLF, ``None`` when it is not complete yet. Raises :class:`LineError`."""
        data = self._data
        start = self._start
        end = data.find(b"\n", self._searched)
        if end < 0:
            if len(data) - start >= LINE_BUFFER_LIMIT:
                raise LineError(LineFault.ENDLESS)
            self._searched = len(data)
            return None
        if end - start >= LINE_BUFFER_LIMIT:
            raise LineError(LineFault.ENDLESS)
        self._start = self._searched = end + 1
        if end == start or data[end - 1] != 13:
            raise LineError(LineFault.BARE_CR_OR_LF)
        line = data[start : end - 1]
        if b"\r" in line:
            raise LineError(LineFault.BARE_CR_OR_LF)
        if b"\0" in line:
            raise LineError(LineFault.NUL)
        return line

    def take_rest(self) -> bytes:
        """Everything not yet taken; the buffer is empty afterwards."""
        rest = self._data[self._start :] if self._start else self._data
        self._data = b""
        self._start = self._searched = 0
        return rest

    def put_back(self, rest: bytes) -> None:
        """What :meth:`take_rest` gave and nobody used. The buffer must be empty."""
        self._data = rest
