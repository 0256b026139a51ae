"""Where may be posted to: which URLs can be kept, and which addresses can be connected to.

A tenant chooses the URL, so it must not lead into our own network. ``parse`` refuses what is wrong with the text: other
schemes, user names, odd ports, IPv4 addresses in decimal, octal, hexadecimal or shortened form. ``permitted`` is asked
of each address a name has, right before connecting to that very address: the answer of the DNS at another time, or to
somebody else, counts for nothing. Everything that is not plainly public is refused, also inside of IPv6 forms that hold
an IPv4 address; the operator's options can allow single networks.

Errors: the INVALID_ARGUMENT Refusal from ``parse``. Pure.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from control.model import addresses
from control.model.fields import invalid
from mta.runtime.networks import is_public

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 2000
_PORTS = {"https": 443, "http": 80}
_FIRST_FREE_PORT = 1024
_URL = re.compile(r"[!-~]+")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL, taken apart. ``host`` is a name as A-labels, or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host field says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in its kept form."""
        return f"{self.scheme}://{self.authority}{self.path}"

    def literal(self) -> Address | None:
        """The host as an address, if it is one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


class Rules:
    """What the operator permits. ``demo`` permits this machine itself, by http too."""

    def __init__(self, allow_http: bool, allowed_networks: Iterable[str], demo: bool) -> None:
        self._allow_http = allow_http
        self._demo = demo
        networks = [ipaddress.ip_network(text) for text in allowed_networks]
        self._allowed: tuple[Network, ...] = (*networks, *(_LOOPBACK if demo else ()))

    def parse(self, url: str, field: str) -> Target:
        """The target that a URL names."""
        if len(url) > MAX_URL:
            raise invalid(field, f"{field} must have at most {MAX_URL} characters; it has {len(url)}")
        if not _URL.fullmatch(url):
            raise invalid(field, f"{field} must be printable ASCII without spaces; encode other characters with %")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise invalid(field, f"{field} is not a URL: write https://host/path") from None
        scheme = parts.scheme.lower()
        odd = "\\" in url or ("[" in parts.netloc and ":" not in (parts.hostname or ""))
        if scheme not in _PORTS or not parts.hostname or odd:
            raise invalid(field, f"{field} must have the form https://host/path")
        if "@" in parts.netloc:
            raise invalid(field, f"{field} must not contain a user name or password; use a header field instead")
        if "#" in url:
            raise invalid(field, f"{field} must not contain a fragment (#...)")
        if port is not None and port < _FIRST_FREE_PORT and port not in _PORTS.values():
            raise invalid(field, f"{field} must use port 443, 80 or one above {_FIRST_FREE_PORT - 1}; it has {port}")
        path = parts.path or "/"
        if not path.startswith("/"):
            raise invalid(field, f"{field} must have the form https://host/path")
        query = f"?{parts.query}" if parts.query else ""
        target = Target(scheme, _host(parts.hostname, field), port or _PORTS[scheme], path + query)
        self._check_scheme(target, field)
        address = target.literal()
        if address is not None and not self.permitted(address):
            raise invalid(field, f"{field} names {address}, which is not a public address")
        return target

    def permitted(self, address: Address) -> bool:
        """Whether an address may be connected to."""
        if any(address.version == network.version and address in network for network in self._allowed):
            return True
        return is_public(address)

    def _check_scheme(self, target: Target, field: str) -> None:
        if target.scheme == "https" or self._allow_http:
            return
        address = target.literal()
        here = target.host == "localhost" or (address is not None and address.is_loopback)
        if not (self._demo and here):
            raise invalid(field, f"{field} must begin with https://")


def _host(host: str, field: str) -> str:
    """The host in its canonical form. What some resolvers take for an address, and others for a name, is refused."""
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise invalid(field, f'{field}: "{host[:100]}" is not an IPv6 address') from None
        if address.scope_id is not None:
            raise invalid(field, f"{field} must not name a network interface (%...)")
        return str(address)
    name = host.removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise invalid(
                field, f'{field}: write the IPv4 address "{host[:100]}" as four decimal numbers without leading zeros'
            ) from None
    return addresses.domain_name(name, field, labels=1)
