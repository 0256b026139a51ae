"""Header text: what is refused, and that what is written can be read back."""

import email
import email.policy
import email.utils
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_bridge import fieldtext
from api_bridge.fieldtext import FieldError

FORBIDDEN = ["\r", "\n", "\r\n", "\0", "\t", "\x0b", "\x1b", "\x7f", "\x85", "\x9f", "\u2028", "\u2029", "\ud800"]
SAFE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=300)


@pytest.mark.parametrize("character", FORBIDDEN)
def test_control_characters_are_refused_with_the_name_of_the_field(character: str) -> None:
    with pytest.raises(FieldError) as caught:
        fieldtext.check("subject", f"before{character}after")
    assert caught.value.field == "subject"
    assert str(caught.value) == "subject must not contain line breaks or other control characters"


def test_a_value_has_a_limit() -> None:
    assert fieldtext.check("subject", "x" * fieldtext.MAX_VALUE)
    with pytest.raises(FieldError, match="longer than 998"):
        fieldtext.check("subject", "x" * (fieldtext.MAX_VALUE + 1))


@pytest.mark.parametrize("name", ["", "A B", "A:", "Ä", "A\r\nB", "x" * 71, " A"])
def test_field_names_that_are_none(name: str) -> None:
    with pytest.raises(FieldError):
        fieldtext.check_name("header name", name)


def test_short_ascii_stays_as_it_is() -> None:
    assert fieldtext.unstructured("subject", "Subject", "Hello from MSpace") == "Subject: Hello from MSpace\r\n"


def test_text_that_looks_like_an_encoded_word_is_shown_as_given() -> None:
    """A reader must not be led to decode a line break (here CR LF Bcc) out of it."""
    given_text = "=?utf-8?b?DQpCY2M6IHhAeS56?="
    field = fieldtext.unstructured("subject", "Subject", given_text)
    assert given_text not in field
    assert read(field) == given_text


@given(SAFE)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    field = fieldtext.unstructured("subject", "Subject", text)
    check_lines(field)
    assert read(field) == text


@given(SAFE.filter(lambda text: text.strip(" ") != ""))
def test_any_display_name_comes_back_as_it_was(text: str) -> None:
    field = fieldtext.fold("To", [fieldtext.phrase("to", text) + " <a@example.com>"])
    check_lines(field, limit=998)
    # email.policy.default of Python 3.11 keeps the space between adjacent encoded words of a phrase (RFC 2047 §6.2).
    name, address = email.utils.parseaddr(field.removeprefix("To: ").replace("\r\n ", " ").rstrip())
    assert address == "a@example.com"
    decoded = str(make_header(decode_header(name)))
    assert decoded == text or decoded == " ".join(text.split())


@given(SAFE.filter(bool))
def test_any_file_name_comes_back_as_it_was(text: str) -> None:
    field = "Content-Disposition: attachment" + fieldtext.parameter("filename", "filename", text) + "\r\n"
    check_lines(field)
    message = email.message_from_string(field + "\r\n", policy=email.policy.compat32)
    value = message.get_param("filename", header="content-disposition")
    # collapse_rfc2231_value takes "<>" off what was only a string, for names of senders.
    assert (value if isinstance(value, str) else email.utils.collapse_rfc2231_value(value or "")) == text


def read(field: str) -> str:
    message = email.message_from_string(field + "\r\n", policy=email.policy.default)
    assert len(message.keys()) == 1
    return str(message["Subject"])


def check_lines(field: str, limit: int = 78) -> None:
    assert field.isascii()
    assert field.endswith("\r\n")
    lines = field.removesuffix("\r\n").split("\r\n")
    assert all(len(line) <= limit and "\r" not in line and "\n" not in line for line in lines)
    assert all(line[0] == " " and line.strip() for line in lines[1:])
