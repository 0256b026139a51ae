"""JSON values as the structs of this API, with errors that name the field as the client wrote it. Pure.

Errors: ``Problem`` 422 with a text that begins with the path of the field, such as ``to[3].email``.
"""

import re
from typing import Any, TypeVar

import msgspec

from api_bridge.dialects.sendpost import errors

_Shape = TypeVar("_Shape")
_EXPECTED = re.compile(r"Expected `([^`]+)`(?: of length ([<>=]+) (\d+)|, got `([^`]+)`| matching regex .*)?")
_BOUND = re.compile(r"Expected `(int|float)` (<=|>=) ([0-9.e+-]+)")
_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {"<=": "at most", ">=": "at least"}


def decode(document: Any, shape: type[_Shape]) -> _Shape:
    """``document`` as ``shape``. Raises Problem 422."""
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise _problem(str(error)) from None


def _problem(text: str) -> Exception:
    place = _PLACE.search(text)
    path, inner_of_map, _ = (place[1] if place else "").partition("[...]")
    missing = _MISSING.match(text)
    if missing:
        name = f"{path}.{missing[1]}" if path else missing[1]
        return errors.invalid_body(name, f"{name} is required.")
    name = path or "The body"
    expected = _EXPECTED.match(text)
    if expected is None:
        return errors.invalid_body(path or None, f"{name} is not in the right form.")
    kinds = [kind for kind in expected[1].split(" | ") if kind != "null"]
    words = " or ".join(_WORDS.get(kind, kind) for kind in kinds)
    bound = _BOUND.match(text)
    if bound is not None:
        return errors.invalid_body(path, f"{name} must be {_BOUNDS[bound[2]]} {float(bound[3]):.15g}.")
    values = "Each value of " if inner_of_map else ""
    if expected[2]:
        unit = "items" if kinds == ["array"] else "characters"
        return errors.invalid_body(path, f"{name} must have {_BOUNDS.get(expected[2], '')} {expected[3]} {unit}.")
    return errors.invalid_body(path or None, f"{values}{name} must be {words}.")
