"""SPF records: reading, merging, macros."""

import ipaddress

import pytest

from control.model import spf
from control.model.spf import Mechanism, Name, Result, SpfError


def test_a_record_is_read() -> None:
    record = spf.parse("v=spf1 a:mail.test/24//64  mx ip4:192.0.2.1 IP6:2001:db8::/32 ?include:x.test ~all exp=e.test")
    a, mx, four, six, include, closing = record.mechanisms
    assert a == Mechanism(Name.A, Result.PASS, "mail.test", four=24, six=64)
    assert mx == Mechanism(Name.MX, Result.PASS)
    assert four.network == ipaddress.ip_network("192.0.2.1/32")
    assert six.network == ipaddress.ip_network("2001:db8::/32")
    assert include == Mechanism(Name.INCLUDE, Result.NEUTRAL, "x.test")
    assert closing == Mechanism(Name.ALL, Result.SOFTFAIL)
    assert spf.parse("V=SPF1 redirect=_spf.x.test").redirect == "_spf.x.test"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v=spf10 all", "does not begin"),
        ("v=spf1 alll", "no mechanism of SPF"),
        ("v=spf1 all:x", "takes no value"),
        ("v=spf1 include", "needs a domain"),
        ("v=spf1 include:", "no domain"),
        ("v=spf1 ip4:x", "no address"),
        ("v=spf1 ip4=192.0.2.1 ip4", "no address"),
        ("v=spf1 ip4:2001:db8::1", "no address"),
        ("v=spf1 a/33", "prefix length"),
        ("v=spf1 a//129", "prefix length"),
        ("v=spf1 ptr/8", "prefix length"),
        ("v=spf1 a.x.test", "no mechanism of SPF"),
        ("v=spf1 exists:%{x", "macro"),
        ("v=spf1 redirect=a.test redirect=b.test", "twice"),
        ("v=spf1 mx\tall", "not allowed"),
        ("v=spf1 -", "no mechanism"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(SpfError, match=said):
        spf.parse(text)


@pytest.mark.parametrize(
    ("found", "merged"),
    [
        ([], "v=spf1 a:mta.test ~all"),
        (["v=spf1 -all"], "v=spf1 a:mta.test -all"),
        (["v=spf1 include:other.test ~all"], "v=spf1 a:mta.test include:other.test ~all"),
        (["v=spf1 mx -a:mta.test redirect=x.test"], "v=spf1 a:mta.test mx redirect=x.test"),
        (["v=spf1 a ~all", "v=spf1 mx a -all"], "v=spf1 a:mta.test a mx -all"),
        (["v=spf1"], "v=spf1 a:mta.test"),
    ],
)
def test_what_to_publish_keeps_what_was_there(found: list[str], merged: str) -> None:
    assert spf.merged(found, ["a:mta.test"]) == merged


def test_a_broken_record_is_not_merged() -> None:
    with pytest.raises(SpfError):
        spf.merged(["v=spf1 nonsense -all"], ["a:mta.test"])


# RFC 7208 §7.4, with our sender in the place of "strong-bad".
@pytest.mark.parametrize(
    ("spec", "expanded"),
    [
        ("%{s}", "postmaster@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "postmaster"),
        ("%{lr-}", "postmaster"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%%%_%-x", "% %20x"),
    ],
)
def test_macros(spec: str, expanded: str) -> None:
    address = ipaddress.ip_address("192.0.2.3")
    assert spf.expand(spec, address, "email.example.com") == expanded


def test_a_macro_of_an_ipv6_address() -> None:
    expanded = spf.expand("%{ir}.%{v}", ipaddress.ip_address("2001:db8::cb01"), "x.test")
    assert expanded == "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6"


def test_a_name_that_grows_too_long_loses_labels_from_the_left() -> None:
    expanded = spf.expand("%{l}." * 30 + "%{d}", ipaddress.ip_address("192.0.2.3"), "example.com")
    assert len(expanded) <= 253
    assert expanded.endswith("postmaster.example.com")


def test_a_hostile_record_takes_no_time() -> None:
    address = ipaddress.ip_address("192.0.2.3")
    deep = ".".join("a" * 120)
    expanded = spf.expand("%{d}" * 10_000, address, deep)  # label by label it would take minutes
    assert len(expanded) == 252
    assert f".{deep}".endswith(expanded[-200:])
    assert spf.expand("a" * 300 + ".b", address, "x.test") == "b"
    with pytest.raises(SpfError, match="octets"):
        spf.parse("v=spf1 " + "a " * 10_000)
