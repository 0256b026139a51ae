"""A control program in the test's own event loop, on a real PostgreSQL, called over real gRPC.

``PostgresServer`` is one server for the whole test process; every test gets a database of its own, copied from one that
is migrated. ``Control`` runs ``control.app.serve`` and has a stub per service.
"""

import asyncio
import base64
import itertools
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest

from barua.control.v1 import credential_service_pb2, credit_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.dkim_key_service_pb2_grpc import DkimKeyServiceStub
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub
from barua.control.v1.egress_service_pb2_grpc import EgressServiceStub
from barua.control.v1.engagement_service_pb2_grpc import EngagementServiceStub
from barua.control.v1.event_service_pb2_grpc import EventServiceStub
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.control.v1.lease_service_pb2_grpc import LeaseServiceStub
from barua.control.v1.list_validation_service_pb2_grpc import ListValidationServiceStub
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub
from barua.control.v1.pool_service_pb2_grpc import PoolServiceStub
from barua.control.v1.quota_service_pb2_grpc import QuotaServiceStub
from barua.control.v1.sender_service_pb2_grpc import SenderServiceStub
from barua.control.v1.smtp_provider_service_pb2_grpc import SmtpProviderServiceStub
from barua.control.v1.statistics_service_pb2_grpc import StatisticsServiceStub
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.control.v1.template_service_pb2_grpc import TemplateServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.journal.v1.journal_service_pb2_grpc import JournalServiceStub
from barua.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

from control import app
from control.database import Database
from control.embedded import SUPERUSER, EmbeddedPostgres
from control.store.migrations import migrate
from mta.runtime import rpc
from mta.runtime.lifecycle import Drain
from mta.runtime.options import ControlOptions, DatabaseOptions, Options
from mta.runtime.refusals import Reason, Refusal
from tests.support import memory
from tests.support.ports import free_port
from tests.support.postgres import External

CALL_SECONDS = 60.0
PASSWORD = "correct horse"
_numbers = itertools.count(1)

Metadata = tuple[tuple[str, str], ...]


WAL_SIZE = "128MB"
"""Of the servers' write-ahead logs, at most."""


class PostgresServer:
    """One server with a migrated database to copy: the embedded one, or Debian's PostgreSQL 15 as an external one."""

    def __init__(self, *, external: bool = False) -> None:
        self._folder = memory.new_folder()
        self._external = External(self._folder / "postgres") if external else None
        self.embedded = self._external.server if self._external else EmbeddedPostgres(self._folder / "postgres")

    def start(self) -> None:
        """Start it and migrate the database that is copied."""
        asyncio.run(self._start())

    def stop(self) -> None:
        """Stop it and remove its data."""
        asyncio.run(self.embedded.stop("immediate"))
        shutil.rmtree(self._folder)

    @property
    def owner(self) -> str:
        """The user that owns the databases."""
        return self._external.USER if self._external else SUPERUSER

    async def new_database(self) -> str:
        """The URL of a fresh, migrated database."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        await self.administer(f"CREATE DATABASE {name} TEMPLATE barua OWNER {self.owner} STRATEGY FILE_COPY")
        return self.url_of(name)

    async def drop_database(self, url: str) -> None:
        """Remove a database that ``new_database`` made, whoever is connected to it."""
        name = url.rpartition("/")[2].partition("?")[0]
        await self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    def ensure_database(self, name: str) -> None:
        """Make a database of that name from the migrated one, unless it is there."""
        with suppress(asyncpg.DuplicateDatabaseError):
            asyncio.run(self.administer(f"CREATE DATABASE {name} TEMPLATE barua OWNER {self.owner}"))

    async def administer(self, statement: str) -> None:
        """Run a statement as the superuser."""
        connection = await asyncpg.connect(self.embedded.url.replace("/barua?", "/postgres?"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def url_of(self, database: str) -> str:
        """The URL of a database of this server."""
        if self._external:
            return f"{self._external.url.rpartition('/')[0]}/{database}"
        return self.embedded.url.replace("/barua?", f"/{database}?")

    def url_through(self, port: int, database: str) -> str:
        """The URL of a database by way of a port that leads to the server's socket, which asks for no password."""
        return f"postgresql://{self.owner}@127.0.0.1:{port}/{database}"

    @property
    def socket_path(self) -> Path:
        """The socket that the server listens on."""
        return next(path for path in self.embedded.data.iterdir() if path.is_socket())

    async def _start(self) -> None:
        await (self._external or self.embedded).start()
        # A copy of a database is written to the log as a whole; a gigabyte of it, the default, would stay in memory.
        await self.administer(f"ALTER SYSTEM SET max_wal_size = '{WAL_SIZE}'")
        await self.administer("SELECT pg_reload_conf()")
        async with opened(self.url_of("barua")) as database:
            await migrate(database)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    """A pool on the database at ``url``."""
    database = Database(url, DatabaseOptions(**options))
    await database.open()
    try:
        yield database
    finally:
        await database.close()


class Control:
    """A running control program. Calls go with the operator's token unless ``metadata`` says otherwise."""

    def __init__(self, options: Options, channel: grpc.aio.Channel) -> None:
        self.options = options
        self.channel = channel
        self.operator = bearer(options.path("secrets", "operator.token").read_text().strip())
        self.node = bearer(options.path("secrets", "node.token").read_text().strip())
        self.tenants = TenantServiceStub(channel)
        self.credentials = CredentialServiceStub(channel)
        self.oauth = OAuthServiceStub(channel)
        self.credits = CreditServiceStub(channel)
        self.domains = DomainServiceStub(channel)
        self.dkim_keys = DkimKeyServiceStub(channel)
        self.senders = SenderServiceStub(channel)
        self.templates = TemplateServiceStub(channel)
        self.suppressions = SuppressionServiceStub(channel)
        self.validations = ListValidationServiceStub(channel)
        self.history = HistoryServiceStub(channel)
        self.statistics = StatisticsServiceStub(channel)
        self.events = EventServiceStub(channel)
        self.engagement = EngagementServiceStub(channel)
        self.leases = LeaseServiceStub(channel)
        self.smtp_providers = SmtpProviderServiceStub(channel)
        self.egress = EgressServiceStub(channel)
        self.pools = PoolServiceStub(channel)
        self.quotas = QuotaServiceStub(channel)
        self.journal = JournalServiceStub(channel)
        self.policy = PolicyServiceStub(channel)

    async def call(self, method: Any, request: Any, metadata: Metadata | None = None) -> Any:
        """Call a method; a failed call raises the Refusal behind it."""
        try:
            return await method(request, metadata=metadata or self.operator, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise rpc.refusal_of(error) from error

    async def refused(self, method: Any, request: Any, metadata: Metadata | None = None) -> Reason:
        """The reason why a call is refused; a call that is not fails the test."""
        try:
            answer = await self.call(method, request, metadata)
        except Refusal as refusal:
            return refusal.reason
        raise AssertionError(f"not refused, but answered with {answer}")

    async def tenant(
        self,
        tenant_id: str,
        parent: str = "operator",
        credits: int = 0,
        kind: tenant_pb2.Tenant.Kind.ValueType = tenant_pb2.Tenant.KIND_UNSPECIFIED,
    ) -> str:
        """Make a tenant with a login of the same name, and credits granted to it; its name."""
        await self.call(
            self.tenants.CreateTenant,
            tenant_service_pb2.CreateTenantRequest(
                parent=f"tenants/{parent}",
                tenant_id=tenant_id,
                tenant=tenant_pb2.Tenant(kind=kind),
                initial_login=tenant_service_pb2.InitialLogin(username=tenant_id, password=PASSWORD),
            ),
        )
        if credits:
            request = credit_service_pb2.GrantCreditsRequest(tenant=f"tenants/{tenant_id}", amount=credits)
            await self.call(self.credits.GrantCredits, request)
        return f"tenants/{tenant_id}"

    async def login(self, tenant: str, username: str) -> None:
        """Make a login."""
        request = credential_service_pb2.CreateLoginRequest(parent=tenant, username=username, password=PASSWORD)
        await self.call(self.credentials.CreateLogin, request)

    async def balance(self, tenant: str) -> credit_service_pb2.Balance:
        """A tenant's balance."""
        request = credit_service_pb2.GetBalanceRequest(tenant=tenant)
        balance: credit_service_pb2.Balance = await self.call(self.credits.GetBalance, request)
        return balance


def bearer(token: str) -> Metadata:
    """Credentials of a token."""
    return (("authorization", f"Bearer {token}"),)


def basic(username: str, password: str = PASSWORD) -> Metadata:
    """Credentials of a login."""
    encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
    return (("authorization", f"Basic {encoded}"),)


def new_id() -> str:
    """A request id or holder that was never used."""
    return str(uuid.uuid4())


async def until_serving(
    channel: grpc.aio.Channel,
    serving: bool = True,
    program: "asyncio.Task[None] | None" = None,
    seconds: float = 60,
) -> None:
    """Wait until the health service says so; what ended ``program`` before is raised."""
    async with asyncio.timeout(seconds):
        while await rpc.is_serving(channel, 2.0) is not serving:
            if program is not None and program.done():
                await program
            await asyncio.sleep(0.02)


@contextmanager
def guest() -> Iterator[None]:
    """Control in a process of the tests leaves the process as it is.

    It would make it yield to all others, every time more and for good, so that anything else that runs on the machine
    would starve the tests; and would go through all of their memory at each start.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "NICENESS", 0)
        patch.setattr(app, "_spare_collector", lambda: None)
        yield


@asynccontextmanager
async def running(url: str, home: Path, nameservers: list[str] | None = None, **chosen: Any) -> AsyncIterator[Control]:
    """A control program on the database at ``url``, ready. ``chosen`` are further options of ``[control]``."""
    options = Options(
        home=str(home),
        database=DatabaseOptions(url=url, acquire_timeout_seconds=10.0),
        control=ControlOptions(
            listen=f"127.0.0.1:{free_port()}",
            metrics_listen=f"127.0.0.1:{free_port()}",
            dns_nameservers=nameservers or [],
            **chosen,
        ),
    )
    drain = Drain()
    with guest():
        serving = asyncio.create_task(app.serve(options, drain))
        channel = rpc.channel(options.control.listen)
        try:
            await until_serving(channel, True, serving)
            yield Control(options, channel)
        finally:
            await channel.close()
            drain.stop()
            await serving
