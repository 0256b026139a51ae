"""Starting in order, restarting, stopping in order: with small programs in place of ours."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from control.supervisor import plan
from control.supervisor.plan import Program, Stage
from control.supervisor.process import CannotStart
from control.supervisor.supervisor import Supervisor, prepare
from mta.runtime import keyring
from mta.runtime.options import Options, OptionsError
from tests.support.stack import Stack

WELL = """
import signal, sys, time
from mta.runtime.lifecycle import notify
name = sys.argv[1]
def note(text):
    with open("events", "a") as file:
        file.write(f"{text} {name}\\n")
def stop(*_):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("started")
notify("READY=1")
while True:
    time.sleep(0.05)
"""


class Run:
    """A supervisor of small programs in ``folder``."""

    def __init__(self, folder: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.ready = asyncio.Event()
        (folder / "well.py").write_text(WELL)
        (folder / "once.py").write_text("open('events', 'a').write('bootstrapped\\n')\n")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        found = [self.program("control", Stage.CONTROL), self.program("node", Stage.NODE)]
        found += [self.program("worker-0", Stage.WORKERS), self.program("bridge", Stage.EDGE)]
        monkeypatch.setattr(plan, "programs", lambda _options, _config: found)
        monkeypatch.setattr(plan, "bootstrap", lambda _config: ("once",))
        self.programs = found
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
        self.supervisor = Supervisor(options, folder / "options.toml", lock, self.said.append)

    def program(self, name: str, stage: Stage, module: str = "well") -> Program:
        return Program(name, (module, name), stage, 5.0)

    def begin(self) -> "asyncio.Task[bool]":
        return asyncio.create_task(self.supervisor.run(self.ready.set))

    @property
    def events(self) -> list[str]:
        file = self.folder / "events"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def run(tmp_path: Path, free: Options, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, free, monkeypatch)


async def test_programs_start_and_stop_in_order(run: Run) -> None:
    running = run.begin()
    await asyncio.wait_for(run.ready.wait(), 60)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 60) is True
    events = run.events
    assert events[0] == "started control"
    assert set(events[1:3]) == {"started node", "started worker-0"}
    assert events[3:] == [
        "bootstrapped",
        "started bridge",
        "stopped bridge",
        "stopped worker-0",
        "stopped node",
        "stopped control",
    ]


async def test_a_killed_worker_comes_back_and_is_talked_about(run: Run) -> None:
    running = run.begin()
    await asyncio.wait_for(run.ready.wait(), 60)
    worker = run.supervisor.child("worker-0")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await _until(lambda: run.events.count("started worker-0") == 2)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(running, 60) is True
    assert any(line.startswith("worker-0 was ended by SIGKILL; starting it again in 0.2 s") for line in run.said)


async def test_a_second_signal_kills(run: Run) -> None:
    deaf = WELL.replace("signal.SIGTERM, stop", "signal.SIGTERM, signal.SIG_IGN")
    (run.folder / "well.py").write_text(deaf)
    running = run.begin()
    await asyncio.wait_for(run.ready.wait(), 60)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(running, 60) is False


async def test_a_program_that_cannot_start_ends_everything_with_its_reason(run: Run) -> None:
    (run.folder / "broken.py").write_text("raise SystemExit('mta.hostname: no such name')\n")
    run.programs[2] = run.program("worker-0", Stage.WORKERS, "broken")
    with pytest.raises(CannotStart, match=r"worker-0 ended with status 1 .*mta\.hostname: no such name"):
        await asyncio.wait_for(run.begin(), 60)
    assert "stopped control" in run.events


async def test_a_bootstrap_that_fails_ends_everything_with_its_reason(run: Run) -> None:
    (run.folder / "once.py").write_text("raise SystemExit('no such tenant')\n")
    with pytest.raises(CannotStart, match=r"bootstrap ended with status 1 .*no such tenant"):
        await asyncio.wait_for(run.begin(), 60)
    assert not run.ready.is_set()
    assert "stopped control" in run.events


async def test_what_is_not_ready_in_time_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "START_SECONDS", 5.0)
    (run.folder / "mute.py").write_text("import time\nprint('waiting for the database')\ntime.sleep(600)\n")
    run.programs[1] = run.program("node", Stage.NODE, "mute")
    with pytest.raises(CannotStart, match=r"not ready after 5 s: node, bridge; last said: waiting for the database"):
        await asyncio.wait_for(run.begin(), 60)


async def test_a_signal_during_the_start_stops_what_runs(run: Run) -> None:
    (run.folder / "mute.py").write_text("import time\ntime.sleep(600)\n")
    run.programs[1] = run.program("node", Stage.NODE, "mute")
    running = run.begin()
    await _until(lambda: "started worker-0" in run.events)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 60) is True
    assert "stopped control" in run.events
    assert not run.ready.is_set()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (processes have no events)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["sealing.key", "tracking.key"])
def test_keys_that_were_rotated_do_not_keep_it_from_starting(tmp_path: Path, name: str) -> None:
    options = Stack(tmp_path, own_postgres=False).options
    path = options.path("secrets", name)
    keyring.write(path, keyring.read(path).rotated().with_next())
    rotated = path.read_text()
    prepare(options)
    assert path.read_text() == rotated
    path.write_text("nonsense")
    with pytest.raises(OptionsError, match=name):
        prepare(options)
