"""Keeps the policy replica in step with control's stream of changes.

While control is away, or the replica cannot be written, the workers go on with the last good replica, and this comes
back by itself.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from prometheus_client import Gauge

from barua.policy.v1 import policy_service_pb2 as pb
from barua.policy.v1 import policy_service_pb2_grpc as services

from mta.node import convert
from mta.replica.writer import Record, ReplicaWriter
from mta.runtime.log import get_logger

log = get_logger(__name__)
T = TypeVar("T")

SILENCE_SECONDS = 15.0
"""Control says something at least every five seconds; after this the stream counts as dead."""
RECONNECT_SECONDS = 0.5
"""Pause before the stream is opened again."""
REPORT_SECONDS = 5.0
"""Deadline for telling control which revision is in force."""

REVISION = Gauge("barua_policy_revision", "Revision of the policy in force on this node.")
CONNECTED = Gauge("barua_policy_connected", "1 while control's stream is open.")


class PolicyFollower:
    """Applies control's stream to the replica."""

    def __init__(
        self,
        node: str,
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        writer: ReplicaWriter,
        recall: Callable[[str], None],
    ) -> None:
        self._node = node
        self._stub: services.PolicyServiceAsyncStub = services.PolicyServiceStub(channel)
        self._metadata = metadata
        self._writer = writer
        self._recall = recall
        self._thread = ThreadPoolExecutor(1, "replica")
        self._snapshot: list[Record] | None = None
        self._lineage = ""

    async def run(self) -> None:
        """Follow the stream for ever."""
        while True:
            try:
                await self._follow()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else "silence"
                log.warning("policy_stream_lost", reason=reason)
            except sqlite3.Error as error:
                log.error("policy_not_written", error=str(error))
            CONNECTED.set(0)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _follow(self) -> None:
        lineage, revision = await self._in_thread(self._writer.position)
        request = pb.WatchPolicyRequest(node=self._node, after_revision=revision, lineage=lineage)
        self._snapshot = None
        stream = self._stub.WatchPolicy(request, metadata=self._metadata)
        try:
            async for step in _with_silence_limit(stream):
                CONNECTED.set(1)
                await self._apply(step)
        finally:
            stream.cancel()

    async def _apply(self, step: pb.WatchPolicyResponse) -> None:
        match step.WhichOneof("step"):
            case "snapshot_begin":
                self._snapshot = []
                self._lineage = step.snapshot_begin.lineage
            case "changes" if self._snapshot is not None:
                self._snapshot += [record for record, deleted in convert.records(step.changes.changes) if not deleted]
            case "changes":
                changes = convert.records(step.changes.changes)
                revision = step.changes.revision
                await self._in_thread(lambda: self._writer.apply(changes, revision))
                await self._report(revision)
            case "snapshot_end":
                snapshot, self._snapshot = self._snapshot or [], None
                revision = step.snapshot_end.revision
                await self._in_thread(lambda: self._writer.replace(snapshot, self._lineage, revision))
                log.info("policy_snapshot_applied", records=len(snapshot), revision=revision)
                await self._report(revision)
            case "recall":
                self._recall(step.recall.tenant_id)
            case _:
                pass

    async def _report(self, revision: int) -> None:
        REVISION.set(revision)
        request = pb.ReportRevisionRequest(node=self._node, revision=revision)
        await self._stub.ReportRevision(request, metadata=self._metadata, timeout=REPORT_SECONDS)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _with_silence_limit(
    stream: grpc.aio.UnaryStreamCall[pb.WatchPolicyRequest, pb.WatchPolicyResponse],
) -> AsyncIterator[pb.WatchPolicyResponse]:
    """The steps of a stream; TimeoutError when it has been silent for too long."""
    steps = aiter(stream)
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                step = await anext(steps)
        except StopAsyncIteration:
            return
        yield step
