"""Talks to an SMTP provider's server as a delivery would, and says how far that got.

Resolves the name itself and connects to an address it has looked at, so that no DNS answer leads into our own network;
then greeting, EHLO, TLS with a verified certificate, AUTH. Nothing is sent. Passwords appear in no text and no log.

Errors: none for what the server does; ``check`` raises Refusal RATE_LIMITED when too many checks are under way.
Limits: ``CONCURRENT`` checks at once, ``DEADLINE_SECONDS`` each; one event loop.
"""

import asyncio
import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address

import aiosmtplib

from mta.runtime.networks import is_public
from mta.runtime.refusals import Reason, Refusal

DEADLINE_SECONDS = 15.0
"""For the whole of a check: people wait for it."""
CONCURRENT = 8
"""Checks at once in this program."""
MAX_TEXT = 500
"""Characters of the server's words."""


class Stage(StrEnum):
    """How far a check got: what it ended with."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    EHLO = "ehlo"
    TLS = "tls"
    AUTH = "auth"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Target:
    """What to check. ``tls`` is one of those in the schema of providers."""

    host: str
    port: int
    tls: str
    username: str
    password: str = field(repr=False)
    allow_private: bool
    allow_invalid_certificate: bool


@dataclass(slots=True)
class Finding:
    """What was found."""

    stage: Stage = Stage.RESOLVE
    code: int = 0
    text: str = ""
    remote_address: str = ""
    tls_version: str = ""
    mechanisms: list[str] = field(default_factory=list)

    def failed(self, text: str, code: int = 0) -> "Finding":
        """It ended here. Octets of the server's that are no UTF-8 are replaced: an answer could not hold them."""
        words = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self.text, self.code = " ".join(words.split())[:MAX_TEXT], code
        return self


class SmtpChecker:
    """Makes checks. ``ehlo_name``: what deliveries call themselves."""

    def __init__(self, ehlo_name: str) -> None:
        self._ehlo_name = ehlo_name
        self._running = 0
        # A name whose nameservers are silent blocks a thread beyond the deadline: not one that others need.
        self._threads = ThreadPoolExecutor(CONCURRENT, "smtp-check")

    async def check(self, target: Target) -> Finding:
        """How far a delivery would get."""
        if self._running >= CONCURRENT:
            message = f"{CONCURRENT} checks are under way; try again in some seconds"
            raise Refusal(Reason.RATE_LIMITED, message, retry_after=DEADLINE_SECONDS / 3)
        self._running += 1
        finding = Finding()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._check(target, finding)
        except TimeoutError:
            return finding.failed("the server did not answer in time")
        finally:
            self._running -= 1

    async def _check(self, target: Target, finding: Finding) -> Finding:
        try:
            address = await self._address_of(target)
        except OSError as error:
            return finding.failed(str(error))
        finding.stage, finding.remote_address = Stage.CONNECT, address
        client: aiosmtplib.SMTP | None = None
        try:
            client = self._client(target, await _connected(address, target.port))
            await self._converse(client, target, finding)
        except ssl.SSLError as error:
            finding.stage = Stage.TLS
            return finding.failed(_tls_words(error))
        except aiosmtplib.SMTPResponseException as error:
            return finding.failed(str(error.message), error.code)
        except aiosmtplib.SMTPException as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, ssl.SSLError):
                finding.stage = Stage.TLS
                return finding.failed(_tls_words(cause))
            return finding.failed(_words(error))
        except (OSError, ValueError) as error:
            return finding.failed(_words(error))
        finally:
            if client is not None:
                client.close()
        return finding

    async def _address_of(self, target: Target) -> str:
        """The first address that may be connected to. Raises OSError with a text for the caller."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, lambda: socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise OSError(f"no address was found for {target.host}") from error
        addresses = [str(entry[4][0]) for entry in found]
        usable = [address for address in addresses if target.allow_private or is_public(ip_address(address))]
        if not usable:
            raise OSError(f"{target.host} is on a private or loopback address, which the operator has to allow")
        return usable[0]

    def _client(self, target: Target, connection: socket.socket) -> aiosmtplib.SMTP:
        # With the socket given, the host name is only what the certificate must be valid for.
        return aiosmtplib.SMTP(
            hostname=target.host,
            sock=connection,
            local_hostname=self._ehlo_name,
            timeout=DEADLINE_SECONDS,
            use_tls=target.tls == "implicit",
            start_tls=False,
            tls_context=_context(target),
        )

    async def _converse(self, client: aiosmtplib.SMTP, target: Target, finding: Finding) -> None:
        await client.connect()
        finding.stage = Stage.EHLO
        await client.ehlo()
        await self._secure(client, target, finding)
        if finding.text:
            return
        finding.tls_version = _version(client)
        finding.mechanisms = sorted(name.upper() for name in client.server_auth_methods if name.isascii())
        finding.stage = Stage.AUTH
        if target.username:
            if "PLAIN" in finding.mechanisms:
                await client.auth_plain(target.username, target.password)
            elif "LOGIN" in finding.mechanisms:
                await client.auth_login(target.username, target.password)
            else:
                finding.failed("the server offers neither AUTH PLAIN nor AUTH LOGIN")
                return
        finding.stage = Stage.READY
        await client.quit()

    async def _secure(self, client: aiosmtplib.SMTP, target: Target, finding: Finding) -> None:
        if target.tls in ("implicit", "none"):
            return
        required = target.tls == "starttls_required" or bool(target.username)
        if not client.supports_extension("starttls"):
            if required:
                finding.stage = Stage.TLS
                finding.failed("the server offers no STARTTLS")
            return
        finding.stage = Stage.TLS
        await client.starttls()
        finding.stage = Stage.EHLO
        await client.ehlo()


async def _connected(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _context(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    opportunistic = target.tls == "starttls_if_offered" and not target.username
    if target.allow_invalid_certificate or opportunistic:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _version(client: aiosmtplib.SMTP) -> str:
    tls = client.get_transport_info("ssl_object")
    return str(tls.version() or "") if tls is not None else ""


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    return f"TLS is not possible: {error.reason or error.strerror or 'the handshake failed'}"


def _words(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno).lower()
    return str(error) or type(error).__name__
