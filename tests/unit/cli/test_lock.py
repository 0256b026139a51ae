"""One run per home."""

import fcntl
import os
from pathlib import Path

import pytest

from control.supervisor.lock import HomeInUse, HomeLock


def test_a_second_run_is_refused_and_told_which_is_first(tmp_path: Path) -> None:
    with HomeLock(tmp_path, 0), pytest.raises(HomeInUse, match=rf"already running .*process {os.getpid()}"):
        HomeLock(tmp_path, 0).__enter__()


def test_the_home_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with HomeLock(tmp_path, 0) as lock:
            assert lock.descriptor >= 0


def test_children_of_an_earlier_run_are_waited_for(tmp_path: Path) -> None:
    with HomeLock(tmp_path, 0) as lock:
        inherited = os.dup(lock.descriptor)
    try:
        with pytest.raises(HomeInUse, match="earlier run"):
            HomeLock(tmp_path, 0.05).__enter__()
    finally:
        fcntl.flock(inherited, fcntl.LOCK_UN)
        os.close(inherited)
    with HomeLock(tmp_path, 0.05):
        pass
