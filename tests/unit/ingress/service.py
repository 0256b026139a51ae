"""An SMTP listener over the real way in, and a client that sends exactly what it is told to."""

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import argon2

from mta.ingress.auth import Authenticator
from mta.ingress.budget import ReceiveBudget
from mta.ingress.listener import Listener, ListenerRules
from mta.policy.records import Login
from mta.policy.uses import Uses
from tests.support.ports import free_port
from tests.unit.custody.parts import Bank, Parts, open_parts

PASSWORD = "correct horse"
MAIL = b"MAIL FROM:<news@acme.test>\r\n"
RCPT = b"RCPT TO:<x@example.net>\r\n"
CONTENT = b"From: news@acme.test\r\nSubject: Hello\r\n\r\nA line.\r\n"
TRUSTED = (ipaddress.ip_network("127.0.0.1"), "acme")


@cache
def password_hash(memory_cost: int = 64) -> str:
    """Of PASSWORD; control makes hashes with 19,456 KiB."""
    return argon2.PasswordHasher(time_cost=2, memory_cost=memory_cost, parallelism=1).hash(PASSWORD)


def plain(username: str, password: str) -> bytes:
    """An AUTH PLAIN command."""
    return b"AUTH PLAIN " + base64.b64encode(f"\0{username}\0{password}".encode()) + b"\r\n"


class Client:
    """One connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def line(self) -> str:
        """The next line, without its end; "" at the end of the connection."""
        async with asyncio.timeout(60):
            return (await self.reader.readline()).decode().rstrip("\r\n")

    async def reply(self) -> str:
        """The next reply: its last line."""
        while (line := await self.line())[3:4] == "-":
            pass
        return line

    async def ask(self, command: bytes) -> str:
        """Send a command; the last line of its answer."""
        self.send(command)
        return await self.reply()

    async def ended(self) -> bool:
        """Whether the server closes without another word."""
        try:
            return await self.line() == ""
        except ConnectionError:
            return True

    async def greeted(self) -> "Client":
        """After banner and EHLO."""
        assert (await self.reply()).startswith("220 ")
        assert (await self.ask(b"EHLO client.test\r\n")).startswith("250 ")
        return self

    async def secured(self, context: ssl.SSLContext) -> "Client":
        """After STARTTLS and the handshake."""
        assert await self.ask(b"STARTTLS\r\n") == "220 2.0.0 Ready to start TLS"
        await self.writer.start_tls(context, server_hostname="localhost")
        return self

    async def delivered(self) -> str:
        """A whole message; the answer."""
        assert (await self.ask(MAIL)).startswith("250")
        assert (await self.ask(RCPT)).startswith("250")
        assert (await self.ask(b"DATA\r\n")).startswith("354")
        return await self.ask(CONTENT + b".\r\n")

    async def close(self) -> None:
        """Go away."""
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@dataclass
class Service:
    """A listener and what is behind it."""

    listener: Listener
    parts: Parts
    port: int
    clients: list[Client]

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        """A client that has said nothing yet."""
        name = "localhost" if context is not None else None
        streams = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)
        self.clients.append(Client(*streams))
        return self.clients[-1]

    async def greeted(self) -> Client:
        """A client that has said EHLO."""
        return await (await self.connect()).greeted()

    @property
    def open_connections(self) -> int:
        """As the listener counts them."""
        return len(self.listener._connections)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something to become true."""
        try:
            async with asyncio.timeout(60):
                while not condition():  # noqa: ASYNC110 (what it waits for has no events)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not in time: {what}") from None


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    tls: ssl.SSLContext | None = None,
    bank: Bank | None = None,
    change: Callable[[ListenerRules], ListenerRules] = lambda rules: rules,
) -> AsyncIterator[Service]:
    """A listener on a free port, trusting 127.0.0.1 unless ``change`` says otherwise."""
    rules = ListenerRules(
        host="127.0.0.1",
        port=free_port(),
        hostname="mta1.barua.test",
        implicit_tls=False,
        plaintext_auth=False,
        trusted=[TRUSTED],
        message_bytes=1_000_000,
        recipients=100,
        connections=100,
        connections_per_address=50,
        idle_seconds=30.0,
    )
    rules = change(rules)
    async with open_parts(folder, bank=bank) as parts:
        parts.change_policy(Login("acme", "acme", password_hash()))
        authenticator = Authenticator(parts.policy, Uses())
        listener = Listener(rules, parts.intake, parts.policy, authenticator, tls, ReceiveBudget(10_000_000))
        await listener.start()
        service = Service(listener, parts, rules.port, [])
        try:
            yield service
        finally:
            for client in service.clients:
                await client.close()
            await listener.close()
            authenticator.close()
            await service.until(lambda: not service.open_connections, "every connection is forgotten")


def untrusted(rules: ListenerRules) -> ListenerRules:
    """Nobody may send without AUTH."""
    return replace(rules, trusted=[])
