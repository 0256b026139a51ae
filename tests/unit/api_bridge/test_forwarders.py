"""Who the client is behind reverse proxies."""

from typing import Any

import pytest

from api_bridge.forwarders import MAX_HOPS, Forwarders

TRUSTED = Forwarders(["10.1.0.0/16", "2001:db8::/64", "127.0.0.1"])


def applied(peer: str, *fields: tuple[str, str]) -> tuple[str, str]:
    headers = [(name.encode(), value.encode()) for name, value in fields]
    scope: dict[str, Any] = {"client": (peer, 4711), "scheme": "http", "headers": headers}
    TRUSTED.apply(scope)
    return scope["client"][0], scope["scheme"]


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("192.0.2.66, 198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, 10.1.2.3,10.1.9.9", "198.51.100.7"),
        ("10.1.2.3", "10.1.2.3"),
        ("2001:0DB8:1::1", "2001:db8:1::1"),
        ("[2001:db8:1::1]:443", "2001:db8:1::1"),
        ("198.51.100.7:5000", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, unknown", "10.1.0.1"),
        ("unknown, 10.1.2.3", "10.1.2.3"),
        ("", "10.1.0.1"),
        (",,,", "10.1.0.1"),
        ("198.51.100.7\0", "10.1.0.1"),
        ("198.51.100.7, 10.1.2.3" + ", 10.1.2.4" * MAX_HOPS, "10.1.2.4"),
    ],
)
def test_the_last_that_is_no_proxy_is_the_client(chain: str, client: str) -> None:
    assert applied("10.1.0.1", ("x-forwarded-for", chain)) == (client, "http")


def test_several_fields_are_one_list() -> None:
    fields = [("x-forwarded-for", "192.0.2.66"), ("x-forwarded-for", "198.51.100.7, 10.1.2.3")]
    assert applied("127.0.0.1", *fields)[0] == "198.51.100.7"


@pytest.mark.parametrize(("proto", "scheme"), [("https", "https"), ("http, HTTPS", "https"), ("https, ftp", "http")])
def test_the_scheme(proto: str, scheme: str) -> None:
    assert applied("2001:db8::5", ("x-forwarded-proto", proto)) == ("2001:db8::5", scheme)


@pytest.mark.parametrize("peer", ["198.51.100.1", "10.2.0.1", "2001:db8:0:1::1", "", "::ffff:10.2.0.1"])
def test_nobody_else_is_believed(peer: str) -> None:
    fields = [("x-forwarded-for", "192.0.2.66"), ("x-forwarded-proto", "https")]
    assert applied(peer, *fields) == (peer, "http")


def test_an_ipv4_proxy_on_a_dual_socket_is_known() -> None:
    assert applied("::ffff:10.1.0.1", ("x-forwarded-for", "192.0.2.66"))[0] == "192.0.2.66"


def test_no_proxies() -> None:
    assert not Forwarders([])
    scope: dict[str, Any] = {"client": None, "headers": [(b"x-forwarded-for", b"192.0.2.1")]}
    TRUSTED.apply(scope)
    assert scope["client"] is None
