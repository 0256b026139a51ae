"""The node process: builds its parts, serves, stops. No logic of its own."""

import asyncio
import os

import grpc

from barua.mta.v1 import worker_service_pb2 as worker_pb
from barua.mta.v1 import worker_service_pb2_grpc as worker_services

from mta.node.forwarding import InjectionForwarder, LeaseForwarder, QuotaForwarder, RoutingForwarder
from mta.node.outbox import OutboxPusher
from mta.node.policy import PolicyFollower
from mta.node.queues import QueueService
from mta.node.uses import UseReporter
from mta.replica.writer import ReplicaWriter
from mta.runtime import metrics
from mta.runtime.lifecycle import Drain, Tasks, notify
from mta.runtime.listening import listen_plainly, listen_securely
from mta.runtime.log import get_logger
from mta.runtime.options import NodeOptions, Options, OptionsError
from mta.runtime.rpc import add_health, channel, new_server, set_serving

log = get_logger(__name__)

RECALL_SECONDS = 2.0
"""Deadline for a worker to give leases back."""
NICENESS = 5
"""On a machine that is busy with mail, events can wait: they lie safe in the spools."""
FLUSH_SECONDS = 10.0
"""At the end, events may take this long to reach control."""


async def run_node(options: Options, drain: Drain) -> None:
    """Run the node until the drain is set."""
    os.nice(NICENESS)
    node = Node(options, drain)
    await node.start()
    notify("READY=1")
    log.info("node_ready", listen=options.node.listen)
    await drain.stopped()
    notify("STOPPING=1")
    await node.stop()


class Node:
    """The node and all its parts."""

    def __init__(self, options: Options, drain: Drain) -> None:
        folder = options.path("run")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        indexes = range(options.mta.workers)
        self._options = options
        self._socket = folder / "node.sock"
        self._tasks = Tasks(on_failure=drain.stop)
        self._writer = ReplicaWriter(options.path("policy.db"))
        self._control = channel(options.node.control_address, options.control_client)
        self._targets = [f"unix:{folder / f'worker-{index}.sock'}" for index in indexes]
        self._workers = [channel(target) for target in self._targets]
        self._spools = [options.path("spool", f"worker-{index}.db") for index in indexes]
        self._stubs: list[worker_services.WorkerServiceAsyncStub] = [
            worker_services.WorkerServiceStub(worker) for worker in self._workers
        ]

    async def start(self) -> None:
        """Begin to follow the policy, to push events and to serve. Raises OptionsError."""
        name = self._options.node.name
        metadata = (("authorization", f"Bearer {_token(self._options, 'node')}"),)
        self._pushers = [
            OutboxPusher(name, index, spool, self._control, metadata, worker)
            for index, (spool, worker) in enumerate(zip(self._spools, self._workers, strict=True))
        ]
        follower = PolicyFollower(name, self._control, metadata, self._writer, self._recall)
        self._tasks.start(follower.run(), "policy")
        for pusher in self._pushers:
            self._tasks.start(pusher.run(), "outbox")
        self._tasks.start(UseReporter(name, self._control, metadata, self._stubs).run(), "credential-use")
        await self._serve(metadata)
        self._metrics = metrics.serve(self._options.node.metrics_listen)

    async def stop(self) -> None:
        """Serve no more, push what the outboxes still hold, let go."""
        await set_serving(self._health, False)
        await self._public.stop(1.0)
        await self._tasks.close()
        await _flush(self._pushers)
        await self._local.stop(1.0)
        self._metrics.shutdown()
        for open_channel in (self._control, *self._workers):
            await open_channel.close(None)
        self._writer.close()
        log.info("node_stopped")

    async def _serve(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._local = new_server()
        upwards = [
            LeaseForwarder(self._control, metadata).add_to(self._local),
            QuotaForwarder(self._control, metadata).add_to(self._local),
        ]
        local_health = add_health(self._local, upwards)
        self._local.add_insecure_port(f"unix:{self._socket}")
        self._public = new_server()
        queues = QueueService(self._spools, _token(self._options, "operator"))
        services = [
            InjectionForwarder(self._workers, self._targets).add_to(self._public),
            RoutingForwarder(self._workers).add_to(self._public),
            queues.add_to(self._public),
        ]
        self._health = add_health(self._public, services)
        _listen(self._public, self._options.node)
        for server, health in ((self._local, local_health), (self._public, self._health)):
            await server.start()
            await set_serving(health, True)

    def _recall(self, tenant_id: str) -> None:
        # In a task of its own: a worker that is slow to answer must not hold up the stream.
        self._tasks.start(self._recall_leases(tenant_id), "recall")

    async def _recall_leases(self, tenant_id: str) -> None:
        request = worker_pb.RecallLeasesRequest(tenant_id=tenant_id)
        answers = await asyncio.gather(
            *(stub.RecallLeases(request, timeout=RECALL_SECONDS) for stub in self._stubs), return_exceptions=True
        )
        failed = sum(isinstance(answer, BaseException) for answer in answers)
        log.info("leases_recalled", tenant=tenant_id, workers_failed=failed)


async def _flush(pushers: list[OutboxPusher]) -> None:
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            flushed = await asyncio.gather(*(pusher.drained() for pusher in pushers))
    except TimeoutError:
        flushed = [False]
    if not all(flushed):
        log.warning("events_left_in_spools", hint="they are pushed after the next start")


def _listen(server: grpc.aio.Server, options: NodeOptions) -> None:
    if not options.tls.certificate_file:
        listen_plainly(server, options.listen, "node.listen", anywhere=options.plaintext_anywhere)
        return
    required = bool(options.tls.client_ca_file)
    listen_securely(server, options.listen, "node.listen", options.tls, client_certificates=required)


def _token(options: Options, name: str) -> str:
    path = options.path("secrets", f"{name}.token")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise OptionsError(f"{path} cannot be read: {error.strerror}; control makes it at its first start") from error
