"""RFC 2047 encoded-words."""

import pytest

from mta.message import encodedword


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?caf=C3=A9?=", "café"),
        ("=?UTF-8?B?Y2Fmw6k=?=", "café"),
        ("=?utf-8?B?Y2Fmw6k?=", "café"),
        ("=?iso-8859-1?Q?caf=E9_au_lait?=", "café au lait"),
        ("=?utf-8*en?q?hello?=", "hello"),
        ("a =?utf-8?q?b?= c", "a b c"),
        ("=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
        ("=?utf-8?q?a?=\t =?utf-8?q?b?= c", "ab c"),
        ("=?utf-8?q?a?= x =?utf-8?q?b?=", "a x b"),
        ("=?shift_jis?b?g2WDWINn?=", "テスト"),
        ("=?hz-gb-2312?q?~{VP~}?=", "中"),
        ("=?utf-8?q?broken=?=", "broken="),
        ("=?utf-8?q?=FF?=", "\ufffd"),
        ("=?utf-8?b?a?=", "=?utf-8?b?a?="),
        ("=?rot13?q?uryyb?=", "=?rot13?q?uryyb?="),
        ("=?unicode_escape?q?=5Cu0041?=", "=?unicode_escape?q?=5Cu0041?="),
        ("=?no-such-charset?q?a?=", "=?no-such-charset?q?a?="),
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("=?utf-8?q?a b?=", "=?utf-8?q?a b?="),
        ("=?utf-8?q?open", "=?utf-8?q?open"),
    ],
)
def test_decoded(text: str, decoded: str) -> None:
    assert encodedword.decode(text) == decoded


def test_words_are_short_and_never_split_a_character() -> None:
    text = "é€😀a" * 50
    words = encodedword.encode(text).split("\r\n ")
    assert all(len(word) <= 75 for word in words)
    assert "".join(encodedword.decode(word) for word in words) == text
    assert encodedword.decode(" ".join(words)) == text


def test_ascii_stays_unless_it_looks_encoded() -> None:
    assert encodedword.encode("hello") == "hello"
    assert encodedword.decode(encodedword.encode("=?utf-8?q?a?=")) == "=?utf-8?q?a?="
