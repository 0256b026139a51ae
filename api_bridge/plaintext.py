"""HTML to plain text, for the text part of messages that come as HTML only.

``from_html`` keeps the words, the breaks between blocks, list marks and the targets of links; it drops scripts, styles
and everything a reader would not see. ``is_html`` says whether a text contains an HTML tag at all.

The standard library's html.parser is not used: on hostile input its time is quadratic (80 KB of "<a " took 94 s, of
"<a '\"" 24 s, Python 3.11.7) and some input ends in AssertionError; here every input takes linear time, since each
search that can fail at the end of the text is made once only. On ordinary mail it takes 0.4 of html.parser's time.

It is Python, though: up to 0.5 us and 20 octets of memory for each character of the worst input. So callers derive no
text from more than ``MAX_SOURCE`` characters, and ``is_html`` looks no further.

Pure. No errors: any text gives some text.
"""

import html
import re

MAX_SOURCE = 1_000_000
"""Characters of HTML that a text is worth deriving from; mail programs cut HTML at a tenth of this."""

_ELEMENTS = (
    "a abbr acronym address article aside b big blockquote body br button caption center cite code col colgroup dd del "
    "details dfn dialog dir div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr "
    "html i img input ins kbd label legend li link main map mark menu meta nav ol p picture pre q s samp script "
    "section select small span strike strong style sub summary sup svg table tbody td template textarea tfoot th thead "
    "time title tr tt u ul var video wbr"
)
_NAMES = frozenset(_ELEMENTS.split())
_HTML = re.compile(r"<(?:/?([a-zA-Z][a-zA-Z0-9]*+)(?:[\s/][^<>]*+)?>|(?i:!doctype)\s)")
_TAG = re.compile(r"<(/?[a-zA-Z][a-zA-Z0-9:-]*+)(>)?")
_ATTRIBUTES = re.compile(r"""[^>"']*+(?:(?:"[^"]*+"|'[^']*+')[^>"']*+)*+>""")
_HREF = re.compile(r"""\bhref\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++))""", re.IGNORECASE)
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")
_SKIPPED = {
    name: re.compile(rf"</{name}\b[^>]*+>?", re.IGNORECASE) for name in ("script", "style", "title", "template")
}

# Marks of breaks while the white space around is still to be collapsed; no text has these characters by then.
_LINE, _BREAK, _BLANK = "\x01", "\x02", "\x03"
_MARKS = re.compile(f" ?(?:[{_LINE}{_BREAK}{_BLANK}] ?)++")
_MARK_CHARACTERS = str.maketrans("", "", _LINE + _BREAK + _BLANK)
_BLANK_AROUND = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "hr")
_LINE_AROUND = (
    *("div", "tr", "address", "article", "aside", "center", "dd", "dt", "figure"),
    *("footer", "form", "header", "main", "nav", "section"),
)
_INSERTED = {
    **{slash + name: _BLANK for name in _BLANK_AROUND for slash in ("", "/")},
    **{slash + name: _LINE for name in _LINE_AROUND for slash in ("", "/")},
    "br": _BREAK,
    "li": _LINE + "- ",
    "/td": " ",
    "/th": " ",
    **{slash + name: "" for name in ("b", "i", "u", "em", "strong", "span", "small", "font") for slash in ("", "/")},
}


def is_html(text: str) -> bool:
    """Whether ``text`` begins with, or soon contains, a tag of HTML. "<john@example.com>" and "1 < 2" are none."""
    return any(tag[1] is None or tag[1].lower() in _NAMES for tag in _HTML.finditer(text, 0, MAX_SOURCE))


def from_html(source: str) -> str:
    """The text a reader of ``source`` would see, without a line break at the end."""
    reader = _Reader(source.translate(_MARK_CHARACTERS))
    reader.run()
    text = "".join(reader.out)
    if "&" in text:
        # int() of a long number is slow and beyond 4300 digits an error.
        text = html.unescape(_LONG_REFERENCE.sub("\N{REPLACEMENT CHARACTER}", text))
    return _MARKS.sub(_line_ends, " ".join(text.split())).strip()


def _line_ends(match: re.Match[str]) -> str:
    marks = match.group()
    return "\n\n" if _BLANK in marks or marks.count(_BREAK) > 1 else "\n"


class _Reader:
    """One pass over a source; ``out`` is its text, with marks for breaks and references not yet resolved."""

    __slots__ = ("_href", "_last_comment_end", "_mark", "_quotes_balance", "_source", "out")

    def __init__(self, source: str) -> None:
        self.out: list[str] = []
        self._source = source
        self._last_comment_end = source.rfind("-->")
        self._quotes_balance = True
        self._href = ""
        self._mark = 0

    def run(self) -> None:
        """Read the source to its end."""
        source, position, append = self._source, 0, self.out.append
        while (start := source.find("<", position)) >= 0:
            if start > position:
                append(source[position:start])
            match = _TAG.match(source, start)
            if match is None:
                position = self._other(start)
            elif match[2] and (inserted := _INSERTED.get(match[1])) is not None:
                # Almost all tags are lower-case and without attributes: this branch halves the time of a message.
                append(inserted)
                position = match.end()
            else:
                position = self._tag(match)
        append(source[position:])

    def _other(self, start: int) -> int:
        """A "<" that begins no tag; returns where the text goes on."""
        source = self._source
        if source.startswith("<!--", start) and start < self._last_comment_end:
            return source.index("-->", start) + 3
        if source.startswith(("<!", "<?"), start):
            return self._end_of_tag(start + 2)
        self.out.append("<")
        return start + 1

    def _tag(self, match: re.Match[str]) -> int:
        tag = match[1].lower()
        end = match.end() if match[2] else self._end_of_tag(match.end())
        if (inserted := _INSERTED.get(tag)) is not None:
            self.out.append(inserted)
        elif tag in ("a", "/a"):
            self._link(tag, match.end(), end)
        elif tag in _SKIPPED:
            close = _SKIPPED[tag].search(self._source, end)
            return len(self._source) if close is None else close.end()
        return end

    def _end_of_tag(self, position: int) -> int:
        if self._quotes_balance:
            match = _ATTRIBUTES.match(self._source, position)
            if match is not None:
                return match.end()
            # A quote is never closed: from now on quotes mean nothing, or each tag would search to the end again.
            self._quotes_balance = False
        end = self._source.find(">", position)
        return len(self._source) if end < 0 else end + 1

    def _link(self, tag: str, start: int, end: int) -> None:
        if tag == "a":
            match = _HREF.search(self._source, start, end)
            self._href = match[match.lastindex or 0].strip() if match else ""
            self._mark = len(self.out)
            return
        if self._href.startswith(("http://", "https://", "mailto:", "tel:")):
            shown = "".join(self.out[self._mark :]).strip()
            if shown not in (self._href, self._href.removeprefix("mailto:"), self._href.removeprefix("tel:")):
                self.out.append(f" <{self._href}>")
        self._href = ""
