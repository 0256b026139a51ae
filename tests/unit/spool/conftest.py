"""A spool in a folder of the test's own."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from mta.spool import sqlite
from mta.spool.sqlite import SqliteStore
from tests.unit.spool.rows import open_store


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged, kept in memory: while the kernel refuses to write, the runner's own output would fail too."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def spool_path(tmp_path: Path) -> Path:
    """Where the spool file is."""
    return tmp_path / "spool" / "worker-0.db"


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sick spool is tried again soon."""
    monkeypatch.setattr(sqlite, "PROBE_SECONDS", 0.02)


@pytest.fixture
async def store(spool_path: Path, quick_probes: None) -> AsyncIterator[SqliteStore]:
    """A spool, open."""
    opened = open_store(spool_path)
    yield opened
    await opened.close()
