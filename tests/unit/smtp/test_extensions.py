"""EHLO keywords, offered and understood."""

from mta.smtp.extensions import NO_EXTENSIONS, Extensions, offer, parse_ehlo
from mta.smtp.reply import Reply


def test_offer_is_understood() -> None:
    reply = offer("mx.test", size_limit=1000, starttls=True, auth_mechanisms=("PLAIN", "LOGIN"))
    extensions = parse_ehlo(reply)
    assert extensions == Extensions(
        pipelining=True,
        size=True,
        size_limit=1000,
        eight_bit_mime=True,
        smtputf8=True,
        enhanced_status_codes=True,
        starttls=True,
        auth_mechanisms=frozenset({"PLAIN", "LOGIN"}),
        keywords=extensions.keywords,
    )
    assert "CHUNKING" not in extensions.keywords
    assert not parse_ehlo(offer("mx.test", size_limit=1, starttls=False, auth_mechanisms=())).starttls


def test_the_first_line_is_a_name() -> None:
    assert parse_ehlo(Reply(250, None, "PIPELINING")) == NO_EXTENSIONS


def test_oddities() -> None:
    extensions = parse_ehlo(
        Reply(
            250, None, "mx", "pipelining", "SIZE", "AUTH=LOGIN plain", "AUTH cram-md5", "X-EXTRA a b", "", "8bitmime "
        )
    )
    assert extensions.pipelining
    assert extensions.eight_bit_mime
    assert extensions.size
    assert extensions.size_limit is None
    assert extensions.auth_mechanisms == {"LOGIN", "PLAIN", "CRAM-MD5"}
    assert extensions.keywords["X-EXTRA"] == "a b"


def test_sizes() -> None:
    for value, limit in (("0", None), ("-1", None), ("x", None), ("٣", None), ("9" * 21, None), ("35882577", 35882577)):
        assert parse_ehlo(Reply(250, None, "mx", f"SIZE {value}")).size_limit == limit
