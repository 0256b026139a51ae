"""The life of a process: event loop, signals, draining, readiness for systemd.

``run(main)`` is the whole of a program's start: it runs ``main(drain)`` on uvloop; SIGTERM and SIGINT set the drain,
and ``main`` returns once it has finished what it must not cut short. Anything in that class holds an ``activity``
of the drain, which knows what it is waiting for. Errors that escape ``main`` end the process with status 1.

Thread and loop rules: everything here belongs to the loop's thread.
"""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError

log = get_logger(__name__)

MAX_FILES = 65_536
"""Open files of a process: the largest number of connections in and out, and some."""


class Drain:
    """Whether this process is stopping, and what it still has to finish."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._activities: Counter[str] = Counter()

    @property
    def stopping(self) -> bool:
        """True from the first signal on."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begin to stop. Idempotent."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Wait until stopping begins."""
        await self._stopping.wait()

    def begin(self, label: str) -> None:
        """Something started that must not be cut short."""
        self._activities[label] += 1
        self._idle.clear()

    def end(self, label: str) -> None:
        """It is finished."""
        self._activities[label] -= 1
        if self._activities[label] == 0:
            del self._activities[label]
        if not self._activities:
            self._idle.set()

    @contextmanager
    def activity(self, label: str) -> Iterator[None]:
        """Hold an activity for the length of a block."""
        self.begin(label)
        try:
            yield
        finally:
            self.end(label)

    async def idle(self, timeout_seconds: float) -> bool:
        """Wait until no activity is left; False, with a log line that names them, if that takes too long."""
        if not self._activities:
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            log.warning("drain_timed_out", activities=dict(self._activities))
            return False
        return True


class Tasks:
    """The tasks a component owns: a failure is logged, and all of them end when the owner closes."""

    def __init__(self, on_failure: Callable[[], None] | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``coroutine`` as an owned task."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def wait(self, timeout_seconds: float) -> None:
        """Wait until nothing runs, but no longer than this."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_seconds)

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)
            if self._on_failure is not None:
                self._on_failure()


def run(main: Callable[[Drain], Awaitable[None]]) -> None:
    """Run a program to its end and exit with its status."""
    _raise_file_limit()

    async def supervised() -> None:
        drain = Drain()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, drain.stop)
        await main(drain)

    try:
        uvloop.run(supervised())
    except OptionsError as error:
        log.error("cannot_start", reason=str(error))
        sys.exit(2)
    except Exception:
        log.exception("program_failed")
        sys.exit(1)


def _raise_file_limit() -> None:
    """As many open files as we may have: a shell's usual 1024 are fewer than the connections that options permit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def notify(state: str) -> None:
    """Tell systemd something, such as ``READY=1``; does nothing when not started by it (sd_notify(3)). Never raises."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect("\0" + path[1:] if path.startswith("@") else path)
            channel.sendall(state.encode())
    except OSError as error:
        # Whoever started us has gone; that must not keep us from draining.
        log.warning("notify_failed", state=state, error=str(error))
