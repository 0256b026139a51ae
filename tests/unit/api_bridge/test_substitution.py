"""Places for values in texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge.substitution import Text
from control.model import templates

VALUES = {"name": "<Ann>", "a.b": "dot", "_x-1": "&", "brace": "{{name}}"}


@pytest.mark.parametrize(
    ("source", "plain", "marked"),
    [
        ("nothing", "nothing", "nothing"),
        ("{{name}}", "<Ann>", "&lt;Ann&gt;"),
        ("{{.name}} {{ name }}", "<Ann> <Ann>", "&lt;Ann&gt; &lt;Ann&gt;"),
        ("{{{name}}}", "<Ann>", "<Ann>"),
        ("{{a.b}}{{_x-1}}", "dot&", "dot&amp;"),
        ("{{missing}}|", "|", "|"),
        ("{{brace}}", "{{name}}", "{{name}}"),
        ("{{ ''.__class__ }}", "{{ ''.__class__ }}", "{{ ''.__class__ }}"),
        ("{{#if name}}x{{/if}}", "{{#if name}}x{{/if}}", "{{#if name}}x{{/if}}"),
        ("{{1a}} {{}} {{ }} {{a b}} {{na\nme}}", "{{1a}} {{}} {{ }} {{a b}} {{na\nme}}", None),
        ("{{{{name}}}}", "{<Ann>}", "{<Ann>}"),
        ("{{" + "a" * 65 + "}}", "{{" + "a" * 65 + "}}", None),
    ],
)
def test_places_are_filled(source: str, plain: str, marked: str | None) -> None:
    assert Text(source).fill(VALUES) == plain
    assert Text(source).fill_html(VALUES) == (plain if marked is None else marked)


def test_what_a_text_has() -> None:
    text = Text("{{a}} {{{b}}} {{a}}")
    assert (set(text.names), text.raw, text.fixed) == ({"a", "b"}, True, False)
    assert (Text("{{").fixed, Text("{{a}}").raw) == (True, False)


def test_a_hostile_text_takes_no_longer_than_another() -> None:
    for unit in ("{", "{{", "{{ ", "{{a", "{{{a}} ", "{{\t\t\t\t"):
        assert Text(unit * (400_000 // len(unit))).fill(VALUES) is not None


PIECES = st.sampled_from(["{", "{{", "{{{", "}", "}}", "}}}", " ", ".", "name", "a.b", "missing", "\n", "<", "é"])


@given(st.lists(PIECES, max_size=20).map("".join))
def test_the_rules_are_those_of_control(source: str) -> None:
    rendered = templates.render(templates.Source("", source, source), VALUES)
    text = Text(source)
    assert (text.fill_html(VALUES), text.fill(VALUES)) == (rendered.html, rendered.text)
