"""A worker for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from mta.spool import sqlite
from tests.unit.rpc.service import Worker, serving


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker, serving."""
    monkeypatch.setattr(sqlite, "PROBE_SECONDS", 0.02)
    with structlog.testing.capture_logs():
        async with serving(tmp_path) as started:
            yield started
