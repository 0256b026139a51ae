"""The parameters of a request, however its client writes them: the one place that knows.

Parameters come in the query and in the body, whatever the method, and those of the body go before those of the query. A
body or a query is JSON if it begins as JSON does, whatever the content type says, otherwise a form (``forms``). Empty
bodies, an empty array and an empty object are no parameters. JSON null is absence.

A parameter that is to have a structure can be text that holds it, as JSON or as PHP writes it (``phpserial``):
``Parameters.structure`` reads that. Where text is wanted (``Parameters.text``) it stays what it is.

Pure. Time is linear in the input. Errors: ``Undecodable``, whatever the input. Limits: those of ``body``, ``forms`` and
``phpserial``.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from api_bridge.body import parse_value
from api_bridge.dialects.sendpulse import forms, phpserial
from api_bridge.problems import Problem

_JSON_STARTS = (b"{", b"[")
_BOM = b"\xef\xbb\xbf"


class Undecodable(ValueError):
    """The request, or one of its parameters, is none of what clients write."""


class Parameters:
    """What a request asks for. ``bare`` is a body that is a JSON array and not an object, or None."""

    __slots__ = ("_values", "bare")

    def __init__(self, values: Mapping[str, Any], bare: list[Any] | None = None) -> None:
        self._values = values
        self.bare = bare

    def get(self, *names: str) -> Any:
        """The first of these that is there as it came; None: none of them is."""
        return next((self._values[name] for name in names if self._values.get(name) is not None), None)

    def text(self, *names: str) -> str:
        """The first of these as text, stripped; "" if none is there. A number is text, too. Raises Undecodable."""
        value = self.get(*names)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Undecodable(f"{names[0]} is not text")
        return str(value).strip()

    def structure(self, name: str) -> Any:
        """This one as an array, an object or what else it holds; None: absent or empty. Raises Undecodable."""
        value = self.get(name)
        return structure(value) if isinstance(value, str) else value


def parameters(query: bytes, body: bytes, content_type: str) -> Parameters:
    """The parameters of a request. ``query`` is still percent-encoded. Raises Undecodable."""
    values = _query(query)
    given = _body(body, content_type)
    if isinstance(given, dict):
        values.update({name: value for name, value in given.items() if value is not None})
        return Parameters(values)
    return Parameters(values, given or None)


def structure(text: str) -> Any:
    """What ``text`` holds as JSON or as PHP writes it; other text as it is, None if it is empty. Raises Undecodable."""
    text = text.strip()
    if text[:1] in ("{", "["):
        return _json(text.encode(errors="surrogatepass"))
    if not phpserial.is_serialized(text):
        return text or None
    try:
        return phpserial.parse(text)
    except phpserial.SerialError as error:
        raise Undecodable(f"it is not PHP-serialised: {error}") from None


def _query(query: bytes) -> dict[str, Any]:
    if not query:
        return {}
    # One client writes all parameters as JSON, in place of the query. "=", "&" and "+" in it are not encoded.
    plain = unquote_to_bytes(query)
    if plain.lstrip()[:1] == b"{":
        return {name: value for name, value in _json(plain).items() if value is not None}
    return _form(lambda: forms.urlencoded(query))


def _body(body: bytes, content_type: str) -> dict[str, Any] | list[Any]:
    start = body.removeprefix(_BOM)[:64].lstrip()[:1]
    if start in _JSON_STARTS:
        found: dict[str, Any] | list[Any] = _json(body)
        return found
    if not start and not body.strip():
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _form(lambda: forms.multipart(body, content_type))
    if kind.endswith("json"):
        raise Undecodable("the body is not a JSON object")
    return _form(lambda: forms.urlencoded(body.strip()))


def _json(data: bytes) -> Any:
    try:
        return parse_value(data)
    except Problem as problem:
        raise Undecodable(problem.message) from None


def _form(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except forms.FormError as error:
        raise Undecodable(f"the form cannot be read: {error}") from None
