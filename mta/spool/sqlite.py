"""The spool on SQLite: group commit, one file per worker.

Changes handed to ``write`` within one turn of the loop, or while a commit is under way, are one transaction: their
rows are inserted on the loop's thread, only COMMIT (with its fdatasync) runs in a thread of its own, and then every
waiter is told. A write-ahead log with ``synchronous=FULL`` makes that COMMIT durable.

Failure: when a transaction fails it is rolled back, every change with a waiter is told ``SpoolError`` and everything of
it is removed again by the next transaction (a commit whose sync failed may still be found in the log later), while
changes without a waiter wait for that transaction. The failed connection is never used again. Until a transaction
succeeds on a fresh one the spool is not ``healthy``: intake refuses and delivery pauses. A change whose values SQLite
cannot take is refused by itself; those beside it are written one by one.

Thread rules: everything on the loop's thread, except COMMIT and reads, which have one thread each. Nothing touches the
writing connection while its COMMIT runs.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram

from mta.runtime.log import get_logger
from mta.spool.records import (
    MAX_KEYS,
    AnswerRow,
    Change,
    LeaseRow,
    OutboxRow,
    QueuedRecipient,
    Receipt,
    SpoolError,
)
from mta.spool.schema import SpoolFile, connect

log = get_logger(__name__)
T = TypeVar("T")

PROBE_SECONDS = 0.5
"""Pause before a sick spool is tried again."""
STALL_SECONDS = 2.0
"""A COMMIT that takes longer makes the spool sick until it returns."""
CLOSE_SECONDS = 30.0
"""A sick spool may keep a stopping process this long; what it holds then is as after a crash."""
MAX_BATCH = 1000
"""Changes in one transaction: bounds how long the loop is busy inserting."""
MAX_EVENTS = 10_000
"""With more events than these, no further change joins a transaction: some changes are large."""
ANSWER_OCTETS = 64 * 1024 * 1024
"""Octets of answers that are read at once: more than these no call could be answered with."""
FORGOTTEN_AT_ONCE = 500
"""Expired answers removed by one transaction: some milliseconds of the loop."""

_BAD_VALUES = (
    ValueError,
    OverflowError,
    TypeError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
)
"""What SQLite's binding raises for a value, as opposed to a file, that it cannot take."""

COMMITS = Counter("barua_spool_commits_total", "Transactions of the spool.", ["result"])
CHANGES = Histogram(
    "barua_spool_changes_per_commit", "Changes in one transaction.", buckets=(1, 2, 5, 10, 20, 50, 100, 500)
)
COMMIT_SECONDS = Histogram(
    "barua_spool_commit_seconds", "Time of COMMIT.", buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1, 5, 25)
)
HEALTHY = Gauge("barua_spool_healthy", "1 when changes can be made durable.")
_COMMITTED = COMMITS.labels("ok")

_OUTBOX_MARKS = ",".join("?" * len(OutboxRow._fields))
_INSERTS = (
    (
        "messages",
        "INSERT OR IGNORE INTO message (message_id, last_recipient_id, tenant, sender, received_ms, size, flags,"
        " content, stream, provider, pool) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
    ),
    ("recipients", "INSERT OR IGNORE INTO recipient VALUES (?,?,?,?,?,?,?,?,?)"),
    ("outbox", f"INSERT OR IGNORE INTO outbox VALUES ({_OUTBOX_MARKS})"),  # noqa: S608 (question marks only)
    ("leases", "INSERT OR REPLACE INTO lease VALUES (?,?,?,?)"),
    ("answers", "INSERT OR REPLACE INTO answer VALUES (?,?,?,?,?)"),
    ("done_leases", "DELETE FROM lease WHERE lease_id = ?"),
    ("parked", "UPDATE recipient SET attempts = ?, due_ms = ?, reason = ?, parked = 1 WHERE recipient_id = ?"),
    ("done_recipients", "DELETE FROM recipient WHERE recipient_id = ?"),
    (
        "done_messages",
        "DELETE FROM message WHERE message_id = ?1 AND NOT EXISTS"
        " (SELECT 1 FROM recipient WHERE recipient_id BETWEEN ?1 AND message.last_recipient_id)",
    ),
)
_REMEMBER_LAST_ID = """
    INSERT INTO meta
    VALUES ('last_recipient_id', (SELECT coalesce(max(recipient_id), 0) FROM outbox WHERE sequence <= ?))
    ON CONFLICT (key) DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))
"""
_QUEUED = """
    SELECT r.recipient_id, r.message_id, m.last_recipient_id, r.tenant, m.sender, r.address, r.domain, r.attempts,
           r.due_ms, m.received_ms, m.size, m.flags, m.stream, m.provider, m.pool
    FROM recipient r JOIN message m USING (message_id)
"""


class SqliteStore:
    """A ``Store`` on one SQLite file. Make one with the file already opened; ``close`` when all is done."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._writer = connect(file.path)
        self._reader = connect(file.path, read_only=True)
        self._commit_thread = ThreadPoolExecutor(1, "spool-commit")
        self._read_thread = ThreadPoolExecutor(1, "spool-read")
        self._loop = asyncio.get_running_loop()
        self._pending: list[Change] = []
        self._undo: list[Change] = []
        self._singly = 0
        self._stall: asyncio.TimerHandle | None = None
        self._busy = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._healthy = True
        self._acknowledged = 0
        self._cleared = 0
        self._forget_until = 0
        self._answers = self._scalar("SELECT count(*) FROM answer")
        self._sequence = self._scalar("SELECT max(sequence) FROM outbox")
        HEALTHY.set(1)

    @property
    def healthy(self) -> bool:
        """Whether the last transaction succeeded."""
        return self._healthy

    @property
    def last_recipient_id(self) -> int:
        """The highest id on record, finished recipients included: new ids must be above it. Blocking, for the start."""
        queued = self._scalar("SELECT max(recipient_id) FROM recipient")
        told = self._scalar("SELECT max(recipient_id) FROM outbox")
        return max(queued, told, self._scalar("SELECT value FROM meta WHERE key = 'last_recipient_id'"))

    def leases(self) -> list[LeaseRow]:
        """Leases on record; blocking, for the start."""
        return [LeaseRow(*row) for row in self._writer.execute("SELECT * FROM lease")]

    @property
    def last_sequence(self) -> int:
        """The highest outbox sequence number given out."""
        return self._sequence

    def next_sequence(self) -> int:
        """A fresh outbox sequence number. Take it in the same turn as ``write``: readers rely on their order."""
        self._sequence += 1
        return self._sequence

    def write(self, change: Change) -> None:
        """Make a change durable, soon, together with others."""
        self._pending.append(change)
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._begin)

    def acknowledge(self, sequence: int) -> None:
        """Control has recorded the outbox up to ``sequence``: drop that part with the next transaction."""
        if sequence > self._acknowledged:
            self._acknowledged = sequence
            self.write(Change())

    @property
    def answers_kept(self) -> int:
        """How many answers are on file, or a few more: one that takes the place of an expired one counts as another."""
        return self._answers

    async def answers(self, keys: Sequence[tuple[str, str]], now_ms: int) -> list[AnswerRow]:
        """The answers kept for some pairs of tenant and key."""
        assert len(keys) <= MAX_KEYS
        found = await self._read(lambda: self._find_answers(keys))
        return [row for row in found if row.expires_ms > now_ms]

    def _find_answers(self, keys: Sequence[tuple[str, str]]) -> list[AnswerRow]:
        """In the thread that reads. One by one: of several at once SQLite makes a scan of the table."""
        query = "SELECT * FROM answer WHERE tenant = ? AND key = ?"
        found: list[AnswerRow] = []
        room = ANSWER_OCTETS
        for key in keys:
            for row in map(AnswerRow._make, self._reader.execute(query, key)):
                found.append(row)
                room -= len(row.answer)
            if room < 0:
                raise SpoolError("the answers are too large to be read at once")
        return found

    def forget_answers(self, now_ms: int) -> None:
        """Remove, with the next transactions, answers that expired before ``now_ms``."""
        self._forget_until = now_ms
        self.write(Change())

    async def content(self, message_id: int) -> bytes | None:
        """The content of a message; None if it is not there."""
        rows = await self._read(
            lambda: self._reader.execute("SELECT content FROM message WHERE message_id = ?", (message_id,)).fetchone()
        )
        return rows[0] if rows else None

    async def due(self, now_ms: int, after: tuple[int, int], limit: int) -> list[QueuedRecipient]:
        """Parked recipients due by ``now_ms`` and after a place, in order."""
        query = _QUEUED + (
            " WHERE r.parked = 1 AND r.due_ms <= ? AND (r.due_ms, r.recipient_id) > (?, ?)"
            " ORDER BY r.due_ms, r.recipient_id LIMIT ?"
        )
        return await self._queued(query, (now_ms, *after, limit))

    async def close(self) -> None:
        """Wait until everything pending is durable, at most ``CLOSE_SECONDS``, then let go of the file."""
        self._forget_until = 0  # the next run removes what has expired
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._busy:  # who is told of a commit may have more to write
                    await self._idle.wait()
        except TimeoutError:
            log.error("spool_closed_with_changes_pending", changes=len(self._pending))
        self._closed = True
        self._commit_thread.shutdown()
        self._read_thread.shutdown()
        self._writer.close()
        self._reader.close()
        self._file.lock.close()

    def _begin(self) -> None:
        size = 1 if self._singly else self._batch_size()
        batch, self._pending = self._pending[:size], self._pending[size:]
        self._singly = max(0, self._singly - 1)
        started = time.monotonic()
        try:
            self._insert(batch)
        except _BAD_VALUES as error:
            self._separate(batch, error)
            return
        except Exception as error:
            self._failed(batch, error)
            return
        self._stall = self._loop.call_later(STALL_SECONDS, self._stalled)
        commit = self._loop.run_in_executor(self._commit_thread, self._writer.execute, "COMMIT")
        commit.add_done_callback(lambda done: self._committed(batch, started, done))

    def _batch_size(self) -> int:
        """How many of the pending changes make the next transaction."""
        events = 0
        for size, change in enumerate(self._pending[:MAX_BATCH], 1):
            events += len(change.outbox)
            if events >= MAX_EVENTS:
                return size
        return MAX_BATCH

    def _stalled(self) -> None:
        """A COMMIT hangs: take nothing new and send nothing until it has come back."""
        log.error("spool_stalled", file=self._file.path.name, seconds=STALL_SECONDS)
        self._healthy = False
        HEALTHY.set(0)

    def _insert(self, batch: Sequence[Change]) -> None:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        if not self._healthy:
            # Nothing may be waiting, and a transaction that writes nothing succeeds on any disk.
            writer.execute("UPDATE meta SET value = value WHERE key = 'epoch'")
        if self._undo:
            self._remove_undone()
        for name, statement in _INSERTS:
            rows = [row for change in batch for row in getattr(change, name)]
            if rows:
                writer.executemany(statement, rows)
            if name == "answers":
                self._answers += len(rows)
        if self._forget_until:
            self._forget()
        if self._acknowledged > self._cleared:
            self._cleared = self._acknowledged
            writer.execute(_REMEMBER_LAST_ID, (self._cleared,))
            # The newest row stays: the next run counts on from its sequence.
            writer.execute(
                "DELETE FROM outbox WHERE sequence <= ? AND sequence < (SELECT max(sequence) FROM outbox)",
                (self._cleared,),
            )

    def _forget(self) -> None:
        """Remove a part of the answers that have expired."""
        gone = self._writer.execute(
            "DELETE FROM answer WHERE (tenant, key) IN (SELECT tenant, key FROM answer WHERE expires_ms <= ? LIMIT ?)",
            (self._forget_until, FORGOTTEN_AT_ONCE),
        ).rowcount
        self._answers -= gone
        if gone < FORGOTTEN_AT_ONCE:
            self._forget_until = 0

    def _remove_undone(self) -> None:
        for change in self._undo:
            self._writer.executemany("DELETE FROM message WHERE message_id = ?", [row[:1] for row in change.messages])
            self._writer.executemany(
                "DELETE FROM recipient WHERE recipient_id = ?", [row[:1] for row in change.recipients]
            )
            self._writer.executemany("DELETE FROM outbox WHERE sequence = ?", [row[:1] for row in change.outbox])
            self._writer.executemany(
                "DELETE FROM answer WHERE tenant = ? AND key = ?", [row[:2] for row in change.answers]
            )

    def _separate(self, batch: list[Change], error: Exception) -> None:
        """Some change of the batch has a value that cannot be stored: find it, and let the others through."""
        self._cleared = 0
        try:
            self._writer.execute("ROLLBACK")
        except sqlite3.Error as broken:
            self._failed(batch, broken)
            return
        if len(batch) > 1:
            self._pending[:0] = batch
            self._singly = len(batch)
        else:
            # Without a waiter there is nobody to tell: what it records stays as it was on file.
            log.error("change_not_storable", error=str(error), waiter=batch[0].on_done is not None)
            self._refuse(batch, SpoolError(str(error)))
        self._next()

    def _committed(self, batch: list[Change], started: float, done: "asyncio.Future[sqlite3.Cursor]") -> None:
        if self._stall is not None:
            self._stall.cancel()
        error = done.exception()
        if error is not None:
            self._failed(batch, error)
            return
        seconds = time.monotonic() - started
        _COMMITTED.inc()
        CHANGES.observe(len(batch))
        COMMIT_SECONDS.observe(seconds)
        self._undo.clear()
        if not self._healthy:
            self._healthy = True
            HEALTHY.set(1)
            log.info("spool_recovered", file=self._file.path.name)
        self._next()
        self._tell(batch)

    def _tell(self, batch: Sequence[Change]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for change in batch:
            message_id = change.messages[0].message_id if change.messages else 0
            try:
                if change.on_done is not None:
                    change.on_done(Receipt(message_id, now_ms))
                elif change.on_stored is not None:
                    change.on_stored()
            except Exception:
                log.exception("waiter_failed", message_id=message_id)

    @staticmethod
    def _refuse(changes: Sequence[Change], error: SpoolError) -> None:
        for change in changes:
            if change.on_done is not None:
                try:
                    change.on_done(error)
                except Exception:
                    log.exception("waiter_failed", message_id=change.messages[0].message_id if change.messages else 0)

    def _next(self) -> None:
        if self._forget_until and not self._pending:
            self._pending.append(Change())  # there is more to remove, and no other transaction that could do it
        if self._pending:
            self._loop.call_soon(self._begin)
        else:
            self._busy = False
            self._idle.set()

    def _failed(self, batch: list[Change], error: BaseException) -> None:
        COMMITS.labels("failed").inc()
        log.error("spool_commit_failed", file=self._file.path.name, changes=len(batch), error=str(error))
        self._healthy = False
        self._cleared = 0
        HEALTHY.set(0)
        told = [change for change in batch if change.on_done is not None]
        self._undo.extend(told)
        self._pending[:0] = [change for change in batch if change.on_done is None]
        self._singly = 0
        self._refuse(told, SpoolError(str(error)))
        self._loop.call_later(PROBE_SECONDS, self._probe)

    def _probe(self) -> None:
        """Try again on a fresh connection: a failed fsync must not be retried on the old one."""
        if self._closed:
            return
        # What was asked for meanwhile with a waiter is refused now: a sick spool must answer at once.
        waiting = [change for change in self._pending if change.on_done is not None]
        self._pending = [change for change in self._pending if change.on_done is None]
        self._refuse(waiting, SpoolError("the spool is not healthy"))
        try:
            self._writer.close()
            self._writer = connect(self._file.path)
            self._answers = self._scalar("SELECT count(*) FROM answer")
        except sqlite3.Error as error:
            log.error("spool_still_failing", file=self._file.path.name, error=str(error))
            self._loop.call_later(PROBE_SECONDS, self._probe)
            return
        self._pending = self._pending or [Change()]
        self._begin()

    def _scalar(self, query: str) -> int:
        row = self._writer.execute(query).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    async def _queued(self, query: str, parameters: tuple[int, ...]) -> list[QueuedRecipient]:
        rows = await self._read(lambda: self._reader.execute(query, parameters).fetchall())
        return [QueuedRecipient(*row) for row in rows]

    async def _read(self, query: Callable[[], T]) -> T:
        try:
            return await self._loop.run_in_executor(self._read_thread, query)
        except sqlite3.Error as error:
            raise SpoolError(str(error)) from error
