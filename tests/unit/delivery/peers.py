"""A remote mail server that does at each stage exactly what the test says, and a worker's delivery in front of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from mta.delivery.agent import DeliveryAgent
from mta.delivery.dial import Dialer, DialRules
from mta.delivery.site import SiteRules
from mta.message.outcome import Outcome, OutcomeKind
from mta.queues.jobs import Job, JobRecipient
from mta.resolver.dns import DnsResolver
from mta.routing.router import Router, StaticRoute, TlsPolicy
from mta.spool.sqlite import SqliteStore
from tests.unit.queues.recipients import queued
from tests.unit.spool.rows import open_store

CONTENT = b"Subject: Hello\r\n\r\n.A line.\r\n"


class Do(Enum):
    """What a server may do instead of answering."""

    CLOSE = auto()
    RESET = auto()
    HANG = auto()
    WAIT = auto()
    """Answer as usual once the test sets the server's ``gate``."""


Action = bytes | Do
EHLO = b"250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 1000000\r\n"
PLAIN_EHLO = b"250 mx.test\r\n"
TLS_EHLO = b"250-mx.test\r\n250-STARTTLS\r\n250 PIPELINING\r\n"
DEFAULTS: dict[str, Action] = {
    "banner": b"220 mx.test ESMTP\r\n",
    "ehlo": EHLO,
    "helo": b"250 mx.test\r\n",
    "starttls": b"220 2.0.0 go on\r\n",
    "mail": b"250 2.1.0 ok\r\n",
    "rcpt": b"250 2.1.5 ok\r\n",
    "data": b"354 go on\r\n",
    "dot": b"250 2.0.0 taken\r\n",
    "rset": b"250 2.0.0 ok\r\n",
    "quit": b"221 2.0.0 bye\r\n",
}
Choose = Callable[[str, str, int], "Action | None"]
"""(stage, command line, number of the connection from 1) to what to do; None: as usual."""


@dataclass(frozen=True)
class Taken:
    """A message that was answered with a 2yz."""

    recipients: tuple[str, ...]
    content: bytes
    connection: int
    tls: bool
    sender: str


class Peer:
    """The server."""

    def __init__(
        self,
        actions: dict[str, Action] | None = None,
        choose: Choose = lambda *_: None,
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
    ) -> None:
        self.actions = DEFAULTS | (actions or {})
        self.choose = choose
        self.tls = tls
        self.implicit = implicit
        self.taken: list[Taken] = []
        self.commands: list[str] = []
        self.pieces: list[bytes] = []
        self.connections = 0
        self.open_now = 0
        self.open_most = 0
        self.port = 0
        self.gate = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen."""
        context = self.tls if self.implicit else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def reset_all(self) -> None:
        """Cut every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        self._writers.add(writer)
        try:
            await self._talk(Talk(self, reader, writer, self.connections))
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            pass
        finally:
            self.open_now -= 1
            self._writers.discard(writer)
            writer.close()

    async def _talk(self, talk: "Talk") -> None:
        if not await talk.act("banner", ""):
            return
        while line := await talk.line():
            self.commands.append(line)
            verb = line.split(" ")[0].lower()
            if not await talk.act(verb, line):
                return
            if verb == "starttls" and talk.said.startswith(b"220"):
                await talk.secure()
            elif verb == "data" and talk.said.startswith(b"354"):
                await talk.read_content()
                if not await talk.act("dot", ""):
                    return
            elif verb == "quit":
                return


class Talk:
    """One conversation, from the server's side."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._number = number
        self._sender = ""
        self._recipients: list[str] = []
        self._content = b""
        self._tls = peer.implicit
        self.said = b""

    async def line(self) -> str:
        """The next command."""
        return (await self._reader.readline()).decode().rstrip("\r\n")

    async def act(self, stage: str, line: str) -> bool:
        """Do what is scripted; False: the conversation is over."""
        action = self._peer.choose(stage, line, self._number)
        if action is None:
            action = self._peer.actions.get(stage, b"500 5.5.2 what?\r\n")
        if action is Do.HANG:
            await asyncio.sleep(60)
        if action is Do.WAIT:
            await self._peer.gate.wait()
            action = DEFAULTS[stage]
        if action is Do.RESET:
            self._writer.transport.abort()
        if not isinstance(action, bytes):
            return False
        self.said = action
        self._note(stage, line, action[:1] == b"2")
        self._writer.write(action)
        await self._writer.drain()
        return True

    def _note(self, stage: str, line: str, positive: bool) -> None:
        if stage == "mail":
            self._sender, self._recipients = line[11 : line.index(">")], []
        elif stage == "rcpt" and positive:
            self._recipients.append(line[9:-1])
        elif stage == "dot" and positive:
            self._peer.taken.append(
                Taken(tuple(self._recipients), self._content, self._number, self._tls, self._sender)
            )

    async def read_content(self) -> None:
        """Everything up to the final dot."""
        lines = []
        while (line := await self._reader.readline()) != b".\r\n":
            if not line:
                raise ConnectionResetError
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        self._content = b"".join(lines)

    async def secure(self) -> None:
        """The server's side of the handshake."""
        assert self._peer.tls is not None
        await self._writer.start_tls(self._peer.tls)
        self._tls = True


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that a test has written itself; gives the port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass
class Recorder:
    """Gets the outcomes in place of the way out."""

    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def settle(self, job: Job, outcomes: Iterable[tuple[JobRecipient, Outcome]]) -> None:
        """Keep the outcomes."""
        for recipient, outcome in outcomes:
            self.outcomes.setdefault(recipient.recipient_id, []).append(outcome)
            self.order.append(recipient.recipient_id)

    def count(self, kind: OutcomeKind) -> int:
        """How many outcomes of a kind there are."""
        return sum(outcome.kind is kind for outcomes in self.outcomes.values() for outcome in outcomes)

    @property
    def settled(self) -> int:
        """Outcomes so far."""
        return len(self.order)


@dataclass
class Delivery:
    """A worker's delivery."""

    agent: DeliveryAgent
    recorder: Recorder
    store: SqliteStore
    dialer: Dialer

    def send(
        self,
        number: int = 1,
        *recipients: str,
        tenant: str = "acme",
        content: bytes | None = CONTENT,
        domain: str = "example.net",
        flags: int = 0,
        sender: str = "a@acme.test",
    ) -> None:
        """Submit a job with ids ``number``, ``number + 1``, …"""
        first = queued(number, tenant=tenant, domain=domain)
        first = first._replace(flags=flags, sender=sender, size=len(content or CONTENT))
        names = recipients or (f"r{number}",)
        members = [JobRecipient(number + index, f"{name}@{domain}", 0) for index, name in enumerate(names)]
        self.agent.submit(Job(first, members, content))

    async def outcomes(self, count: int = 1, timeout_seconds: float = 60) -> list[Outcome]:
        """Wait until so many recipients are settled, and a little longer; the last outcome of each, by id."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.recorder.settled < count:  # noqa: ASYNC110 (what it waits for has no events)
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"{self.recorder.settled} of {count} are settled") from None
        await asyncio.sleep(0.005)
        assert self.recorder.settled == count, "somebody was settled twice"
        return [self.recorder.outcomes[id_][-1] for id_ in sorted(self.recorder.outcomes)]

    async def outcome(self) -> Outcome:
        """The outcome of the only recipient."""
        (outcome,) = await self.outcomes()
        return outcome


RULES = SiteRules(connections=5, messages_per_connection=100, idle_seconds=5.0)
DIAL = DialRules("mta1.barua.test", 60.0, 60.0, 60.0, False)


@asynccontextmanager
async def delivering(
    folder: Path,
    *ports: int,
    rules: SiteRules = RULES,
    dial: DialRules = DIAL,
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC,
    total: int = 100,
    dns_port: int = 0,
    mx_port: int = 25,
) -> AsyncIterator[Delivery]:
    """Delivery with a static route to 127.0.0.1 at the first port for every domain, or by DNS without ports."""
    store = open_store(folder / "worker-0.db")
    resolver = DnsResolver([("127.0.0.1", dns_port or 1)], 1.0, 100, 60)
    static = [StaticRoute("*", "127.0.0.1", ports[0], tls)] if ports else []
    dialer = Dialer(dial, resolver)
    agent = DeliveryAgent(rules, total, Router(static, resolver, mx_port), dialer, store)
    recorder = Recorder()
    agent.start(recorder)  # type: ignore[arg-type]
    try:
        yield Delivery(agent, recorder, store, dialer)
    finally:
        await agent.stop(0.5)
        await store.close()


@asynccontextmanager
async def peer(
    actions: dict[str, Action] | None = None,
    choose: Choose = lambda *_: None,
    *,
    tls: ssl.SSLContext | None = None,
    implicit: bool = False,
) -> AsyncIterator[Peer]:
    """A running server."""
    made = Peer(actions, choose, tls=tls, implicit=implicit)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
