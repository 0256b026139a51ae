"""Names of streams."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.runtime.streams import stream_name


@pytest.mark.parametrize(("text", "name"), [("", ""), ("News", "news"), ("a.b_c-1", "a.b_c-1"), ("x" * 63, "x" * 63)])
def test_a_name_is_kept_in_lower_case(text: str, name: str) -> None:
    assert stream_name(text) == name


@pytest.mark.parametrize("text", ["a b", "-a", ".a", "x" * 64, "a:b", "a@b", "\u212a", "é", "a\n", "\0"])
def test_other_names_are_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 63"):
        stream_name(text)


@given(st.text(max_size=70))
def test_what_is_kept_is_what_the_schema_takes(text: str) -> None:
    try:
        name = stream_name(text)
    except ValueError:
        return
    assert re.fullmatch(r"([a-z0-9][a-z0-9._-]{0,62})?", name)
    assert stream_name(name) == name
