"""SendPulse's decoder: what is written is read, whatever the spelling; anything else is its declared error."""

import contextlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import given
from hypothesis import strategies as st

from api_bridge.dialects.sendpulse import decoder, forms, phpserial
from api_bridge.dialects.sendpulse.decoder import Undecodable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
KEYS = TEXT.filter(lambda key: not key.lstrip("-").isdecimal())
VALUES = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, min_size=1, max_size=4),
    max_leaves=20,
)
LENGTHS = st.sampled_from(
    [lambda text: len(text.encode()), lambda text: len(text.encode("utf-16-le")) // 2, lambda text: len(text)]
)


def php(value: Any, length: Callable[[str], int]) -> str:
    match value:
        case None:
            return "N;"
        case bool():
            return f"b:{int(value)};"
        case int():
            return f"i:{value};"
        case float():
            return f"d:{value!r};"
        case str():
            return f's:{length(value)}:"{value}";'
        case list():
            items = "".join(f"i:{place};{php(item, length)}" for place, item in enumerate(value))
        case _:
            items = "".join(php(key, length) + php(item, length) for key, item in value.items())
    return f"a:{len(value)}:{{{items}}}"


def without_quotes(value: Any) -> Any:
    """A length in other units may end by chance at a quote within the text: no reader can know."""
    match value:
        case str():
            return value.replace('"', "'")
        case list():
            return [without_quotes(item) for item in value]
        case dict():
            return {without_quotes(key): without_quotes(item) for key, item in value.items()}
    return value


@given(VALUES)
def test_php_is_read_as_it_was_written(value: Any) -> None:
    assert phpserial.parse(php(value, lambda text: len(text.encode()))) == value


@given(VALUES, LENGTHS)
def test_php_is_read_however_its_lengths_count(value: Any, length: Callable[[str], int]) -> None:
    plain = without_quotes(value)
    assert phpserial.parse(php(plain, length)) == plain


@given(st.dictionaries(st.sampled_from(["subject", "to", "from"]), VALUES, min_size=1))
def test_the_spellings_agree(email: dict[str, Any]) -> None:
    written = php(email, lambda text: len(text.encode()))
    spellings = [
        json.dumps({"email": email}),
        json.dumps({"email": json.dumps(email)}),
        json.dumps({"email": written}),
        urlencode({"email": json.dumps(email)}),
        urlencode({"email": written}),
    ]
    for body in spellings:
        assert decoder.parameters(b"", body.encode(), "").structure("email") == email
    query = quote(json.dumps({"email": email})).encode()
    assert decoder.parameters(query, b"", "").structure("email") == email


@given(st.dictionaries(KEYS.filter(lambda key: key and not set("[]") & set(key)), TEXT, min_size=1, max_size=5))
def test_brackets_are_read_as_they_were_written(values: dict[str, str]) -> None:
    body = urlencode({f"email[{name}]": value for name, value in values.items()})
    assert forms.urlencoded(body.encode())["email"] == values


PIECES = [
    *'asidbNORC:;"{}[]=&%0123456789-.eé😀',
    "\r\n",
    "--b",
    "name=",
    "Content-Disposition:",
    "a:1:{",
    's:1:"',
    "email",
]
NOISE = st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=80).map(
    lambda pieces: "".join(pieces).encode()
)
KINDS = st.sampled_from(["", "application/json", "multipart/form-data; boundary=b", "multipart/form-data"])


@given(NOISE, NOISE, KINDS)
def test_anything_else_is_the_declared_error(query: bytes, body: bytes, kind: str) -> None:
    try:
        parameters = decoder.parameters(query, body, kind)
    except Undecodable:
        return
    for name in list(parameters._values):
        for read in (parameters.structure, parameters.text):
            try:
                read(name)
            except Undecodable:
                continue


@given(st.text(max_size=200))
def test_any_text_is_a_structure_or_the_declared_error(text: str) -> None:
    with contextlib.suppress(Undecodable):
        decoder.structure(text)
