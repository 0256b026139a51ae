"""Templates: what is put in, escaped, missed and refused."""

import pytest

from control.model import templates
from control.model.templates import Rendered, Source
from mta.runtime.refusals import Refusal


def test_values_are_put_in_and_escaped_in_html_alone() -> None:
    source = Source("Hi {{name}}", "<p>{{ name }} {{{name}}}</p>", "{{.name}}, {{missing}}!")
    rendered = templates.render(source, {"name": "<b>&'\"", "unused": "x"})
    assert rendered == Rendered("Hi <b>&'\"", "<p>&lt;b&gt;&amp;&#x27;&quot; <b>&'\"</p>", "<b>&'\", !", ("missing",))


def test_a_subject_stays_one_line() -> None:
    rendered = templates.render(Source("a {{x}} b", "", "t"), {"x": "1\r\nBcc: y\u2028z\0"})
    assert rendered.subject == "a 1 Bcc: y z  b"


def test_what_is_no_name_is_text() -> None:
    text = "{{}} {{1x}} {{a b}} {{#if x}} {{/if}} {name} {{name} {{ name\n}} {{" + "x" * 65 + "}}"
    assert templates.render(Source("", "", text), {}) == Rendered("", "", text, ())


def test_values_are_not_templates() -> None:
    rendered = templates.render(Source("", "", "{{a}}{{b}}"), {"a": "{{b}}", "b": "{{a}}"})
    assert rendered.text == "{{b}}{{a}}"


def test_variables_are_listed_once_in_order() -> None:
    source = Source("{{b}}", "{{{a}}} {{b}}", "{{.c-1.d}}")
    assert templates.variables(source) == ("b", "a", "c-1.d")


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (Source("x" * 999, "", "t"), "template.subject"),
        (Source("a\nb", "", "t"), "template.subject"),
        (Source("s", "", ""), "template.html"),
        (Source("s", "é" * (templates.MAX_PART // 2 + 1), ""), "template.html"),
        (Source("s", "", "a\0b"), "template.text"),
    ],
)
def test_what_cannot_be_a_template(source: Source, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        templates.check(source)
    assert refused.value.field == field


def test_results_are_bounded() -> None:
    big = "x" * (templates.MAX_VALUES - 1)
    with pytest.raises(Refusal, match="would be larger"):
        templates.render(Source("", "{{a}}" * 1000, ""), {"a": big})
    with pytest.raises(Refusal, match="is larger"):
        templates.render(Source("", "", "t"), {"a": big + "xx"})
    with pytest.raises(Refusal, match="entries"):
        templates.render(Source("", "", "t"), {str(number): "" for number in range(1001)})
