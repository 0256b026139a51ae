"""Networks and addresses: one spelling each, and what is in what."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.runtime import networks


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::1"),
        ("ipv6:[::ffff:192.0.2.1]:5000", "192.0.2.1"),
        ("unix:/run/x", None),
        ("unix:", None),
        ("ipv4:", None),
        ("", None),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str | None) -> None:
    assert networks.address_of(peer) == address


@pytest.mark.parametrize(
    ("allowed", "address", "is_in"),
    [
        ([], None, True),
        ([], "192.0.2.1", True),
        (["192.0.2.0/24"], "192.0.2.255", True),
        (["192.0.2.0/24"], "192.0.3.0", False),
        (["192.0.2.0/24"], "::ffff:192.0.2.9", True),
        (["2001:db8::/32"], "2001:db8:1::1", True),
        (["2001:db8::/32"], "192.0.2.1", False),
        (["::ffff:192.0.2.0/120"], "192.0.2.9", True),
        (["::ffff:0:0/95"], "192.0.2.9", False),
        (["192.0.2.1"], None, False),
        (["192.0.2.1"], "", False),
        (["192.0.2.1"], "no address", False),
        (["nonsense", "192.0.2.1"], "192.0.2.1", True),
        (["nonsense"], "192.0.2.1", False),
    ],
)
def test_what_is_allowed(allowed: list[str], address: str | None, is_in: bool) -> None:
    assert networks.allowed(allowed, address) is is_in


@pytest.mark.parametrize("text", ["", "192.0.2.1/24", "192.0.2.0/33", "x", "fe80::1%eth0", "192.0.2.0/255.0.255.0"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        networks.parse(text)


@given(st.ip_addresses())
def test_an_address_is_in_its_own_network_and_block(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    text = str(address)
    assert networks.allowed([str(networks.parse(text))], text)
    canonical = networks.canonical(text)
    assert canonical is not None
    assert networks.block(text) == networks.block(canonical)
    block = networks.block(text)
    assert ("/" in block) == (ipaddress.ip_address(canonical).version == 6)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert networks.is_public(ipaddress.ip_address(address)) is public
