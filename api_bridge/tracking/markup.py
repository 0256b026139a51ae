"""Where the links of an HTML message are, and where its picture goes: one walk, as browsers read it.

The reading follows the tokenizer of the HTML standard (WHATWG HTML §13.2.5) as far as tags, attributes, comments and
raw text go, so that what looks like a link within a comment, a script or another attribute is left alone, and what a
browser sees as a link is found however it is spelt: capitals, single quotes, no quotes, entities. The text itself is
never changed or put in order; mail in the wild is rarely well-formed.

Every octet is looked at a fixed number of times: the time is linear in the length, whatever the text. What is left open
at the end (a tag, a comment, a quote) ends the walk, for a browser shows nothing of it.

Pure.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import entities
from urllib.parse import quote

from mta.runtime import links

# White space is that of HTML, which is less than that of Unicode. Possessive quantifiers: nothing is tried twice.
_TAG_START = re.compile(r"<(?:!--|[!?]|/?(?P<name>[A-Za-z][^\t\n\f\r />]*+)|/)")
_COMMENT_END = re.compile(r"--!?>")
_ATTRIBUTE_NAME = re.compile(
    r"[\t\n\f\r /]*+(?:(?P<end>>)|(?P<name>[^>][^\t\n\f\r />=]*+)[\t\n\f\r ]*+(?P<equals>=)?+[\t\n\f\r ]*+)"
)
_UNQUOTED = re.compile(r"[^\t\n\f\r >]++")
_ENTITY = re.compile(r"&(?:#[0-9]++;?|#[xX][0-9a-fA-F]++;?|[A-Za-z0-9]++;?)")
_RAW_END = {
    name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.IGNORECASE)
    for name in ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
}
_OPEN_END = "<"
"""No name of a tag."""
_LINKING = frozenset({"a", "area"})
# What browsers strip from an address before they read it (WHATWG URL §4.4), but for NUL, which HTML replaces.
_EDGES = "".join(map(chr, range(1, 33)))
_INNER = {ord(character): None for character in "\t\n\r"}


@dataclass(frozen=True, slots=True)
class Target:
    """A link: ``text[start:end]`` is the value of its href, with its quotes, if it has any."""

    start: int
    end: int
    url: str
    """Where it leads, as a token can carry it."""


@dataclass(frozen=True, slots=True)
class Places:
    """What a walk found."""

    targets: tuple[Target, ...]
    """Links with http and https, in order."""
    end_of_body: int
    """Where the picture goes: before ``</body>``, or else before ``</html>``, or else at the end of what is shown."""


def survey(text: str) -> Places:
    """Find the links of a message and the end of its body."""
    targets: list[Target] = []
    body_end = html_end = None
    end = len(text)
    for name, start, href in _tags(text):
        if name == "/body":
            body_end = start
        elif name == "/html":
            html_end = start
        elif name == _OPEN_END:
            end = start
        elif name in _LINKING and href is not None:
            url = _address(text[href[0] : href[1]])
            if url:
                targets.append(Target(*href, url))
    places = [place for place in (body_end, html_end, end) if place is not None]
    return Places(tuple(targets), places[0])


def _tags(text: str) -> Iterator[tuple[str, int, tuple[int, int] | None]]:
    """The tags: name in lower case, with a slash before that of an end tag; where it begins; where its href is.

    At last ``_OPEN_END`` and where it begins, if something is left open.
    """
    position = 0
    while match := _TAG_START.search(text, position):
        start, name = match.start(), (match["name"] or "").lower()
        if not name:
            ending = _after_markup(text, match)
            if ending is None:
                yield _OPEN_END, start, None
                return
            position = ending
            continue
        closing = text[start + 1] == "/"
        read = _attributes(text, match.end())
        if read is None:
            yield _OPEN_END, start, None
            return
        position, href = read
        yield f"/{name}" if closing else name, start, href
        if closing or name not in _RAW_END:
            if name == "plaintext" and not closing:
                yield _OPEN_END, start, None
                return
            continue
        end = _RAW_END[name].search(text, position)
        if end is None:
            yield _OPEN_END, start, None
            return
        position = end.start()


def _after_markup(text: str, match: re.Match[str]) -> int | None:
    """Where a comment, a declaration or the like ends; None: never."""
    if match[0] == "<!--":
        # "<!-->" and "<!--->" are whole comments.
        for short in (">", "->"):
            if text.startswith(short, match.end()):
                return match.end() + len(short)
        found = _COMMENT_END.search(text, match.end())
        return found.end() if found else None
    end = text.find(">", match.end())
    return None if end < 0 else end + 1


def _attributes(text: str, position: int) -> tuple[int, tuple[int, int] | None] | None:
    """Read the attributes of a tag: where it ends, and where the value of its href is. None: it never ends."""
    href = None
    while match := _ATTRIBUTE_NAME.match(text, position):
        if match["end"]:
            return match.end(), href
        position = match.end()
        if not match["equals"]:
            continue
        start = position
        quotation = text[position : position + 1]
        if quotation in {'"', "'"}:
            closed = text.find(quotation, position + 1)
            if closed < 0:
                return None
            position = closed + 1
        else:
            value = _UNQUOTED.match(text, position)
            position = value.end() if value else position
        # A second attribute of the same name counts for nothing.
        if href is None and match["name"].lower() == "href":
            href = (start, position)
    return None


def _address(value: str) -> str:
    """Where an href leads if that is an absolute address with http or https that a token can carry; else nothing."""
    if value[:1] in {'"', "'"}:
        value = value[1:-1]
    # Most of the work is spared for what cannot be one; entities may spell any character.
    if len(value) > 8 * links.MAX_URL:
        return ""
    url = _ENTITY.sub(_entity, value).strip(_EDGES).translate(_INNER)
    if url[:7].lower() != "http://" and url[:8].lower() != "https://":
        return ""
    if not url.isascii() or " " in url or '"' in url or "<" in url or ">" in url or "\\" in url:
        url = _encoded(url)
    return url if links.is_target(url) else ""


def _entity(match: re.Match[str]) -> str:
    """A character reference as it reads in an attribute (WHATWG HTML §13.2.5.73): ``&copy=1`` is none there."""
    spelling = match[0]
    if spelling[1] == "#" or spelling.endswith(";"):
        known = spelling[1] == "#" or spelling[1:] in entities.html5
        return html.unescape(spelling) if known else spelling
    followed = match.string[match.end() : match.end() + 1]
    return entities.html5[spelling[1:]] if followed != "=" and spelling[1:] in entities.html5 else spelling


def _encoded(url: str) -> str:
    """The address as a browser would send it; nothing where that needs more than quoting, as in the host."""
    scheme, _, rest = url.partition("://")
    host, separator, tail = _split_host(rest)
    if not host.isascii() or "\\" in rest:
        return ""
    try:
        return f"{scheme}://{host}{separator}{quote(tail, safe=_SAFE)}"
    except UnicodeEncodeError:  # half of a surrogate pair
        return ""


_SAFE = "-._~:/?#[]@!$&'()*+,;=%|{}^`"


def _split_host(rest: str) -> tuple[str, str, str]:
    for index, character in enumerate(rest):
        if character in "/?#":
            return rest[:index], character, rest[index + 1 :]
    return rest, "", ""
