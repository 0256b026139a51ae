"""Signed tokens of links: what they say is what was signed, for one purpose; nothing else is believed."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mta.runtime import links
from mta.runtime.keyring import KeyRing
from mta.runtime.links import InvalidToken, Link, Purpose

OLD, RING = KeyRing(b"o" * 32), KeyRing(b"k" * 32)
ROTATED = KeyRing(RING.sealing, (OLD.sealing,))
REFERENCE = bytes(range(16))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

references = st.binary(min_size=16, max_size=16)
urls = st.from_regex(
    r"https?://[a-z0-9.-]{1,20}[a-z](:[0-9]{1,4})?(/[a-zA-Z0-9%&=?#~._+;,:@-]{0,80})?", fullmatch=True
).filter(links.is_target)
wanted = st.one_of(
    st.builds(Link, st.just(Purpose.CLICK), references, urls),
    st.builds(Link, st.sampled_from([Purpose.OPEN, Purpose.UNSUBSCRIBE]), references),
)


@given(link=wanted)
def test_a_token_says_what_was_signed(link: Link) -> None:
    token = links.sign(RING, link)
    assert links.verify(RING, token) == links.verify(RING, token, link.purpose) == link
    assert set(token) <= set(ALPHABET)
    for purpose in Purpose:
        if purpose is not link.purpose:
            with pytest.raises(InvalidToken):
                links.verify(RING, token, purpose)


@given(link=wanted, data=st.data())
def test_a_token_with_one_character_changed_is_none(link: Link, data: st.DataObject) -> None:
    token = links.sign(RING, link)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from([character for character in ALPHABET if character != token[place]]))
    with pytest.raises(InvalidToken):
        links.verify(RING, token[:place] + other + token[place + 1 :])


@given(text=st.one_of(st.text(), st.text(ALPHABET, min_size=40, max_size=200)))
@example("")
@example("A" * 10_000)
@example("\ud800" * 60)
def test_what_was_not_signed_is_no_token(text: str) -> None:
    with pytest.raises(InvalidToken):
        links.verify(RING, text)


@given(link=wanted, cut=st.integers(1, 10), more=st.text(ALPHABET + "=+/ .\n", min_size=1, max_size=4))
def test_a_token_cut_or_continued_is_none(link: Link, cut: int, more: str) -> None:
    token = links.sign(RING, link)
    for changed in (token[:-cut], token + more, more + token, token + "=="):
        with pytest.raises(InvalidToken):
            links.verify(RING, changed)


def test_keys_rotate_and_go() -> None:
    link = Link(Purpose.CLICK, REFERENCE, "https://a.test/")
    before, after = links.sign(OLD, link), links.sign(ROTATED, link)
    assert links.verify(ROTATED, before) == links.verify(ROTATED, after) == links.verify(RING, after) == link
    # A key can be everywhere before it signs, and its tokens end with it.
    assert links.verify(KeyRing(OLD.sealing, (), RING.sealing), after) == link
    with pytest.raises(InvalidToken):
        links.verify(RING, before)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "JaVaScRiPt://a.test/%0aalert(1)", "data:text/html,x", "//evil.test", "/\\evil.test",
        "\\\\evil.test", "http:evil.test", "http:/evil.test", "https:\\\\evil.test", "ftp://a.test/", "http://",
        "https:///path", "http://a.test/\r\nSet-Cookie: x=1", "http://a.test/\0", "http://a.test/ x", "http://ä.test/",
        "http://[::1", " http://a.test", "http://a.test\t", "", "http://a.test/" + "a" * links.MAX_URL,
        'http://a.test/"onclick', "http://a.test/<script>", "mailto:a@b.test", "\ud800",
    ],
)  # fmt: skip
def test_nothing_else_is_signed_than_web_addresses(url: str) -> None:
    assert not links.is_target(url)
    with pytest.raises(ValueError, match="token carries"):
        links.sign(RING, Link(Purpose.CLICK, REFERENCE, url))


def test_other_purposes_carry_no_address_and_references_have_sixteen_octets() -> None:
    for link in (
        Link(Purpose.OPEN, REFERENCE, "https://a.test/"),
        Link(Purpose.OPEN, b"short"),
        Link(Purpose.CLICK, REFERENCE),
    ):
        with pytest.raises(ValueError, match="token carries"):
            links.sign(RING, link)


def test_a_signed_address_that_the_rules_do_not_take_any_more_leads_nowhere() -> None:
    token = links.Signer(RING, REFERENCE).token(Purpose.CLICK, "javascript:alert(1)")
    with pytest.raises(InvalidToken):
        links.verify(RING, token)


def test_references_are_new_and_tell_their_time() -> None:
    made = [links.new_reference() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(abs((links.made_at(one) or 0) - time.time()) < 60 for one in made)
    assert links.made_at(bytes(16)) is None
    assert links.made_at(b"") is None
