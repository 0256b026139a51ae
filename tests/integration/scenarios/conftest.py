"""Installations for scenarios: all mail goes to a fast sink; logins are taken in clear text on loopback.

``stack`` has two workers and serves one module; each of its tests has an account of its own and leaves everything
running as it found it. ``installation`` makes others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from mta.runtime.options import Options, RouteOptions, TlsMode
from tests.integration.mta.accounts import Account, Accounts
from tests.support.fastsink import FastSink
from tests.support.stack import Stack

CREDITS = 100_000


@pytest.fixture(scope="module")
def fast_sink() -> Iterator[FastSink]:
    """The remote server of all domains."""
    with FastSink() as sink:
        yield sink


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, fast_sink: FastSink) -> Iterator[Stack]:
    """The installation of a module."""
    with installation(tmp_path_factory.mktemp("scenario"), fast_sink.port) as running:
        yield running


@pytest.fixture(scope="module")
def accounts(stack: Stack) -> Accounts:
    """Makes accounts in the installation of a module."""
    return Accounts(stack)


@pytest.fixture
def account(accounts: Accounts) -> Account:
    """An account of the test's own."""
    return accounts.make(credits_=CREDITS)


@contextmanager
def installation(
    folder: Path,
    port: int,
    *,
    workers: int = 2,
    change: Callable[[Options], Options] = lambda options: options,
) -> Iterator[Stack]:
    """A running installation that sends everything to a port of this machine."""
    route = RouteOptions(domain="*", target=f"127.0.0.1:{port}", tls=TlsMode.NONE)
    with Stack(
        folder, workers=workers, routes=[route], change=lambda options: plaintext_auth(change(options))
    ) as running:
        yield running


def plaintext_auth(options: Options) -> Options:
    """The options with AUTH before TLS on the first listener: the load is not about TLS."""
    first, *others = options.mta.listeners
    listeners = [msgspec.structs.replace(first, plaintext_auth=True), *others]
    return msgspec.structs.replace(options, mta=msgspec.structs.replace(options.mta, listeners=listeners))
