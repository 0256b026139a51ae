"""One program of Barua as a real process that a test starts, kills and starts again.

``start`` returns when the program has said that it is ready (sd_notify, as to systemd). Output goes to a log file that
grows over restarts. The process ends with the test run, however that ends.

Errors: ``NotReady`` with the end of the log. Any thread, blocking.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

READY_SECONDS = 120
STOP_SECONDS = 90
_POLL_SECONDS = 0.2
# The kernel ends a child when the thread that started it ends, so one thread that lives as long as we do starts all.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")


class NotReady(Exception):
    """A program ended or hung before it was ready; the text has the end of its log."""


class Program:
    """``python -m`` with some arguments, and most of the time its process."""

    def __init__(self, name: str, arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Start it and wait until it is ready. Raises NotReady."""
        assert not self.is_running, f"{self.name} runs already"
        name = f"barua-test-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind("\0" + name)
            ready.settimeout(_POLL_SECONDS)
            environment = self._environment | {"NOTIFY_SOCKET": "@" + name, "PYTHONUNBUFFERED": "1"}
            self._process = _SPAWNER.submit(self._spawn, environment).result()
            self._wait(ready, time.monotonic() + timeout_seconds)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, wait for the orderly end; the exit status. Kills and raises TimeoutError if it takes too long."""
        assert self._process is not None, f"{self.name} was not started"
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise TimeoutError(f"{self.name} did not stop in {timeout_seconds:g} s:\n{self.log_end()}") from error

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.is_running:
            os.kill(self.pid, number)

    def log_end(self, size: int = 4000) -> str:
        """The last of what it wrote."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else "(no log)"

    def _spawn(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "control.supervisor.child", str(os.getpid()), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _wait(self, ready: socket.socket, deadline: float) -> None:
        while True:
            try:
                if b"READY=1" in ready.recv(4096).split(b"\n"):
                    return
            except TimeoutError:
                if not self.is_running:
                    assert self._process is not None
                    status = self._process.returncode
                    raise NotReady(f"{self.name} ended with {status} before it was ready:\n{self.log_end()}") from None
                if time.monotonic() > deadline:
                    self.kill()
                    raise NotReady(f"{self.name} was not ready in time:\n{self.log_end()}") from None
