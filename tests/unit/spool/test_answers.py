"""Answers that are given again: kept with what they answer, found by key, forgotten in time."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from mta.custody.answers import Answers, Key
from mta.runtime.refusals import Reason, Refusal
from mta.spool import sqlite
from mta.spool.records import AnswerRow, Change, SpoolError
from mta.spool.sqlite import SqliteStore
from tests.unit.spool.rows import accepted, full_disk, open_store, rows, settled
from tests.unit.spool.test_failing import big, until


def answer(key: str, expires_ms: int = 1_000, tenant: str = "acme") -> AnswerRow:
    return AnswerRow(tenant, key, b"f" * 32, expires_ms, f"answer to {key}".encode())


def kept(*answers: AnswerRow) -> Change:
    change = Change()
    change.answers += answers
    return change


async def test_they_are_found_by_tenant_and_key(store: SqliteStore) -> None:
    mine, theirs, old = answer("k"), answer("k", tenant="rival"), answer("old", expires_ms=10)
    await settled(store, kept(mine, theirs, old))
    assert await store.answers([("acme", "k"), ("acme", "old"), ("acme", "none")], 10) == [mine]
    assert await store.answers([("rival", "k"), ("acme", "old")], 9) == [theirs, old]
    assert store.answers_kept == 3


async def test_no_more_is_read_at_once_than_could_be_told(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "ANSWER_OCTETS", 30)
    await settled(store, kept(*map(answer, "abc")))
    assert len(await store.answers([("acme", "a"), ("acme", "b")], 0)) == 2
    with pytest.raises(SpoolError):
        await store.answers([("acme", "a"), ("acme", "b"), ("acme", "c")], 0)


async def test_a_key_is_looked_up_and_not_searched_for(store: SqliteStore, spool_path: Path) -> None:
    """There may be millions."""
    connection = sqlite3.connect(spool_path)
    plan = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM answer WHERE tenant = ? AND key = ?", ("a", "k"))
    assert [row[3] for row in plan] == ["SEARCH answer USING PRIMARY KEY (tenant=? AND key=?)"]
    connection.close()


async def test_what_has_expired_goes_to_the_last_without_other_work(
    store: SqliteStore, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "FORGOTTEN_AT_ONCE", 2)
    await settled(store, kept(*(answer(str(number), expires_ms=number) for number in range(10))))
    store.forget_answers(6)
    async with asyncio.timeout(60):
        while store.answers_kept > 3:  # noqa: ASYNC110 (nobody is told)
            await asyncio.sleep(0.01)
    await settled(store)
    assert rows(spool_path, "SELECT expires_ms FROM answer ORDER BY 1") == [(7,), (8,), (9,)]


async def test_a_change_that_failed_has_no_answer(store: SqliteStore, spool_path: Path) -> None:
    change, waiter = big(store, 2)
    change.answers.append(answer("k"))
    with full_disk():
        store.write(change)
        await waiter.result()
    await until(True, store)
    assert await store.answers([("acme", "k")], 0) == []
    assert rows(spool_path, "SELECT count(*) FROM message") == [(0,)]


async def test_while_the_spool_is_sick_nobody_is_answered(
    store: SqliteStore, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a commit that failed has left in the file is still to be removed: it must not be told as stored."""
    await settled(store, kept(answer("k", expires_ms=2**60)))
    answers = Answers(store)
    with full_disk():
        change, waiter = big(store, 2)
        store.write(change)
        await waiter.result()
        with pytest.raises(Refusal) as caught:
            await answers.ask([Key("acme", "k", b"f" * 32)])
        assert caught.value.reason is Reason.NOT_STORED
    await until(True, store)
    [asked] = await answers.ask([Key("acme", "k", b"f" * 32)])
    assert await asked.answer() == b"answer to k"


async def test_the_end_does_not_wait_for_what_has_expired(spool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "FORGOTTEN_AT_ONCE", 1)
    store = open_store(spool_path)
    await settled(store, kept(*(answer(str(number)) for number in range(100))))
    store.forget_answers(2**60)
    await store.close()
    assert len(rows(spool_path, "SELECT key FROM answer")) > 90


async def test_the_next_run_knows_them(spool_path: Path) -> None:
    store = open_store(spool_path)
    await settled(store, kept(answer("k")))
    await store.close()
    store = open_store(spool_path)
    assert store.answers_kept == 1
    assert await store.answers([("acme", "k")], 0) == [answer("k")]
    await store.close()


async def test_large_changes_are_transactions_of_their_own(
    store: SqliteStore, spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few of them would keep the loop busy for long."""
    monkeypatch.setattr(sqlite, "MAX_EVENTS", 4)
    sizes: list[int] = []
    insert = store._insert

    def counted(batch: Sequence[Change]) -> None:
        sizes.append(len(batch))
        insert(batch)

    monkeypatch.setattr(store, "_insert", counted)
    waiters = []
    for number, recipients in enumerate((1, 2, 5, 3, 1), 1):
        change, waiter = accepted(store, number * 10, recipients)
        store.write(change)
        waiters.append(waiter)
    for waiter in waiters:
        await waiter.receipt()
    assert sizes == [3, 2]
    assert rows(spool_path, "SELECT count(*) FROM recipient") == [(12,)]
