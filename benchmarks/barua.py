"""Barua as the other peer: a whole installation that relays everything to one port, all programs running.

Two workers, PostgreSQL, control, node and bridge, as ``barua up`` would run them; options are the defaults, but for
what makes it a relay: a trusted network, one static route, a tenant with credits enough. Logs go to files.
"""

import smtplib
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from mta.runtime.options import (
    BootstrapDomain,
    BootstrapOptions,
    BootstrapTenant,
    ListenerOptions,
    Options,
    RetryOptions,
    RouteOptions,
    TlsMode,
    TrustedNetwork,
)
from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.waiting import wait_until

TENANT, DOMAIN = "bench", "bench.test"
CREDITS = 1_000_000_000
WORKERS = 2


class Barua:
    """A Barua that relays everything to one port. Use as a context manager."""

    def __init__(self, folder: Path, sink_port: int, signing: bool, workers: int = WORKERS) -> None:
        self.port = free_port()
        self._signing = signing
        self._stack = Stack(
            folder,
            workers=workers,
            routes=[RouteOptions(domain="*", target=f"127.0.0.1:{sink_port}", tls=TlsMode.NONE)],
            change=self._change,
        )

    @property
    def stack(self) -> Stack:
        """The installation."""
        return self._stack

    def __enter__(self) -> Self:
        self._stack.start()
        try:
            wait_until(self._takes_mail, "the workers know the tenant and have credits")
        except BaseException:
            self._stack.print_logs()
            self._stack.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.print_logs()
        self._stack.stop()

    def _change(self, options: Options) -> Options:
        trusted = [TrustedNetwork(network="127.0.0.1/32", tenant=TENANT)]
        listener = ListenerOptions(listen=f"127.0.0.1:{self.port}", tls=TlsMode.NONE, trusted=trusted)
        tenant = BootstrapTenant(
            id=TENANT, credits=CREDITS, domains=[BootstrapDomain(name=DOMAIN, signing=self._signing)]
        )
        return replace(
            options,
            mta=replace(options.mta, listeners=[*options.mta.listeners, listener], retry=RetryOptions()),
            bootstrap=BootstrapOptions(tenants=[tenant]),
        )

    def _takes_mail(self) -> bool:
        """Whether each worker does: the kernel spreads connections over them, so ask often."""
        try:
            for _ in range(WORKERS * 8):
                with smtplib.SMTP("127.0.0.1", self.port, timeout=10) as client:
                    client.helo("probe.bench.test")
                    if client.mail(f"probe@{DOMAIN}")[0] != 250 or client.rcpt("probe@example.net")[0] != 250:
                        return False
        except (smtplib.SMTPException, OSError):
            return False
        return True
