"""Postfix's ``smtp-sink`` as a remote server: fast, by people who are not us, and it counts and can dump what it gets.

Use as a context manager; the process is killed at the end. Options of its own are given as in its manual page, such as
``("-Q", "DATA")``. Dumped messages are one file each; ``received`` reads them. It writes line ends as LF and does not
say when and whether it answered.

Errors: ``TimeoutError`` if it does not start or the messages do not come. Any thread, blocking.
Limits: counters run from its start; one connection of ours probes the port, which counts as a session without message.
"""

import getpass
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.debian import Tools, tools
from tests.support.ports import free_port, wait_for_port
from tests.support.received import Received

_COUNTERS = re.compile(rb"mesg=(\d+)")


class SmtpSink:
    """One ``smtp-sink`` process on a free loopback port."""

    def __init__(
        self, *options: str, dump_folder: Path | None = None, unpacked: Tools | None = None, port: int | None = None
    ) -> None:
        self.port = free_port() if port is None else port
        self._tools = unpacked or tools()
        self._dump_folder = dump_folder
        self._options = options
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def count(self) -> int:
        """Messages received so far."""
        return self._count

    def start(self) -> Self:
        """Start the process and wait until it listens. Raises TimeoutError."""
        command = [str(self._tools.program("smtp-sink")), "-c"]
        if os.getuid() == 0:
            # It insists on being told to stay root; it listens on loopback only, and this way it can write dumps.
            command += ["-u", getpass.getuser()]
        if self._dump_folder is not None:
            self._dump_folder.mkdir(parents=True, exist_ok=True)
            command += ["-d", f"{self._dump_folder}/%Y%m%d%H%M%S."]
        command += [*self._options, f"127.0.0.1:{self.port}", "1024"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=self._tools.environment)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        wait_for_port(self.port)
        return self

    def stop(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._reader is not None:
            self._reader.join(5)
            self._reader = None

    def wait(self, count: int, timeout_seconds: float = 60) -> float:
        """Wait until ``count`` messages are here; the time.monotonic() of that. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_seconds
        while self._count < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the sink has {self._count} of {count} messages after {timeout_seconds:g} s")
            time.sleep(0.002)
        return time.monotonic()

    def received(self) -> list[Received]:
        """The messages dumped so far, in no order; needs ``dump_folder``."""
        assert self._dump_folder is not None, "give SmtpSink a dump_folder"
        return [_parse(path.read_bytes()) for path in self._dump_folder.iterdir() if path.is_file()]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            # The counters end in CR, never LF: read what is there and look at the last whole one.
            while data := os.read(stream.fileno(), 65536):
                found = _COUNTERS.findall(data[: data.rfind(b"\r") + 1])
                if found:
                    self._count = int(found[-1])


def _parse(dump: bytes) -> Received:
    """Take the sink's own header lines off and read the envelope from them."""
    envelope: dict[bytes, list[str]] = {b"X-Helo-Args": [], b"X-Mail-Args": [], b"X-Rcpt-Args": []}
    rest = dump
    while not rest.startswith(b"Received:"):
        line, _, rest = rest.partition(b"\n")
        name, _, value = line.partition(b": ")
        envelope.setdefault(name, []).append(value.decode())
    # Its own Received field: one line and those that go on from it.
    _, _, rest = rest.partition(b"\n")
    while rest.startswith(b"\t"):
        _, _, rest = rest.partition(b"\n")
    return Received(
        sender=_path(envelope[b"X-Mail-Args"][0]),
        recipients=tuple(_path(argument) for argument in envelope[b"X-Rcpt-Args"]),
        content=rest.removesuffix(b"\n").replace(b"\n", b"\r\n"),
        helo=envelope[b"X-Helo-Args"][0],
        tls=False,
    )


def _path(argument: str) -> str:
    return argument[argument.index("<") + 1 : argument.rindex(">")]
