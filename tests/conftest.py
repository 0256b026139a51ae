"""Fixtures that every layer may use: a DNS server, a remote mail server, and a line in the summary of the run."""

from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.dns import DnsServer
from tests.support.sink import RecordingSink

REMOTE_DOMAIN = "example.net"

# How fast a machine makes examples, beside whatever else it does, says nothing about the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# The usual renderer draws a traceback with all local variables, for which a busy machine needs seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that chooses the server of control's integration tests."""
    text = "PostgreSQL of control's tests: embedded (some run on 15, too) or 15, Debian's, as an external server"
    parser.addoption("--postgres", choices=("embedded", "15"), default="embedded", help=text)


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


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line that is printed at the end of the run, in whatever process the test ran."""
    return lambda text: record_property(measured.__name__, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured."""
    finished = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    for report in finished:
        for name, text in report.user_properties:
            if report.when == "call" and name == measured.__name__:
                terminalreporter.write_line(f"{report.nodeid.rpartition('/')[2]}: {text}")
