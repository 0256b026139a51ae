"""Address fields: read strictly, written correctly."""

from email.header import decode_header, make_header

import pytest

from mta.message.address import AddressError, parse_path
from mta.message.mailboxes import MAX_MAILBOXES, format_mailbox, parse_header_address


def read(value: str | bytes) -> list[tuple[str, str]]:
    return [(mailbox.name, mailbox.address.mailbox) for mailbox in parse_header_address(value)]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a@b.co", [("", "a@b.co")]),
        (" <a@b.co> ", [("", "a@b.co")]),
        ("John Doe <a@b.co>", [("John Doe", "a@b.co")]),
        ("John Q. Public <a@b.co>", [("John Q. Public", "a@b.co")]),
        ('"Doe, John" <a@b.co>', [("Doe, John", "a@b.co")]),
        ('"a \\"b\\" c" < a@b.co >', [('a "b" c', "a@b.co")]),
        ("John<a@b.co>,x@y.zz", [("John", "a@b.co"), ("", "x@y.zz")]),
        ("a@b.co (John)", [("", "a@b.co")]),
        ("(x (nested (deep) \\) ) y) a@b.co", [("", "a@b.co")]),
        ("John\r\n Doe\r\n\t<a@b.co>", [("John Doe", "a@b.co")]),
        ("Team: a@b.co, John <x@y.zz>;", [("", "a@b.co"), ("John", "x@y.zz")]),
        ("Nobody:;, a@b.co", [("", "a@b.co")]),
        ('"quoted @ local"@b.co', [("", '"quoted @ local"@b.co')]),
        ('X <"quoted > local"@b.co>', [("X", '"quoted > local"@b.co')]),
        ("=?utf-8?q?J=C3=BCrgen?= <a@b.co>", [("Jürgen", "a@b.co")]),
        ("=?utf-8?b?SsO8?= =?utf-8?b?cmdlbg==?= X <a@b.co>", [("Jürgen X", "a@b.co")]),
        (
            "=?utf-8?q?evil=40bank.test_=3Cevil=40bank.test=3E?= <a@b.co>",
            [("evil@bank.test <evil@bank.test>", "a@b.co")],
        ),
        ('"=?utf-8?q?no?=" <a@b.co>', [("=?utf-8?q?no?=", "a@b.co")]),
        ("=?utf-8?q?a=0D=0AB=00?= <a@b.co>", [("a  B", "a@b.co")]),
        ("Jürgen <a@b.co>", [("Jürgen", "a@b.co")]),
        ("Jürgen <a@b.co>".encode(), [("Jürgen", "a@b.co")]),
        ('"evil@bank.test" <a@b.co>', [("evil@bank.test", "a@b.co")]),
    ],
)
def test_accepted(value: str | bytes, found: list[tuple[str, str]]) -> None:
    assert read(value) == found


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "address is missing"),
        ("   ", "address is missing"),
        ("John", "has no @"),
        ("John Doe", "has no @"),
        ("<>", "empty"),
        ("a@b.co,", "address is missing"),
        (",a@b.co", "address is missing"),
        ("a@b.co,,x@y.zz", "address is missing"),
        ("a@b.co x@y.zz", "out of place"),
        ("John a@b.co", "angle brackets"),
        ("a@b.co <x@y.zz>", "out of place"),
        ("<a@b.co> <x@y.zz>", "out of place"),
        ("<a@b.co> John", "out of place"),
        ("<a@b.co", "no closing '>'"),
        ("John <a@b.co", "no closing '>'"),
        ("a@b.co>", "out of place"),
        ("<@relay.test:a@b.co>", "more than one @"),
        ("a (c) @b.co", "space or comment before an @"),
        ("a @b.co", "space or comment before an @"),
        ("a@ b.co", "no domain"),
        ("a@(c)b.co", "no domain"),
        ("a@b.(c)co", "ends with a dot"),
        ("<a@b(c).co>", "is no label"),
        ("<a (c)@b.co>", "contains ' '"),
        ("=?utf-8?q?a=40evil.test=3E=00?=@b.co", "encoded-word"),
        ("<=?utf-8?q?a?=@b.co>", "encoded-word"),
        ('"a".b@c.de', "angle brackets"),
        ("a@[192.0.2.1]", "brackets"),
        ('"John <a@b.co>', "no closing quote"),
        ("(John a@b.co", "no closing parenthesis"),
        ("(John \\", "no closing parenthesis"),
        ("John) a@b.co", "no @"),
        ("(" * 11 + ")" * 11 + "a@b.co", "nested more than 10"),
        ("Team: a@b.co", "no closing ';'"),
        ("Team: a@b.co <", "out of place"),
        ("Team: Inner: a@b.co;;", "no @"),
        ("Nobody:;", "no address"),
        (": a@b.co;", "out of place"),
        ("a@b.co; x@y.zz", "out of place"),
        ("a@b.co\r\nBcc: x@y.zz", "U\\+000D"),
        ("a@b.co\nx", "U\\+000A"),
        ("a@b.co\x00", "U\\+0000"),
        (b"J\xfcrgen <a@b.co>", "not UTF-8"),
        ("a\\b <a@b.co>", "no @"),
        ("x" * 70_000, "too long"),
    ],
)
def test_refused_with_the_reason(value: str | bytes, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse_header_address(value)


def test_the_number_of_addresses_is_limited() -> None:
    assert len(parse_header_address(",".join(["a@b.co"] * MAX_MAILBOXES))) == MAX_MAILBOXES
    with pytest.raises(AddressError, match="more than 1000"):
        parse_header_address(",".join(["a@b.co"] * (MAX_MAILBOXES + 1)))


@pytest.mark.parametrize(
    "piece", ["(", ")", '"', '"\\', "<", "a@", "a ", "=?", "=?a?b?", ":", ";", "(\\", "\\", "()", '""', "<a"]
)
def test_hostile_repetition_takes_linear_time(piece: str) -> None:
    """64 KiB of each would take minutes if any of them made the reader go back over what it has read."""
    for value in (piece * (65_000 // len(piece)), "a <" + piece * (60_000 // len(piece)) + ">"):
        with pytest.raises(AddressError):
            parse_header_address(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", b"a@b.co"),
        ("John Doe", b"John Doe <a@b.co>"),
        ("Doe, John", b'"Doe, John" <a@b.co>'),
        ('the "boss" \\', b'"the \\"boss\\" \\\\" <a@b.co>'),
        ("J. Doe", b'"J. Doe" <a@b.co>'),
        ("Jürgen", b"=?utf-8?b?SsO8cmdlbg==?= <a@b.co>"),
        ("=?x", b"=?utf-8?b?PT94?= <a@b.co>"),
    ],
)
def test_written(name: str, value: bytes) -> None:
    address = parse_path("a@b.co")
    assert format_mailbox(name, address) == value
    assert read(value) == [(name, "a@b.co")]


def test_a_long_name_is_folded_within_78_columns_and_read_by_others() -> None:
    name = "Ünïcödé " * 30
    value = format_mailbox(name.strip(), parse_path("a@b.co"))
    assert max(map(len, (b"From: " + value).split(b"\r\n"))) <= 78 + len("From: ")
    assert read(value) == [(name.strip(), "a@b.co")]
    phrase = value.decode("ascii").partition("<")[0].strip()
    assert str(make_header(decode_header(phrase))) == name.strip()


@pytest.mark.parametrize("name", ["a\r\nBcc: x@y.zz", "a\x00", "x" * 501])
def test_unfit_names_are_refused(name: str) -> None:
    with pytest.raises(AddressError, match="display name"):
        format_mailbox(name, parse_path("a@b.co"))
