"""A listening address: accepts connections within limits and closes those that go silent.

The workers share an address (SO_REUSEPORT): the kernel spreads connections over them.
"""

import asyncio
import ipaddress
import ssl
import time
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Counter, Gauge

from mta.custody.intake import Intake
from mta.ingress.auth import Authenticator
from mta.ingress.budget import ReceiveBudget
from mta.ingress.connection import Connection
from mta.policy.lookup import Policy
from mta.runtime.lifecycle import Tasks
from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError
from mta.runtime.refusals import Reason, Refusal
from mta.smtp.serverconfig import AuthenticationOffer, ServerConfig

log = get_logger(__name__)

BACKLOG = 1024
"""Connections the kernel holds until they are accepted."""
MAX_PEERS = 10_000
"""Addresses whose policy is kept."""
SWEEP_SECONDS = 1.0
"""Pause between looks for silent connections."""

CONNECTIONS = Gauge("barua_smtp_connections", "Open SMTP connections.")
REJECTED = Counter("barua_smtp_connections_rejected_total", "Connections turned away.", ["reason"])


@dataclass(frozen=True, slots=True)
class ListenerRules:
    """Settings of one listener."""

    host: str
    port: int
    hostname: str
    implicit_tls: bool
    plaintext_auth: bool
    """Offer AUTH without TLS to peers on loopback."""
    trusted: Sequence[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]
    """Networks that need no AUTH, with the tenant they send for."""
    message_bytes: int
    recipients: int
    connections: int
    connections_per_address: int
    idle_seconds: float


class PeerPolicy(NamedTuple):
    """What holds for connections from one address."""

    trusted_tenant: str
    """The tenant that its network sends for; empty: it must authenticate."""
    authentication: AuthenticationOffer
    config: ServerConfig


class Listener:
    """One address and its connections."""

    def __init__(
        self,
        rules: ListenerRules,
        intake: Intake,
        policy: Policy,
        authenticator: Authenticator,
        tls_context: ssl.SSLContext | None,
        budget: ReceiveBudget,
    ) -> None:
        self._rules = rules
        self.intake = intake
        self.policy = policy
        self.authenticator = authenticator
        self.tls_context = tls_context
        self.budget = budget
        self.tasks = Tasks()
        self.draining = False
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._per_address: Tally[str] = Tally()
        self._configs = {trusted: self._config(trusted) for trusted in (False, True)}
        self._peers: dict[str, PeerPolicy] = {}

    async def start(self) -> None:
        """Begin to accept. Raises OptionsError when the address cannot be had."""
        implicit = self._rules.implicit_tls
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self, implicit),
                self._rules.host,
                self._rules.port,
                backlog=BACKLOG,
                reuse_port=True,
                ssl=self.tls_context if implicit else None,
                ssl_handshake_timeout=30.0 if implicit else None,
            )
        except OSError as error:
            where = f"{self._rules.host}:{self._rules.port}"
            raise OptionsError(f"cannot listen on {where}: {error.strerror}; change mta.listeners") from error
        self.tasks.start(self._sweep(), "smtp-sweep")
        log.info("listening", host=self._rules.host, port=self._rules.port, implicit_tls=implicit)

    def drain(self) -> None:
        """Accept no more, and ask every peer to leave once it has its answer."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.drain()

    async def close(self) -> None:
        """Stop for good."""
        self.drain()
        await self.tasks.close()

    # -- asked by connections ----------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> Refusal | None:
        """Count a connection; a Refusal when there are too many, or none can be served."""
        self._connections.add(connection)
        self._per_address[connection.peer] += 1
        CONNECTIONS.inc()
        if len(self._connections) > self._rules.connections:
            return self._reject("total", "too many connections; try again later")
        if self._per_address[connection.peer] > self._rules.connections_per_address:
            return self._reject("address", "too many connections from your address; close some")
        try:
            self.intake.ready()
        except Refusal as refusal:
            REJECTED.labels("not_ready").inc()
            return Refusal(Reason.UNAVAILABLE, refusal.message)
        return None

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._per_address[connection.peer] -= 1
            if not self._per_address[connection.peer]:
                del self._per_address[connection.peer]
            CONNECTIONS.dec()

    def peer_policy(self, peer: str) -> PeerPolicy:
        """What holds for a peer's address. Kept: parsing addresses costs as much as answering a command."""
        policy = self._peers.get(peer)
        if policy is None:
            if len(self._peers) >= MAX_PEERS:
                self._peers.clear()
            policy = self._peers[peer] = self._peer_policy(peer)
        return policy

    def _peer_policy(self, peer: str) -> PeerPolicy:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return PeerPolicy("", AuthenticationOffer.TLS_ONLY, self._configs[False])
        tenant = next((tenant for network, tenant in self._rules.trusted if address in network), "")
        # AUTH without TLS: on loopback only, and only when the listener says so.
        clear = self._rules.plaintext_auth and address.is_loopback
        offer = AuthenticationOffer.ALWAYS if clear else AuthenticationOffer.TLS_ONLY
        return PeerPolicy(tenant, offer, self._configs[bool(tenant)])

    def _config(self, trusted: bool) -> ServerConfig:
        return ServerConfig(
            self._rules.hostname,
            size_limit=self._rules.message_bytes,
            recipients_limit=self._rules.recipients,
            starttls=self.tls_context is not None and not self._rules.implicit_tls,
            authentication=AuthenticationOffer.TLS_ONLY,
            require_auth=not trusted,
        )

    def _reject(self, why: str, text: str) -> Refusal:
        REJECTED.labels(why).inc()
        return Refusal(Reason.UNAVAILABLE, text)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.expire(now, self._rules.idle_seconds)
