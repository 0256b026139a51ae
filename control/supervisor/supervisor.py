"""Runs a whole installation in the foreground: prepare, start in order, watch, stop in order.

``up`` is the one entry. It holds the home's lock, makes what must exist before any program starts (folders, secrets, in
demo mode certificates), refuses addresses in use, and then runs a ``Supervisor`` until SIGINT, SIGTERM or SIGHUP. The
first signal stops in order within ``TOTAL_STOP_SECONDS``; the second kills at once, which loses nothing that was
answered 250.

Errors: ``OptionsError``, ``HomeInUse`` and ``CannotStart`` with texts for the operator.

Limits: Linux. The supervisor makes no gRPC calls itself; what needs them is a child (``control.bootstrap``).
"""

import asyncio
import importlib.util
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from control import secrets
from control.demo import authority
from control.supervisor import addresses, effective, plan, postgres
from control.supervisor.lock import HomeLock
from control.supervisor.logs import LogFile, Repeats
from control.supervisor.notify import ReadySocket
from control.supervisor.process import CannotStart, Child, failure, spawn
from mta.runtime import keyring
from mta.runtime.options import ENV_HOME, Options, OptionsError, TlsFiles

WAIT_FOR_EARLIER_SECONDS = 75.0
"""Programs of a run that was killed drain for less than this."""
LOG_POLL_SECONDS = 0.5
BOOTSTRAP_ATTEMPTS = 3
BOOTSTRAP_PAUSE_SECONDS = 1.0

Say = Callable[[str], None]


def up(options: Options, say: Say, on_ready: Callable[[Options], None]) -> bool:
    """Run until told to stop. True: stopped in order; False: a second signal killed what was left."""
    options.home_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with HomeLock(options.home_path, WAIT_FOR_EARLIER_SECONDS) as lock:
        options = prepare(options)
        config = effective.write(options)
        supervisor = Supervisor(options, config, lock.descriptor, say)
        return asyncio.run(supervisor.run(lambda: on_ready(options)))


def prepare(options: Options) -> Options:
    """Make folders, secrets and demo certificates; return the options for the children. Raises OptionsError."""
    if options.demo and importlib.util.find_spec("aiosmtpd") is None:
        raise OptionsError('demo mode needs the inbox: install "barua[demo]", or start with --no-demo')
    options.home_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("run", "spool", "log", "secrets"):
        options.path(name).mkdir(mode=0o700, exist_ok=True)
    for name in ("operator.token", "node.token"):
        secrets.ensure(options.path("secrets", name), 32)
    for name in ("sealing.key", "tracking.key"):  # these may hold several keys
        secrets.make(options.path("secrets", name), keyring.KEY_OCTETS)
        keyring.read(options.path("secrets", name))
    tls = TlsFiles()
    if options.demo and not options.mta.tls.certificate_file:
        files = authority.ensure(options.path("tls"))
        tls = TlsFiles(certificate_file=str(files.certificate), key_file=str(files.key))
    options = effective.derive(options, tls)
    addresses.check(options)
    postgres.stop(options.home_path, fast_seconds=10.0)
    return options


class Supervisor:
    """The running installation. One use; belongs to one event loop."""

    def __init__(self, options: Options, config: Path, lock: int, say: Say) -> None:
        self._options = options
        self._config = config
        self._lock = lock
        self._say = say
        self._stopping = asyncio.Event()
        self._killed = False
        self._failure: CannotStart | None = None
        self._children: list[Child] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = ReadySocket(self._heard)
        self._environment = {
            **os.environ,
            "NOTIFY_SOCKET": self._socket.address,
            ENV_HOME: options.home,
            "PYTHONUNBUFFERED": "1",
        }

    def child(self, name: str) -> Child:
        """The program of that name. Raises KeyError."""
        return {child.program.name: child for child in self._children}[name]

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Start, watch, stop. Raises CannotStart; what was started is stopped before."""
        self._socket.listen()
        with ExitStack() as stack:
            stack.callback(self._socket.close)
            stack.enter_context(self._signals())
            for program in plan.programs(self._options, self._config):
                log = LogFile(self._options.path("log"), program.name)
                stack.callback(log.close)
                self._children.append(Child(program, log, self._environment, self._lock, self._say))
            watching = asyncio.create_task(self._watch_logs())
            try:
                await self._start()
                if not self._stopping.is_set():
                    on_ready()
                    await self._stopping.wait()
            finally:
                await self._stop()
                watching.cancel()
        if self._failure is not None:
            raise self._failure
        return not self._killed

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(plan.START_SECONDS):
                await self._start_and_wait(plan.Stage.CONTROL)
                await self._start_and_wait(plan.Stage.INBOX, plan.Stage.NODE, plan.Stage.WORKERS)
                if not self._stopping.is_set():
                    await self._bootstrap()
                # Last, because who sees the bridge's /healthz may count on everything else.
                await self._start_and_wait(plan.Stage.EDGE)
        except TimeoutError:
            late = [child for child in self._children if not child.ready.is_set()]
            names = ", ".join(child.program.name for child in late) or "bootstrap"
            said = next((text for child in late if (text := child.log.last_line())), "nothing")
            self._fail(
                CannotStart(
                    f"not ready after {plan.START_SECONDS:.0f} s: {names}; last said: {said} "
                    f"(see {self._options.path('log')})"
                )
            )

    async def _start_and_wait(self, *stages: plan.Stage) -> None:
        if self._stopping.is_set():
            return
        children = [child for child in self._children if child.program.stage in stages]
        for child in children:
            self._own(child.keep())
        for child in children:
            await self._until_stopping(child.ready.wait())

    async def _until_stopping(self, waiting: Coroutine[Any, Any, Any]) -> None:
        tasks = {asyncio.create_task(waiting), asyncio.create_task(self._stopping.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _bootstrap(self) -> None:
        log = LogFile(self._options.path("log"), "bootstrap")
        try:
            for attempt in range(1, BOOTSTRAP_ATTEMPTS + 1):
                process = await spawn(plan.bootstrap(self._config), log, self._environment, self._lock)
                await self._until_stopping(process.wait())
                if self._stopping.is_set():
                    if process.returncode is None:
                        process.kill()
                        await process.wait()
                    return
                status = process.returncode
                if status == 0:
                    return
                if attempt == BOOTSTRAP_ATTEMPTS and status is not None:
                    self._fail(CannotStart(failure("bootstrap", status, log)))
                await self._until_stopping(asyncio.sleep(BOOTSTRAP_PAUSE_SECONDS))
        finally:
            log.close()

    async def _stop(self) -> None:
        self._stopping.set()
        deadline = asyncio.get_running_loop().time() + plan.TOTAL_STOP_SECONDS
        for stage in plan.Stage:
            members = [child for child in self._children if child.program.stage is stage]
            if any(child.pid is not None for child in members):
                self._say(f"stopping {', '.join(child.program.name for child in members)}")
            left = max(deadline - asyncio.get_running_loop().time(), 0.5)
            await asyncio.gather(*(child.stop(min(child.program.stop_seconds, left)) for child in members))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._options.database.url == "embedded":
            seconds = 0.0 if self._killed else 10.0
            try:
                await asyncio.to_thread(postgres.stop, self._options.home_path, seconds)
            except OptionsError as error:  # ours has ended, so this one was here before us
                self._say(f"PostgreSQL is left alone: {error}")

    def _own(self, keeping: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(keeping)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, CannotStart):
            self._fail(error)
        elif error is not None:
            self._fail(CannotStart(f"cannot run a program: {error}"))

    def _fail(self, error: CannotStart) -> None:
        self._failure = self._failure or error
        self._stopping.set()

    def _heard(self, pid: int, again: bool = True) -> None:
        for child in self._children:
            if child.pid == pid:
                child.heard()
                return
        if again:  # a program so quick that its start has not returned here yet
            asyncio.get_running_loop().call_later(LOG_POLL_SECONDS, self._heard, pid, False)

    def _signalled(self) -> None:
        if not self._stopping.is_set():
            self._say("stopping in order; a second signal kills")
            self._stopping.set()
            return
        self._killed = True
        for child in self._children:
            child.kill()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def _watch_logs(self) -> None:
        now = asyncio.get_running_loop().time
        repeats = {child.program.name: Repeats() for child in self._children}
        while True:
            await asyncio.sleep(LOG_POLL_SECONDS)
            for child in self._children:
                name = child.program.name
                for line in child.log.important():
                    if repeats[name].new(line, now()):
                        self._say(f"{name}: {line}")
