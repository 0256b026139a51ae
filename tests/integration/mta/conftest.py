"""One installation for all tests of this folder, with accounts of their own for those that count.

The DNS sends ``example.net`` to ``sink`` and ``second.test`` to ``second_sink``, which is on another loopback address
with the same port. ``relay.test`` goes to Postfix's ``smtp-sink`` by a static route, ``dropping.test`` to a port where
a test starts what it likes.
"""

from collections.abc import Iterator

import pytest

from mta.runtime.options import Options, RouteOptions, TlsMode
from tests.integration.mta.accounts import Account, Accounts
from tests.support.dns import DnsServer
from tests.support.ports import free_port
from tests.support.sink import RecordingSink
from tests.support.smtpsink import SmtpSink
from tests.support.stack import Stack, changed

MESSAGE_BYTES = 1_048_576
RECIPIENTS = 250
MAIL_HOST = "mx.example.net"
SECOND_ADDRESS = "127.0.0.2"


@pytest.fixture(scope="package")
def dns_server() -> Iterator[DnsServer]:
    """The DNS of the installation."""
    with DnsServer(
        {
            ("example.net", "MX"): [f"10 {MAIL_HOST}."],
            (MAIL_HOST, "A"): ["127.0.0.1"],
            ("second.test", "MX"): ["10 mx.second.test."],
            ("mx.second.test", "A"): [SECOND_ADDRESS],
        }
    ) as server:
        yield server


@pytest.fixture(scope="package")
def sink() -> Iterator[RecordingSink]:
    """The mail server of ``example.net``."""
    with RecordingSink() as server:
        yield server


@pytest.fixture(scope="package")
def second_sink(sink: RecordingSink) -> Iterator[RecordingSink]:
    """The mail server of ``second.test``."""
    with RecordingSink(host=SECOND_ADDRESS, port=sink.port) as server:
        yield server


@pytest.fixture(scope="package")
def smtp_sink() -> Iterator[SmtpSink]:
    """The target of the static route for ``relay.test``."""
    with SmtpSink() as server:
        yield server


@pytest.fixture(scope="package")
def dropping_port() -> int:
    """The target of the static route for ``dropping.test``."""
    return free_port()


@pytest.fixture(scope="package")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    dns_server: DnsServer,
    sink: RecordingSink,
    smtp_sink: SmtpSink,
    dropping_port: int,
) -> Iterator[Stack]:
    """The installation."""

    def change(options: Options) -> Options:
        return changed(options, "mta.limits", message_bytes=MESSAGE_BYTES, recipients=RECIPIENTS)

    routes = [
        RouteOptions(domain="relay.test", target=f"127.0.0.1:{smtp_sink.port}", tls=TlsMode.NONE),
        RouteOptions(domain="dropping.test", target=f"127.0.0.1:{dropping_port}", tls=TlsMode.NONE),
    ]
    folder = tmp_path_factory.mktemp("mta")
    with Stack(folder, dns=dns_server, delivery_port=sink.port, routes=routes, change=change) as running:
        yield running


@pytest.fixture(scope="package")
def accounts(stack: Stack, dns_server: DnsServer) -> Accounts:
    """Makes accounts."""
    return Accounts(stack, dns_server, MAIL_HOST)


@pytest.fixture
def account(accounts: Accounts) -> Account:
    """An account of the test's own."""
    return accounts.make()
