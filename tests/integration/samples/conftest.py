"""One installation for all samples: HTTPS on the bridge, the senders' domains of the samples, a server for every
recipient."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from mta.runtime.options import BridgeTlsOptions, Options
from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink
from tests.support.stack import ACCOUNT, Stack

RECIPIENT_DOMAINS = ("example.com", "test.com", "piedpiper.com")
SENDER_DOMAINS = ("mspace.co.ke", "yourdomain.com", "piedpiper.com", "example.com", "domain.com", "test.com")


@pytest.fixture(scope="package")
def sink() -> Iterator[RecordingSink]:
    """The server of all recipients."""
    with RecordingSink() as running:
        yield running


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, sink: RecordingSink) -> Iterator[Stack]:
    """The installation. ``acme`` may send from every domain that the samples send from."""
    folder = tmp_path_factory.mktemp("samples")
    with DnsServer() as dns:
        for domain in RECIPIENT_DOMAINS:
            dns.set(domain, "A", "127.0.0.1")
        with Stack(folder, dns=dns, delivery_port=sink.port, change=_https) as running:
            for domain in SENDER_DOMAINS:
                running.operator.create_domain(ACCOUNT, domain)
            yield running


@pytest.fixture(scope="package")
def api_key(stack: Stack) -> str:
    """An API key of ``acme``."""
    return stack.operator.create_api_key(ACCOUNT)


@pytest.fixture(scope="package")
def authority(stack: Stack) -> Path:
    """The file with the certificate that everything here trusts."""
    return stack.authority.ca_file


def _https(options: Options) -> Options:
    files = options.mta.tls
    tls = BridgeTlsOptions(certificate_file=files.certificate_file, key_file=files.key_file)
    url = f"https://localhost:{options.bridge.listen.rpartition(':')[2]}"
    return replace(options, bridge=replace(options.bridge, tls=tls, public_url=url))
