"""The spool on SQLite: what is told, what is on file, in which order, and what the next run finds."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from mta.spool.records import Change, EventKind, LeaseRow, OutboxRow, Receipt, SpoolError
from mta.spool.sqlite import MAX_BATCH, SqliteStore
from tests.unit.spool.rows import (
    Waiter,
    accepted,
    counts,
    event,
    message,
    open_store,
    put,
    recipient,
    rows,
    settled,
)


def _commits() -> float:
    return REGISTRY.get_sample_value("barua_spool_commits_total", {"result": "ok"}) or 0.0


async def test_a_receipt_means_that_the_rows_are_on_file(store: SqliteStore, spool_path: Path) -> None:
    change, waiter = accepted(store, 10, recipients=3)
    store.write(change)
    assert not await _told_at_once(waiter)
    receipt = await waiter.receipt()
    assert receipt.message_id == 10
    assert counts(spool_path) == {"message": 1, "recipient": 3, "outbox": 3, "lease": 1}


async def _told_at_once(waiter: Waiter) -> bool:
    return waiter.told > 0


async def test_content_comes_back_as_it_was(store: SqliteStore) -> None:
    content = bytes(range(256)) * 500
    change = Change(waiter := Waiter())
    change.messages.append(message(1, content=content))
    store.write(change)
    await waiter.receipt()
    assert await store.content(1) == content
    assert await store.content(2) is None


async def test_what_is_written_in_one_turn_is_one_transaction(store: SqliteStore) -> None:
    before = _commits()
    waiters = []
    for number in range(50):
        change, waiter = accepted(store, 10 * (number + 1))
        store.write(change)
        waiters.append(waiter)
    await asyncio.gather(*(waiter.receipt() for waiter in waiters))
    assert _commits() == before + 1


async def test_what_is_written_during_a_commit_is_the_next_transaction(store: SqliteStore) -> None:
    before = _commits()
    first, told_first = accepted(store, 1)
    store.write(first)
    await asyncio.sleep(0)  # its COMMIT runs now
    waiters = []
    for number in range(20):
        change, waiter = accepted(store, 100 + number)
        store.write(change)
        waiters.append(waiter)
    await told_first.receipt()
    await asyncio.gather(*(waiter.receipt() for waiter in waiters))
    assert _commits() == before + 2


async def test_a_transaction_is_bounded(store: SqliteStore, spool_path: Path) -> None:
    before = _commits()
    waiters = []
    for number in range(2 * MAX_BATCH + 1):
        change = Change(waiter := Waiter())
        change.outbox.append(event(store.next_sequence(), number + 1))
        store.write(change)
        waiters.append(waiter)
    await asyncio.gather(*(waiter.receipt() for waiter in waiters))
    assert _commits() == before + 3
    assert counts(spool_path)["outbox"] == 2 * MAX_BATCH + 1


async def test_waiters_are_told_in_the_order_of_writing(store: SqliteStore) -> None:
    told: list[int] = []

    def remember(number: int) -> Change:
        return Change(lambda _: told.append(number))

    for number in range(10):
        store.write(remember(number))
    await settled(store)
    assert told == list(range(10))


async def test_a_waiter_that_breaks_does_not_keep_others_from_being_told(store: SqliteStore) -> None:
    def broken(_: Receipt | SpoolError) -> None:
        raise RuntimeError("a mistake of the caller")

    store.write(Change(broken))
    store.write(Change(on_stored=lambda: broken(SpoolError())))
    store.write(Change(waiter := Waiter()))
    await waiter.receipt()
    await settled(store)


async def test_writing_twice_is_writing_once(store: SqliteStore, spool_path: Path) -> None:
    change, waiter = accepted(store, 10, recipients=2)
    change.leases.append(LeaseRow(2, "acme", 50, 7))
    store.write(change)
    await waiter.receipt()
    change.on_done = None
    before = [rows(spool_path, f"SELECT * FROM {name}") for name in ("message", "recipient", "outbox", "lease")]
    await settled(store, change)
    assert before == [rows(spool_path, f"SELECT * FROM {name}") for name in ("message", "recipient", "outbox", "lease")]


async def test_a_message_goes_with_its_last_recipient(store: SqliteStore, spool_path: Path) -> None:
    await put(store, 10, recipients=3)
    await put(store, 13)  # a neighbour that has to stay
    for finished, left in ((11, True), (10, True), (12, False)):
        change = Change()
        change.done_recipients.append((finished,))
        change.done_messages.append((10,))
        await settled(store, change)
        assert (await store.content(10) is not None) is left
    assert rows(spool_path, "SELECT recipient_id FROM recipient") == [(13,)]
    assert await store.content(13) is not None


async def test_a_parked_recipient_keeps_its_message(store: SqliteStore) -> None:
    await put(store, 10, recipients=2)
    change = Change()
    change.done_recipients.append((10,))
    change.parked.append((1, 5_000, "451 4.0.0 later", 11))
    change.done_messages.append((10,))
    await settled(store, change)
    assert await store.content(10) is not None
    (queued,) = await store.due(5_000, (0, 0), 10)
    assert (queued.recipient_id, queued.attempts, queued.due_ms, queued.message_id) == (11, 1, 5_000, 10)


async def test_leases_are_replaced_and_forgotten(store: SqliteStore) -> None:
    change = Change()
    change.leases += [LeaseRow(1, "acme", 100, 0), LeaseRow(2, "acme", 100, 0), LeaseRow(1, "acme", 100, 40)]
    change.done_leases.append((2,))
    await settled(store, change)
    assert store.leases() == [LeaseRow(1, "acme", 100, 40)]


async def test_due_recipients_come_in_order_and_in_pages(store: SqliteStore) -> None:
    change = Change()
    due_times = {1: 500, 2: 100, 3: 300, 4: 300, 5: 901, 6: 900}
    for recipient_id, due_ms in due_times.items():
        change.messages.append(message(recipient_id))
        change.recipients.append(recipient(recipient_id, recipient_id, due_ms=due_ms, parked=1))
    change.messages.append(message(7))
    change.recipients.append(recipient(7, 7, due_ms=0, parked=0))
    await settled(store, change)

    seen: list[int] = []
    place = (0, 0)
    while page := await store.due(900, place, 2):
        assert len(page) <= 2
        seen += [queued.recipient_id for queued in page]
        place = (page[-1].due_ms, page[-1].recipient_id)
    assert seen == [2, 3, 4, 1, 6]
    assert await store.due(99, (0, 0), 10) == []


async def test_what_a_run_had_in_memory_waits_on_file_for_the_next(spool_path: Path) -> None:
    store = open_store(spool_path)
    for message_id in (50, 10, 30):
        await put(store, message_id, recipients=2)
    assert await store.due(10_000, (0, 0), 10) == []
    await store.close()
    store = open_store(spool_path)
    queued = await store.due(10_000, (0, 0), 10)
    assert sorted(recipient.recipient_id for recipient in queued) == [10, 11, 30, 31, 50, 51]
    assert {recipient.sender for recipient in queued} == {"a@acme.test"}
    await store.close()


async def test_acknowledged_events_go_but_the_newest_stays(store: SqliteStore, spool_path: Path) -> None:
    for message_id in range(1, 6):
        await put(store, message_id)
    store.acknowledge(3)
    await settled(store)
    assert rows(spool_path, "SELECT sequence FROM outbox") == [(4,), (5,)]
    store.acknowledge(5)
    await settled(store)
    assert rows(spool_path, "SELECT sequence FROM outbox") == [(5,)]


async def test_an_old_acknowledgement_changes_nothing(store: SqliteStore, spool_path: Path) -> None:
    for message_id in range(1, 4):
        await put(store, message_id)
    store.acknowledge(2)
    store.acknowledge(1)
    await settled(store)
    assert rows(spool_path, "SELECT sequence FROM outbox") == [(3,)]


async def test_sequences_go_on_after_a_restart(spool_path: Path) -> None:
    store = open_store(spool_path)
    for message_id in range(1, 4):
        await put(store, message_id)
    store.acknowledge(3)
    await store.close()
    store = open_store(spool_path)
    assert (store.last_sequence, store.next_sequence()) == (3, 4)
    await store.close()


async def test_the_order_of_sequences_is_the_order_of_commits(store: SqliteStore, spool_path: Path) -> None:
    """A reader that follows the outbox with a cursor misses nothing."""
    seen: list[int] = []
    for number in range(200):
        for _ in range(3):
            change = Change()
            change.outbox.append(event(store.next_sequence(), number))
            store.write(change)
        await asyncio.sleep(0)
        found = rows(spool_path, "SELECT sequence FROM outbox ORDER BY sequence")
        now = [int(str(row[0])) for row in found]
        assert now == list(range(1, len(now) + 1))
        assert len(now) >= len(seen)
        seen = now
    await settled(store)
    assert counts(spool_path)["outbox"] == 600


async def test_everything_durable_is_there_after_a_restart(spool_path: Path) -> None:
    store = open_store(spool_path)
    await put(store, 10, recipients=2)
    change = Change()
    change.parked.append((3, 77, "again", 11))
    change.outbox.append(OutboxRow(store.next_sequence(), EventKind.DEFERRED, 5, "acme", 11, 10, text="ü", attempt=3))
    await settled(store, change)
    await store.close()
    store = open_store(spool_path)
    assert [queued.recipient_id for queued in await store.due(10_000, (0, 0), 10)] == [10, 11]
    assert store.leases() == [LeaseRow(1, "acme", 1000, 2)]
    assert store.last_recipient_id == 11
    await store.close()


async def test_ids_of_finished_recipients_are_still_known(spool_path: Path) -> None:
    store = open_store(spool_path)
    await put(store, 10)
    await put(store, 20)
    change = Change()
    change.done_recipients += [(10,), (20,)]
    change.done_messages += [(10,), (20,)]
    await settled(store, change)
    await store.close()
    store = open_store(spool_path)
    assert store.last_recipient_id == 20
    await store.close()


async def test_closing_waits_for_what_is_pending(spool_path: Path) -> None:
    store = open_store(spool_path)
    change, waiter = accepted(store, 1)
    store.write(change)
    await store.close()
    assert waiter.told == 1
    assert counts(spool_path)["message"] == 1


async def test_closing_waits_for_what_the_told_write_in_turn(spool_path: Path) -> None:
    store = open_store(spool_path)
    left = [5]

    def again(_: Receipt | SpoolError) -> None:
        if left[0]:
            left[0] -= 1
            change = Change(again)
            change.messages.append(message(100 + left[0]))
            store.write(change)

    store.write(Change(again))
    await store.close()
    assert counts(spool_path)["message"] == 5


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_value_that_cannot_be_stored_harms_no_other_change(
    store: SqliteStore, spool_path: Path, waiting: bool
) -> None:
    good = [accepted(store, number) for number in (1, 2, 3)]
    waiter = Waiter()
    bad = Change(waiter if waiting else None)
    bad.outbox.append(event(store.next_sequence())._replace(text="\ud800"))
    bad.messages.append(message(4))
    for change in (good[0][0], bad, good[1][0], good[2][0]):
        store.write(change)
    for _, told in good:
        await told.receipt()
    if waiting:
        assert isinstance(await waiter.result(), SpoolError)
    await settled(store)
    assert store.healthy
    assert rows(spool_path, "SELECT message_id FROM message") == [(1,), (2,), (3,)]
    await put(store, 5)


@pytest.mark.parametrize("value", [1 << 63, "\udfff", object()])
async def test_each_kind_of_unfit_value_is_refused(store: SqliteStore, value: object) -> None:
    bad = Change(waiter := Waiter())
    bad.done_recipients.append((value,))  # type: ignore[arg-type]
    store.write(bad)
    assert isinstance(await waiter.result(), SpoolError)
    assert store.healthy
    await put(store, 1)
