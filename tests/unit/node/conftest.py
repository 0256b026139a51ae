"""A spool, and quick retries."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from mta.node import outbox, policy
from mta.spool import sqlite
from mta.spool.sqlite import SqliteStore
from tests.unit.spool.rows import open_store


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged; and nobody waits long before trying again."""
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(policy, "RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr(sqlite, "PROBE_SECONDS", 0.02)
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A worker's spool."""
    opened = open_store(tmp_path / "spool" / "worker-0.db")
    yield opened
    await opened.close()
