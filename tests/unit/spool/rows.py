"""Rows and changes for spool tests, and the ways to make a real spool file fail."""

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mta.spool.records import (
    Change,
    EventKind,
    LeaseRow,
    MessageRow,
    OutboxRow,
    Receipt,
    RecipientRow,
    SpoolError,
)
from mta.spool.schema import open_file
from mta.spool.sqlite import SqliteStore


class Waiter:
    """Waits for what a change comes to."""

    def __init__(self) -> None:
        self._result: asyncio.Future[Receipt | SpoolError] = asyncio.get_running_loop().create_future()
        self.told = 0

    def __call__(self, result: Receipt | SpoolError) -> None:
        self.told += 1
        if not self._result.done():
            self._result.set_result(result)

    async def result(self) -> Receipt | SpoolError:
        """The receipt or the error."""
        async with asyncio.timeout(60):
            return await self._result

    async def receipt(self) -> Receipt:
        """The receipt; an error is a failed test."""
        result = await self.result()
        assert isinstance(result, Receipt), result
        return result


def message(message_id: int, last: int | None = None, content: bytes = b"Subject: x\r\n\r\nbody\r\n") -> MessageRow:
    """A message row."""
    return MessageRow(message_id, last or message_id, "acme", "a@acme.test", 1_000, len(content), 0, content)


def recipient(recipient_id: int, message_id: int, *, due_ms: int = 0, parked: int = 0) -> RecipientRow:
    """A recipient row."""
    address = f"r{recipient_id}@example.net"
    return RecipientRow(recipient_id, message_id, "acme", address, "example.net", 0, due_ms, parked, "received")


def event(sequence: int, recipient_id: int = 0, kind: EventKind = EventKind.RECEIVED) -> OutboxRow:
    """An outbox row."""
    return OutboxRow(sequence, kind, 1_000, "acme", recipient_id, recipient_id)


def accepted(store: SqliteStore, message_id: int, recipients: int = 1, *, parked: int = 0) -> tuple[Change, Waiter]:
    """A change as intake makes one, with a waiter."""
    waiter = Waiter()
    change = Change(waiter)
    last = message_id + recipients - 1
    change.messages.append(message(message_id, last))
    for recipient_id in range(message_id, last + 1):
        change.recipients.append(recipient(recipient_id, message_id, parked=parked))
        change.outbox.append(event(store.next_sequence(), recipient_id))
    change.leases.append(LeaseRow(1, "acme", 1000, recipients))
    return change, waiter


async def put(store: SqliteStore, message_id: int, recipients: int = 1, *, parked: int = 0) -> Receipt:
    """Store one message."""
    change, waiter = accepted(store, message_id, recipients, parked=parked)
    store.write(change)
    return await waiter.receipt()


async def settled(store: SqliteStore, change: Change | None = None) -> None:
    """Wait until everything written so far is durable."""
    done = asyncio.Event()
    store.write(change or Change())
    store.write(Change(on_stored=done.set))
    async with asyncio.timeout(60):
        await done.wait()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def counts(path: Path) -> dict[str, int]:
    """Rows per table."""
    names = ("message", "recipient", "outbox", "lease")
    return {name: int(str(rows(path, f"SELECT count(*) FROM {name}")[0][0])) for name in names}


@contextmanager
def full_disk() -> Iterator[None]:
    """The kernel refuses to write a page of a spool, as it does when a quota is used up; to read is possible."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def open_store(path: Path) -> SqliteStore:
    """A store on a file."""
    return SqliteStore(open_file(path))
