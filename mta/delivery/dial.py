"""Making a connection: hosts in order, addresses of each, TLS and login as the route asks, from the route's source.

Opportunistic TLS does not verify names (there is no policy that says what the name should be) and falls back to clear
text when the handshake fails: the host is then taken without TLS for ``NO_TLS_SECONDS``. Where TLS is required there is
no such way, and where a route says so the certificate must be valid for the host's name. A password goes out over TLS,
or in clear text to a route that never speaks TLS. Private and loopback addresses
that come out of the DNS are not connected to, so that nobody can make us talk to our own network by a DNS record.
"""

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import time
from dataclasses import dataclass

from prometheus_client import Counter

from mta.delivery import classify
from mta.delivery.connection import OutgoingConnection, SessionEnded
from mta.message.outcome import Outcome
from mta.routing.ports import DnsFailure, NameMissing, Resolver
from mta.routing.router import Host, Route, SourceAddress, TlsPolicy
from mta.runtime.log import get_logger
from mta.runtime.networks import is_public

log = get_logger(__name__)

MAX_ADDRESSES = 8
"""Addresses tried per dial, over all hosts."""
NO_TLS_SECONDS = 600.0
"""How long a host whose handshake failed is taken without TLS."""
MAX_REMEMBERED = 10_000
"""Hosts remembered for that."""

DIALS = Counter("barua_delivery_dials_total", "Attempts to make a connection.", ["result"])


AUTH_PAUSE_SECONDS = 60.0
"""After a refused login: a server that counts wrong passwords must not lock the account because of us."""
BIND_ADDRESS_NO_PORT = 24
"""``IP_BIND_ADDRESS_NO_PORT`` of Linux, which Python does not name: a source's ports are shared by all destinations."""


class NotConnected(Exception):
    """No host of the route could be brought to take mail; ``outcome`` is for the jobs that wait for it.

    ``pause`` is how long nobody should try again, if longer than usual.
    """

    def __init__(self, outcome: Outcome, pause: float = 0.0) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
        self.pause = pause


class SourceUnfit(NotConnected):
    """The route's source cannot be used: ``missing`` on this machine, or of another family than the site."""

    def __init__(self, outcome: Outcome, *, missing: bool) -> None:
        super().__init__(outcome)
        self.missing = missing


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
        self._unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._unverified.minimum_version = ssl.TLSVersion.TLSv1_2
        self._unverified.check_hostname = False
        self._unverified.verify_mode = ssl.CERT_NONE
        self._verified: ssl.SSLContext | None = None

    async def dial(self, route: Route) -> OutgoingConnection:
        """A connection that takes mail. Raises NotConnected."""
        failure: NotConnected | None = None
        tried = 0
        for host in route.hosts:
            try:
                addresses = await self._addresses(host, route)
            except NotConnected as error:
                if failure is None or not isinstance(error, SourceUnfit):  # a server that was tried says more
                    failure = error
                continue
            for address in addresses:
                if tried == MAX_ADDRESSES:
                    break
                tried += 1
                try:
                    return await self._connect(host, address, route, route.tls)
                except SourceUnfit:
                    raise
                except NotConnected as error:
                    failure = error
                    if error.pause:  # its other addresses would refuse the login, too, and count it
                        DIALS.labels("failed").inc()
                        raise
        DIALS.labels("failed").inc()
        raise failure or NotConnected(classify.of_connect("the route has no host", None))

    async def _addresses(self, host: Host, route: Route) -> tuple[str, ...]:
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
        if route.source is None:
            return usable
        fit = tuple(address for address in usable if (":" in address) == (":" in route.source.address))
        if not fit:
            family = "IPv6" if ":" in route.source.address else "IPv4"
            text = f"{host.name} has no {family} address for the source {route.source.source_id}"
            raise SourceUnfit(classify.of_connect(text, host.name), missing=False)
        return fit

    def _usable(self, host: Host, address: str) -> bool:
        if host.configured or self._rules.allow_private:
            return True
        return is_public(ipaddress.ip_address(address))

    async def _connect(self, host: Host, address: str, route: Route, tls: TlsPolicy) -> OutgoingConnection:
        """Connect, greet, secure and log in. Raises NotConnected."""
        connection = self._new(host, route, tls is TlsPolicy.IMPLICIT)
        try:
            async with asyncio.timeout(self._rules.connect_seconds):
                await self._open(connection, host, address, route, tls)
            offered = await connection.opened()
            if self._wants_tls(host, tls, offered) and not await self._secure(connection, host, route, tls):
                connection.close()
                return await self._connect(host, address, route, TlsPolicy.NEVER)
            await self._log_in(connection, host, route)
        except SessionEnded as error:
            connection.close()
            raise NotConnected(self._ended(error, connection, host)) from error
        except ssl.SSLCertVerificationError as error:
            connection.close()
            why = f"its certificate is not accepted: {error.verify_message}"
            raise NotConnected(classify.of_connect(f"{host.name} [{address}]: {why}", host.name)) from error
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host name that TLS cannot carry
            connection.close()
            why = "the connection timed out" if isinstance(error, TimeoutError) else _reason(error)
            raise NotConnected(classify.of_connect(f"{host.name} [{address}]: {why}", host.name)) from error
        except BaseException:
            connection.close()
            raise
        DIALS.labels("connected").inc()
        return connection

    async def _open(
        self, connection: OutgoingConnection, host: Host, address: str, route: Route, tls: TlsPolicy
    ) -> None:
        """Make the socket, with TLS around it if that is implicit."""
        loop = asyncio.get_running_loop()
        implicit = tls is TlsPolicy.IMPLICIT
        context = self._context(route) if implicit else None
        name = host.name if implicit else None
        if route.source is None:
            await loop.create_connection(lambda: connection, address, host.port, ssl=context, server_hostname=name)
            return
        channel = _bound(route.source, host)
        try:
            await loop.sock_connect(channel, (address, host.port))
            await loop.create_connection(lambda: connection, sock=channel, ssl=context, server_hostname=name)
        except BaseException:
            channel.close()
            raise

    def _wants_tls(self, host: Host, tls: TlsPolicy, offered: bool) -> bool:
        """Whether to ask for STARTTLS. Raises SessionEnded where it must be there and is not."""
        if tls is TlsPolicy.REQUIRED and not offered:
            raise SessionEnded("the server offers no STARTTLS, which is required")
        if tls is TlsPolicy.OPPORTUNISTIC:
            return offered and self._without_tls.get(host.name, 0.0) < time.monotonic()
        return tls is TlsPolicy.REQUIRED

    async def _secure(self, connection: OutgoingConnection, host: Host, route: Route, tls: TlsPolicy) -> bool:
        """Do STARTTLS; False if the handshake failed and the host is to be taken without. Raises SessionEnded."""
        required = tls is TlsPolicy.REQUIRED
        transport = await connection.start_tls()
        if transport is None:
            if required:
                raise SessionEnded("the server refused STARTTLS, which is required")
            return True  # refused in order: RFC 3207 §4 lets the session go on in clear text
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                connection,
                self._context(route),
                server_hostname=host.name,
                ssl_handshake_timeout=self._rules.connect_seconds,
            )
        except (OSError, TimeoutError) as error:
            log.warning("tls_not_possible", host=host.name, error=str(error))
            if required:
                raise
            if len(self._without_tls) >= MAX_REMEMBERED:
                self._without_tls.clear()
            self._without_tls[host.name] = time.monotonic() + NO_TLS_SECONDS
            return False
        if secured is None:
            raise SessionEnded("the connection was lost in the TLS handshake")
        connection.secured(secured)
        await connection.opened()
        return True

    async def _log_in(self, connection: OutgoingConnection, host: Host, route: Route) -> None:
        """Say who we are where the route has credentials. Raises SessionEnded, NotConnected."""
        credentials = route.credentials
        if credentials is None:
            return
        if not connection.secure and route.tls is not TlsPolicy.NEVER:
            raise SessionEnded("the server offers no TLS, and the password does not go out in clear text")
        refusal = await connection.authenticate(credentials.username, credentials.password)
        if refusal is not None:
            connection.close()
            log.warning("provider_login_refused", provider=route.provider, host=host.name, reply=str(refusal))
            raise NotConnected(classify.of_auth(refusal, host.name), AUTH_PAUSE_SECONDS)

    def _context(self, route: Route) -> ssl.SSLContext:
        if not route.verify:
            return self._unverified
        if self._verified is None:
            self._verified = ssl.create_default_context()
            self._verified.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._verified

    def _new(self, host: Host, route: Route, tls_active: bool) -> OutgoingConnection:
        rules = self._rules
        name = rules.hostname if route.source is None else route.source.ehlo_name
        return OutgoingConnection(name, host.name, tls_active, rules.command_seconds, rules.final_dot_seconds)

    @staticmethod
    def _ended(error: SessionEnded, connection: OutgoingConnection, host: Host) -> Outcome:
        if error.event is not None:
            return classify.of_refusal(error.event.reply, error.event.stage, host.name)
        return classify.of_connect(f"{host.name}: {error}", host.name)


def _bound(source: SourceAddress, host: Host) -> socket.socket:
    """A socket that comes from a source. Raises SourceUnfit if this machine does not have its address."""
    channel = socket.socket(socket.AF_INET6 if ":" in source.address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        channel.setblocking(False)
        channel.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
        channel.bind((source.address, 0))
    except OSError as error:
        channel.close()
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        text = f"the source {source.source_id} ({source.address}) is not an address of this machine"
        raise SourceUnfit(classify.of_connect(text, host.name), missing=True) from error
    return channel


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()  # its own words hold addresses, in a form that differs by event loop
    return (str(error) or type(error).__name__).lower()
