"""Addresses: round trips, one key per mailbox, and nothing but AddressError."""

import contextlib
import string

from hypothesis import assume, example, given
from hypothesis import strategies as st

from mta.message import encodedword
from mta.message.address import Address, AddressError, parse_path
from mta.message.mailboxes import format_mailbox, parse_header_address

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"
atoms = st.text(ATEXT, min_size=1, max_size=12).filter(lambda atom: "=?" not in atom)
dot_strings = st.lists(atoms, min_size=1, max_size=4).map(".".join)
labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
domains = st.tuples(
    st.lists(labels, min_size=1, max_size=3), st.sampled_from(["com", "Test", "co.KE", "xn--p1ai"])
).map(lambda parts: ".".join([*parts[0], parts[1]]))
plain = st.tuples(dot_strings, domains).map("@".join)
quotable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20)
free_text = st.text(st.sampled_from('ab.@"\\<>()[],:; \t\r\n=?_%!é\u212aß\u0130\u200b\U0001f600\x00') | st.characters())


letters = st.text(st.characters(categories=["Ll", "Lu", "Lt", "Lo", "Mn", "Nd"]), min_size=1, max_size=20)
international = st.tuples(letters, st.tuples(letters, st.sampled_from(["com", "例え"])).map(".".join)).map("@".join)


def accepted(text: str) -> Address | None:
    try:
        return parse_path(text, allow_literal=True, allow_single_label=True)
    except AddressError as error:
        assert str(error).isprintable()
        return None


@given(plain)
def test_a_plain_address_is_itself_with_the_domain_in_lower_case(text: str) -> None:
    address = parse_path(text)
    local, _, domain = text.partition("@")
    assert (address.local, address.domain, address.text) == (local, domain.lower(), text)
    assert address.canonical == text.lower()


@given(plain)
def test_case_and_needless_quotes_give_the_same_key(text: str) -> None:
    key = parse_path(text).canonical
    local, _, domain = text.partition("@")
    assert parse_path(text.upper()).canonical == key
    assert parse_path(f'"{local}"@{domain}').canonical == key
    assert parse_path('"' + "".join("\\" + char for char in local) + f'"@{domain.upper()}').canonical == key


@given(quotable)
def test_any_printable_local_part_can_be_quoted(content: str) -> None:
    assume("=?" not in content)
    written = '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'
    address = parse_path(f"{written}@example.com")
    assert parse_path(address.mailbox) == parse_path(address.mailbox)
    assert parse_path(address.mailbox).canonical == address.canonical
    assert address.mailbox.count("@") == 1 + content.count("@")


@given(free_text | international | st.tuples(free_text | letters, domains | free_text).map("@".join))
@example("ΟΔΟΣ@example.com")
@example("ŉ" * 20 + "@example.com")
@example("a@" + "ß" * 20 + ".com")
@example("a@\u0130.com")
def test_whatever_is_accepted_stays_the_same_mailbox(text: str) -> None:
    address = accepted(text)
    if address is None:
        return
    again = parse_path(address.mailbox, allow_literal=True, allow_single_label=True)
    assert (again.mailbox, again.canonical) == (address.mailbox, address.canonical)
    assert address.domain.isascii()
    assert address.domain == address.domain.lower() or address.is_literal
    assert len(address.mailbox.encode()) <= 254


@given(letters | st.text(max_size=30))
def test_the_key_of_unicode_local_parts_ignores_case(local: str) -> None:
    address = accepted(f"{local}@example.com")
    if address is None:
        return
    for other in (local.lower(), local.casefold()):
        with contextlib.suppress(AddressError):
            assert parse_path(f"{other}@example.com").canonical == address.canonical


@given(free_text | st.binary())
def test_header_fields_give_addresses_or_an_address_error(value: str | bytes) -> None:
    try:
        found = parse_header_address(value)
    except AddressError as error:
        assert str(error).isprintable() or "'" in str(error)
    else:
        assert found
        for mailbox in found:
            assert parse_path(mailbox.address.mailbox).mailbox == mailbox.address.mailbox


@given(st.lists(st.tuples(st.text(max_size=60), plain), min_size=1, max_size=5))
def test_written_mailboxes_are_read_back(mailboxes: list[tuple[str, str]]) -> None:
    fields: list[bytes] = []
    for name, text in mailboxes:
        try:
            fields.append(format_mailbox(name, parse_path(text)))
        except AddressError:
            assume(False)
    found = parse_header_address(b", ".join(fields))
    assert [mailbox.address.mailbox for mailbox in found] == [parse_path(text).mailbox for _, text in mailboxes]
    for mailbox, (name, _) in zip(found, mailboxes, strict=True):
        if name.isprintable():
            assert mailbox.name == name.strip()


@given(st.text())
def test_encoded_words_are_read_back(text: str) -> None:
    written = encodedword.encode(text)
    if not text.isascii() or "=?" in text:
        assert all(len(word) <= 75 for word in written.split("\r\n "))
        assert encodedword.decode(written.replace("\r\n", "")) == text.encode("utf-8", "replace").decode()


@given(st.text(st.sampled_from("=?utf-8bqBQ_é \t\n*") | st.characters(), max_size=80))
def test_decoding_never_fails(text: str) -> None:
    assert isinstance(encodedword.decode(text), str)
