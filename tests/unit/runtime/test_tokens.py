"""Access tokens: what is signed comes back, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.runtime.tokens import LIFE_SECONDS, MAX_TOKEN, PREFIX, Claims, TokenKey

KEY = TokenKey(bytes(range(32)))
NAMES = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=1, max_size=12)


@given(NAMES, st.integers(1, 2**60), st.sets(NAMES, max_size=20), st.integers(0, 2**40))
def test_a_token_says_what_it_was_issued_for(client_id: str, generation: int, scopes: set[str], now: int) -> None:
    token = KEY.issue(client_id, generation, scopes, now)
    assert KEY.read(token) == Claims(client_id, generation, frozenset(scopes), now, now + LIFE_SECONDS)
    assert token.startswith(PREFIX)
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token
    assert len(token) <= MAX_TOKEN


def test_two_tokens_are_never_the_same() -> None:
    assert KEY.issue("a", 1, ["mail"], 0) != KEY.issue("a", 1, ["mail"], 0)


@given(st.data())
def test_a_token_that_was_changed_is_none(data: st.DataObject) -> None:
    token = KEY.issue("client", 1, ["mail"], 0)
    place = data.draw(st.integers(0, len(token) - 1))
    changed = token[:place] + data.draw(st.characters(codec="ascii")) + token[place + 1 :]
    if changed != token:
        with pytest.raises(ValueError, match=r"token|signature"):
            KEY.read(changed)


@pytest.mark.parametrize(
    "text",
    ["", "bt_", "bt_.", "bt_e30.", "bk_abcdefabcdef_x", "bt_\ud800.x", "bt_é.é", "bt_" + "a" * 1500, "bt_e30=.x"],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(ValueError, match=r"token|signature"):
        KEY.read(text)


def test_another_key_does_not_take_it() -> None:
    with pytest.raises(ValueError, match="signature"):
        TokenKey(b"\1" * 32).read(KEY.issue("client", 1, ["mail"], 0))


def test_scopes_are_those_of_the_token_and_the_client() -> None:
    claims = KEY.read(KEY.issue("client", 1, ["mail", "domains"], 0))
    assert claims.effective_scopes(["mail", "credits"]) == {"mail"}
