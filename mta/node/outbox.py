"""Carries events from the workers' spools to control's journal.

The outbox of each spool is read with a cursor through a read-only connection, also when its worker is down. Control
passes over what it has recorded already, so a batch may be sent any number of times. Once control has recorded a batch
the worker is told, and drops it. While control is away, events wait in the spools; mail does not wait for them.
"""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from prometheus_client import Counter, Gauge

from barua.journal.v1 import journal_service_pb2 as pb
from barua.journal.v1 import journal_service_pb2_grpc as services
from barua.mta.v1 import worker_service_pb2 as worker_pb
from barua.mta.v1 import worker_service_pb2_grpc as worker_services

from mta.node import convert
from mta.runtime.log import get_logger
from mta.spool.records import OutboxRow
from mta.spool.schema import VERSION, connect

log = get_logger(__name__)

BATCH = 1000
"""Events in one push."""
BATCH_CHARACTERS = 8_000_000
"""Characters of properties in one push, or those of one event."""
POLL_SECONDS = 0.05
"""Pause between looks at an outbox that had nothing new."""
GATHER_SECONDS = 0.2
"""Pause after a push that took all there was: under load the next one is larger, and costs control one commit."""
RETRY_SECONDS = 0.5
"""Pause after control could not be reached."""
PUSH_SECONDS = 15.0
"""Deadline of a push."""
ACKNOWLEDGE_SECONDS = 2.0
"""Deadline of telling a worker; if it is lost, the next one says more."""

PUSHED = Counter("barua_outbox_events_pushed_total", "Events recorded by control.", ["worker"])
CURSOR = Gauge("barua_outbox_cursor", "Highest outbox sequence recorded by control.", ["worker"])


class OutboxPusher:
    """Pushes the outbox of one worker."""

    def __init__(
        self,
        node: str,
        index: int,
        spool: Path,
        control: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        worker: grpc.aio.Channel,
    ) -> None:
        self._node = node
        self._index = index
        self._spool = spool
        self._journal: services.JournalServiceAsyncStub = services.JournalServiceStub(control)
        self._metadata = metadata
        self._worker: worker_services.WorkerServiceAsyncStub = worker_services.WorkerServiceStub(worker)
        self._thread = ThreadPoolExecutor(1, f"outbox-{index}")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._holder = ""
        self._cursor = 0

    async def run(self) -> None:
        """Push for ever."""
        while True:
            pause = RETRY_SECONDS
            try:
                pause = await self._push_batch()
            except grpc.aio.AioRpcError as error:
                log.warning("journal_push_failed", worker=self._index, reason=error.details())
            except sqlite3.Error as error:
                log.error("outbox_unreadable", worker=self._index, error=str(error))
            except Exception:  # such as a row of a kind that this version does not know
                log.exception("outbox_not_pushed", worker=self._index)
            await asyncio.sleep(pause)

    async def drained(self) -> bool:
        """Push what is there now; whether all of it arrived. For the end of the process."""
        try:
            while await self._push_batch() != POLL_SECONDS:
                pass
        except (grpc.aio.AioRpcError, sqlite3.Error):
            return False
        return True

    async def _push_batch(self) -> float:
        """Push one batch; the pause before the next."""
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._thread, self._read)
        if not rows:
            return POLL_SECONDS
        events = [convert.event(row) for row in rows]
        request = pb.PushEventsRequest(holder=self._holder, node=self._node, events=events)
        answer = await self._journal.PushEvents(request, metadata=self._metadata, timeout=PUSH_SECONDS)
        self._cursor = max(rows[-1].sequence, answer.recorded_sequence)
        PUSHED.labels(str(self._index)).inc(len(rows))
        CURSOR.labels(str(self._index)).set(self._cursor)
        await self._acknowledge(answer.recorded_sequence)
        return 0 if len(rows) == BATCH else GATHER_SECONDS

    async def _acknowledge(self, sequence: int) -> None:
        request = worker_pb.AcknowledgeOutboxRequest(recorded_sequence=sequence)
        try:
            await self._worker.AcknowledgeOutbox(request, timeout=ACKNOWLEDGE_SECONDS)
        except grpc.aio.AioRpcError as error:
            log.info("acknowledge_not_delivered", worker=self._index, reason=error.details())

    def _read(self) -> list[OutboxRow]:
        """The next events in order; blocking, in this pusher's thread."""
        try:
            inode = self._spool.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if inode != self._inode and self._connection is not None:
            self._connection.close()  # the spool was moved aside: the worker makes another, which begins anew
            self._connection, self._cursor = None, 0
        self._inode = inode
        if not inode:
            return []
        if self._connection is None:
            connection = connect(self._spool, read_only=True)
            try:
                if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    connection.close()  # the worker is just making it
                    return []
                row = connection.execute("SELECT value FROM meta WHERE key = 'holder'").fetchone()
            except BaseException:
                connection.close()
                raise
            self._connection, self._holder = connection, row[0]
        query = "SELECT * FROM outbox WHERE sequence > ? ORDER BY sequence LIMIT ?"
        rows: list[OutboxRow] = []
        room = BATCH_CHARACTERS
        for values in self._connection.execute(query, (self._cursor, BATCH)):
            rows.append(OutboxRow(*values))
            room -= len(rows[-1].properties or "")
            if room <= 0:
                break
        return rows
