"""The control program, put together: builds every object, hands collaborators in, starts, waits for the end, stops.

Start: secrets, PostgreSQL (embedded or by URL), migrations, gRPC; then the health service says SERVING for as long as
the database answers. Stop: NOT_SERVING, streams end, calls in flight get ``GRACE_SECONDS``, then the pool and an
embedded server stop.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health

from control import secrets
from control.announcements import Announcements
from control.authentication import Authenticator
from control.challenge import ChallengeChecker
from control.database import Database
from control.embedded import EmbeddedPostgres
from control.gate import Gate
from control.housekeeping import keep_house
from control.passwords import Passwords
from control.permissions import check_complete
from control.policystream.service import PolicyServicer
from control.recalls import Recalls
from control.sealing import Sealer, load
from control.services import catalogue
from control.services.credentials import CredentialServicer
from control.services.credits import CreditServicer
from control.services.domains import DomainServicer
from control.services.history import HistoryServicer
from control.services.journal import JournalServicer
from control.services.leases import LeaseServicer
from control.services.mutation import Mutations
from control.services.suppressions import SuppressionServicer
from control.services.tenants import TenantServicer
from control.store.migrations import migrate
from mta.runtime import lifecycle, metrics, rpc
from mta.runtime.lifecycle import Drain, Tasks
from mta.runtime.log import get_logger
from mta.runtime.options import Options, OptionsError
from mta.runtime.refusals import Refusal

log = get_logger(__name__)

EMBEDDED = "embedded"
"""The value of ``database.url`` that asks for a server of our own."""
GRACE_SECONDS = 10.0
"""For calls in flight when the program stops: longer than a transfer waits for leases."""
HEALTH_SECONDS = 1.0
"""Between looks at the database, and the time it has to answer."""
RETRY_SECONDS = 1.0
"""Between attempts to reach a database that is away at the start."""
TOKEN_OCTETS = 32
NICENESS = 5
"""Where control shares a machine with workers, mail goes first; an embedded PostgreSQL inherits this."""


async def serve(options: Options, drain: Drain) -> None:
    """Run control until ``drain`` stops it. Raises OptionsError if it cannot start."""
    os.nice(NICENESS)
    check_complete(catalogue.method_paths())
    sealer = load(options.path("secrets", "sealing.key"))
    operator_token = secrets.ensure(options.path("secrets", "operator.token"), TOKEN_OCTETS)
    node_token = secrets.ensure(options.path("secrets", "node.token"), TOKEN_OCTETS)
    async with _database(options, drain) as database:
        passwords = Passwords()
        announcements = Announcements(database, drain.stop)
        authenticator = Authenticator(database, passwords, operator_token, node_token)
        server = rpc.new_server([Gate(authenticator)])
        catalogue.register(server, _servicers(options, database, announcements, sealer, passwords))
        health_servicer = rpc.add_health(server, catalogue.service_names())
        _listen(server, options.control.listen)
        metrics_server = metrics.serve(options.control.metrics_listen)
        tasks = Tasks(on_failure=drain.stop)
        try:
            announcements.start()
            await server.start()
            tasks.start(_tell_health(health_servicer, database), "health")
            tasks.start(keep_house(database), "housekeeping")
            lifecycle.notify("READY=1")
            log.info("control_started", listen=options.control.listen)
            await drain.stopped()
        finally:
            lifecycle.notify("STOPPING=1")
            await tasks.close()
            await rpc.set_serving(health_servicer, False)
            await announcements.close()
            await asyncio.gather(server.stop(GRACE_SECONDS), asyncio.to_thread(metrics_server.shutdown))
            metrics_server.server_close()
            passwords.close()
            log.info("control_stopped")


def _servicers(
    options: Options, database: Database, announcements: Announcements, sealer: Sealer, passwords: Passwords
) -> catalogue.Servicers:
    mutations = Mutations(database, sealer)
    recalls = Recalls(database, announcements)
    checker = ChallengeChecker(options.control.dns_nameservers)
    return catalogue.Servicers(
        tenants=TenantServicer(database, mutations, recalls, passwords),
        credentials=CredentialServicer(database, mutations, passwords),
        credits=CreditServicer(database, mutations, recalls),
        domains=DomainServicer(database, mutations, sealer, checker, options.mta.hostname),
        suppressions=SuppressionServicer(database, mutations),
        history=HistoryServicer(database),
        leases=LeaseServicer(database, recalls),
        journal=JournalServicer(database),
        policy=PolicyServicer(database, announcements),
    )


@asynccontextmanager
async def _database(options: Options, drain: Drain) -> AsyncIterator[Database]:
    """A database with this code's schema, and the embedded server around it if that is wanted."""
    embedded = EmbeddedPostgres(options.path("postgres")) if options.database.url == EMBEDDED else None
    tasks = Tasks(on_failure=drain.stop)
    if embedded is not None:
        await embedded.start()
        tasks.start(embedded.keep(), "postgres")
    try:
        database = Database(embedded.url if embedded is not None else options.database.url, options.database)
        await database.open()
        try:
            await _migrate(database, drain)
            yield database
        finally:
            await database.close()
    finally:
        if embedded is not None:
            await embedded.stop()
        await tasks.close()


async def _migrate(database: Database, drain: Drain) -> None:
    """Migrate, waiting for a database that is away."""
    while not drain.stopping:
        try:
            await migrate(database)
            return
        except Refusal:
            await asyncio.sleep(RETRY_SECONDS)


async def _tell_health(servicer: health.aio.HealthServicer, database: Database) -> None:
    """Keep the health service at what the database lets us do."""
    while True:
        await rpc.set_serving(servicer, await database.healthy(HEALTH_SECONDS))
        await asyncio.sleep(HEALTH_SECONDS)


def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OptionsError(f"cannot listen on {address}; is control running already? Change control.listen") from error
