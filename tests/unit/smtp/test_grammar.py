"""Commands and their parameters, production by production. More cases are in tests/golden/smtp/addresses.txt."""

import pytest

from mta.smtp import grammar
from mta.smtp.grammar import GrammarError, parse_mail, parse_parameters, parse_path, parse_rcpt, sendable_path


@pytest.mark.parametrize(
    ("argument", "path", "parameters"),
    [
        ("FROM:<>", "", {}),
        ("from:<> SIZE=1", "", {"SIZE": "1"}),
        ("FROM: <>", "", {}),
        ("FROM:<a@b.test>", "a@b.test", {}),
        ("FROM:  <a@b.test>  ", "a@b.test", {}),
        (
            "FROM:<a@b.test> size=10 Body=8BITMIME smtputf8",
            "a@b.test",
            {"SIZE": "10", "BODY": "8BITMIME", "SMTPUTF8": None},
        ),
        ('FROM:<"a b"@c.test>', '"a b"@c.test', {}),
        ('FROM:<"a>b\\"c"@d.test> SIZE=1', '"a>b\\"c"@d.test', {"SIZE": "1"}),
        ("FROM:<@x.test,@y.test:a@b.test>", "a@b.test", {}),
        ("FROM:<a@[IPv6:::1]>", "a@[IPv6:::1]", {}),
        ("FROM:<ä@bücher.test> SMTPUTF8", "ä@bücher.test", {"SMTPUTF8": None}),
        ("FROM:<" + "x" * 64 + "@b.test>", "x" * 64 + "@b.test", {}),
    ],
)
def test_mail(argument: str, path: str, parameters: dict[str, str | None]) -> None:
    assert parse_mail(argument) == (path, parameters)


@pytest.mark.parametrize(
    "argument", ["", "FROM", "FROM:", "TO:<a@b.test>", "FROM:a@b.test", "FROM:<a@b.test", "FROM:<>x"]
)
def test_mail_errors(argument: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_mail(argument)
    assert caught.value.code == 501
    assert caught.value.enhanced in ("5.1.7", "5.5.4")


def test_rcpt() -> None:
    assert parse_rcpt("TO:<a@b.test> NOTIFY=NEVER") == ("a@b.test", {"NOTIFY": "NEVER"})
    assert parse_rcpt("to:<postMaster>") == ("postMaster", {})
    for argument in ("TO:<>", "TO: <>", "FROM:<a@b.test>", "TO:<a>"):
        with pytest.raises(GrammarError):
            parse_rcpt(argument)


def path_of(octets: int) -> str:
    """A path of that many octets, brackets included."""
    domain = ".".join(["d" * 60] * 5)
    return "<a@" + domain[: octets - 4] + ">"


def test_path_limit_and_one_more() -> None:
    assert len(path_of(256)) == 256
    assert parse_path(path_of(256))[0] == path_of(256)[1:-1]
    with pytest.raises(GrammarError, match="256"):
        parse_path(path_of(257))


def test_local_part_limit_and_one_more() -> None:
    assert parse_path("<" + "ä" * 32 + "@b.test>")[0] == "ä" * 32 + "@b.test"
    for local_part in ("x" * 65, "ä" * 32 + "x", '"' + "x" * 63 + '"'):
        with pytest.raises(GrammarError, match="64"):
            parse_path(f"<{local_part}@b.test>")


def test_domain_limit_and_one_more() -> None:
    grammar.check_domain("d" * 255)
    with pytest.raises(GrammarError, match="255"):
        grammar.check_domain("d" * 256)


def test_parameters_limit_and_one_more() -> None:
    words = [f" K{number}" for number in range(grammar.PARAMETERS_LIMIT + 1)]
    assert len(parse_parameters("".join(words[:-1]))) == grammar.PARAMETERS_LIMIT
    with pytest.raises(GrammarError, match="16"):
        parse_parameters("".join(words))


@pytest.mark.parametrize("text", [" -K", " K_=1", " K=", " K=a=b", " Ä=1", " K=1 k=2", "K", " =1"])
def test_bad_parameters(text: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_parameters(text)
    assert caught.value.enhanced == "5.5.4"


@pytest.mark.parametrize("name", ["a", "mx.test", "mx.test.", "win_10", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
def test_helo_names(name: str) -> None:
    assert grammar.is_helo_name(name)


@pytest.mark.parametrize("name", ["", ".", "a b", "ä.test", "a..b", "[]", "[a", "[<x>]", "a@b", "d" * 256, "(x)"])
def test_bad_helo_names(name: str) -> None:
    assert not grammar.is_helo_name(name)


def test_xtext() -> None:
    assert grammar.is_xtext("e+3Dmc2@example.test")
    for value in ("a+b", "a+2", "a=b", "", "a+00b", "a+0Db", "a+7F", "+3d"):
        assert not grammar.is_xtext(value)


@pytest.mark.parametrize(
    "path", ["", "a@b.test", '"a b"@c.test', '"a>b"@c.test', "ä@b.test", "postmaster", "a@[192.0.2.1]"]
)
def test_sendable(path: str) -> None:
    assert sendable_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "a@b.test\r\nRCPT TO:<c@d.test>",
        "a@b.test\n",
        "a\0@b.test",
        "a@b.test> SIZE=1 <c",
        "a@b.test>",
        "<a@b.test",
        "a b@c.test",
        '"a@b.test',
        '"a"> X=<"@b.test',
        "ä@b.test\u2028",
        "x" * 255,
        "ä" * 65 + "@b.test",
        "\ud800@b.test",
    ],
)
def test_not_sendable(path: str) -> None:
    with pytest.raises(ValueError, match="not an SMTP path"):
        sendable_path(path)
