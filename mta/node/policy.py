"""Keeps the policy replica in step with control's stream of changes.

A snapshot goes into the replica page by page as it comes, so its size does not matter to memory. Which revision is in
force is told to control beside the stream; when changes come faster than control answers, it hears of the newest.

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
from mta.replica.writer import ReplicaWriter
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
        self._in_snapshot = False
        self._snapshot_records = 0
        self._lineage = ""
        self._applied = 0
        self._to_report = asyncio.Event()

    async def run(self) -> None:
        """Follow the stream and report for ever; if one of the two fails, so does the other."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._report_for_ever(), name="policy-report")
            both.create_task(self._follow_for_ever(), name="policy-follow")

    async def _follow_for_ever(self) -> None:
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
        self._in_snapshot = False
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
                self._lineage = step.snapshot_begin.lineage
                self._in_snapshot, self._snapshot_records = True, 0
                await self._in_thread(self._writer.begin_snapshot)
            case "changes" if self._in_snapshot:
                piece = [record for record, deleted in convert.records(step.changes.changes) if not deleted]
                self._snapshot_records += len(piece)
                await self._in_thread(lambda: self._writer.add_to_snapshot(piece))
            case "changes":
                changes = convert.records(step.changes.changes)
                revision = step.changes.revision
                await self._in_thread(lambda: self._writer.apply(changes, revision))
                self._report(revision)
            case "snapshot_end":
                revision = step.snapshot_end.revision
                await self._in_thread(lambda: self._writer.finish_snapshot(self._lineage, revision))
                self._in_snapshot = False
                log.info("policy_snapshot_applied", records=self._snapshot_records, revision=revision)
                self._report(revision)
            case "recall":
                self._recall(step.recall.tenant_id)
            case _:
                pass

    def _report(self, revision: int) -> None:
        REVISION.set(revision)
        self._applied = revision
        self._to_report.set()

    async def _report_for_ever(self) -> None:
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            request = pb.ReportRevisionRequest(node=self._node, revision=self._applied)
            try:
                await self._stub.ReportRevision(request, metadata=self._metadata, timeout=REPORT_SECONDS)
            except grpc.aio.AioRpcError as error:
                log.info("policy_revision_not_reported", revision=self._applied, reason=error.details())
                await asyncio.sleep(RECONNECT_SECONDS)
                self._to_report.set()

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
