"""Making a connection: hosts in order, addresses of each, TLS as the route asks.

Opportunistic TLS does not verify names (there is no policy that says what the name should be) and falls back to clear
text when the handshake fails: the host is then taken without TLS for ``NO_TLS_SECONDS``. Private and loopback addresses
that come out of the DNS are not connected to, so that nobody can make us talk to our own network by a DNS record.
"""

import asyncio
import ipaddress
import os
import ssl
import time
from dataclasses import dataclass

from prometheus_client import Counter

from mta.delivery import classify
from mta.delivery.connection import OutgoingConnection, SessionEnded
from mta.message.outcome import Outcome
from mta.routing.ports import DnsFailure, NameMissing, Resolver
from mta.routing.router import Host, Route, TlsPolicy
from mta.runtime.log import get_logger

log = get_logger(__name__)

MAX_ADDRESSES = 8
"""Addresses tried per dial, over all hosts."""
NO_TLS_SECONDS = 600.0
"""How long a host whose handshake failed is taken without TLS."""
MAX_REMEMBERED = 10_000
"""Hosts remembered for that."""

DIALS = Counter("barua_delivery_dials_total", "Attempts to make a connection.", ["result"])


class NotConnected(Exception):
    """No host of the route could be brought to take mail; ``outcome`` is for the jobs that wait for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class DialRules:
    """Settings of outgoing connections."""

    hostname: str
    connect_seconds: float
    command_seconds: float
    final_dot_seconds: float
    allow_private: bool


class Dialer:
    """Makes connections for every site."""

    def __init__(self, rules: DialRules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver
        self._without_tls: dict[str, float] = {}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    async def dial(self, route: Route) -> OutgoingConnection:
        """A connection that takes mail. Raises NotConnected."""
        outcome: Outcome | None = None
        tried = 0
        for host in route.hosts:
            try:
                addresses = await self._addresses(host)
            except NotConnected as error:
                outcome = error.outcome
                continue
            for address in addresses:
                if tried == MAX_ADDRESSES:
                    break
                tried += 1
                try:
                    return await self._connect(host, address, route.tls)
                except NotConnected as error:
                    outcome = error.outcome
        DIALS.labels("failed").inc()
        raise NotConnected(outcome or classify.of_connect("the route has no host", None))

    async def _addresses(self, host: Host) -> tuple[str, ...]:
        try:
            found = await self._resolver.addresses(host.name)
        except (NameMissing, DnsFailure) as error:
            text = f"no address for {host.name}: {type(error).__name__}"
            raise NotConnected(classify.of_connect(text, host.name)) from error
        usable = tuple(address for address in found if self._usable(host, address))
        if not usable:
            if found:
                hint = "mta.delivery.allow_private_addresses = true, or a static route, delivers there"
                log.warning("private_addresses_refused", host=host.name, addresses=list(found[:8]), hint=hint)
            text = f"{host.name} has no address that mail can be sent to"
            raise NotConnected(classify.of_connect(text, host.name))
        return usable

    def _usable(self, host: Host, address: str) -> bool:
        if host.configured or self._rules.allow_private:
            return True
        parsed = ipaddress.ip_address(address)
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return (mapped or parsed).is_global

    async def _connect(self, host: Host, address: str, tls: TlsPolicy) -> OutgoingConnection:
        """Connect, greet and secure. Raises NotConnected."""
        secure = tls is TlsPolicy.OPPORTUNISTIC and self._without_tls.get(host.name, 0.0) < time.monotonic()
        connection = self._new(host, tls is TlsPolicy.IMPLICIT)
        try:
            async with asyncio.timeout(self._rules.connect_seconds):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    address,
                    host.port,
                    ssl=self._context if tls is TlsPolicy.IMPLICIT else None,
                    server_hostname=host.name if tls is TlsPolicy.IMPLICIT else None,
                )
            offered = await connection.opened()
            if secure and offered and not await self._secure(connection, host):
                connection.close()
                return await self._connect(host, address, TlsPolicy.NEVER)
        except SessionEnded as error:
            connection.close()
            raise NotConnected(self._ended(error, connection, host)) from error
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host name that TLS cannot carry
            connection.close()
            why = "the connection timed out" if isinstance(error, TimeoutError) else _reason(error)
            raise NotConnected(classify.of_connect(f"{host.name} [{address}]: {why}", host.name)) from error
        except BaseException:
            connection.close()
            raise
        DIALS.labels("connected").inc()
        return connection

    async def _secure(self, connection: OutgoingConnection, host: Host) -> bool:
        """Do STARTTLS; False if the handshake failed and the host is to be taken without. Raises SessionEnded."""
        transport = await connection.start_tls()
        if transport is None:
            return True  # refused in order: RFC 3207 §4 lets the session go on in clear text
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                connection,
                self._context,
                server_hostname=host.name,
                ssl_handshake_timeout=self._rules.connect_seconds,
            )
        except (OSError, TimeoutError) as error:
            log.warning("tls_not_possible", host=host.name, error=str(error))
            if len(self._without_tls) >= MAX_REMEMBERED:
                self._without_tls.clear()
            self._without_tls[host.name] = time.monotonic() + NO_TLS_SECONDS
            return False
        if secured is None:
            raise SessionEnded("the connection was lost in the TLS handshake")
        connection.secured(secured)
        await connection.opened()
        return True

    def _new(self, host: Host, tls_active: bool) -> OutgoingConnection:
        rules = self._rules
        return OutgoingConnection(rules.hostname, host.name, tls_active, rules.command_seconds, rules.final_dot_seconds)

    @staticmethod
    def _ended(error: SessionEnded, connection: OutgoingConnection, host: Host) -> Outcome:
        if error.event is not None:
            return classify.of_refusal(error.event.reply, error.event.stage, host.name)
        return classify.of_connect(f"{host.name}: {error}", host.name)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()  # its own words hold addresses, in a form that differs by event loop
    return (str(error) or type(error).__name__).lower()
