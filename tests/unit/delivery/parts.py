"""A delivery agent on a real spool, and remote servers that behave as a script says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mta.custody.bounce import BounceMaker
from mta.custody.settlement import Settlement
from mta.delivery.agent import DeliveryAgent
from mta.delivery.dial import Dialer, DialRules
from mta.delivery.site import SiteRules
from mta.message.ids import IdMaker
from mta.queues.jobs import jobs_of
from mta.queues.retry import RetrySchedule
from mta.resolver.dns import DnsResolver
from mta.routing.router import Router, StaticRoute, TlsPolicy
from mta.spool.records import Change, MessageRow, QueuedRecipient, RecipientRow
from mta.spool.schema import open_file
from mta.spool.sqlite import SqliteStore
from tests.unit.spool.rows import Waiter

CONTENT = b"From: a@acme.test\r\nSubject: x\r\n\r\nA line.\r\n.dot\r\n"
SCHEDULE = RetrySchedule(60_000, 2.0, 600_000, 0.0, 3_600_000, 3)
EHLO = b"250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server on loopback; ``script`` has each connection. ``connections`` counts them."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.commands: list[bytes] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Serve; gives the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


def answering(replies: dict[bytes, bytes] | None = None, *, after_dot: bytes = b"250 2.0.0 taken\r\n") -> Script:
    """A server that takes mail; ``replies`` by verb instead of the usual ones, ``b""`` drops the connection."""
    usual = {
        b"EHLO": EHLO, b"MAIL": b"250 ok\r\n", b"RCPT": b"250 ok\r\n", b"DATA": b"354 go\r\n", b"RSET": b"250 ok\r\n",
        b"QUIT": b"221 bye\r\n", b"HELO": b"250 ok\r\n", b"STARTTLS": b"502 no\r\n",
    }  # fmt: skip
    usual |= replies or {}

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(usual.get(b"banner", b"220 peer ESMTP\r\n"))
        while line := await reader.readline():
            verb = line.split()[0].upper()
            reply = usual.get(verb, b"500 what\r\n")
            if reply == b"":
                return
            writer.write(reply)
            if verb == b"DATA" and reply.startswith(b"354"):
                await reader.readuntil(b"\r\n.\r\n")
                if after_dot == b"":
                    return
                writer.write(after_dot)
            if verb == b"QUIT":
                return

    return script


class Delivery:
    """An agent and its spool."""

    def __init__(self, store: SqliteStore, agent: DeliveryAgent, settlement: Settlement, released: list[int]) -> None:
        self.store = store
        self.agent = agent
        self.settlement = settlement
        self.released = released
        """Recipients that are settled, in order, as the queue hears it."""

    async def submit(self, recipient_id: int, *addresses: str, content: bytes | None = CONTENT, flags: int = 0) -> None:
        """Store a message, as intake would, and hand it over; ``content`` None: not in memory."""
        names = addresses or (f"r{recipient_id}@example.net",)
        last = recipient_id + len(names) - 1
        waiter = Waiter()
        change = Change(waiter)
        stored = content or CONTENT
        change.messages.append(MessageRow(recipient_id, last, "acme", "a@acme.test", 1_000, len(stored), flags, stored))
        queued = []
        for index, address in enumerate(names):
            domain = address.rpartition("@")[2]
            number = recipient_id + index
            change.recipients.append(RecipientRow(number, recipient_id, "acme", address, domain, 0, 0, 0, "received"))
            queued.append(
                QueuedRecipient(
                    number, recipient_id, last, "acme", "a@acme.test", address, domain, 0, 0, 1_000, len(stored), flags
                )
            )
        self.store.write(change)
        await waiter.receipt()
        for job in jobs_of(queued, content):
            self.agent.submit(job)

    async def settled(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many recipients are settled."""
        async with asyncio.timeout(seconds):
            while len(self.released) < count:  # noqa: ASYNC110 (heard of by a callback)
                await asyncio.sleep(0.01)


@asynccontextmanager
async def delivering(
    folder: Path,
    port: int,
    *,
    connections: int = 3,
    per_connection: int = 1000,
    idle_seconds: float = 5.0,
    command_seconds: float = 60.0,
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC,
    routes: Sequence[StaticRoute] = (),
    mock_domain: str = "",
) -> AsyncIterator[Delivery]:
    """An agent whose mail goes to a port on loopback."""
    store = SqliteStore(open_file(folder / "worker-0.db"))
    resolver = DnsResolver([("127.0.0.1", 9)], 0.5, 100, 60)
    router = Router([*routes, StaticRoute("*", "127.0.0.1", port, tls)], resolver, 25)
    dialer = Dialer(DialRules("mta.test", 30.0, command_seconds, command_seconds, False), resolver)
    rules = SiteRules(connections, per_connection, idle_seconds)
    agent = DeliveryAgent(rules, 50, router, dialer, store, mock_domain=mock_domain)
    released: list[int] = []
    settlement = Settlement(store, SCHEDULE, BounceMaker(store, IdMaker(0), "mta.test"), released.append)
    agent.start(settlement)
    try:
        yield Delivery(store, agent, settlement, released)
    finally:
        await agent.stop(1.0)
        await settlement.close()
        await store.close()
