"""Load for the scenarios: Postfix's ``smtp-source`` at one end and ``smtp-sink`` at the other.

Both are programs of somebody else, known to everybody who has measured a mail server, and much faster than what is
measured (the ceiling is printed with the results). The sink counts what it has received, so that the time runs from
the start of the source until the last message has arrived at the far end.

Errors: ``LoadFailed`` if a program ends badly or the messages do not arrive in time. Blocking.
"""

import subprocess
import time
from dataclasses import dataclass

from tests.support.debian import Tools
from tests.support.smtpsink import SmtpSink


class LoadFailed(Exception):
    """The load could not be put on, or did not come through."""


@dataclass(frozen=True, slots=True)
class Load:
    """What ``smtp-source`` sends."""

    messages: int = 10_000
    sessions: int = 20
    size: int = 4096
    sender: str = "source@bench.test"
    recipient: str = "sink@example.net"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one load took, in seconds since the start of the source."""

    messages: int
    accepted_seconds: float
    delivered_seconds: float

    @property
    def rate(self) -> float:
        """Messages per second, end to end."""
        return self.messages / self.delivered_seconds

    @property
    def accept_rate(self) -> float:
        """Messages per second as the source saw it."""
        return self.messages / self.accepted_seconds


def run(tools: Tools, load: Load, port: int, sink: SmtpSink, timeout_seconds: float = 300) -> Timing:
    """Send ``load`` to ``port`` and wait until all of it is in ``sink``. Raises LoadFailed."""
    before = sink.count
    command = [
        str(tools.program("smtp-source")), "-s", str(load.sessions), "-l", str(load.size), "-m", str(load.messages),
        "-f", load.sender, "-t", load.recipient, "-M", "source.bench.test", f"127.0.0.1:{port}",
    ]  # fmt: skip
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, env=tools.environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"smtp-source did not finish in {timeout_seconds} s") from error
    accepted = time.monotonic()
    if done.returncode != 0:
        raise LoadFailed(f"smtp-source failed: {(done.stderr + done.stdout).strip()[-500:]}")
    try:
        delivered = sink.wait(before + load.messages, timeout_seconds)
    except TimeoutError as error:
        raise LoadFailed(str(error)) from error
    return Timing(load.messages, accepted - start, delivered - start)
