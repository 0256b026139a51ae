"""Fixtures that every layer may use: a DNS server and a remote mail server."""

from collections.abc import Iterator

import pytest

from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink

REMOTE_DOMAIN = "example.net"


@pytest.fixture
def dns_server() -> Iterator[DnsServer]:
    """A DNS server of the test's own, in which ``example.net`` has its mail server on loopback."""
    records = {(REMOTE_DOMAIN, "MX"): [f"10 mx.{REMOTE_DOMAIN}."], (f"mx.{REMOTE_DOMAIN}", "A"): ["127.0.0.1"]}
    with DnsServer(records) as server:
        yield server


@pytest.fixture
def sink() -> Iterator[RecordingSink]:
    """A remote mail server that answers as the recipient's address tells it to."""
    with RecordingSink() as server:
        yield server
