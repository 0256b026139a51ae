"""Spool files: made private, locked, numbered by run, and never guessed at."""

import multiprocessing
import re
import sqlite3
from pathlib import Path

import pytest

from mta.spool.schema import APPLICATION_ID, VERSION, SpoolFileError, connect, open_file
from tests.unit.spool.rows import open_store, put


def test_a_new_spool_is_made_with_its_folder(spool_path: Path) -> None:
    file = open_file(spool_path)
    file.lock.close()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", file.holder)
    assert file.epoch == 1


def test_each_run_has_a_higher_epoch_and_the_same_holder(spool_path: Path) -> None:
    runs = []
    for _ in range(3):
        file = open_file(spool_path)
        file.lock.close()
        runs.append((file.holder, file.epoch))
    assert [epoch for _, epoch in runs] == [1, 2, 3]
    assert len({holder for holder, _ in runs}) == 1


def test_two_spools_have_different_holders(tmp_path: Path) -> None:
    files = [open_file(tmp_path / name) for name in ("a.db", "b.db")]
    for file in files:
        file.lock.close()
    assert files[0].holder != files[1].holder


async def test_nobody_else_may_read_a_spool(spool_path: Path) -> None:
    store = open_store(spool_path)
    await put(store, 1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in spool_path.parent.iterdir()}
    await store.close()
    assert set(modes) == {"worker-0.db", "worker-0.db-wal", "worker-0.db-shm", "worker-0.lock"}
    assert set(modes.values()) == {0o600}
    assert spool_path.parent.stat().st_mode & 0o777 == 0o700


def _try(path: str, answers: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        open_file(Path(path))
    except SpoolFileError as error:
        answers.put(str(error))
    else:
        answers.put("opened")


def test_a_second_process_is_refused(spool_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    file = open_file(spool_path)
    for expected in ("belongs to another running worker", "opened"):
        process = context.Process(target=_try, args=(str(spool_path), answers))
        process.start()
        process.join()
        assert expected in answers.get()
        file.lock.close()


def test_the_file_may_be_opened_again_after_a_refusal(spool_path: Path) -> None:
    first = open_file(spool_path)
    with pytest.raises(SpoolFileError, match="stop that one first"):
        open_file(spool_path)
    first.lock.close()
    open_file(spool_path).lock.close()


def _foreign_sqlite(path: Path, *pragmas: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in pragmas:
        connection.execute(pragma)
    connection.execute("CREATE TABLE other (x)")
    connection.close()


@pytest.mark.parametrize(
    ("pragmas", "match"),
    [
        ((), "not a spool of this program"),
        (("PRAGMA journal_mode = WAL",), "not a spool of this program"),
        (("PRAGMA application_id = 7",), "not a spool of this program"),
        (("PRAGMA user_version = 9",), "not a spool of this program"),
        ((f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION + 1}"), "run the program that"),
    ],
)
def test_other_and_newer_files_are_refused_and_left_alone(tmp_path: Path, pragmas: tuple[str, ...], match: str) -> None:
    path = tmp_path / "other.db"
    _foreign_sqlite(path, *pragmas)
    before = path.read_bytes()
    with pytest.raises(SpoolFileError, match=match):
        open_file(path)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.db", "other.lock"]


@pytest.mark.parametrize("content", [b"not a database at all\n" * 20, b"short", b"SQLite format 3\0"])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.db"
    path.write_bytes(content)
    with pytest.raises(SpoolFileError, match="not a spool of this program"):
        open_file(path)
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_spool(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch(mode=0o644)
    open_file(path).lock.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_spool_that_was_never_folded_into_its_file_is_known_again(spool_path: Path) -> None:
    store = open_store(spool_path)
    await put(store, 1)
    copy = spool_path.with_name("copy.db")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(spool_path.with_name(spool_path.name + suffix).read_bytes())
    await store.close()
    again = open_store(copy)
    assert await again.content(1) is not None
    await again.close()


@pytest.mark.parametrize("make", ["folder", "file as folder", "link"])
def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, make: str) -> None:
    path = tmp_path / "spool" / "worker-0.db"
    if make == "folder":
        path.mkdir(parents=True)
    elif make == "file as folder":
        path.parent.touch()
    else:
        path.parent.mkdir()
        path.with_suffix(".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolFileError, match=re.escape(str(path))):
        open_file(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_reader_neither_makes_nor_changes_a_file(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        connect(tmp_path / "missing.db", read_only=True)
    empty = tmp_path / "empty.db"
    empty.touch()
    reader = connect(empty, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        reader.execute("SELECT * FROM meta")
    reader.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["empty.db"]
    assert empty.read_bytes() == b""


def test_a_reader_cannot_write(spool_path: Path) -> None:
    file = open_file(spool_path)
    reader = connect(spool_path, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM meta")
    reader.close()
    file.lock.close()


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "ho?me #1 %41" / "worker-0.db"
    open_file(path).lock.close()
    assert path.stat().st_size > 0
