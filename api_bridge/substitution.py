"""Text with places for values: ``{{name}}`` and ``{{.name}}``, and ``{{{name}}}`` for a value as it is.

The rules are those of control's templates: a name is 1 to 64 of letters, digits, "_", "-" and ".", beginning with a
letter or "_"; what has another form is text; there is nothing else, no conditions, loops or calls, so a template can do
no harm. Values are put in once: one that looks like a place stays text. In HTML, values are escaped, but for those of
``{{{name}}}``. A place without a value is empty.

A text is read once (``Text``) and filled for each recipient. Pure; time and memory are linear in what goes in and comes
out.
"""

import html
import re
from collections.abc import Callable, Mapping

_PLACE = re.compile(
    r"\{\{\{[ \t]*+\.?(?P<raw>[A-Za-z_][A-Za-z0-9_.-]{0,63})[ \t]*+\}\}\}"
    r"|\{\{[ \t]*+\.?(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,63})[ \t]*+\}\}"
)


class Text:
    """A text that has been read. ``fixed``: it has no places, and is the same for all."""

    __slots__ = ("_pieces", "fixed", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        # Text, name of a raw place or None, name of a usual place or None, text, and so on.
        self._pieces = _PLACE.split(source) if "{{" in source else [source]
        self.fixed = len(self._pieces) == 1

    @property
    def names(self) -> frozenset[str]:
        """Of the places."""
        pieces = self._pieces
        return frozenset(raw or usual for raw, usual in zip(pieces[1::3], pieces[2::3], strict=True))

    @property
    def raw(self) -> bool:
        """Whether a value goes in as it is although it would be escaped elsewhere."""
        return any(self._pieces[1::3])

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with the values."""
        return self.source if self.fixed else self._filled(values, str)

    def fill_html(self, values: Mapping[str, str]) -> str:
        """The HTML with the values."""
        return self.source if self.fixed else self._filled(values, html.escape)

    def _filled(self, values: Mapping[str, str], usual_form: Callable[[str], str]) -> str:
        pieces = self._pieces
        filled = [pieces[0]]
        formed: dict[str, str] = {}
        for index in range(1, len(pieces), 3):
            raw, usual = pieces[index], pieces[index + 1]
            if raw:
                value = values.get(raw, "")
            else:
                value = formed.get(usual, "") or formed.setdefault(usual, usual_form(values.get(usual, "")))
            filled += (value, pieces[index + 2])
        return "".join(filled)
