"""Where calls come from: who is believed about addresses, and whom certificates name."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.peers import Holder, Identity, Peer, Peers, identity_in
from mta.runtime.options import CertificateIdentity, ControlOptions, ControlTlsOptions, OptionsError


class Context:
    """What a call says of its connection."""

    def __init__(self, peer: str, certificate: dict[str, list[bytes]] | None = None) -> None:
        self._peer = peer
        self._certificate = certificate or {}

    def peer(self) -> str:
        """In the spelling of gRPC."""
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        """As gRPC tells it."""
        return self._certificate


def of(peers: Peers, peer: str, said: str = "", certificate: dict[str, list[bytes]] | None = None) -> Peer:
    return peers.of(cast(Any, Context(peer, certificate)), {"x-barua-peer": said} if said else {})


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("ipv4:127.0.0.1:5", "", "127.0.0.1"),
        ("ipv4:127.0.0.1:5", "192.0.2.1", "192.0.2.1"),
        ("ipv4:127.0.0.1:5", "::ffff:192.0.2.1", "192.0.2.1"),
        ("ipv6:%5B::1%5D:5", "2001:DB8::1", "2001:db8::1"),
        ("ipv4:127.0.0.1:5", "nonsense", "127.0.0.1"),
        ("ipv4:198.51.100.1:5", "192.0.2.1", "198.51.100.1"),
        ("unix:", "192.0.2.1", "192.0.2.1"),
        ("unix:/run/x", "", None),
    ],
)
def test_forwarders_alone_are_believed(peer: str, said: str, address: str | None) -> None:
    assert of(Peers(ControlOptions()), peer, said).address == address


def test_who_forwards_is_an_option() -> None:
    peers = Peers(ControlOptions(forwarders=["198.51.100.0/24"]))
    assert of(peers, "ipv4:198.51.100.1:5", "192.0.2.1").address == "192.0.2.1"
    assert of(peers, "ipv4:127.0.0.1:5", "192.0.2.1").address == "127.0.0.1"
    nobody = Peers(ControlOptions(forwarders=[]))
    assert of(nobody, "ipv4:127.0.0.1:5", "192.0.2.1").address == "127.0.0.1"
    with pytest.raises(OptionsError, match=r"control\.forwarders"):
        Peers(ControlOptions(forwarders=["10.0.0.1/8"]))


@pytest.mark.parametrize(
    ("uris", "common_names", "identity"),
    [
        (["barua:operator"], ["x"], Identity(Holder.OPERATOR)),
        (["https://x.test/", "barua:node/n1"], [], Identity(Holder.NODE, "n1")),
        (["barua:tenant/shop"], ["bridge"], Identity(Holder.TENANT, "shop")),
        ([], ["bridge"], Identity(Holder.TENANT, "acme")),
        (["https://x.test/"], ["bridge"], Identity(Holder.TENANT, "acme")),
        (["barua:operator", "barua:node/n1"], ["bridge"], None),
        (["barua:nonsense"], ["bridge"], None),
        ([], ["Bridge"], None),
        ([], ["bridge", "bridge"], None),
        ([], [], None),
    ],
)
def test_whom_a_certificate_names(uris: list[str], common_names: list[str], identity: Identity | None) -> None:
    tls = ControlTlsOptions(identities=[CertificateIdentity(common_name="bridge", identity="tenant/acme")])
    certificate = {
        "peer_uri": [uri.encode() for uri in uris],
        "x509_common_name": [name.encode() for name in common_names],
    }
    assert of(Peers(ControlOptions(tls=tls)), "ipv4:192.0.2.1:5", "", certificate).identity == identity


@pytest.mark.parametrize("text", ["", "root", "tenant/", "tenant/me", "operator/", "node", "Tenant/x"])
def test_an_identity_that_names_nobody_stops_the_start(text: str) -> None:
    tls = ControlTlsOptions(identities=[CertificateIdentity(common_name="x", identity=text)])
    with pytest.raises(OptionsError, match="names nobody"):
        Peers(ControlOptions(tls=tls))


@given(st.text())
def test_an_identity_has_one_spelling(text: str) -> None:
    identity = identity_in(text)
    assert identity is None or str(identity) == text
