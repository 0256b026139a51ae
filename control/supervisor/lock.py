"""One run per home: locks that the kernel drops with the processes that hold them, so that no stale lock is possible.

``run/up.lock`` is held by `barua up` itself. ``run/children.lock`` is held (shared) by every child as an inherited file
descriptor, so that a new run can see that programs of a killed one are still finishing, and wait for them: two workers
must never have the same spool.

Errors: ``HomeInUse`` with a text for the operator.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

POLL_SECONDS = 0.1


class HomeInUse(Exception):
    """Another run has this home; the text says which and what to do."""


class HomeLock:
    """Both locks of one home, for the length of a ``with`` block.

    ``descriptor`` is what children inherit. Waits at most ``wait_seconds`` for children of an earlier run.
    """

    def __init__(self, home: Path, wait_seconds: float) -> None:
        self._home = home
        self._wait_seconds = wait_seconds
        self._own = -1
        self.descriptor = -1

    def __enter__(self) -> "HomeLock":
        run = self._home / "run"
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own = os.open(run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_own()
            self.descriptor = os.open(run / "children.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._wait_for_children()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (self.descriptor, self._own):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._own = -1

    def _take_own(self) -> None:
        try:
            fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._own, 32, 0).decode(errors="replace").strip() or "unknown"
            raise HomeInUse(
                f"barua is already running in {self._home} (process {pid}); stop it first, "
                "or set BARUA_HOME to another folder for a second one"
            ) from error
        os.ftruncate(self._own, 0)
        os.pwrite(self._own, f"{os.getpid()}\n".encode(), 0)

    def _wait_for_children(self) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise HomeInUse(
                        f"programs of an earlier run in {self._home} are still stopping; "
                        "wait for them or kill them, then start again"
                    ) from error
            time.sleep(POLL_SECONDS)
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)
