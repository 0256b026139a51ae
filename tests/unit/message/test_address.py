"""Addresses: what is accepted, what is refused and why, and the key for suppression."""

import pytest

from mta.message.address import Address, AddressError, parse_domain, parse_path


@pytest.mark.parametrize(
    ("text", "mailbox", "canonical"),
    [
        ("john@example.com", "john@example.com", "john@example.com"),
        ("John.Doe+tag@Example.COM", "John.Doe+tag@example.com", "john.doe+tag@example.com"),
        ("a@b.co", "a@b.co", "a@b.co"),
        ("o'hara@sub.example.co.ke", "o'hara@sub.example.co.ke", "o'hara@sub.example.co.ke"),
        ("user%other.test@example.com", "user%other.test@example.com", "user%other.test@example.com"),
        ("host!user@example.com", "host!user@example.com", "host!user@example.com"),
        ('"John"@example.com', "John@example.com", "john@example.com"),
        ('"j\\ohn"@example.com', "john@example.com", "john@example.com"),
        ('"John Doe"@example.com', '"John Doe"@example.com', '"john doe"@example.com'),
        ('"a@b"@example.com', '"a@b"@example.com', '"a@b"@example.com'),
        ('"a\\"b"@example.com', '"a\\"b"@example.com', '"a\\"b"@example.com'),
        ('"xxx@evil.test x"@good.test', '"xxx@evil.test x"@good.test', '"xxx@evil.test x"@good.test'),
        ('".dot"@example.com', '".dot"@example.com', '".dot"@example.com'),
        ("Jürgen@Bücher.example", "Jürgen@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"),
        ("ju\u0308rgen@example.com", "ju\u0308rgen@example.com", "jürgen@example.com"),
        ("a@xn--BCHER-kva.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("ΟΔΟΣ@example.com", "ΟΔΟΣ@example.com", "οδοσ@example.com"),
        ("οδος@example.com", "οδος@example.com", "οδοσ@example.com"),
        ("a@4com.9net", "a@4com.9net", "a@4com.9net"),
        ("a@例え.テスト", "a@xn--r8jz45g.xn--zckzah", "a@xn--r8jz45g.xn--zckzah"),
    ],
)
def test_accepted(text: str, mailbox: str, canonical: str) -> None:
    address = parse_path(text)
    assert (address.mailbox, address.canonical, address.text) == (mailbox, canonical, text)
    assert str(address) == mailbox
    assert not address.is_literal


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("john", "has no @"),
        ("@example.com", "nothing before the @"),
        ("john@", "nothing after the @"),
        ('""@example.com', "nothing between the quotes"),
        ("a@b@example.com", "more than one @"),
        ('"a"@b@example.com', "more than one @"),
        ("<john@example.com>", "angle brackets"),
        ("john@example.com>", "angle brackets"),
        (".john@example.com", "dot at its start"),
        ("john.@example.com", "dot at its start or end"),
        ("jo..hn@example.com", "two dots in a row"),
        ("jo hn@example.com", "contains ' '"),
        ("john @example.com", "contains ' '"),
        ("john@ example.com", "is no label"),
        ("jo(comment)hn@example.com", "contains '\\('"),
        ("john@example.com (John)", "is no label"),
        ("a,b@example.com", "contains ','"),
        ("a\\b@example.com", "contains"),
        ('"john@example.com', "no closing quote"),
        ('"john"x@example.com', "after the closing quote"),
        ('"jo"hn"@example.com', "after the closing quote"),
        ('jo"hn@example.com', "contains '\"'"),
        ('"a\\\u00e9"@example.com', "not allowed there"),
        ("john@example.com.", "ends with a dot"),
        ("john@.example.com", "empty label"),
        ("john@example..com", "empty label"),
        ("john@example", "only one label"),
        ("john@-example.com", "is no label"),
        ("john@example-.com", "is no label"),
        ("john@exa_mple.com", "is no label"),
        ("john@192.0.2.1", "ends with a number"),
        ("john@[192.0.2.1]", "IP address in brackets"),
        ("john@exam\u200bple.com", "U\\+200B"),
        ("jo\u200dhn@example.com", "U\\+200D"),
        ("jo\x00hn@example.com", "U\\+0000"),
        ("john@example.com\x00.evil.test", "U\\+0000"),
        ("john@example.com\r\nRCPT TO:<x@y.z>", "U\\+000D"),
        ("jo\x7fhn@example.com", "U\\+007F"),
        ("jo\ud800hn@example.com", "U\\+D800"),
        ("jo\u00a0hn@example.com", "U\\+00A0"),
        ("\u202ejohn@example.com", "U\\+202E"),
        ("john@example\u3002com", "not the ASCII dot"),
        ("john@\uff45xample.com", "IDNA 2008"),
        ("john@\u212aelvin.com", "lower case"),
        ("john@☃☃.com", "IDNA 2008"),
        ("=?utf-8?q?a=40evil.test?=@example.com", "encoded-word"),
        ('"=?utf-8?q?a=40evil.test=3e?="@example.com', "encoded-word"),
        ("a" * 65 + "@example.com", "longer than 64"),
        ("é" * 33 + "@example.com", "longer than 64"),
        ("a@" + "b" * 64 + ".com", "is no label"),
        ("a@" + ".".join(["b" * 60] * 5) + ".com", "longer than 255"),
        ("a" * 60 + "@" + ".".join(["b" * 60] * 3) + ".bbbbbbbbb.com", "longer than 254"),
        ("a" * 1000, "longer than 254"),
        ("a@" + "é." * 120 + "com", "longer than 255"),
    ],
)
def test_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse_path(text)


def test_the_longest_local_part_and_mailbox_are_accepted() -> None:
    domain = ".".join(["b" * 61] * 3) + ".com"
    text = "a" * (254 - 1 - len(domain)) + "@" + domain
    assert len(text) == 254
    assert parse_path(text).mailbox == text
    assert parse_path("a" * 64 + "@example.com").local == "a" * 64


def test_error_texts_never_carry_control_characters_back() -> None:
    with pytest.raises(AddressError) as caught:
        parse_path("john@exa mple\u00ad.com")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("domain", "normal"),
    [
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
        ("[ipv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_address_literals_by_option(domain: str, normal: str) -> None:
    address = parse_path(f"a@{domain}", allow_literal=True)
    assert address.is_literal
    assert address.domain == normal


@pytest.mark.parametrize(
    "domain", ["[192.0.2.1", "[192.0.2.256]", "[x:y]", "[]", "[IPv6:fe80::1%eth0]", "[2001:db8::1]"]
)
def test_malformed_literals(domain: str) -> None:
    with pytest.raises(AddressError, match="no address literal"):
        parse_path(f"a@{domain}", allow_literal=True)


def test_single_labels_by_option() -> None:
    assert parse_path("root@localhost", allow_single_label=True).domain == "localhost"
    with pytest.raises(AddressError, match="ends with a number"):
        parse_path("root@127", allow_single_label=True)


def test_smtputf8_is_a_matter_of_the_local_part() -> None:
    assert parse_path("jürgen@example.com").needs_smtputf8
    assert not parse_path("jurgen@bücher.example").needs_smtputf8


def test_an_address_is_a_value() -> None:
    assert parse_path("a@b.co") == Address("a", "b.co", "a@b.co", "a@b.co", False, False)
    assert len({parse_path("a@b.co"), parse_path("a@B.co"), parse_path("a@b.co")}) == 2


def test_domains_alone() -> None:
    assert parse_domain("Demo.TEST") == "demo.test"
    assert parse_domain("bücher.example") == "xn--bcher-kva.example"
    with pytest.raises(AddressError, match="missing"):
        parse_domain("")
    with pytest.raises(AddressError, match="dot"):
        parse_domain("demo.test.")
