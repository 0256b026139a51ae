"""Laws of DNS records of sender domains: SPF, strings of TXT records, tag lists, templates."""

import contextlib
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from control.model import dnsrecords, spf, taglists, templates
from control.model.spf import SpfError
from control.model.taglists import TagListError
from control.model.templates import Source

_ascii = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=1500)
_terms = st.sampled_from(
    ["a", "mx", "a:x.test/24", "ip4:192.0.2.0/24", "ip6:2001:db8::/32", "include:y.test", "-a:mta.test", "~all", "-all",
     "redirect=z.test", "exists:%{i}.x.test", "foo=bar"]
)  # fmt: skip


@given(_ascii)
def test_strings_are_short_and_make_the_data(text: str) -> None:
    strings = dnsrecords.split_text(text)
    assert "".join(strings) == text
    assert all(len(string) <= 255 for string in strings)
    assert all(len(string) == 255 for string in strings[:-1])
    assert dnsrecords.zone_line("TXT", "x.test", text).count('"') >= 2


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for record in (text, f"v=spf1 {text}"):
        with contextlib.suppress(SpfError):
            spf.parse(record)
    with contextlib.suppress(TagListError):
        taglists.parse(text)
    assert isinstance(taglists.dkim_difference(text, "rsa", b"key"), str)


@given(st.lists(st.lists(_terms, max_size=8), max_size=3))
def test_a_merged_record_can_be_read_and_names_us_first(found: list[list[str]]) -> None:
    records = [" ".join(["v=spf1", *terms]) for terms in found if terms.count("redirect=z.test") < 2]
    merged = spf.merged(records, ["a:mta.test"])
    assert spf.parse(merged).mechanisms[0].target == "mta.test"
    assert spf.merged([merged], ["a:mta.test"]) == merged


@given(st.text(st.sampled_from("%{}sdir.-0123456789x"), max_size=60), st.ip_addresses())
def test_macros_never_fail_and_stay_short(spec: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    expanded = spf.expand(spec, address, "example.com")
    assert len(expanded) <= 253 or "." not in expanded


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=5))
def test_any_template_renders(text: str, values: dict[str, str]) -> None:
    rendered = templates.render(Source("", text, text), values)
    if "{{" not in text:
        assert (rendered.html, rendered.text) == (text, text)
    assert set(rendered.missing).isdisjoint(values)


@given(st.text(max_size=100))
def test_a_value_cannot_add_markup(value: str) -> None:
    html = templates.render(Source("", '<a title="{{x}}">', ""), {"x": value}).html
    inner = html.removeprefix('<a title="').removesuffix('">')
    assert not set(inner) & set("<>\"'")
