"""Credentials: only what can be forwarded is, in one form."""

import base64

import pytest

from api_bridge import credentials


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize(
    "header", [f"Basic {b64('user:pass:word')}", f"basic  {b64('user:pass:word')} ", f"BASIC {b64('user:pass:word')}"]
)
def test_a_login_is_forwarded_in_one_form(header: str) -> None:
    assert credentials.basic([header]) == f"Basic {b64('user:pass:word')}"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Basic"],
        ["Basic "],
        ["Basic !!!"],
        [f"Bearer {b64('a:b')}"],
        [f"Basic {b64('nocolon')}"],
        [f"Basic {b64(':nouser')}"],
        [f"Basic {b64(bytes([0xFF, 0x3A, 0x41]))}"],
        [f"Basic {b64('a:' + 'x' * 1600)}"],
        [f"Basic {b64('a:b')}", f"Basic {b64('a:b')}"],
        ["Basic " + b64("a:b")[:-1] + "é"],
    ],
)
def test_malformed_logins_are_none(headers: list[str]) -> None:
    assert credentials.basic(headers) is None


@pytest.mark.parametrize("password", ["\u043f" * 256, "\U0001f600" * 256, "abc\u00a0defgh", "zero\u200bwidth", "a\tb"])
def test_every_login_that_control_may_have_is_forwarded(password: str) -> None:
    login = b64("\U0001f600" * 128 + ":" + password)
    assert credentials.basic([f"Basic {login}"]) == f"Basic {login}"


def test_api_keys() -> None:
    key = "bk_abcdefghijkl_" + "abcdefghijklmnopqrstuvwxyz234567"
    assert credentials.api_key(key) == f"Bearer {key}"
    for other in ("", "a b", "é", key + "a", key[:-1], key.upper(), key.replace("a", "1"), key + "\n", "operator" * 6):
        assert credentials.api_key(other) is None
