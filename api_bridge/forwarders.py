"""Reverse proxies before the bridge: who the client is when one of them connects.

Only a proxy in ``bridge.trusted_forwarders`` is believed. Of ``X-Forwarded-For``, to which each proxy adds the address
that connected to it, the last one that is not a trusted proxy's is the client: what stands before that, the client may
have written itself. ``X-Forwarded-Proto`` says what the client spoke to the last proxy. Fields that cannot be read end
the walk at the last address that was known. ``Forwarded`` (RFC 7239) is not read. Pure.
"""

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from mta.runtime import networks

MAX_HOPS = 20
"""Addresses that are looked at, from the end."""

_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class Forwarders:
    """The trusted proxies. False if there are none."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = tuple(trusted)

    def __bool__(self) -> bool:
        return bool(self._trusted)

    def apply(self, scope: MutableMapping[str, Any]) -> None:
        """Put the client's address and scheme into an ASGI scope, if a trusted proxy sent the request."""
        client = scope.get("client")
        if client is None or not networks.allowed(self._trusted, client[0]):
            return
        chain: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                chain += value.split(b",")
            elif name == b"x-forwarded-proto":
                last = value.rpartition(b",")[2].strip().lower()
                if last in (b"http", b"https"):
                    scope["scheme"] = last.decode()
        scope["client"] = (self._client(client[0], chain), 0)

    def _client(self, peer: str, chain: list[bytes]) -> str:
        for item in chain[: -MAX_HOPS - 1 : -1]:
            address = _address(item)
            if address is None:
                return peer
            peer = address
            if not networks.allowed(self._trusted, address):
                return peer
        return peer


def _address(item: bytes) -> str | None:
    text = item.decode("latin-1").strip()
    match = _PORT.fullmatch(text)
    return networks.canonical((match[1] or match[2]) if match else text)
