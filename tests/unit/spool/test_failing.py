"""A spool whose file really fails: nothing half-stored, nothing forgotten, nothing promised, and back by itself."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mta.spool.records import Change, EventKind, LeaseRow, SpoolError
from mta.spool.sqlite import SqliteStore
from tests.unit.spool.rows import (
    Waiter,
    accepted,
    counts,
    event,
    full_disk,
    message,
    open_store,
    put,
    recipient,
    rows,
    settled,
)

BIG = bytes(200_000)


async def until(condition: object, store: SqliteStore) -> None:
    """Wait until the spool's health is as given."""
    async with asyncio.timeout(60):
        while store.healthy is not condition:  # noqa: ASYNC110 (it has no event of its own)
            await asyncio.sleep(0.005)


def big(store: SqliteStore, message_id: int) -> tuple[Change, Waiter]:
    """A change that the write-ahead log has no room for."""
    change, waiter = accepted(store, message_id)
    change.messages[0] = message(message_id, content=BIG)
    return change, waiter


async def test_who_waits_is_told_and_nothing_stays(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    before = counts(spool_path)
    with full_disk():
        change, waiter = big(store, 2)
        store.write(change)
        assert isinstance(await waiter.result(), SpoolError)
        assert not store.healthy
        assert counts(spool_path) == before
    await until(True, store)
    assert counts(spool_path) == before
    assert waiter.told == 1


async def test_it_recovers_by_itself_and_takes_more(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    with full_disk():
        store.write(big(store, 2)[0])
        await until(False, store)
        await asyncio.sleep(0.1)
        assert not store.healthy
    await until(True, store)
    await put(store, 3)
    assert rows(spool_path, "SELECT message_id FROM message") == [(1,), (3,)]


async def test_what_comes_while_it_is_sick_is_refused_soon(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    with full_disk():
        store.write(big(store, 2)[0])
        await until(False, store)
        change, waiter = big(store, 3)
        store.write(change)
        assert isinstance(await waiter.result(), SpoolError)
    await until(True, store)
    assert rows(spool_path, "SELECT message_id FROM message") == [(1,)]


async def test_outcomes_are_kept_until_they_are_durable(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    await put(store, 2)
    stored = asyncio.Event()
    with full_disk():
        store.write(big(store, 3)[0])
        outcome = Change(on_stored=stored.set)
        outcome.done_recipients.append((1,))
        outcome.done_messages.append((1,))
        outcome.outbox.append(event(store.next_sequence(), 1, EventKind.DELIVERED)._replace(text="x" * 100_000))
        store.write(outcome)
        await until(False, store)
        await asyncio.sleep(0.1)
        assert not stored.is_set()
    async with asyncio.timeout(60):
        await stored.wait()
    assert rows(spool_path, "SELECT message_id FROM message") == [(2,)]
    assert rows(spool_path, "SELECT recipient_id FROM recipient") == [(2,)]
    assert rows(spool_path, "SELECT recipient_id, kind FROM outbox") == [(1, 1), (2, 1), (1, 2)]


async def test_the_outbox_keeps_its_order_through_a_failure(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    with full_disk():
        for number in range(3):
            outcome = Change()
            outcome.outbox.append(event(store.next_sequence(), 10 + number)._replace(text="x" * 100_000))
            store.write(outcome)
            store.write(big(store, 100 + number)[0])
            await asyncio.sleep(0.01)
        await until(False, store)
    await until(True, store)
    await put(store, 2)
    found = rows(spool_path, "SELECT sequence, recipient_id FROM outbox ORDER BY sequence")
    assert [row[1] for row in found] == [1, 10, 11, 12, 2]


async def test_rows_of_a_failed_change_that_are_found_later_are_removed(store: SqliteStore, spool_path: Path) -> None:
    """A COMMIT whose sync failed may be read back by the next connection: as if it had succeeded after all."""
    await put(store, 1)
    change, waiter = big(store, 2)
    with full_disk():
        store.write(change)
        assert isinstance(await waiter.result(), SpoolError)
        ghost = sqlite3.connect(spool_path, isolation_level=None)
    row = change.messages[0]
    ghost.execute(f"INSERT INTO message ({', '.join(row._fields)}) VALUES ({','.join('?' * len(row))})", row)
    ghost.execute("INSERT INTO recipient VALUES (?,?,?,?,?,?,?,?,?)", change.recipients[0])
    ghost.execute(f"INSERT INTO outbox VALUES ({','.join('?' * len(change.outbox[0]))})", change.outbox[0])
    ghost.close()
    await until(True, store)
    assert counts(spool_path) | {"lease": 1} == {"message": 1, "recipient": 1, "outbox": 1, "lease": 1}


async def test_a_failure_before_commit_is_a_failure_too(store: SqliteStore, spool_path: Path) -> None:
    """More than SQLite's page cache: the log is written while rows are being inserted."""
    await put(store, 1)
    with full_disk():
        change = Change(waiter := Waiter())
        change.messages += [message(number, content=BIG) for number in range(100, 140)]
        store.write(change)
        assert isinstance(await waiter.result(), SpoolError)
    await until(True, store)
    assert counts(spool_path)["message"] == 1


async def test_a_broken_waiter_does_not_stop_the_recovery(store: SqliteStore, spool_path: Path) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a mistake of the caller")

    await put(store, 1)
    with full_disk():
        first, _ = big(store, 2)
        first.on_done = broken
        second, waiter = big(store, 3)
        store.write(first)
        store.write(second)
        assert isinstance(await waiter.result(), SpoolError)
        late, _ = big(store, 4)
        late.on_done = broken
        store.write(late)
        await asyncio.sleep(0.1)
    await until(True, store)
    await put(store, 5)


async def test_what_a_waiter_writes_when_it_is_told_is_not_lost(store: SqliteStore, spool_path: Path) -> None:
    """As intake does: it gives back the credits that the lost message took."""
    await put(store, 1)
    with full_disk():
        change, _ = big(store, 2)

        def give_back(_: object) -> None:
            correction = Change()
            correction.leases.append(LeaseRow(1, "acme", 1000, 1))
            store.write(correction)

        change.on_done = give_back
        change.leases[:] = [LeaseRow(1, "acme", 1000, 2)]
        store.write(change)
        await until(False, store)
    await until(True, store)
    await settled(store)
    assert store.leases() == [LeaseRow(1, "acme", 1000, 1)]


async def test_a_long_sickness_costs_no_memory(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    with full_disk():
        outcome = Change()
        outcome.outbox.append(event(store.next_sequence(), 1)._replace(text="x" * 100_000))
        store.write(outcome)
        await until(False, store)
        await asyncio.sleep(0.3)
        assert len(store._pending) <= 2
    await until(True, store)


async def test_reading_works_while_writing_fails(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    with full_disk():
        store.write(big(store, 2)[0])
        await until(False, store)
        assert await store.content(1) is not None
        assert await store.due(10_000, (0, 0), 10) == []
    await until(True, store)


async def test_a_spool_that_is_locked_by_somebody_fails_and_comes_back(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 1)
    store._writer.execute("PRAGMA busy_timeout = 50")
    thief = sqlite3.connect(spool_path, isolation_level=None)
    thief.execute("BEGIN IMMEDIATE")
    change, waiter = accepted(store, 2)
    store.write(change)
    result = await waiter.result()
    thief.close()
    assert isinstance(result, SpoolError)
    assert "locked" in str(result)
    await until(True, store)
    assert counts(spool_path)["message"] == 1


async def test_a_sick_spool_can_be_closed(
    spool_path: Path, quick_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mta.spool.sqlite.CLOSE_SECONDS", 0.2)
    store = open_store(spool_path)
    await put(store, 1)
    with full_disk():
        outcome = Change()
        outcome.outbox.append(event(store.next_sequence(), 1)._replace(text="x" * 100_000))
        store.write(outcome)
        await until(False, store)
        await store.close()
        await asyncio.sleep(0.1)  # a probe that was under way must not touch the file any more
    again = open_store(spool_path)
    assert counts(spool_path)["message"] == 1
    await again.close()


async def test_a_damaged_file_is_an_error_for_readers(store: SqliteStore, spool_path: Path) -> None:
    change = Change()
    change.messages.append(message(1, content=BIG))
    change.recipients.append(recipient(1, 1))
    await settled(store, change)
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with spool_path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(100_000))
    store._reader.close()
    store._reader = sqlite3.connect(spool_path, check_same_thread=False)
    with pytest.raises(SpoolError):
        await store.content(1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can make a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_refuses_and_room_brings_it_back(small_disk: Path, quick_probes: None) -> None:
    path = small_disk / "worker-0.db"
    store = open_store(path)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2_000_000))
    stored = []
    for message_id in range(1, 100):
        change, waiter = big(store, message_id)
        store.write(change)
        if isinstance(await waiter.result(), SpoolError):
            break
        stored.append((message_id,))
    assert 1 <= len(stored) < 50
    assert not store.healthy
    assert rows(path, "SELECT message_id FROM message") == stored
    filler.unlink()
    await until(True, store)
    change, waiter = big(store, 1000)
    store.write(change)
    await waiter.receipt()
    await store.close()
    assert rows(path, "SELECT message_id FROM message") == [*stored, (1000,)]
