"""A complete installation in a folder: real processes, a real PostgreSQL, free ports, short retries.

Each program is a process of its own that a test kills and starts again, PostgreSQL too. ::

    with DnsServer() as dns, RecordingSink() as sink:
        dns.set("example.net", "A", "127.0.0.1")
        with Stack(folder, dns=dns, delivery_port=sink.port) as stack:
            with stack.smtp() as client:
                client.sendmail("news@acme.test", ["someone@example.net"], content)
            sink.wait(1)
            stack.workers[0].kill()
            stack.workers[0].start()

It makes what ``barua up`` would make and starts what it would start, in the same order and from the same tables
(``control.supervisor.plan``), only that nobody restarts what ends. Tenants: ``reseller`` with 1,000,000 credits, and
below it ``acme`` with 100,000, the domain ``acme.test`` and one login each, named like the tenant.

Errors: ``NotReady`` with the log of what did not start. When a test fails inside the ``with``, the end of every log is
printed. Any thread, blocking; about four seconds to start.
"""

import os
import shutil
import smtplib
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from msgspec.structs import replace

from control.supervisor import effective, plan
from control.supervisor.supervisor import prepare
from mta.runtime.options import (
    ENV_HOME,
    BootstrapDomain,
    BootstrapOptions,
    BootstrapTenant,
    BridgeOptions,
    ControlOptions,
    DatabaseOptions,
    DeliveryOptions,
    DnsOptions,
    InboxOptions,
    ListenerOptions,
    MtaOptions,
    NodeOptions,
    Options,
    RetryOptions,
    RouteOptions,
    TlsFiles,
    TlsMode,
)
from tests.support import memory
from tests.support.certs import Authority
from tests.support.dns import DnsServer
from tests.support.operator import Operator
from tests.support.ports import free_port, free_ports, free_range
from tests.support.postgres import Postgres
from tests.support.program import NotReady, Program
from tests.support.waiting import wait_until

RESELLER, ACCOUNT, DOMAIN = "reseller", "acme", "acme.test"
PASSWORD = "correct horse battery staple"
RESELLER_CREDITS, ACCOUNT_CREDITS = 1_000_000, 100_000
BOOTSTRAP_SECONDS = 120
# Deferred mail is tried again within seconds, and given up before a test's patience ends.
RETRY = RetryOptions(first_seconds=0.5, factor=1.5, max_seconds=2.0, jitter=0.1, lifetime_seconds=60.0, min_attempts=2)

Change = Callable[[Options], Options]


@dataclass(frozen=True, slots=True)
class Login:
    """A username and its password."""

    username: str
    password: str


class Stack:
    """The installation. Use as a context manager, or ``start`` and ``stop``.

    ``change`` gets the options made here and returns those to use. ``own_postgres``: a server of
    its own that tests may stop; without, control starts and stops the embedded one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        dns: DnsServer | None = None,
        delivery_port: int = 25,
        routes: Sequence[RouteOptions] = (),
        change: Change = lambda options: options,
        own_postgres: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self._database = memory.new_folder() if own_postgres else None
        self.postgres = Postgres(self._database / "database") if self._database is not None else None
        self.options = prepare(change(self._options(workers, dns, delivery_port, routes)))
        self.config = effective.write(self.options)
        self._programs = {
            program.name: Program(program.name, program.arguments, self._log(program.name), _environment(self.home))
            for program in plan.programs(self.options, self.config)
        }

    @property
    def home(self) -> Path:
        """The folder of all state, as BARUA_HOME names it."""
        return self.folder / "home"

    @property
    def control(self) -> Program:
        """The control program."""
        return self._programs["control"]

    @property
    def node(self) -> Program:
        """The node program."""
        return self._programs["node"]

    @property
    def bridge(self) -> Program:
        """The JSON bridge."""
        return self._programs["bridge"]

    @property
    def workers(self) -> list[Program]:
        """The workers, by index."""
        return [program for name, program in self._programs.items() if name.startswith("worker-")]

    @property
    def smtp_port(self) -> int:
        """The listener with STARTTLS."""
        return _port(self.options.mta.listeners[0].listen)

    @property
    def smtp_tls_port(self) -> int:
        """The listener with implicit TLS."""
        return _port(self.options.mta.listeners[1].listen)

    @property
    def bridge_url(self) -> str:
        """Where the JSON APIs are."""
        return f"http://{self.options.bridge.listen}"

    @property
    def token(self) -> str:
        """The operator's token."""
        return self.options.path("secrets", "operator.token").read_text().strip()

    @property
    def login(self) -> Login:
        """SMTP and HTTP credentials of the tenant ``acme``."""
        return Login(ACCOUNT, PASSWORD)

    @property
    def reseller_login(self) -> Login:
        """SMTP and HTTP credentials of the tenant ``reseller``."""
        return Login(RESELLER, PASSWORD)

    @cached_property
    def operator(self) -> Operator:
        """A client with the operator's token, for control and node."""
        return Operator(self.options.control.listen, self.options.node.listen, self.token)

    def smtp(self, login: Login | None = None, source: str = "127.0.0.1") -> smtplib.SMTP:
        """A connection of smtplib from one of this machine's addresses, over verified TLS and logged in."""
        client = smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=60, source_address=(source, 0))
        try:
            client.starttls(context=self.authority.client_context())
            who = login or self.login
            client.login(who.username, who.password)
        except BaseException:
            client.close()
            raise
        return client

    def start(self) -> Self:
        """Start everything and make the tenants. Raises NotReady."""
        try:
            if self.postgres is not None:
                self.postgres.start()
            self.control.start()
            self._bootstrap()
            for program in self._programs.values():
                if not program.is_running:
                    program.start()
            self._wait_for_policy()
        except BaseException:
            self.print_logs()
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything: in the order of ``barua up`` and with its patience, then by force. The database is gone."""
        self.__dict__.pop("operator", None)
        stages = {program.name: program.stage for program in plan.programs(self.options, self.config)}
        for program in sorted(self._programs.values(), key=lambda program: stages[program.name]):
            if program.is_running:
                try:
                    program.stop(20)
                except TimeoutError:
                    traceback.print_exc()
        if self.postgres is not None and self._database is not None:
            self.postgres.stop()
            shutil.rmtree(self._database)

    def wait_until_empty(self, timeout_seconds: float = 60) -> None:
        """Wait until no recipient is queued. Raises TimeoutError."""
        wait_until(lambda: self.operator.queued_count() == 0, "the queues are empty", timeout_seconds)

    def wait_for_history(self, tenant: str, count: int, timeout_seconds: float = 60) -> None:
        """Wait until control has ``count`` finished records of a tenant. Raises TimeoutError."""
        wait_until(
            lambda: sum(record.state > 1 for record in self.operator.history(tenant)) >= count,
            f"control has {count} finished records of {tenant}",
            timeout_seconds,
        )

    def print_logs(self) -> None:
        """Print the end of every program's log."""
        for program in self._programs.values():
            print(f"--- {program.name}\n{program.log_end()}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.print_logs()
        self.stop()

    def _log(self, name: str) -> Path:
        return self.options.path("log", f"{name}.log")

    def _bootstrap(self) -> None:
        log = self._log("bootstrap")
        with log.open("ab") as output:
            done = subprocess.run(
                [sys.executable, "-m", *plan.bootstrap(self.config)],
                env=_environment(self.home),
                stdout=output,
                stderr=output,
                timeout=BOOTSTRAP_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise NotReady(f"bootstrap ended with {done.returncode}:\n{log.read_text()[-4000:]}")

    def _wait_for_policy(self) -> None:
        """Wait until the workers know what bootstrap made: the login of ``acme``, if it is among the tenants."""
        if any(tenant.username == ACCOUNT for tenant in self.options.bootstrap.tenants):
            wait_until(self._can_log_in, f"the workers know the login {ACCOUNT}")

    def _can_log_in(self) -> bool:
        try:
            self.smtp().quit()
        except (smtplib.SMTPException, OSError):
            return False
        return True

    def _options(
        self, workers: int, dns: DnsServer | None, delivery_port: int, routes: Sequence[RouteOptions]
    ) -> Options:
        control, node, bridge, http, smtp = (f"127.0.0.1:{port}" for port in free_ports(5))
        control_metrics, node_metrics, bridge_metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        nameservers = [dns.address] if dns is not None else []
        mta = self._mta_options(workers, nameservers, delivery_port, routes)
        database = DatabaseOptions(url=self.postgres.url) if self.postgres is not None else DatabaseOptions()
        return Options(
            home=str(self.home),
            database=database,
            control=ControlOptions(listen=control, metrics_listen=control_metrics, dns_nameservers=nameservers),
            node=NodeOptions(listen=node, metrics_listen=node_metrics, control_address=control),
            mta=mta,
            bridge=BridgeOptions(listen=bridge, metrics_listen=bridge_metrics, control_address=control),
            inbox=InboxOptions(http_listen=http, smtp_listen=smtp),
            bootstrap=BootstrapOptions(tenants=self._tenants()),
        )

    def _mta_options(
        self, workers: int, nameservers: list[str], delivery_port: int, routes: Sequence[RouteOptions]
    ) -> MtaOptions:
        server = self.authority.issue("localhost", "127.0.0.1")
        return MtaOptions(
            hostname="mta.barua.test",
            workers=workers,
            metrics_port_base=free_range(workers),
            listeners=[
                ListenerOptions(listen=f"127.0.0.1:{free_port()}", tls=TlsMode.STARTTLS),
                ListenerOptions(listen=f"127.0.0.1:{free_port()}", tls=TlsMode.IMPLICIT),
            ],
            tls=TlsFiles(certificate_file=str(server.certificate_file), key_file=str(server.key_file)),
            dns=DnsOptions(nameservers=nameservers, timeout_seconds=3.0, max_ttl_seconds=5),
            routes=list(routes),
            delivery=DeliveryOptions(port=delivery_port, allow_private_addresses=True, connect_timeout_seconds=5.0),
            retry=RETRY,
        )

    def _tenants(self) -> list[BootstrapTenant]:
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        reseller = BootstrapTenant(
            id=RESELLER, credits=RESELLER_CREDITS, username=RESELLER, password_file=str(password)
        )
        account = BootstrapTenant(
            id=ACCOUNT,
            parent=RESELLER,
            credits=ACCOUNT_CREDITS,
            default_sender=f"noreply@{DOMAIN}",
            username=ACCOUNT,
            password_file=str(password),
            domains=[BootstrapDomain(name=DOMAIN)],
        )
        return [reseller, account]


def mail(
    recipient: str, subject: str = "hello", sender: str = f"news@{DOMAIN}", text: str = "A line.\n"
) -> EmailMessage:
    """A small message, for ``smtplib.SMTP.send_message``."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, recipient, subject
    message.set_content(text)
    return message


def changed(options: Options, section: str, **values: object) -> Options:
    """Options with some values of one section replaced: ``changed(options, "mta.limits", recipients=100)``."""
    first, _, rest = section.partition(".")
    inner = getattr(options, first)
    if not rest:
        return replace(options, **{first: replace(inner, **values)})
    struct: msgspec.Struct = getattr(inner, rest)
    return replace(options, **{first: replace(inner, **{rest: replace(struct, **values)})})


def _environment(home: Path) -> dict[str, str]:
    return os.environ | {ENV_HOME: str(home)}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
