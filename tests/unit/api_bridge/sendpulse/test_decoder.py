"""The decoder: what each spelling gives, what it refuses, and how long hostile input takes."""

import contextlib
import json
import time
from typing import Any

import pytest

from api_bridge.dialects.sendpulse import decoder, forms, phpserial
from api_bridge.dialects.sendpulse.decoder import Undecodable

EMAIL = {"subject": "ä", "to": [{"email": "a@example.net"}]}
PHP = 'a:2:{s:7:"subject";s:2:"ä";s:2:"to";a:1:{i:0;a:1:{s:5:"email";s:13:"a@example.net";}}}'


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (json.dumps({"email": EMAIL}), "application/json"),
        (json.dumps({"email": json.dumps(EMAIL)}), "application/json"),
        (json.dumps({"email": PHP}), "application/json"),
        (json.dumps({"email": EMAIL}), "application/x-www-form-urlencoded"),
        ("\ufeff" + json.dumps({"email": EMAIL}), ""),
        ("email=" + PHP.replace("ä", "%C3%A4"), ""),
        ("email=" + json.dumps(EMAIL), "application/x-www-form-urlencoded"),
        ("email[subject]=%C3%A4&email[to][0][email]=a%40example.net", ""),
        ("email%5Bsubject%5D=%C3%A4&email%5Bto%5D%5B%5D%5Bemail%5D=a%40example.net", ""),
    ],
)
def test_every_spelling_gives_the_same(body: str, kind: str) -> None:
    assert decoder.parameters(b"", body.encode(), kind).structure("email") == EMAIL


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", {}),
        (b"limit=5&to=", {"limit": "5", "to": ""}),
        (b"%7B%22limit%22:%200,%20%22to%22:%20null%7D", {"limit": 0}),
        (b'{"sender":%20"a+b=c&d@example.net"}', {"sender": "a+b=c&d@example.net"}),
        (b"{}", {}),
    ],
)
def test_queries(query: bytes, found: dict[str, Any]) -> None:
    parameters = decoder.parameters(query, b"", "")
    assert {name: parameters.get(name) for name in found} == found


def test_the_body_goes_before_the_query_and_null_is_absence() -> None:
    parameters = decoder.parameters(b"limit=1&offset=2", b'{"limit": 3, "offset": null}', "")
    assert (parameters.text("limit"), parameters.text("offset"), parameters.text("none")) == ("3", "2", "")
    assert parameters.text("none", "offset", "limit") == "2"


@pytest.mark.parametrize("body", [b"", b" \n", b"[]", b"{}"])
def test_no_parameters(body: bytes) -> None:
    parameters = decoder.parameters(b"", body, "application/json")
    assert parameters.bare is None and parameters.get("email") is None


def test_a_bare_array() -> None:
    assert decoder.parameters(b"", b'["a", "b"]', "").bare == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", ""),
        (b'{"a": 1, "a": 2}', ""),
        (b'{"a": NaN}', ""),
        (b'{"a": "\\ud800"}', ""),
        (b"[" * 100_000, ""),
        (b'"text"', "application/json"),
        (b"a=%ff", ""),
        (b"a[" + b"[" * 20, "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=b"),
        (b"a" + b"[a]" * 17 + b"=1", ""),
        (b"&".join([b"a=1"] * 30_000), ""),
    ],
)
def test_bodies_that_nobody_writes(body: bytes, kind: str) -> None:
    with pytest.raises(Undecodable):
        decoder.parameters(b"", body, kind)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("N;", None),
        ("b:1;", True),
        ("i:-12;", -12),
        ("d:0.5;", 0.5),
        ("d:1.0E+25;", 1e25),
        ('s:0:"";', ""),
        ('s:3:"";"";', '";"'),
        ("a:0:{}", []),
        ("a:2:{i:0;i:1;i:1;i:2;}", [1, 2]),
        ("a:2:{i:1;i:1;i:2;i:2;}", {"1": 1, "2": 2}),
        ('a:1:{s:1:"0";i:1;}', [1]),
        ('s:14:"Ünïcode 😀";', "Ünïcode 😀"),
        ('s:10:"Ünïcode 😀";', "Ünïcode 😀"),
        ('s:9:"Ünïcode 😀";', "Ünïcode 😀"),
    ],
)
def test_php(text: str, value: Any) -> None:
    """Strings whose length counts octets, UTF-16 units or characters, too."""
    assert phpserial.parse(text) == value
    assert phpserial.is_serialized(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "i:1", "i:;", "i:1;i:2;", "b:2;", "d:x;", "d:INF;", "d:NAN;", "d:1e999;", "s:5:abc;"),
        *('s:9:"abc";', 's:-1:"";', 's:99999999999:"a";', "a:1:{}", "a:2:{i:0;i:1;}", "a:1:{i:0;}", "a:1:{N;i:1;}"),
        *("a:999999999:{", "a:2:{i:0;i:1;i:0;i:2;}", 'O:8:"stdClass":0:{}', 'C:1:"A":0:{}', "R:1;", "r:1;", "E:1;"),
        *("a:1:{i:0;" * 100, "i:" + "9" * 100 + ";", 's:1:"\ud800";', "i:1;\0"),
    ],
)
def test_php_that_is_refused(text: str) -> None:
    with pytest.raises(phpserial.SerialError):
        phpserial.parse(text)


def test_php_has_limits() -> None:
    deep = "a:1:{i:0;" * (phpserial.MAX_DEPTH + 1) + "N;" + "}" * (phpserial.MAX_DEPTH + 1)
    many = f"a:{phpserial.MAX_VALUES}:{{" + "".join(f"i:{n};N;" for n in range(phpserial.MAX_VALUES)) + "}"
    for text in (deep, many):
        with pytest.raises(phpserial.SerialError):
            phpserial.parse(text)


def test_multipart() -> None:
    body = (
        b'preamble\r\n--b\r\nContent-Disposition: form-data; name="email[to][]"; filename="x"\r\n'
        b"Content-Type: text/plain\r\n\r\na\r\nb\r\n--b\r\n"
        b"content-disposition: form-data; name=plain\r\n\r\n\r\n--b--\r\n"
    )
    assert forms.multipart(body, 'multipart/form-data; boundary="b"') == {"email": {"to": ["a\r\nb"]}, "plain": ""}
    for bad in (
        b"--b\r\n\r\nno name\r\n--b--",
        b"--b\r\nhead only--b--",
        b"--b\r\nContent-Disposition: form-data\r\n\r\n",
    ):
        with pytest.raises(forms.FormError):
            forms.multipart(bad, "multipart/form-data; boundary=b")


@pytest.mark.parametrize(
    "hostile",
    [
        lambda size: ("", "email=" + 's:1:"' * (size // 6)),
        lambda size: ("", "email=a:9:{" + 'i:1;s:9:"é";' * (size // 14)),
        lambda size: ("", "email=" + "a:1:{i:0;" * (size // 9)),
        lambda size: ("", 'email=s:900000000:"' + "é" * (size // 2)),
        lambda size: ("", "a[" * (size // 2) + "=1"),
        lambda size: ("", "&" * size),
        lambda size: ("", "%5B" * (size // 3)),
        lambda size: ("multipart/form-data; boundary=b", "--b\r\n" * (size // 5)),
        lambda size: ("multipart/form-data; boundary=b", '--b\r\nContent-Disposition: name="' + '\\"' * (size // 2)),
        lambda size: ("", '{"email": "' + "{" * size + '"}'),
    ],
)
def test_hostile_input_takes_linear_time(hostile: Any) -> None:
    """Ten times the size takes about ten times the time; a quadratic reader would take hundreds of times as long."""

    def seconds(size: int) -> float:
        kind, body = hostile(size)
        data = body.encode()
        best = 60.0
        for _ in range(3):
            started = time.thread_time()
            with contextlib.suppress(Undecodable):
                decoder.parameters(b"", data, kind).structure("email")
            best = min(best, time.thread_time() - started)
        return best

    assert seconds(400_000) < 40 * seconds(40_000) + 0.05
