"""A cheap HTTP/1.1 client: one prepared request, many times, over connections that stay open.

``python -m benchmarks.httpload`` reads a JSON object from its input and writes one to its output; ``bridge.py`` runs it
as a process of its own, so that its processor time can be told from that of what it measures. With a rate, requests are
due at fixed times whatever the server does, and a request that had to wait for a free connection counts from when it
was due. In the request, eight "@" become the number of the request.

Only answers with a Content-Length are understood.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

MARK = b"@@@@@@@@"
LAST_SECONDS = 15.0
"""What is asked for at the end may take so long to be answered."""
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


@dataclass
class Run:
    """What is asked for, and what came of it."""

    request: bytes
    connections: int
    seconds: float
    rate: float
    times: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    sample: str = ""
    number: int = 0

    def next(self) -> bytes:
        """The next request."""
        self.number += 1
        return self.request.replace(MARK, b"%08d" % self.number)


class Client(asyncio.Protocol):
    """One connection; ``idle`` is called when it has read an answer."""

    def __init__(self, run: Run, idle: "Idle") -> None:
        self._run = run
        self._idle = idle
        self._buffer = b""
        self._due = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast(asyncio.Transport, transport)
        self._idle(self)

    def send(self, due: float) -> None:
        """Send a request that was due then."""
        assert self._transport is not None
        self._due = due
        self._transport.write(self._run.next())

    def data_received(self, data: bytes) -> None:
        """A part of an answer, or all of it."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        match = _LENGTH.search(self._buffer, 0, head)
        if match is None or len(self._buffer) < head + 4 + int(match[1]):
            return
        run = self._run
        run.times.append(time.perf_counter() - self._due)
        status = self._buffer[9:12].decode("ascii", "replace")
        run.statuses[status] += 1
        if not run.sample or status != "200":
            run.sample = self._buffer[:1500].decode("utf-8", "replace")
        self._buffer = b""
        self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed."""
        self._run.statuses["lost"] += 0 if self._idle.over else 1

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


class Idle:
    """Gives idle connections something to do."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._clients: deque[Client] = deque()
        self._due: deque[float] = deque()
        self.over = False

    def __call__(self, client: Client) -> None:
        """This one has nothing to do."""
        if self._run.rate and not self._due:
            self._clients.append(client)
        elif not self.over:
            client.send(self._due.popleft() if self._due else time.perf_counter())

    def request(self, due: float) -> None:
        """A request is due."""
        if self._clients:
            self._clients.popleft().send(due)
        else:
            self._due.append(due)


async def measured(target: tuple[str, int], run: Run) -> dict[str, Any]:
    """Run, and say what came of it."""
    loop, idle = asyncio.get_running_loop(), Idle(run)
    start = time.perf_counter()
    connections = [await loop.create_connection(lambda: Client(run, idle), *target) for _ in range(run.connections)]
    if run.rate:
        for number in range(int(run.rate * run.seconds)):
            due = start + number / run.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            idle.request(due)
    await asyncio.sleep(max(0.0, start + run.seconds - time.perf_counter()))
    elapsed, done, cpu = time.perf_counter() - start, len(run.times), time.process_time()
    idle.over = True
    for _ in range(int(LAST_SECONDS / 0.01)):
        if run.number == sum(run.statuses.values()):
            break
        await asyncio.sleep(0.01)
    for _, client in connections:
        client.close()
    return {
        "requests": done,
        "seconds": elapsed,
        "cpu_seconds": cpu,
        "statuses": dict(run.statuses),
        "times": sorted(run.times[:done]),
        "sample": run.sample,
    }


def main() -> None:
    """Read what is asked for, run, write the result."""
    asked = json.load(sys.stdin)
    run = Run(asked["request"].encode("latin-1"), asked["connections"], asked["seconds"], asked["rate"])
    json.dump(uvloop.run(measured((asked["host"], asked["port"]), run)), sys.stdout)


if __name__ == "__main__":
    main()
