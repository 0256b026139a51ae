"""HTML to text: what a reader would see, and linear time on any input."""

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge import plaintext

HOSTILE = [
    *("<", "</", "<a ", "<!--", "<!", "<?", "<![CDATA[", "<a/", "<script>", "<style></s", "<p> ", "--><!--", "</a>"),
    *('<a b="', "<a '\"", "<a b='>", "<a href=", '<a href="', "<a href=http://x>y</a>"),
    *("&#", "&#9", "&#x", "&a", " \n", "\x01"),
]


@pytest.mark.parametrize(
    "text", ["<h1>Hi</h1>", "a<br>b", "a<BR/>b", "<!DOCTYPE html>", "x <b class='c'>y", "</p>", "<img src=x>", "<p\n>"]
)
def test_a_tag_makes_it_html(text: str) -> None:
    assert plaintext.is_html(text)


@pytest.mark.parametrize(
    "text", ["", "1 < 2 > 0", "<john@example.com>", "<pre", "<b ", "< p>", "<unknown>", "&lt;p&gt;"]
)
def test_without_a_tag_it_is_plain(text: str) -> None:
    assert not plaintext.is_html(text)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<h1>HTML Content</h1>", "HTML Content"),
        ("<p>One</p><p>Two\n  words</p>", "One\n\nTwo words"),
        ("One<br>Two<br/>Three<br><br>Four", "One\nTwo\nThree\n\nFour"),
        ("<div>One</div><div>Two</div>", "One\nTwo"),
        ("<ul><li>One</li><li>Two</ul>after", "- One\n- Two\n\nafter"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("Tom &amp; Jerry&nbsp;&lt;3 &#169; &#x2713;", "Tom & Jerry <3 © ✓"),
        ('See <a href="https://x.example/?a=1&amp;b=2">this</a>.', "See this <https://x.example/?a=1&b=2>."),
        ("<a href='https://x.example'>https://x.example</a>", "https://x.example"),
        ("<a href=mailto:a@b.example>a@b.example</a>", "a@b.example"),
        ("<a href='javascript:alert(1)'>click</a>", "click"),
        ("<head><title>T</title><style>p {}</style></head><body>B<script>if (a < b) {}</script></body>", "B"),
        ("a<!-- hidden > <p> -->b", "ab"),
        ('<img alt="x > y" src=z>after', "after"),
        ("1 < 2 and <john@example.com>", "1 < 2 and"),
        ("unfinished <a href='x", "unfinished"),
        ("<script>never closed <p>x</p>", ""),
        ("&#99999999999999999999;", "\N{REPLACEMENT CHARACTER}"),
        ("", ""),
    ],
)
def test_the_text_of(source: str, text: str) -> None:
    assert plaintext.from_html(source) == text


@pytest.mark.parametrize("suffix", ["", ">", '"', "'>", "-->"])
@pytest.mark.parametrize("pattern", HOSTILE)
def test_hostile_input_takes_linear_time(pattern: str, suffix: str) -> None:
    """html.parser needs over a minute for some of these at a third of the size."""
    source = pattern * (250_000 // len(pattern)) + suffix
    started = time.process_time()
    plaintext.from_html(source)
    plaintext.is_html(source)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("pattern", ["<", "<a", "<z>", "</z ", "<!doctype"])
def test_looking_for_a_tag_has_an_end(pattern: str) -> None:
    """Looked for in all of it, the first of these took 45 s."""
    source = pattern * (34_000_000 // len(pattern)) + "<b>"
    started = time.process_time()
    assert not plaintext.is_html(source)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("source", ["ab " * 333_000, "<p>ab " * 166_000, "\n \n" * 333_000, "&amp;" * 200_000])
def test_memory_is_a_small_multiple_of_the_source(source: str) -> None:
    tracemalloc.start()
    plaintext.from_html(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * len(source)


@given(st.text(st.sampled_from("<>/!-&#;\"'= \npabrliscte\x01\x02é"), max_size=60))
def test_any_text_gives_text(source: str) -> None:
    text = plaintext.from_html(source)
    assert text == text.strip()
    assert not set(text) & set("\x01\x02\x03")
