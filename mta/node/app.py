"""The node process: builds its parts, serves, stops. No logic of its own."""

import asyncio

import grpc

from barua.mta.v1 import worker_service_pb2 as worker_pb
from barua.mta.v1 import worker_service_pb2_grpc as worker_services

from mta.node.forwarding import InjectionForwarder, LeaseForwarder
from mta.node.outbox import OutboxPusher
from mta.node.policy import PolicyFollower
from mta.node.queues import QueueService
from mta.replica.writer import ReplicaWriter
from mta.runtime import metrics
from mta.runtime.lifecycle import Drain, Tasks, notify
from mta.runtime.log import get_logger
from mta.runtime.options import Options, OptionsError
from mta.runtime.rpc import add_health, channel, new_server, set_serving

log = get_logger(__name__)

RECALL_SECONDS = 2.0
"""Deadline for a worker to give leases back."""
FLUSH_SECONDS = 10.0
"""At the end, events may take this long to reach control."""


async def run_node(options: Options, drain: Drain) -> None:
    """Run the node until the drain is set."""
    node = options.node
    folder = options.path("run")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    operator_token, node_token = (_token(options, name) for name in ("operator", "node"))
    metadata = (("authorization", f"Bearer {node_token}"),)
    indexes = range(options.mta.workers)
    spools = [options.path("spool", f"worker-{index}.db") for index in indexes]
    control = channel(node.control_address)
    workers = [channel(f"unix:{folder / f'worker-{index}.sock'}") for index in indexes]
    stubs: list[worker_services.WorkerServiceAsyncStub] = [
        worker_services.WorkerServiceStub(worker) for worker in workers
    ]
    writer = ReplicaWriter(options.path("policy.db"))

    tasks = Tasks(on_failure=drain.stop)

    async def recall_leases(tenant_id: str) -> None:
        request = worker_pb.RecallLeasesRequest(tenant_id=tenant_id)
        answers = await asyncio.gather(
            *(stub.RecallLeases(request, timeout=RECALL_SECONDS) for stub in stubs), return_exceptions=True
        )
        failed = sum(isinstance(answer, BaseException) for answer in answers)
        log.info("leases_recalled", tenant=tenant_id, workers_failed=failed)

    def recall(tenant_id: str) -> None:
        # In a task of its own: a worker that is slow to answer must not hold up the stream.
        tasks.start(recall_leases(tenant_id), "recall")

    pushers = [OutboxPusher(node.name, index, spools[index], control, metadata, workers[index]) for index in indexes]
    follower = PolicyFollower(node.name, control, metadata, writer, recall)
    tasks.start(follower.run(), "policy")
    for pusher in pushers:
        tasks.start(pusher.run(), "outbox")

    local = new_server()
    services = [LeaseForwarder(control, metadata).add_to(local)]
    local_health = add_health(local, services)
    local.add_insecure_port(f"unix:{folder / 'node.sock'}")
    public = new_server()
    services = [InjectionForwarder(workers).add_to(public), QueueService(spools, operator_token).add_to(public)]
    public_health = add_health(public, services)
    _listen(public, node.listen)
    for server, health in ((local, local_health), (public, public_health)):
        await server.start()
        await set_serving(health, True)
    scrape = metrics.serve(node.metrics_listen)
    notify("READY=1")
    log.info("node_ready", listen=node.listen)

    await drain.stopped()
    notify("STOPPING=1")
    await set_serving(public_health, False)
    await public.stop(1.0)
    await tasks.close()
    await _flush(pushers)
    await local.stop(1.0)
    scrape.shutdown()
    for open_channel in (control, *workers):
        await open_channel.close(None)
    writer.close()
    log.info("node_stopped")


async def _flush(pushers: list[OutboxPusher]) -> None:
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            flushed = await asyncio.gather(*(pusher.drained() for pusher in pushers))
    except TimeoutError:
        flushed = [False]
    if not all(flushed):
        log.warning("events_left_in_spools", hint="they are pushed after the next start")


def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OptionsError(f"cannot listen on {address}; change node.listen") from error


def _token(options: Options, name: str) -> str:
    path = options.path("secrets", f"{name}.token")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise OptionsError(f"{path} cannot be read: {error.strerror}; control makes it at its first start") from error
