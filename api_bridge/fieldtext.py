"""Text of header fields: what may be written there, and how (RFC 5322 §2.2, RFC 2047, RFC 2231).

Every value that reaches a header goes through one of the functions below. They refuse characters that could end the
line or fool a reader about where it ends (C0 and C1 controls with CR, LF, NUL, TAB and NEL; U+2028, U+2029; lone
surrogates) and give ASCII lines of at most ``LINE`` characters, folded with CRLF. Nothing is ever stripped silently.

Text that looks like an encoded word ("=?") is itself encoded, so that a reader sees the characters that were given and
cannot be led to decode a line break out of them.

Pure. Errors: ``FieldError``, which names the field as the caller spells it. Time is linear in the input.
"""

import base64
import re
from urllib.parse import quote

LINE = 76
"""Characters of a header line: RFC 2047 §2 limits lines with encoded words to 76, RFC 5322 §2.1.1 asks for 78."""
MAX_VALUE = 998
"""Characters of a value: no reader shows more, and one unfolded line could not hold more (RFC 5322 §2.1.1)."""

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FIELD_NAME = re.compile(r"[!-9;-~]{1,70}")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PERCENT = re.compile(r"%[0-9A-F]{2}|[^%]")
_WORD_OVERHEAD = len("=?utf-8?b??=")


class FieldError(ValueError):
    """A value cannot be written into a header; ``field`` is the name the client knows, the text says why."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field} {text}")
        self.field = field


def check(field: str, value: str) -> str:
    """``value``, if it may stand in a header line. Raises FieldError."""
    if _FORBIDDEN.search(value):
        raise FieldError(field, "must not contain line breaks or other control characters")
    if len(value) > MAX_VALUE:
        raise FieldError(field, f"must not be longer than {MAX_VALUE} characters")
    return value


def check_name(field: str, name: str) -> str:
    """``name``, if it is the name of a header field (RFC 5322 §2.2). Raises FieldError."""
    if not _FIELD_NAME.fullmatch(name):
        raise FieldError(field, "must be 1 to 70 printable ASCII characters without spaces and colons")
    return name


def unstructured(field: str, name: str, value: str) -> str:
    """A whole header field with free text, such as Subject, ended by CRLF. Raises FieldError."""
    check(field, value)
    line = f"{name}: {value}"
    if len(line) <= LINE and _plain(value):
        return line + "\r\n"
    if _plain(value) and "  " not in value and max(map(len, value.split(" "))) <= LINE - 2 - len(name):
        return fold(name, value.split(" "))
    return fold(name, encoded_words(value, LINE - 2 - len(name)))


def phrase(field: str, value: str) -> str:
    """A display name as RFC 5322 §3.2.5 wants it: atoms, a quoted string or encoded words. Raises FieldError."""
    check(field, value)
    if not _plain(value) or len(value) > LINE - 10:
        return "\r\n ".join(encoded_words(value, LINE - 10))
    if _ATOMS.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def encoded_words(text: str, first_room: int) -> list[str]:
    """``text`` as RFC 2047 encoded words, each whole characters; the first at most ``first_room`` characters long."""
    words: list[str] = []
    taken: list[bytes] = []
    size = 0
    limit = max(first_room - _WORD_OVERHEAD, 8) // 4 * 3
    for character in text:
        data = character.encode()
        if size + len(data) > limit:
            words.append(_word(b"".join(taken)))
            taken, size, limit = [], 0, (LINE - 1 - _WORD_OVERHEAD) // 4 * 3
        taken.append(data)
        size += len(data)
    if taken:
        words.append(_word(b"".join(taken)))
    return words


def fold(name: str, items: list[str], separator: str = "") -> str:
    """A header field of ``items``, broken between them where a line would get too long, ended by CRLF."""
    lines = [f"{name}:"]
    for number, item in enumerate(items):
        text = item + (separator if number + 1 < len(items) else "")
        if len(lines[-1]) + 1 + len(text) > LINE and (number or len(lines[-1]) > len(name) + 1):
            lines.append("")
        lines[-1] += " " + text
    return "\r\n".join(lines) + "\r\n"


def parameter(field: str, name: str, value: str) -> str:
    """A MIME parameter with its leading ";", as RFC 2231 wants it: quoted, or in encoded pieces. Raises FieldError."""
    check(field, value)
    if value.isascii() and len(value) <= LINE - 20 and "=?" not in value:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f';\r\n {name}="{quoted}"'
    pieces = [""]
    for unit in _PERCENT.findall(quote(value, safe="")):
        if len(pieces[-1]) + len(unit) > LINE - 30:
            pieces.append("")
        pieces[-1] += unit
    if len(pieces) == 1:
        return f";\r\n {name}*=utf-8''{pieces[0]}"
    rest = "".join(f";\r\n {name}*{number}*={piece}" for number, piece in enumerate(pieces) if number)
    return f";\r\n {name}*0*=utf-8''{pieces[0]}{rest}"


def _plain(value: str) -> bool:
    return value.isascii() and "=?" not in value and value == value.strip(" ")


def _word(data: bytes) -> str:
    return f"=?utf-8?b?{base64.b64encode(data).decode()}?="
