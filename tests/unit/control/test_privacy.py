"""The programs write files that only their user may read."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control import __main__ as control_program
from control.demo import inbox
from control.demo.store import Store
from mta.runtime import lifecycle


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual one before, and again after."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("main", [inbox.main, control_program.main], ids=["inbox", "control"])
def test_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Callable[[], None]) -> None:
    arguments = ["program", "serve"] if main is control_program.main else ["program"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(lifecycle, "run", lambda _: Store(tmp_path / "inbox", 10).close())
    main()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "inbox").iterdir()}
    assert modes == {0o600}
