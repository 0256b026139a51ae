"""A remote mail server that counts copies: fast, takes everything, remembers each message by its ``X-Token`` field.

It speaks just enough SMTP for a client that follows the rules, pipelining included, in a thread of its own on a free
loopback port. A message counts once its final dot has been read and its 250 handed to the socket; ``copies`` tells how
often each token came, so that a test can say what was lost and what came twice.

Errors: ``TimeoutError`` from ``wait``. Limits: about ten thousand messages per second and core; commands are not
checked; a message without the field is an error of the test and ends the connection.
"""

import asyncio
import re
import threading
from collections import Counter
from types import TracebackType
from typing import Self, cast

import uvloop

from tests.support.ports import free_port
from tests.support.waiting import wait_until

_TOKEN = re.compile(rb"(?:^|\r\n)X-Token: ([^\r\n]+)\r\n")
_END = b"\r\n.\r\n"
_EHLO = b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


class FastSink:
    """The server. Use as a context manager, or ``start`` and ``stop``."""

    def __init__(self, *, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.copies: Counter[str] = Counter()
        """How often each token was answered with 250. Written by the sink's thread alone."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[asyncio.Transport] = set()

    @property
    def duplicates(self) -> int:
        """Copies beyond the first of each."""
        return sum(self.copies.values()) - len(self.copies)

    def wait(self, count: int, timeout_seconds: float = 60) -> None:
        """Wait until ``count`` different messages are here. Raises TimeoutError."""
        wait_until(lambda: len(self.copies) >= count, f"the sink has {count} different messages", timeout_seconds)

    def start(self) -> Self:
        """Listen."""
        ready = threading.Event()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, ready), name="fastsink", daemon=True)
        self._thread.start()
        if not ready.wait(20):
            raise TimeoutError(f"the sink does not listen on port {self.port}")
        return self

    def stop(self) -> None:
        """Close the listener and every connection. ``start`` begins again on the same port with what it had."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(20)
            self._loop = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        server = loop.run_until_complete(
            loop.create_server(lambda: _Connection(self.copies, self._connections), "127.0.0.1", self.port)
        )
        ready.set()
        loop.run_forever()
        server.close()
        for transport in list(self._connections):
            transport.abort()
        loop.run_until_complete(server.wait_closed())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, copies: Counter[str], connections: set[asyncio.Transport]) -> None:
        self._copies = copies
        self._connections = connections
        self._held = b""
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self._transport)
        self._transport.write(b"220 sink\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        replies: list[bytes] = []
        while self._step(replies):
            pass
        self._transport.write(b"".join(replies))

    def _step(self, replies: list[bytes]) -> bool:
        """Take one command or one message off what was received; False if there is no whole one."""
        if self._in_data:
            end = self._held.find(_END)
            if end < 0:
                return False
            content, self._held = self._held[:end], self._held[end + len(_END) :]
            self._in_data = False
            found = _TOKEN.search(content)
            if found is None:
                self._transport.abort()
                return False
            self._copies[found[1].decode()] += 1
            replies.append(b"250 2.0.0 taken\r\n")
            return True
        line, end_of_line, rest = self._held.partition(b"\r\n")
        if not end_of_line:
            return False
        self._held = rest
        verb = line[:4].upper()
        self._in_data = verb == b"DATA"
        replies.append(_EHLO if verb == b"EHLO" else b"354 go on\r\n" if self._in_data else b"250 2.0.0 OK\r\n")
        return True
