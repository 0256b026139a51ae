"""One supervised program: started, heard, started again when it ends by itself, and stopped.

``Child.keep`` runs until ``stop`` or ``kill`` is called. Children get a session of their own, so that Ctrl-C at the
terminal reaches only us and the order of stopping is ours. Belongs to the loop's thread.

Errors: ``keep`` raises ``CannotStart`` when a program has ended ``MAX_FAILED_STARTS`` times without ever being ready.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from control.supervisor.backoff import Backoff
from control.supervisor.logs import LogFile
from control.supervisor.plan import Program

MAX_FAILED_STARTS = 3
"""A program that has never been ready ends this often: it is not bad luck, and somebody should read why."""


class CannotStart(Exception):
    """The installation cannot be started; the text is for the operator."""


class Child:
    """One program and, most of the time, its process."""

    def __init__(
        self, program: Program, log: LogFile, environment: dict[str, str], lock: int, say: Callable[[str], None]
    ) -> None:
        self.program = program
        self.log = log
        self.ready = asyncio.Event()
        self._environment = environment
        self._lock = lock
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._was_ready = False
        self._unwanted = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def heard(self) -> None:
        """The process said READY=1."""
        self._was_ready = True
        self.ready.set()

    async def keep(self) -> None:
        """Run the program, again and again if need be, until it is not wanted any more."""
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        while not self._unwanted.is_set():
            started = clock()
            self._process = await spawn(self.program.arguments, self.log, self._environment, self._lock)
            status = await self._process.wait()
            self.ready.clear()
            if self._unwanted.is_set():
                return
            pause = backoff.pause_after(clock() - started)
            if not self._was_ready and backoff.failures >= MAX_FAILED_STARTS:
                raise CannotStart(failure(self.program.name, status, self.log))
            self._say(f"{self.program.name} {ending(status)}; starting it again in {pause:g} s (see {self.log.path})")
            await self._sleep(pause)

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL if it has not ended after ``seconds``."""
        self._unwanted.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            self._say(f"{self.program.name} did not stop within {seconds:.0f} s and was killed")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """SIGKILL, now."""
        self._unwanted.set()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._unwanted.wait(), seconds)
        except TimeoutError:
            return


async def spawn(
    arguments: tuple[str, ...], log: LogFile, environment: dict[str, str], lock: int
) -> asyncio.subprocess.Process:
    """Start ``python -m ARGUMENTS`` as a child that ends when we do and holds the lock ``lock`` while it lives."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "control.supervisor.child",
        str(os.getpid()),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log.fileno(),
        stderr=log.fileno(),
        env=environment,
        pass_fds=(lock,),
        start_new_session=True,
    )


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def failure(name: str, status: int, log: LogFile) -> str:
    """Why a program cannot be started, with the last thing it said."""
    return f"{name} {ending(status)} before it was ready: {log.last_line() or 'it said nothing'} (see {log.path})"
