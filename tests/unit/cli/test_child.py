"""Children end with their parent, however it ends; readiness is believed only from who says it is."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from control.supervisor.logs import LogFile
from control.supervisor.notify import ReadySocket
from control.supervisor.plan import Program, Stage
from control.supervisor.process import CannotStart, Child, ending
from tests.support.waiting import in_time_async, wait_until

PARENT = """
import subprocess, sys, os, time
child = subprocess.Popen([sys.executable, "-m", "control.supervisor.child", str(os.getpid()), "waiting"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_sigterm_reaches_the_child_of_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == b"up\n"
    parent.kill()
    parent.wait()
    wait_until(lambda: not running(pid), "the child has ended")
    parent.stdout.close()


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    command = [sys.executable, "-m", "control.supervisor.child", "1", "this"]
    done = subprocess.run(command, env=_environment(), check=False)
    assert done.returncode == 1


async def test_ready_is_heard_with_the_senders_pid() -> None:
    heard: list[int] = []
    ready = ReadySocket(heard.append)
    ready.listen()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + ready.address[1:])
        sender.send(b"STATUS=starting")
        sender.send(b"STATUS=up\nREADY=1")
    await _until(lambda: heard)
    ready.close()
    assert heard == [os.getpid()]


async def test_a_crashed_program_is_back_within_300_ms(tmp_path: Path) -> None:
    async def seconds() -> float:
        """Between the end of a program and its next start."""
        child, _ = _child(tmp_path, "import time\ntime.sleep(600)\n")
        keeping = asyncio.create_task(child.keep())
        first = await _pid(child)
        child.heard()
        started = time.monotonic()
        os.kill(first, signal.SIGKILL)
        await _until(lambda: child.pid not in (None, first))
        took = time.monotonic() - started
        await child.stop(60)
        await keeping
        assert took >= 0.2
        return took

    await in_time_async(seconds, 0.39)  # the next pause would be 0.4 s


async def test_a_program_that_never_gets_ready_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    child, said = _child(tmp_path, "print('no such table: spool')\nraise SystemExit(3)\n")
    try:
        await child.keep()
        raise AssertionError
    except CannotStart as error:
        assert "program ended with status 3 before it was ready: no such table: spool" in str(error)
    assert len(said) == 2


async def test_a_program_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(600)\n"
    child, said = _child(tmp_path, deaf)
    keeping = asyncio.create_task(child.keep())
    await _until(lambda: child.log.last_line() == "deaf")
    await child.stop(0.2)
    await asyncio.wait_for(keeping, 60)
    assert said == ["program did not stop within 0 s and was killed"]


def test_endings_in_words() -> None:
    assert ending(2) == "ended with status 2"
    assert ending(-9) == "was ended by SIGKILL"
    assert ending(-99) == "was ended by signal 99"


def running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _child(folder: Path, code: str) -> tuple[Child, list[str]]:
    (folder / "program.py").write_text(code)
    environment = {**_environment(), "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "PYTHONUNBUFFERED": "1"}
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    said: list[str] = []
    program = Program("program", ("program",), Stage.NODE, 5.0)
    return Child(program, LogFile(folder, "program"), environment, lock, said.append), said


async def _pid(child: Child) -> int:
    await _until(lambda: child.pid is not None)
    assert child.pid is not None
    return child.pid


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (processes have no events)
            await asyncio.sleep(0.01)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
