"""A leftover PostgreSQL is stopped before a start; that of a running installation is not."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.supervisor import addresses, postgres, supervisor
from mta.runtime.options import Options, OptionsError

# Like PostgreSQL it heeds SIGINT and SIGQUIT whatever it inherits: what a shell starts in the background ignores them.
SERVER = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that looks like a server of this home."""
    data = tmp_path / "postgres"
    data.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=data, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (data / "postmaster.pid").write_text(f"{process.pid}\n")
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_leftover_server_is_stopped(tmp_path: Path, server: "subprocess.Popen[bytes]") -> None:
    postgres.stop(tmp_path, 0.2, 0.2)
    assert server.wait(5) != 0


def test_the_server_of_a_running_control_is_left_alone(tmp_path: Path, server: "subprocess.Popen[bytes]") -> None:
    lock = os.open(tmp_path / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(OptionsError, match="a control program uses this home"):
        postgres.stop(tmp_path, 0.2, 0.2)
    assert server.poll() is None
    os.close(lock)


def test_nothing_is_stopped_when_an_address_is_in_use(
    tmp_path: Path, server: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(_: Options) -> None:
        raise OptionsError("in use")

    monkeypatch.setattr(addresses, "check", in_use)
    with pytest.raises(OptionsError, match="in use"):
        supervisor.prepare(Options(home=str(tmp_path), demo=False))
    assert server.poll() is None
