"""Makes sure that the embedded PostgreSQL has stopped: it detaches itself from control, which stops it in order.

Only when control was killed is there anything to do here. ``stop`` reads ``postmaster.pid`` below home, asks for a fast
shutdown (SIGINT) and, if that takes too long, an immediate one (SIGQUIT; the next start recovers from the log).
A control program that runs holds ``postgres.lock``, and its server is not touched.

Errors: ``OptionsError`` with a text for the operator.

Limits: Linux only (/proc is used to be sure that the process is a PostgreSQL of this home).
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mta.runtime.options import OptionsError

POLL_SECONDS = 0.05


def stop(home: Path, fast_seconds: float, immediate_seconds: float = 3.0) -> None:
    """Stop the servers below ``home/postgres``; returns when they are gone or the time is up. Blocks.

    Raises OptionsError if a control program uses them.
    """
    with _locked(home):
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


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold what a control program with an embedded server holds."""
    lock = os.open(home / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionsError(f"a control program uses this home, {home}; stop it, or choose another home") from error
        yield
    finally:
        os.close(lock)


def _pid_files(folder: Path) -> list[Path]:
    return [file for file in (folder / "postmaster.pid", *folder.glob("*/postmaster.pid")) if file.exists()]


def _wait(file: Path, pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server(file) == pid:
        time.sleep(POLL_SECONDS)
