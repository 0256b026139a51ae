"""`barua up --demo` as somebody at a terminal has it: one process that starts and supervises everything else.

``Installation(folder)`` chooses free ports. Use it as a context manager, or ``start`` and ``stop``; ``start`` returns
when its health says that it is ready. ``run`` runs the `barua` command on it. Errors: AssertionError with what it
printed. Any thread, blocking; about eight seconds to start.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from control.supervisor import effective
from mta.runtime.options import (
    BridgeOptions,
    ControlOptions,
    InboxOptions,
    ListenerOptions,
    MtaOptions,
    NodeOptions,
    Options,
    TlsMode,
)
from tests.support.ports import free_ports, free_range
from tests.support.waiting import wait_until

BARUA = [sys.executable, "-m", "control.cli.main"]
"""The `barua` command of this interpreter."""
START_SECONDS = 240
STOP_SECONDS = 70


class Installation:
    """`barua up --demo` in a folder of its own, on free ports."""

    def __init__(self, folder: Path) -> None:
        self.options = _options(folder / "home")
        self.home = self.options.home_path
        self.config = folder / "barua.toml"
        self.config.write_text(effective.to_toml(self.options))
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it is ready."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*BARUA, "up", "--demo", "--config", str(self.config)],
                env=self.environment,
                stdout=output,
                stderr=output,
                cwd=self.config.parent,
            )
        self.wait_for_health()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def wait_for_health(self) -> None:
        """Return when the bridge says that all is well."""
        url = f"http://{self.options.bridge.listen}/healthz"
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process is not None
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it in order; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    @property
    def environment(self) -> dict[str, str]:
        """Of the installation, and of commands for it."""
        return {**os.environ, "BARUA_HOME": str(self.home), "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}

    @property
    def demo(self) -> dict[str, dict[str, Any]]:
        """The content of demo.json."""
        return dict(json.loads((self.home / "demo.json").read_text()))

    def run(self, *arguments: str) -> str:
        """Run the `barua` command; what it prints."""
        done = subprocess.run(
            [*BARUA, *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inbox(self, recipient: str, count: int = 1) -> list[dict[str, Any]]:
        """What the inbox has for a recipient, once that is so many messages."""
        url = f"{self.demo['inbox']['base_url']}/messages?to={recipient}"

        def arrived() -> list[dict[str, Any]]:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return list(json.load(answer))

        wait_until(lambda: len(arrived()) >= count, f"{count} messages to {recipient} arrived")
        return arrived()

    def processes(self) -> list[int]:
        """Every process of this installation, PostgreSQL's too."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._ours(entry)]

    def _ours(self, entry: Path) -> bool:
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
            environment = (entry / "environ").read_bytes()
            folder = (entry / "cwd").resolve(strict=True)
        except OSError:
            return False
        return f"BARUA_HOME={self.home}\0".encode() in environment or folder.is_relative_to(self.home)


def _options(home: Path) -> Options:
    control, node, bridge, http, smtp, dns, starttls, implicit = (f"127.0.0.1:{port}" for port in free_ports(8))
    metrics = [f"127.0.0.1:{port}" for port in free_ports(3)]
    return Options(
        home=str(home),
        control=ControlOptions(listen=control, metrics_listen=metrics[0]),
        node=NodeOptions(listen=node, metrics_listen=metrics[1]),
        bridge=BridgeOptions(listen=bridge, metrics_listen=metrics[2]),
        inbox=InboxOptions(http_listen=http, smtp_listen=smtp, dns_listen=dns),
        mta=MtaOptions(
            metrics_port_base=free_range(2),
            listeners=[
                ListenerOptions(listen=starttls),
                ListenerOptions(listen=implicit, tls=TlsMode.IMPLICIT),
            ],
        ),
    )
