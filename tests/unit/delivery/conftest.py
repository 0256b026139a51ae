"""Delivery's tests run on uvloop, as the program does; those of modules with ``BOTH_LOOPS`` on asyncio's too."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import pytest
import structlog
import uvloop

from mta.delivery import agent, site
from mta.spool import sqlite
from tests.support.certs import Authority


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
    """What is logged; and nobody waits long before looking again."""
    monkeypatch.setattr(agent, "SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(site, "DIAL_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(sqlite, "PROBE_SECONDS", 0.02)
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))
