"""The worker process: builds every object, hands collaborators in, starts and drains. No logic of its own.

Start order is the reverse of what a message needs: spool, policy, credits, delivery, queue, and sockets last. At the
end no new mail is taken, transactions under way finish, then the spool closes.
"""

import asyncio
import gc
import ipaddress
import os
import sqlite3
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mta.custody.answers import Answers
from mta.custody.bounce import BounceMaker
from mta.custody.credits import Credits
from mta.custody.intake import Intake, IntakeRules
from mta.custody.providers import Providers
from mta.custody.quotas import Quotas
from mta.custody.settlement import Settlement
from mta.custody.signer import Signer
from mta.delivery.agent import DeliveryAgent
from mta.delivery.dial import Dialer, DialRules
from mta.delivery.explain import Explainer
from mta.delivery.site import SiteRules
from mta.delivery.ways import Ways
from mta.ingress.auth import Authenticator
from mta.ingress.budget import ReceiveBudget
from mta.ingress.listener import Listener, ListenerRules
from mta.mailauth.sealing import SealError, open_for
from mta.message.ids import IdMaker
from mta.policy.egress import SmtpProvider
from mta.policy.uses import Uses
from mta.queues.manager import QueueManager
from mta.queues.retry import RetrySchedule
from mta.replica.reader import ReplicaMissing, ReplicaReader
from mta.resolver.dns import DnsResolver
from mta.routing.router import Router, StaticRoute, TlsPolicy
from mta.rpc.authentication import CallerAuthentication
from mta.rpc.drafts import Drafts
from mta.rpc.injection import InjectionService
from mta.rpc.leases import LeaseClient
from mta.rpc.quotas import QuotaClient
from mta.rpc.routing import RoutingService
from mta.rpc.worker import WorkerService
from mta.runtime import metrics
from mta.runtime.keyring import KeyFile
from mta.runtime.lifecycle import Drain, Tasks, notify
from mta.runtime.log import get_logger
from mta.runtime.options import ListenerOptions, Options, OptionsError, TlsMode, split_address
from mta.runtime.rpc import add_health, new_server, set_serving
from mta.runtime.tokens import TokenKey
from mta.spool.schema import SpoolFileError, open_file
from mta.spool.sqlite import SqliteStore

log = get_logger(__name__)

SealingKeys = Callable[[], Mapping[bytes, bytes]]
"""The sealing keys by their ids, as they are now."""
REFRESH_SECONDS = 0.1
"""Pause between looks whether the policy has changed."""
DRAIN_SECONDS = 25.0
"""Transactions under way may take this long after SIGTERM; then they are as after a crash."""
REPLICA_WAIT_SECONDS = 60.0
"""How long a first start waits for the node to write the policy."""


async def run_worker(options: Options, index: int, drain: Drain) -> None:
    """Run worker ``index`` until the drain is set."""
    worker = Worker(options, index, drain)
    await worker.start()
    # What exists now stays: leave it out of the garbage collector's rounds, and make those rarer. Messages are freed
    # by their reference counts.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    notify("READY=1")
    log.info("worker_ready", worker=index)
    await drain.stopped()
    notify("STOPPING=1")
    await worker.stop()


class Worker:
    """One worker and all its parts."""

    def __init__(self, options: Options, index: int, drain: Drain) -> None:
        self._options = options
        self._index = index
        self._drain = drain
        self._tasks = Tasks()
        self._uses = Uses()

    async def start(self) -> None:
        """Build everything and begin to take mail. Raises OptionsError."""
        options, mta = self._options, self._options.mta
        self._policy = await self._wait_for_policy()
        try:
            file = open_file(options.path("spool", f"worker-{self._index}.db"))
        except SpoolFileError as error:
            raise OptionsError(str(error)) from error
        self._store = SqliteStore(file)
        leases = self._store.leases()
        self._lease_client = LeaseClient(
            f"unix:{options.path('run', 'node.sock')}", file.holder, file.epoch, [lease.lease_id for lease in leases]
        )
        self._credits = Credits(self._store, leases, self._lease_client.acquire)
        id_maker = IdMaker(mta.first_shard + self._index, self._store.last_recipient_id)
        keys = sealing_keys(options).keys
        self._quota_client = QuotaClient(f"unix:{options.path('run', 'node.sock')}")
        self._quotas = Quotas(self._quota_client.acquire)
        self._providers = Providers(self._policy.egress, self._quotas)
        self._build_delivery(id_maker, keys)
        self._intake = Intake(
            IntakeRules(
                mta.hostname, mta.limits.message_bytes, mta.limits.received_fields, mta.limits.spool_free_bytes
            ),
            self._store,
            self._queue,
            self._policy,
            self._credits,
            Signer(keys),
            id_maker,
            self._drain,
            free_bytes_of(file.path.parent),
            self._providers,
        )
        self._tasks.start(self._refresh(), "policy-refresh")
        self._queue.start()
        await self._serve_grpc()
        await self._listen()
        self._metrics = metrics.serve(f"127.0.0.1:{mta.metrics_port_base + self._index}")

    async def stop(self) -> None:
        """Stop taking mail, finish what is under way, close the spool."""
        await set_serving(self._health, False)
        for listener in self._listeners:
            listener.drain()
        await self._queue.close()
        await asyncio.gather(self._drain.idle(DRAIN_SECONDS), self._delivery.stop(DRAIN_SECONDS))
        for listener in self._listeners:
            await listener.close()
        await self._server.stop(1.0)
        await self._injection.close()
        await self._answers.close()
        await self._intake.close()
        await self._credits.close()
        await self._quotas.close()
        await self._quota_client.close()
        await self._settlement.close()
        await self._tasks.close()
        await self._lease_client.close()
        await self._store.close()
        self._authenticator.close()
        self._policy.close()
        self._metrics.shutdown()
        log.info("worker_stopped", worker=self._index)

    def _build_delivery(self, id_maker: IdMaker, keys: SealingKeys) -> None:
        mta = self._options.mta
        dns, delivery = mta.dns, mta.delivery
        resolver = DnsResolver(
            [split_address(server) for server in dns.nameservers],
            dns.timeout_seconds,
            dns.cache_size,
            dns.max_ttl_seconds,
        )
        routes = [
            StaticRoute(route.domain, *split_address(route.target), TlsPolicy(route.tls.value)) for route in mta.routes
        ]
        dialer = Dialer(
            DialRules(
                mta.hostname,
                delivery.connect_timeout_seconds,
                delivery.command_timeout_seconds,
                delivery.final_dot_timeout_seconds,
                delivery.allow_private_addresses,
            ),
            resolver,
        )
        rules = SiteRules(delivery.connections_per_site, delivery.messages_per_connection, delivery.idle_seconds)
        router = Router(routes, resolver, delivery.port)
        egress = self._policy.egress
        ways = Ways(
            self._policy,
            egress,
            self._quotas,
            password_opener(keys),
            rules,
            mta.workers,
            allow_private=delivery.allow_private_addresses,
        )
        self._explainer = Explainer(self._policy, egress, self._providers, ways, router, rules, mta.workers)
        self._delivery = DeliveryAgent(
            rules,
            delivery.connections_total,
            router,
            dialer,
            self._store,
            ways,
            self._quotas,
            mta.mock_domain.lower(),
        )
        self._queue = QueueManager(self._store, self._delivery, mta.limits.buffered_bytes)
        bounces = BounceMaker(self._store, id_maker, mta.hostname)
        self._settlement = Settlement(self._store, retry_schedule(self._options), bounces, self._queue.release)
        self._delivery.start(self._settlement)

    async def _serve_grpc(self) -> None:
        options = self._options
        socket = options.path("run", f"worker-{self._index}.sock")
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = options.path("secrets", "operator.token").read_text().strip()
        authentication = CallerAuthentication(self._policy, token, self._uses, read_token_key(options))
        self._server = new_server()
        self._answers = Answers(self._store)
        self._answers.start()
        drafts = Drafts(self._policy, options.mta.limits.recipients)
        self._injection = InjectionService(self._intake, drafts, authentication, self._answers)
        services = [
            self._injection.add_to(self._server),
            WorkerService(self._credits, self._store, self._uses).add_to(self._server),
            RoutingService(self._explainer, authentication).add_to(self._server),
        ]
        self._health = add_health(self._server, services)
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        await set_serving(self._health, True)

    async def _listen(self) -> None:
        context = tls_context(self._options)
        self._authenticator = Authenticator(self._policy, self._uses)
        budget = ReceiveBudget(self._options.mta.limits.buffered_bytes)
        self._listeners = [
            Listener(self._listener_rules(listener), self._intake, self._policy, self._authenticator, context, budget)
            for listener in self._options.mta.listeners
        ]
        for listener, rules in zip(self._listeners, self._options.mta.listeners, strict=True):
            if rules.tls is TlsMode.IMPLICIT and context is None:
                raise OptionsError(f"the listener {rules.listen} needs mta.tls.certificate_file and key_file")
            await listener.start()

    def _listener_rules(self, listener: ListenerOptions) -> ListenerRules:
        mta = self._options.mta
        host, port = split_address(listener.listen)
        return ListenerRules(
            host=host,
            port=port,
            hostname=mta.hostname,
            implicit_tls=listener.tls is TlsMode.IMPLICIT,
            plaintext_auth=listener.plaintext_auth,
            trusted=[(ipaddress.ip_network(trusted.network), trusted.tenant) for trusted in listener.trusted],
            message_bytes=mta.limits.message_bytes,
            recipients=mta.limits.recipients,
            connections=mta.limits.connections,
            connections_per_address=mta.limits.connections_per_address,
            idle_seconds=mta.limits.idle_seconds,
        )

    async def _wait_for_policy(self) -> ReplicaReader:
        path = self._options.path("policy.db")
        deadline = time.monotonic() + REPLICA_WAIT_SECONDS
        while True:
            try:
                reader = ReplicaReader(path)
                if reader.revision:
                    return reader
                reader.close()
                why = "control has sent nothing yet"
            except ReplicaMissing as error:
                why = str(error)
            if time.monotonic() > deadline or self._drain.stopping:
                raise OptionsError(f"no policy to work by: {why}")
            await asyncio.sleep(REFRESH_SECONDS)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                if self._policy.refresh():
                    self._delivery.policy_changed()
            except sqlite3.Error as error:
                log.error("policy_not_refreshed", error=str(error))
            except Exception:  # a worker that no longer hears of revoked keys is worse than any mistake here
                log.exception("policy_not_refreshed")


def retry_schedule(options: Options) -> RetrySchedule:
    """The schedule that the options describe."""
    retry = options.mta.retry
    return RetrySchedule(
        round(retry.first_seconds * 1000),
        retry.factor,
        round(retry.max_seconds * 1000),
        retry.jitter,
        round(retry.lifetime_seconds * 1000),
        retry.min_attempts,
    )


def tls_context(options: Options) -> ssl.SSLContext | None:
    """The server's TLS, None without a certificate. Raises OptionsError."""
    files = options.mta.tls
    if not files.certificate_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate_file, files.key_file)
    except (OSError, ssl.SSLError) as error:
        raise OptionsError(f"mta.tls: {files.certificate_file} and its key cannot be used: {error}") from error
    return context


def sealing_keys(options: Options) -> KeyFile:
    """The keys that open what control sealed. Raises OptionsError."""
    return KeyFile(options.path("secrets", "sealing.key"))


def read_token_key(options: Options) -> TokenKey | None:
    """The key that tokens of OAuth clients are signed with; None, and tokens are not accepted, if it is not here."""
    path = options.path("secrets", "token.key")
    try:
        return TokenKey(bytes.fromhex(path.read_text().strip()))
    except (OSError, ValueError) as error:
        log.warning("tokens_not_accepted", file=str(path), error=str(error), hint="made by control; share it")
        return None


def password_opener(keys: SealingKeys) -> Callable[[SmtpProvider], str]:
    """Opens the passwords of SMTP providers."""

    def open_password(provider: SmtpProvider) -> str:
        try:
            which = f"the password of the SMTP provider {provider.key}"
            about = f"{provider.tenant_id}/smtpProviders/{provider.provider_id}"
            return open_for(keys(), provider.sealed_password, about, which).decode()
        except SealError as error:
            raise ValueError(str(error)) from error

    return open_password


def free_bytes_of(folder: Path) -> Callable[[], int]:
    """Asks for the free room of a file system, at most once a second."""
    known = [0.0, 0.0]

    def free_bytes() -> int:
        now = time.monotonic()
        if now >= known[0]:
            state = os.statvfs(folder)
            known[:] = [now + 1.0, float(state.f_bavail * state.f_frsize)]
        return int(known[1])

    return free_bytes
