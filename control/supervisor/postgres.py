"""Makes sure that the embedded PostgreSQL has stopped: it detaches itself from control, which stops it in order.

Only when control was killed is there anything to do here. ``stop`` reads ``postmaster.pid`` below home, asks for a fast
shutdown (SIGINT) and, if that takes too long, an immediate one (SIGQUIT; the next start recovers from the log).

Limits: Linux only (/proc is used to be sure that the process is a PostgreSQL of this home).
"""

import os
import signal
import time
from pathlib import Path

POLL_SECONDS = 0.05


def stop(home: Path, fast_seconds: float, immediate_seconds: float = 3.0) -> None:
    """Stop the servers below ``home/postgres``; returns when they are gone or the time is up. Blocks."""
    for file in _pid_files(home / "postgres"):
        for number, seconds in ((signal.SIGINT, fast_seconds), (signal.SIGQUIT, immediate_seconds)):
            pid = server(file)
            if pid is None:
                break
            try:
                os.kill(pid, number)
            except OSError:
                break
            _wait(file, pid, seconds)


def server(file: Path) -> int | None:
    """The process that a postmaster.pid names, if it runs and is a PostgreSQL on that folder."""
    try:
        pid = int(file.read_text().splitlines()[0])
        # The number alone proves nothing after a reboot; the server's working folder is its data.
        return pid if Path(f"/proc/{pid}/cwd").resolve(strict=True) == file.parent.resolve() else None
    except (OSError, ValueError, IndexError):
        return None


def _pid_files(folder: Path) -> list[Path]:
    return [file for file in (folder / "postmaster.pid", *folder.glob("*/postmaster.pid")) if file.exists()]


def _wait(file: Path, pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server(file) == pid:
        time.sleep(POLL_SECONDS)
