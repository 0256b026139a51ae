"""PHP's ``serialize`` format, read: the part of it that client libraries write.

``parse`` understands arrays, strings, whole and other numbers, booleans and null (``a s i d b N``). Objects, classes
and references (``O C R r``) are refused: nothing of ours is one, and they are how unserialisers are attacked. An array
whose keys are 0, 1, 2 ... in order is a list, any other a dict with text keys; PHP knows no other difference, so an
empty one, which may be meant as either, is a list.

The length of a string is one of octets of UTF-8. Libraries in other languages count otherwise; if the string does not
end where its length says, UTF-16 units are tried (Objective-C, JavaScript), then characters.

Pure. Time and memory are linear in the input. Errors: ``SerialError``, whatever the input. Limits: the constants below.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 32
"""Arrays within arrays; the APIs need four."""
MAX_VALUES = 100_000
"""Values and keys; 1000 recipients with all their fields are well below."""

_START = re.compile(r"(?:[asdi]:[0-9+-]|b:[01];|N;|[OCRr]:[0-9])")
_INT = re.compile(rb"[+-]?[0-9]{1,19};")
_FLOAT = re.compile(rb"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?;")
_LENGTH = re.compile(rb"([0-9]{1,9}):")


class SerialError(ValueError):
    """The text is not in the format, or not in the part of it that is read."""


def is_serialized(text: str) -> bool:
    """Whether ``text`` begins as a serialised value does."""
    return _START.match(text) is not None


def parse(text: str) -> Any:
    """The value that ``text`` holds, with nothing but white space after it. Raises SerialError."""
    try:
        reader = _Reader(text.encode())
    except UnicodeEncodeError:
        raise SerialError("half of a surrogate pair") from None
    value = reader.value(0)
    reader.finish()
    return value


class _Reader:
    """One pass over the octets."""

    __slots__ = ("_at", "_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._left = MAX_VALUES

    def value(self, depth: int) -> Any:
        """The value that begins here."""
        self._left -= 1
        if self._left < 0:
            raise SerialError("too many values")
        kind = self._data[self._at : self._at + 2]
        self._at += 2
        if kind == b"s:":
            return self._string()
        if kind == b"i:":
            return int(self._match(_INT)[:-1])
        if kind == b"a:":
            return self._array(depth)
        if kind == b"N;":
            return None
        if kind == b"b:":
            return self._boolean()
        if kind == b"d:":
            return self._float()
        raise SerialError("no such kind of value")

    def finish(self) -> None:
        """Make sure that nothing is left."""
        if self._data[self._at : self._at + 64].strip() or len(self._data) > self._at + 64:
            raise SerialError("something after the value")

    def _array(self, depth: int) -> list[Any] | dict[str, Any]:
        count = self._length()
        if depth >= MAX_DEPTH:
            raise SerialError("nested too deep")
        self._take(b"{")
        found: dict[int | str, Any] = {}
        for _ in range(count):
            key = self._key()
            if key in found:
                raise SerialError("a key comes twice")
            found[key] = self.value(depth + 1)
        self._take(b"}")
        if all(key == place for place, key in enumerate(found)):
            return list(found.values())
        return {str(key): value for key, value in found.items()}

    def _key(self) -> int | str:
        if self._data[self._at : self._at + 2] not in (b"i:", b"s:"):
            raise SerialError("a key is neither a number nor a string")
        key = self.value(MAX_DEPTH)
        if isinstance(key, str) and key.isascii() and key.isdecimal() and str(int(key[:19])) == key:
            return int(key)  # to PHP they are the same key
        return key  # type: ignore[no-any-return]

    def _string(self) -> str:
        length = self._length()
        self._take(b'"')
        for end in self._ends(length):
            if self._data[end : end + 2] == b'";':
                return self._text(end)
        raise SerialError("a string does not end where its length says")

    def _ends(self, length: int) -> Iterator[int]:
        """Where the string ends if its length counts octets, UTF-16 units or characters."""
        yield self._at + length
        # None takes more than four octets a unit; the cut may fall within a character, which is then ignored.
        ahead = self._data[self._at : self._at + 4 * length].decode(errors="ignore")
        wide = ahead.encode("utf-16-le")[: 2 * length].decode("utf-16-le", errors="ignore")
        yield self._at + len(wide.encode())
        yield self._at + len(ahead[:length].encode())

    def _text(self, end: int) -> str:
        try:
            text = self._data[self._at : end].decode()
        except UnicodeDecodeError:
            raise SerialError("a string ends within a character") from None
        self._at = end + 2
        return text

    def _boolean(self) -> bool:
        digit = self._data[self._at : self._at + 2]
        if digit not in (b"0;", b"1;"):
            raise SerialError("a boolean is neither 0 nor 1")
        self._at += 2
        return digit == b"1;"

    def _float(self) -> float:
        value = float(self._match(_FLOAT)[:-1])
        if math.isinf(value):
            raise SerialError("a number is too large")
        return value

    def _length(self) -> int:
        return int(self._match(_LENGTH)[:-1])

    def _match(self, pattern: re.Pattern[bytes]) -> bytes:
        match = pattern.match(self._data, self._at)
        if match is None:
            raise SerialError("a number is malformed")
        self._at = match.end()
        return match.group()

    def _take(self, expected: bytes) -> None:
        if self._data[self._at : self._at + 1] != expected:
            raise SerialError("a bracket or a quote is missing")
        self._at += 1
