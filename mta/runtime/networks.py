"""Networks in CIDR form and addresses of peers: whether credentials may be used from where a call comes.

``parse`` gives a network its one spelling, ``allowed`` asks whether an address is in one of several, and ``address_of``
reads gRPC's spelling of a peer. An IPv4 address that came in IPv6's clothes ("::ffff:192.0.2.1") counts as what it is.
``is_public`` keeps what customers and the DNS name out of our own networks.

Pure: no I/O.
"""

import ipaddress
from collections.abc import Collection
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAPPED_BITS = 96
"""Of an IPv6 address that stands for an IPv4 address, what comes before that (RFC 4291 §2.5.5.2)."""
# Public by the registries, but not for us: a cloud's metadata, relays and translators into who knows where.
_REFUSED: tuple[Network, ...] = (
    ipaddress.IPv4Network("168.63.129.16/32"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("fec0::/10"),
    ipaddress.IPv6Network("2001::/23"),
    ipaddress.IPv6Network("3fff::/20"),
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
KEPT = 20_000
"""Networks and addresses that are kept in their parsed form."""


@lru_cache(KEPT)
def parse(text: str) -> Network:
    """The network in "192.0.2.0/24", or of the one address in "192.0.2.7". Raises ValueError with what is wrong."""
    if "%" in text:
        raise ValueError("an address with a zone belongs to one machine")
    network = ipaddress.ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < MAPPED_BITS:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED_BITS))


def allowed(networks: Collection[str], address: str | None) -> bool:
    """Whether ``address`` is in one of these networks. No networks: everywhere. An unknown address is in none."""
    if not networks:
        return True
    known = _address(address) if address else None
    return known is not None and any(_contains(network, known) for network in networks)


def address_of(peer: str) -> str | None:
    """The IP address in gRPC's spelling of a peer, such as "ipv4:192.0.2.1:5000"; None if it is not on a network."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    return canonical(host.replace("%25", "%"))


def canonical(address: str) -> str | None:
    """An address in its one spelling, without a zone; None if it is no address."""
    known = _address(address)
    return None if known is None else str(known)


@lru_cache(KEPT)
def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address


def _contains(network: str, address: Address) -> bool:
    try:
        return address in parse(network)
    except ValueError:
        return False  # written by somebody else's version: what cannot be read allows nothing


def block(address: str) -> str:
    """What is counted as one peer: the address, or its /64 for IPv6, since whoever has one of it has them all."""
    known = _address(address)
    if known is None or known.version == 4:
        return address if known is None else str(known)
    return str(ipaddress.ip_network((known, 64), strict=False))


def is_public(address: Address) -> bool:
    """Whether anybody on the Internet could have this address, as far as one can tell from it.

    Special-purpose addresses (RFC 6890) are not, also inside of IPv6 forms that hold an IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = _embedded(address)
        if inner is not None:
            return is_public(inner)
    refused = any(address.version == network.version and address in network for network in _REFUSED)
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    return address.is_global and not special and not address.is_private and not refused


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, where it holds one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
