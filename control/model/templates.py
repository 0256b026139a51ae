"""Templates: ``{{name}}`` and ``{{.name}}`` stand for a value, ``{{{name}}}`` for the value without HTML escaping.

Nothing else is done: no conditions, loops or calls, so a template can do no harm and needs no sandbox. Text between
braces that is no name stays as it is. Values are put in once, so one that looks like a variable stays text. Pure; time
and memory are linear in the size of what goes in and comes out, which ``MAX_RENDERED`` bounds.

Errors: the INVALID_ARGUMENT Refusal.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

from control.model.fields import invalid

MAX_SUBJECT = 998
"""Characters: a header line of RFC 5322 §2.1.1."""
MAX_PART = 1024 * 1024
"""Octets of the HTML or text of a template."""
MAX_VARIABLES = 1000
MAX_VALUES = 1024 * 1024
"""Octets of all names and values."""
MAX_RENDERED = 3 * 1024 * 1024
"""Octets of everything that is rendered: an answer of gRPC is bounded too."""

_PLACE = re.compile(
    r"\{\{\{[ \t]*\.?(?P<raw>[A-Za-z_][A-Za-z0-9_.-]{0,63})[ \t]*\}\}\}"
    r"|\{\{[ \t]*\.?(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,63})[ \t]*\}\}"
)
_LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a template."""

    subject: str
    html: str
    text: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """The parts with values put in, and the variables that had none."""

    subject: str
    html: str
    text: str
    missing: tuple[str, ...]


def check(source: Source, field: str = "template") -> None:
    """Refuse a template that is too large or has nothing in it."""
    if len(source.subject) > MAX_SUBJECT or _LINE_BREAKS.search(source.subject):
        raise invalid(
            f"{field}.subject",
            f"{field}.subject must be one line of at most {MAX_SUBJECT} characters, without control characters",
        )
    for name, value in (("html", source.html), ("text", source.text)):
        if len(value.encode()) > MAX_PART:
            raise invalid(f"{field}.{name}", f"{field}.{name} is larger than {MAX_PART} octets")
        if "\0" in value:
            raise invalid(f"{field}.{name}", f"{field}.{name} must not contain NUL characters")
    if not source.html and not source.text:
        raise invalid(f"{field}.html", f"{field} has neither html nor text; give one of them")


def variables(source: Source) -> tuple[str, ...]:
    """The names that occur, in order of their first place."""
    places = (match for part in (source.subject, source.html, source.text) for match in _PLACE.finditer(part))
    return tuple(dict.fromkeys(match["raw"] or match["name"] for match in places))


def render(source: Source, values: Mapping[str, str]) -> Rendered:
    """Put values in. Raises the Refusal for too many values, or too large a result."""
    if len(values) > MAX_VARIABLES:
        raise invalid("variables", f"variables has {len(values)} entries; at most {MAX_VARIABLES} are taken")
    if sum(len(name.encode()) + len(value.encode()) for name, value in values.items()) > MAX_VALUES:
        raise invalid("variables", f"variables is larger than {MAX_VALUES} octets")
    plain = {name: _LINE_BREAKS.sub(" ", value) for name, value in values.items()}
    escaped = {name: html.escape(value) for name, value in values.items()}
    room = MAX_RENDERED
    parts: list[str] = []
    for part, raw, usual in (
        (source.subject, plain, plain),
        (source.html, values, escaped),
        (source.text, values, values),
    ):
        done = _fill(part, raw, usual, room)
        room -= len(done.encode())
        parts.append(done)
    missing = tuple(name for name in variables(source) if name not in values)
    subject, html_part, text = parts
    return Rendered(subject, html_part, text, missing)


def _fill(part: str, raw: Mapping[str, str], usual: Mapping[str, str], room: int) -> str:
    pieces: list[str] = []
    size = end = 0
    for match in _PLACE.finditer(part):
        value = raw.get(match["raw"], "") if match["raw"] else usual.get(match["name"], "")
        before = part[end : match.start()]
        pieces += (before, value)
        size += len(before.encode()) + len(value.encode())
        end = match.end()
        if size > room:
            break
    if size + len(part[end:].encode()) > room:
        raise invalid("variables", f"the rendered message would be larger than {MAX_RENDERED} octets")
    pieces.append(part[end:])
    return "".join(pieces)
