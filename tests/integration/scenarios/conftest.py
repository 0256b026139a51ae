"""Installations for scenarios: all mail goes to a fast sink; logins are taken in clear text on loopback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from mta.runtime.options import Options, RouteOptions, TlsMode
from tests.support.fastsink import FastSink
from tests.support.stack import Stack


@pytest.fixture
def fast_sink() -> Iterator[FastSink]:
    """The remote server of all domains."""
    with FastSink() as sink:
        yield sink


def plaintext_auth(options: Options) -> Options:
    """The options with AUTH before TLS on the first listener: the load is not about TLS."""
    first, *others = options.mta.listeners
    listeners = [msgspec.structs.replace(first, plaintext_auth=True), *others]
    return msgspec.structs.replace(options, mta=msgspec.structs.replace(options.mta, listeners=listeners))


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
