"""Fixtures of the integration tests: a whole installation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import Stack


@pytest.fixture
def stack(tmp_path: Path, dns_server: DnsServer, sink: RecordingSink) -> Iterator[Stack]:
    """A running installation whose mail for ``example.net`` goes to ``sink``."""
    with Stack(tmp_path / "stack", dns=dns_server, delivery_port=sink.port) as running:
        yield running
