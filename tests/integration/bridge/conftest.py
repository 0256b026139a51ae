"""One installation for all tests of the bridge: they use addresses and sub-users of their own."""

from collections.abc import Iterator

import httpx
import pytest

from mta.runtime.options import Options
from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import ACCOUNT, Stack, changed

MESSAGE_BYTES = 300_000
MOCK_DOMAIN = "play.test"


def _options(options: Options) -> Options:
    """Small messages, domains that nothing is sent to and that nobody sends from, tracking by the bridge itself."""
    options = changed(options, "mta.limits", message_bytes=MESSAGE_BYTES)
    options = changed(options, "mta", mock_domain=MOCK_DOMAIN)
    options = changed(options, "control", refused_sender_domains=["free.test"])
    return changed(options, "bridge", public_url=f"http://{options.bridge.listen}")


@pytest.fixture(scope="package")
def shared_sink() -> Iterator[RecordingSink]:
    """The remote server of ``example.net``."""
    with RecordingSink() as running:
        yield running


@pytest.fixture(scope="package")
def shared_dns() -> Iterator[DnsServer]:
    """The nameserver of the installation; tests add domains of their own."""
    with DnsServer() as dns:
        for domain in ("example.net", "strict.test"):
            dns.set(domain, "A", "127.0.0.1")
        dns.set_text("_dmarc.strict.test", "v=DMARC1; p=reject")
        yield dns


@pytest.fixture(scope="package")
def shared_stack(
    tmp_path_factory: pytest.TempPathFactory, shared_sink: RecordingSink, shared_dns: DnsServer
) -> Iterator[Stack]:
    """The installation."""
    folder = tmp_path_factory.mktemp("bridge")
    with Stack(folder, dns=shared_dns, delivery_port=shared_sink.port, change=_options) as running:
        yield running


@pytest.fixture(scope="package")
def api_key(shared_stack: Stack) -> str:
    """An API key of ``acme``."""
    return shared_stack.operator.create_api_key(ACCOUNT)


@pytest.fixture
def client(shared_stack: Stack) -> Iterator[httpx.Client]:
    """An HTTP client for the bridge, without credentials."""
    with httpx.Client(base_url=shared_stack.bridge_url, timeout=60) as opened:
        yield opened
