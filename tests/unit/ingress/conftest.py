"""The listener's tests run on uvloop, as the program does; those of modules with ``BOTH_LOOPS`` on asyncio's too."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from mta.spool import sqlite
from tests.support.certs import Authority
from tests.unit.ingress.service import Service, serving


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops of a test."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if getattr(getattr(item, "module", None), "BOTH_LOOPS", False):
        factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged, kept in memory."""
    monkeypatch.setattr(sqlite, "PROBE_SECONDS", 0.02)
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A listener that trusts 127.0.0.1 and offers no TLS."""
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
async def tls_service(tmp_path: Path, authority: Authority) -> AsyncIterator[Service]:
    """A listener that trusts 127.0.0.1 and offers STARTTLS."""
    async with serving(tmp_path, tls=authority.issue("localhost").server_context()) as running:
        yield running
