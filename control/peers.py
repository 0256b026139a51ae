"""Where a call comes from: the address on whose behalf it is made, and whom its client certificate names.

The address is that of the connection. Only a peer in ``control.forwarders``, by default this machine, or on a Unix
socket may say in the metadata ``x-barua-peer`` for whom it calls: that is how the bridge tells its client's address.
Whoever can run programs on such a machine can say any address there, so allow lists of networks are a second lock
beside the secret, never the only one.

A certificate names its holder by one URI of the scheme ``barua`` among its subject alternative names:
``barua:operator``, ``barua:node/{name}`` or ``barua:tenant/{id}``. One without any may be known by its common name, as
``control.tls.identities`` says. A certificate that names nobody, or more than one, is no credential.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc

from control.model.names import is_tenant_id
from mta.runtime import networks
from mta.runtime.options import ControlOptions, OptionsError

PEER_KEY = "x-barua-peer"
"""Metadata with the address of the client of whoever calls."""
SCHEME = "barua:"


class Holder(StrEnum):
    """Whose certificate it is."""

    OPERATOR = "operator"
    NODE = "node"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate names. ``id`` is the node's name or the tenant's id, empty for the operator."""

    holder: Holder
    id: str = ""

    def __str__(self) -> str:
        return f"{self.holder}/{self.id}" if self.id else str(self.holder)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a call. ``address`` is None on a Unix socket."""

    address: str | None
    identity: Identity | None = None

    @property
    def block(self) -> str:
        """What is counted as one peer."""
        return networks.block(self.address) if self.address else "local"


class Peers:
    """Knows who may forward and which common names mean whom. Raises OptionsError if the options do not."""

    def __init__(self, options: ControlOptions) -> None:
        for network in options.forwarders:
            try:
                networks.parse(network)
            except ValueError as error:
                raise OptionsError(f"control.forwarders: {error}") from error
        self._forwarders = tuple(options.forwarders)
        self._by_common_name = {entry.common_name: _configured(entry.identity) for entry in options.tls.identities}

    def of(self, context: "grpc.aio.ServicerContext[Any, Any]", metadata: Mapping[str, str]) -> Peer:
        """The peer of a call."""
        connection = networks.address_of(context.peer())
        return Peer(self._address(connection, metadata.get(PEER_KEY, "")), self._identity(context.auth_context()))

    def _address(self, connection: str | None, forwarded: str) -> str | None:
        trusted = connection is None or (self._forwarders and networks.allowed(self._forwarders, connection))
        return (networks.canonical(forwarded) if trusted and forwarded else None) or connection

    def _identity(self, certificate: Mapping[str, Iterable[bytes]]) -> Identity | None:
        uris = [uri.decode("utf-8", "replace") for uri in certificate.get("peer_uri", ())]
        ours = [uri for uri in uris if uri.startswith(SCHEME)]
        if ours:
            return identity_in(ours[0].removeprefix(SCHEME)) if len(ours) == 1 else None
        names = [name.decode("utf-8", "replace") for name in certificate.get("x509_common_name", ())]
        return self._by_common_name.get(names[0]) if len(names) == 1 else None


def identity_in(text: str) -> Identity | None:
    """The identity in "operator", "node/{name}" or "tenant/{id}"; None if it is none of these."""
    holder, _, id_ = text.partition("/")
    match holder:
        case Holder.OPERATOR if text == Holder.OPERATOR:
            return Identity(Holder.OPERATOR)
        case Holder.NODE | Holder.TENANT if is_tenant_id(id_):
            return Identity(Holder(holder), id_)
        case _:
            return None


def _configured(text: str) -> Identity:
    identity = identity_in(text.removeprefix(SCHEME))
    if identity is None:
        raise OptionsError(
            f'control.tls.identities: "{text}" names nobody; write operator, node/<name> or tenant/<tenant id>'
        )
    return identity
