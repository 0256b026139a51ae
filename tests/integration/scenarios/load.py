"""A client that sends many messages over several connections at once and keeps exact books of the answers.

Every attempt has a token of its own in the message, ``tenant.number.attempt``, so what arrives tells which attempt it
was. A message that was refused for now, or not answered because the connection broke, is sent again with a new token
until it is answered 250. At most ``rate`` messages per second; None: as fast as they are taken. After
``per_connection`` messages a client connects anew, so that in time each worker gets some. For one event loop.

Errors: ``Unexpected`` from ``run`` for a reply that no test allows for: a 5yz, or anything out of step.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from tests.integration.mta.accounts import Account
from tests.integration.mta.wire import plain

REPLY_SECONDS = 60.0
"""A server that is slower than this hangs."""
RECONNECT_SECONDS = 0.05
BODY = b"".join(b"%04d %s\r\n" % (line, b"x" * 70) for line in range(25))


class Unexpected(Exception):
    """A reply that no test allows for."""


class Temporary(Exception):
    """A 4yz reply."""


class Load:
    """``count`` messages of an account over ``connections`` connections; None: until it is stopped."""

    def __init__(
        self,
        account: Account,
        connections: int,
        count: int | None = None,
        *,
        rate: float | None = None,
        per_connection: int = 1_000_000,
    ) -> None:
        self.account = account
        self.accepted: set[str] = set()
        """Tokens of attempts answered 250."""
        self.unanswered: set[str] = set()
        """Tokens of attempts whose whole message was sent and whose answer was never read."""
        self.refused: Counter[str] = Counter()
        """How often each temporary refusal was read, by its text."""
        self.broken = 0
        """Connections that broke, or could not be made."""
        self._connections = connections
        self._pause = 1 / rate if rate else 0.0
        self._per_connection = per_connection
        self._numbers: Iterator[int] = itertools.count() if count is None else iter(range(count))
        self._next_at = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Begin no further attempt."""
        self._stopped = True

    async def run(self) -> None:
        """Send everything. Raises Unexpected."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._client())

    async def _client(self) -> None:
        number, attempt = self._take(), 0
        while number is not None:
            try:
                async with self._connection() as connection:
                    for _ in range(self._per_connection):
                        if number is None:
                            break
                        await self._send(connection, number, f"{self.account.tenant}.{number}.{attempt}")
                        number, attempt = self._take(), 0
            except (Temporary, OSError, EOFError) as error:
                self._note(error)
                number, attempt = None if self._stopped else number, attempt + 1
                await asyncio.sleep(RECONNECT_SECONDS)

    def _note(self, error: Exception) -> None:
        assert not isinstance(error, TimeoutError), f"no reply within {REPLY_SECONDS:g} s"
        if isinstance(error, Temporary):
            self.refused[str(error)] += 1
        else:
            self.broken += 1

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator["_Connection"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.account.stack.smtp_port)
        connection = _Connection(reader, writer)
        try:
            await connection.expect(220)
            await connection.ask("EHLO load.test", 250)
            await connection.ask(f"AUTH PLAIN {plain(self.account.login)}", 235)
            yield connection
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _send(self, connection: "_Connection", number: int, token: str) -> None:
        """One attempt."""
        await self._wait_for_turn()
        recipient = f"r{number}@example.net"
        await connection.ask(f"MAIL FROM:<{self.account.sender}>\r\nRCPT TO:<{recipient}>\r\nDATA", 250, 250, 354)
        try:
            await connection.ask(f"X-Token: {token}\r\nSubject: load\r\n\r\n{BODY.decode()}.", 250)
        except (OSError, EOFError):
            self.unanswered.add(token)
            raise
        self.accepted.add(token)

    def _take(self) -> int | None:
        return None if self._stopped else next(self._numbers, None)

    async def _wait_for_turn(self) -> None:
        if self._pause:
            now = time.monotonic()
            self._next_at = max(self._next_at + self._pause, now)
            await asyncio.sleep(self._next_at - now)


class _Connection:
    """Lines out, replies in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, lines: str, *codes: int) -> None:
        """Send lines and read a reply of each code in turn. Raises Temporary, Unexpected, OSError, EOFError."""
        self._writer.write(lines.encode() + b"\r\n")
        for code in codes:
            await self.expect(code)

    async def expect(self, code: int) -> None:
        """Read one reply."""
        async with asyncio.timeout(REPLY_SECONDS):
            while (line := await self._reader.readuntil(b"\r\n"))[3:4] == b"-":
                pass
        text = line.decode().rstrip()
        if text.startswith("4"):
            raise Temporary(text)
        if int(text[:3]) != code:
            raise Unexpected(f"{text} instead of {code}")
