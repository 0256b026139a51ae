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
        [f"Basic {b64(chr(10) + 'a:b')}"],
        [f"Basic {b64('a:b' + chr(0))}"],
        [f"Basic {b64(bytes([0xFF, 0x3A, 0x41]))}"],
        [f"Basic {b64('a:' + 'x' * 600)}"],
        [f"Basic {b64('a:b')}", f"Basic {b64('a:b')}"],
        ["Basic " + b64("a:b")[:-1] + "é"],
    ],
)
def test_malformed_logins_are_none(headers: list[str]) -> None:
    assert credentials.basic(headers) is None


def test_api_keys() -> None:
    assert credentials.api_key("bk_abc_def") == "Bearer bk_abc_def"
    for key in ("", "a b", "a\r\nb", "é", "x" * 201, "\x7f"):
        assert credentials.api_key(key) is None
