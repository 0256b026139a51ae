"""Form data, read: ``application/x-www-form-urlencoded`` and ``multipart/form-data``, with brackets in the names.

``email[to][0][email]=a@example.com`` is nested data, as PHP reads it: a name in brackets is a key, empty brackets are
the next number. Arrays whose keys are 0, 1, 2 ... in order are lists, others are dicts. A name that comes again
replaces the value before, as in PHP. Files of a multipart form are taken as text.

Pure. Time is linear in the input. Errors: ``FormError``, whatever the input. Limits: the constants below.
"""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

MAX_PAIRS = 20_000
"""Values of one form; 1000 recipients with name and address are 2000."""
MAX_DEPTH = 16
"""Brackets after a name; the APIs need three."""

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_KEYS = re.compile(r"\[([^\[\]]*)\]")
_BOUNDARY = re.compile(r"""boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
_PART_NAME = re.compile(rb"""(?:^|[;\s])name\s*=\s*(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]+))""", re.IGNORECASE)


class FormError(ValueError):
    """The data is no form, or too large a one."""


def urlencoded(data: bytes) -> dict[str, Any]:
    """The parameters of a query or of a urlencoded body. Raises FormError."""
    if data.count(b"&") >= MAX_PAIRS:
        raise FormError("too many values")
    pairs = []
    for piece in data.split(b"&"):
        if piece:
            name, _, value = piece.replace(b"+", b" ").partition(b"=")
            pairs.append((_text(unquote_to_bytes(name)), _text(unquote_to_bytes(value))))
    return _nested(pairs)


def multipart(data: bytes, content_type: str) -> dict[str, Any]:
    """The parameters of a multipart body (RFC 7578). Raises FormError."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise FormError("no boundary")
    delimiter = b"--" + (match[1] or match[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + data).split(b"\r\n" + delimiter, MAX_PAIRS + 2)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise FormError("no closing boundary")
    return _nested([_part(piece) for piece in pieces[1:-1]])


def _part(piece: bytes) -> tuple[str, str]:
    head, blank, value = piece.partition(b"\r\n\r\n")
    if not blank:
        raise FormError("a part without an end of its head")
    for line in head.split(b"\r\n"):
        field, _, content = line.partition(b":")
        if field.strip().lower() == b"content-disposition":
            match = _PART_NAME.search(content)
            if match is not None:
                return _text(match[1] if match[1] is not None else match[2]), _text(value)
    raise FormError("a part without a name")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormError("a value that is not UTF-8") from None


def _nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        match = _NAME.fullmatch(name)
        keys = _KEYS.findall(match[2]) if match is not None else []
        if len(keys) > MAX_DEPTH:
            raise FormError("too many brackets")
        _put(found, match[1] if match is not None else name, keys, value)
    return {name: _listed(value) for name, value in found.items()}


def _put(place: dict[str, Any], name: str, keys: list[str], value: str) -> None:
    for key in keys:
        inner = place.get(name)
        if not isinstance(inner, dict):
            inner = place[name] = {}
        place, name = inner, key or str(len(inner))
    place[name] = value


def _listed(value: Any) -> Any:
    """Arrays as lists where their keys say so. As deep as ``MAX_DEPTH`` allows."""
    if not isinstance(value, dict):
        return value
    items = {key: _listed(inner) for key, inner in value.items()}
    if all(key == str(place) for place, key in enumerate(items)):
        return list(items.values())
    return items
