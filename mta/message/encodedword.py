"""RFC 2047 encoded-words: non-ASCII text in header fields, both ways.

Decoding never fails: what cannot be decoded stays as it is. Encoding gives words of at most 75 characters, UTF-8, base
64, split between characters. Linear time; pure; any thread.
"""

import binascii
import re

_WORD = re.compile(r"=\?([A-Za-z0-9!#$%&'+\-^_`{}~.]{1,40})(?:\*[A-Za-z0-9\-]{1,40})?\?([BbQq])\?([!->@-~]*+)\?=")
_PYTHON_NAMES = {"hz-gb-2312": "hz", "macintosh": "mac-roman", "windows-874": "cp874"}
_Q_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")
# 75 characters less `=?utf-8?b?` and `?=` leave 63: 60 characters of base 64, so 45 octets.
_OCTETS_PER_WORD = 45
# A list, because looking up an unknown name imports a module and is remembered for ever.
_CHARSETS = frozenset(
    [
        *("utf-8", "us-ascii", "ascii", "latin1", "utf-16", "koi8-r", "koi8-u", "tis-620", "windows-874", "macintosh"),
        *("gb2312", "gbk", "gb18030", "hz-gb-2312", "big5", "euc-jp", "iso-2022-jp", "shift_jis"),
        *("euc-kr", "iso-2022-kr"),
        *(f"iso-8859-{part}" for part in range(1, 17) if part != 12),
        *(f"windows-125{page}" for page in range(9)),
    ]
)


def decode(text: str) -> str:
    """`text` with its encoded-words decoded; white space between two of them is dropped (RFC 2047 §6.2)."""
    if "=?" not in text:
        return text
    parts: list[str] = []
    end = 0
    after_word = False
    for match in _WORD.finditer(text):
        between = text[end : match.start()]
        decoded = _decode_word(match[1], match[2], match[3])
        if decoded is None:
            parts.append(between + match[0])
        else:
            parts.append(decoded if after_word and not between.strip(" \t") else between + decoded)
        after_word = decoded is not None
        end = match.end()
    parts.append(text[end:])
    return "".join(parts)


def _decode_word(charset: str, encoding: str, payload: str) -> str | None:
    charset = charset.lower()
    if charset not in _CHARSETS:
        return None
    raw = payload.encode("ascii")
    try:
        if encoding in "bB":
            octets = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
        else:
            octets = _Q_ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw.replace(b"_", b" "))
        return octets.decode(_PYTHON_NAMES.get(charset, charset), "replace")
    except (binascii.Error, UnicodeError):
        return None


def encode(text: str) -> str:
    """`text` as encoded-words separated by CRLF and a space, ready to stand in an unstructured field or a phrase.

    ASCII text comes back unchanged, unless it looks like an encoded-word itself.
    """
    if text.isascii() and "=?" not in text:
        return text
    words: list[str] = []
    chunk = b""
    for char in text:
        octets = char.encode("utf-8", "replace")
        if len(chunk) + len(octets) > _OCTETS_PER_WORD:
            words.append(_encoded(chunk))
            chunk = b""
        chunk += octets
    words.append(_encoded(chunk))
    return "\r\n ".join(words)


def _encoded(octets: bytes) -> str:
    return f"=?utf-8?b?{binascii.b2a_base64(octets, newline=False).decode('ascii')}?="
