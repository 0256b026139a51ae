"""The parts of a worker in a folder of the test's own."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from mta.queues import manager
from mta.spool import sqlite
from tests.unit.custody.parts import Parts, open_parts


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged, kept in memory; and the queue looks often."""
    monkeypatch.setattr(manager, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(manager, "SETTLING_MS", 20)
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
async def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    """The parts, running; a sick spool is tried again soon."""
    monkeypatch.setattr(sqlite, "PROBE_SECONDS", 0.02)
    async with open_parts(tmp_path) as opened:
        yield opened
