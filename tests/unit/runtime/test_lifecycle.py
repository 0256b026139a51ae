"""Draining, owned tasks, signals and systemd."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mta.runtime.lifecycle import MAX_FILES, Drain, Tasks, notify

ROOT = Path(__file__).resolve().parents[3]


async def test_a_drain_begins_once() -> None:
    drain = Drain()
    states = [drain.stopping]
    waiting = asyncio.create_task(drain.stopped())
    drain.stop()
    drain.stop()
    assert [*states, drain.stopping] == [False, True]
    await asyncio.wait_for(waiting, 60)


async def test_a_drain_waits_for_activities() -> None:
    drain = Drain()
    assert await drain.idle(0.01)
    drain.begin("intake")
    drain.begin("intake")
    with drain.activity("other"):
        assert not await drain.idle(0.01)
    drain.end("intake")
    assert not await drain.idle(0.01)
    asyncio.get_running_loop().call_later(0.02, drain.end, "intake")
    assert await drain.idle(60)


async def test_an_activity_ends_with_its_block_whatever_happens() -> None:
    drain = Drain()
    with pytest.raises(RuntimeError), drain.activity("x"):
        raise RuntimeError
    assert await drain.idle(0)


async def test_tasks_end_with_their_owner() -> None:
    tasks = Tasks()
    ended = []

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    started = [tasks.start(work(number), f"work-{number}") for number in range(3)]
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(ended) == [0, 1, 2]
    assert all(task.cancelled() for task in started)
    await tasks.close()


async def test_a_failed_task_is_reported() -> None:
    failures: list[str] = []
    tasks = Tasks(lambda: failures.append("failed"))

    async def fail() -> None:
        raise ValueError("a mistake")

    async def cancelled() -> None:
        await asyncio.sleep(60)

    tasks.start(fail(), "fails")
    tasks.start(cancelled(), "cancelled").cancel()
    await tasks.wait(60)
    await asyncio.sleep(0.01)
    assert failures == ["failed"]
    assert not tasks._tasks


async def test_waiting_for_tasks_has_an_end() -> None:
    tasks = Tasks()
    await tasks.wait(1)
    quick = tasks.start(asyncio.sleep(0.01), "quick")
    await tasks.wait(60)
    assert quick.done()
    slow = tasks.start(asyncio.sleep(60), "slow")
    await tasks.wait(0.01)
    assert not slow.done()
    await tasks.close()


PROGRAM = """
import asyncio, sys
from mta.runtime.lifecycle import run
from mta.runtime.options import OptionsError

async def main(drain):
    print("loop", type(asyncio.get_running_loop()).__module__, flush=True)
    {body}

run(main)
print("ended")
"""


def program(body: str) -> "subprocess.Popen[str]":
    """A program whose main does that."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{body}", body)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_begins_the_drain(number: signal.Signals) -> None:
    with program("await drain.stopped(); print('drained')") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loop uvloop\n"
        process.send_signal(number)
        assert process.stdout.read() == "drained\nended\n"
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [("raise OptionsError('change x')", 2), ("raise RuntimeError('x')", 1), ("sys.exit(7)", 7), ("pass", 0)],
)
def test_the_status_says_how_it_ended(body: str, status: int) -> None:
    with program(body) as process:
        process.communicate(timeout=60)
        assert process.returncode == status


def test_a_program_may_open_as_many_files_as_it_is_allowed() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    body = f"""import resource
    print(resource.getrlimit(resource.RLIMIT_NOFILE) == ({min(hard, MAX_FILES)}, {hard}))"""
    command = ["prlimit", f"--nofile=256:{hard}", sys.executable, "-c", PROGRAM.replace("{body}", body)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "loop uvloop\nTrue\nended\n"


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1")
        assert server.recv(100) == b"READY=1"


def test_systemd_may_listen_on_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"barua-test-{os.getpid()}-{threading.get_ident()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("STOPPING=1")
        assert server.recv(100) == b"STOPPING=1"


def test_nobody_need_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
