"""The caller's address is what the connection says, unless a bridge on this machine knows better."""

from typing import Any, cast

import pytest

from mta.node.forwarding import PEER_KEY, _address


class Context:
    """What a call says of where it comes from."""

    def __init__(self, peer: str, said: str | bytes | None = None) -> None:
        self._peer = peer
        self._metadata = () if said is None else ((PEER_KEY, said),)

    def peer(self) -> str:
        """In the spelling of gRPC."""
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """As sent."""
        return self._metadata


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert _address(cast(Any, Context(peer))) == address


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("ipv4:127.0.0.1:5000", "198.51.100.9", "198.51.100.9"),
        ("ipv6:[::1]:5000", "2001:db8::9", "2001:db8::9"),
        ("ipv4:127.0.0.1:5000", "nonsense", "127.0.0.1"),
        ("ipv4:127.0.0.1:5000", b"198.51.100.9", "127.0.0.1"),
        ("ipv4:192.0.2.1:5000", "198.51.100.9", "192.0.2.1"),
        ("ipv6:[::ffff:192.0.2.1]:5000", "198.51.100.9", "192.0.2.1"),
    ],
)
def test_only_this_machine_is_believed_about_others(peer: str, said: str | bytes, address: str) -> None:
    assert _address(cast(Any, Context(peer, said))) == address
