"""The control program, put together: builds every object, hands collaborators in, starts, waits for the end, stops.

Start: secrets, PostgreSQL (embedded or by URL), migrations, gRPC; then the health service says SERVING for as long as
the database answers. Stop: NOT_SERVING, streams end, calls in flight get ``GRACE_SECONDS``, then the pool and an
embedded server stop.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health

from control import identities, secrets
from control.alerting import Alerting, MinuteCounter
from control.announcements import Announcements
from control.authentication import Authenticator
from control.consumers import runner
from control.consumers.feed import Feed
from control.consumers.mock import MockConsumer
from control.consumers.refunds import RefundConsumer
from control.consumers.runner import Consumer
from control.consumers.statistics import StatisticsConsumer
from control.consumers.suppressions import SuppressionConsumer
from control.database import Database
from control.embedded import EmbeddedPostgres
from control.engagements import settle
from control.expiry import expire_credits
from control.gate import Gate
from control.housekeeping import keep_house
from control.identities import Identities
from control.keyvault import KeyVault
from control.listening import listen
from control.passwords import Passwords
from control.peers import Peers
from control.permissions import check_complete
from control.policystream.service import PolicyServicer
from control.recalls import Recalls
from control.sealing import Sealer, load
from control.services import catalogue
from control.services.alerts import AlertServicer
from control.services.credentials import CredentialServicer
from control.services.credits import CreditServicer
from control.services.dkim_keys import DkimKeyServicer
from control.services.domains import DomainServicer
from control.services.egress import EgressServicer
from control.services.engagement import EngagementServicer
from control.services.events import EventServicer
from control.services.history import HistoryServicer
from control.services.journal import JournalServicer
from control.services.leases import LeaseServicer
from control.services.listvalidation import ListValidationServicer
from control.services.mutation import Mutations
from control.services.oauth import OAuthServicer
from control.services.pools import PoolServicer
from control.services.providers import SmtpProviderServicer
from control.services.quotas import QuotaServicer
from control.services.resubscriptions import ResubscriptionServicer
from control.services.senders import SenderServicer
from control.services.statistics import StatisticsServicer
from control.services.suppressionpolicies import default_policy
from control.services.suppressions import SuppressionServicer
from control.services.templates import TemplateServicer
from control.services.tenants import TenantServicer
from control.services.validationjobs import ValidationJobs, new_validator
from control.services.validator import Validator
from control.services.webhook_fields import Fields
from control.services.webhooks import WebhookServicer
from control.smtpcheck import SmtpChecker
from control.store import events
from control.store.migrations import migrate
from control.usage import Usage
from control.webhooks import assembly, keeping
from control.webhooks.assembly import Webhooks
from mta.runtime import keyring, lifecycle, metrics, rpc, tokens
from mta.runtime.keyring import KeyFile
from mta.runtime.lifecycle import Drain, Tasks
from mta.runtime.log import get_logger
from mta.runtime.options import Options
from mta.runtime.refusals import Refusal
from mta.runtime.tokens import TokenKey

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
    token_key = TokenKey(bytes.fromhex(secrets.ensure(options.path("secrets", "token.key"), tokens.KEY_OCTETS)))
    async with _database(options, drain) as database:
        passwords = Passwords()
        announcements = Announcements(database, drain.stop)
        feed = Feed(database)
        announcements.tell(events.CHANNEL, lambda payload: feed.heard(int(payload)))
        usage = Usage(database)
        webhooks = assembly.assemble(options, database, sealer)
        sending = identities.assemble(options, database, sealer, operator_token)
        validator = new_validator(options, database)
        authenticator = Authenticator(database, passwords, usage, token_key, operator_token, node_token)
        server = rpc.new_server([Gate(authenticator, Peers(options.control))])
        servicers = _servicers(
            options, database, announcements, feed, sealer, passwords, usage, token_key, webhooks, sending, validator
        )
        catalogue.register(server, servicers)
        health_servicer = rpc.add_health(server, catalogue.service_names())
        listen(server, options.control)
        metrics_server = metrics.serve(options.control.metrics_listen)
        tasks = Tasks(on_failure=drain.stop)
        try:
            announcements.start()
            await server.start()
            tasks.start(_tell_health(health_servicer, database), "health")
            tasks.start(keep_house(database, options.control.history_days), "housekeeping")
            tasks.start(usage.run(), "credential-use")
            tasks.start(expire_credits(database), "expiry")
            tasks.start(settle(database), "engagement")
            tasks.start(sending.sweep.run(), "domain-checks")
            tasks.start(sending.confirmations.run(), "sender-codes")
            _start_notifications(tasks, options, database, webhooks, sending)
            validation = ValidationJobs(database, validator, options.control.validation.kept_days)
            tasks.start(validation.run(), "list-validation")
            _follow(tasks, database, feed, _consumers(options, webhooks))
            _spare_collector()
            lifecycle.notify("READY=1")
            log.info("control_started", listen=options.control.listen)
            await drain.stopped()
        finally:
            lifecycle.notify("STOPPING=1")
            feed.end()
            await tasks.close()
            await rpc.set_serving(health_servicer, False)
            await announcements.close()
            await asyncio.gather(server.stop(GRACE_SECONDS), asyncio.to_thread(metrics_server.shutdown))
            metrics_server.server_close()
            await sending.mailer.close()
            await usage.flush()
            await validator.close()
            passwords.close()
            log.info("control_stopped")


def _spare_collector() -> None:
    """What exists now stays: leave it out of the garbage collector's rounds, and make those rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _follow(tasks: Tasks, database: Database, feed: Feed, consumers: list[Consumer]) -> None:
    """Follow the events: read the newest ones, and work for each consumer in a task of its own."""
    tasks.start(feed.run(), "feed")
    for consumer in consumers:
        tasks.start(runner.run(database, feed, consumer), f"consumer-{consumer.name}")


def _start_notifications(
    tasks: Tasks, options: Options, database: Database, webhooks: Webhooks, sending: Identities
) -> None:
    """Start what tells the world: webhooks and alerts."""
    tasks.start(webhooks.dispatcher.run(), "webhooks")
    tasks.start(keeping.keep(database, options.control.webhooks.keep_days * 86_400.0), "webhook-keeping")
    tasks.start(Alerting(database, sending.mailer, options.control.alerts.interval_seconds).run(), "alerts")


def _consumers(options: Options, webhooks: Webhooks) -> list[Consumer]:
    """All that is done for every event of a message."""
    automatic = SuppressionConsumer(default_policy(options.control.suppressions), options.mta.mock_domain)
    mock = MockConsumer(options.mta.mock_domain)
    return [StatisticsConsumer(), RefundConsumer(), automatic, webhooks.fanout, MinuteCounter(), mock]


def _servicers(
    options: Options,
    database: Database,
    announcements: Announcements,
    feed: Feed,
    sealer: Sealer,
    passwords: Passwords,
    usage: Usage,
    token_key: TokenKey,
    webhooks: Webhooks,
    sending: Identities,
    validator: Validator,
) -> catalogue.Servicers:
    mutations = Mutations(database, sealer)
    recalls = Recalls(database, announcements)
    key_vault = KeyVault(sealer)
    return catalogue.Servicers(
        tenants=TenantServicer(database, mutations, recalls, passwords, key_vault),
        credentials=CredentialServicer(database, mutations, passwords, key_vault),
        oauth=OAuthServicer(database, mutations, usage, token_key),
        credits=CreditServicer(database, mutations, recalls),
        domains=DomainServicer(database, mutations, sealer, sending.checker),
        dkim_keys=DkimKeyServicer(database, mutations, sealer, sending.checker),
        senders=SenderServicer(database, mutations, sending.checker, sending.confirmations, sending.refused_domains),
        templates=TemplateServicer(database, mutations),
        suppressions=SuppressionServicer(database, mutations, options.control.suppressions),
        resubscriptions=ResubscriptionServicer(
            database, mutations, sending.mailer, _tracking_keys(options), options.bridge.public_url
        ),
        list_validations=ListValidationServicer(database, mutations, validator),
        smtp_providers=SmtpProviderServicer(
            database,
            mutations,
            sealer,
            SmtpChecker(options.mta.hostname),
            allow_private=options.mta.delivery.allow_private_addresses,
        ),
        egress=EgressServicer(database, mutations),
        pools=PoolServicer(database, mutations),
        quotas=QuotaServicer(database),
        history=HistoryServicer(database),
        statistics=StatisticsServicer(database),
        events=EventServicer(database, feed),
        engagement=EngagementServicer(database, mutations, _tracking_keys(options)),
        webhooks=WebhookServicer(database, mutations, Fields(webhooks.rules, webhooks.vault), webhooks.sender),
        alerts=AlertServicer(database, mutations),
        leases=LeaseServicer(database, recalls),
        journal=JournalServicer(database),
        policy=PolicyServicer(database, announcements, usage),
    )


def _tracking_keys(options: Options) -> KeyFile:
    """The keys that sign the links in messages, which the bridge has as well."""
    path = options.path("secrets", "tracking.key")
    secrets.make(path, keyring.KEY_OCTETS)
    return KeyFile(path)


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
