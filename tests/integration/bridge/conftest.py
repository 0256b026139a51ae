"""One installation for all tests of the bridge: they use addresses and sub-users of their own."""

from collections.abc import Iterator

import httpx
import pytest

from mta.runtime.options import Options
from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import ACCOUNT, Stack, changed

MESSAGE_BYTES = 200_000


def _small_messages(options: Options) -> Options:
    return changed(options, "mta.limits", message_bytes=MESSAGE_BYTES)


@pytest.fixture(scope="package")
def shared_sink() -> Iterator[RecordingSink]:
    """The remote server of ``example.net``."""
    with RecordingSink() as running:
        yield running


@pytest.fixture(scope="package")
def shared_stack(tmp_path_factory: pytest.TempPathFactory, shared_sink: RecordingSink) -> Iterator[Stack]:
    """The installation."""
    with DnsServer() as dns:
        dns.set("example.net", "A", "127.0.0.1")
        folder = tmp_path_factory.mktemp("bridge")
        with Stack(folder, dns=dns, delivery_port=shared_sink.port, change=_small_messages) as running:
            yield running


@pytest.fixture(scope="package")
def api_key(shared_stack: Stack) -> str:
    """An API key of ``acme``."""
    return shared_stack.operator.create_api_key(ACCOUNT)


@pytest.fixture
def client(shared_stack: Stack) -> Iterator[httpx.Client]:
    """An HTTP client for the bridge, without credentials."""
    with httpx.Client(base_url=shared_stack.bridge_url, timeout=30) as opened:
        yield opened
