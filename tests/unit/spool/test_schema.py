"""Spool files: made private, locked, numbered by run, and never guessed at."""

import multiprocessing
import re
import sqlite3
from pathlib import Path

import pytest

from mta.spool import schema
from mta.spool.records import OutboxRow
from mta.spool.schema import APPLICATION_ID, VERSION, SpoolFileError, connect, open_file
from mta.spool.sqlite import SqliteStore
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


def test_a_file_of_the_first_version_is_brought_up_to_this_one(spool_path: Path) -> None:
    """It has messages without stream and provider, and an outbox that names neither."""
    open_file(spool_path).lock.close()
    connection = sqlite3.connect(spool_path, isolation_level=None)
    _without(connection, *_NEW_IN_3, ("message", "stream provider"), ("outbox", "stream provider egress_source"))
    connection.execute("INSERT INTO message VALUES (1, 1, 'acme', 'a@acme.test', 0, 1, 0, x'41')")
    connection.execute("INSERT INTO recipient VALUES (1, 1, 'acme', 'x@y.test', 'y.test', 0, 0, 1, 'received')")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    file = open_file(spool_path)
    file.lock.close()
    connection = connect(spool_path)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("SELECT content, stream, provider FROM message").fetchone() == (b"A", "", "")
    expected = {name for _, name, *_ in _new_columns(spool_path.parent / "new" / "spool.db")}
    assert {name for _, name, *_ in connection.execute("PRAGMA table_info(outbox)")} == expected
    connection.close()
    assert file.epoch == 2


def test_a_file_of_the_second_version_is_brought_up_to_this_one(spool_path: Path) -> None:
    """It knows no pools and no keys, and its outbox has no properties."""
    open_file(spool_path).lock.close()
    connection = sqlite3.connect(spool_path, isolation_level=None)
    _without(connection, *_NEW_IN_3)
    connection.execute("INSERT INTO message VALUES (1, 1, 'acme', 'a@acme.test', 0, 1, 0, 'news', 'acme/mine', x'41')")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    open_file(spool_path).lock.close()
    connection = connect(spool_path)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    found = connection.execute("SELECT content, stream, provider, pool FROM message").fetchone()
    assert found == (b"A", "news", "acme/mine", "")
    expected = [name for _, name, *_ in _new_columns(spool_path.parent / "new" / "spool.db")]
    assert [name for _, name, *_ in connection.execute("PRAGMA table_info(outbox)")] == expected
    assert connection.execute("SELECT count(*) FROM answer").fetchone() == (0,)
    connection.close()


_NEW_IN_3 = (("message", "pool"), ("outbox", "tags properties reference"), ("answer", ""))


def _without(connection: sqlite3.Connection, *parts: tuple[str, str]) -> None:
    """Take columns away, or a table whose columns are not named."""
    for table, columns in parts:
        if not columns:
            connection.execute(f"DROP TABLE {table}")
        for column in columns.split():
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def _new_columns(path: Path) -> list[tuple[int, str]]:
    open_file(path).lock.close()
    connection = connect(path)
    columns = connection.execute("PRAGMA table_info(outbox)").fetchall()
    connection.close()
    return columns


# The tables of version 1 that later versions added columns to.
_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE message (message_id INTEGER PRIMARY KEY, last_recipient_id INTEGER NOT NULL, tenant TEXT NOT NULL,
    sender TEXT NOT NULL, received_ms INTEGER NOT NULL, size INTEGER NOT NULL, flags INTEGER NOT NULL,
    content BLOB NOT NULL);
CREATE TABLE recipient (recipient_id INTEGER PRIMARY KEY, message_id INTEGER NOT NULL, tenant TEXT NOT NULL,
    address TEXT NOT NULL, domain TEXT NOT NULL, attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL,
    parked INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE outbox (sequence INTEGER PRIMARY KEY, kind INTEGER NOT NULL, time_ms INTEGER NOT NULL,
    tenant TEXT NOT NULL, recipient_id INTEGER NOT NULL, message_id INTEGER NOT NULL, sender TEXT, recipient TEXT,
    subject TEXT, size INTEGER NOT NULL, source TEXT, attempt INTEGER NOT NULL, code INTEGER NOT NULL, enhanced TEXT,
    text TEXT, remote_host TEXT, next_ms INTEGER NOT NULL, lease_id INTEGER NOT NULL, credits INTEGER NOT NULL);
CREATE TABLE lease (lease_id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, amount INTEGER NOT NULL, used INTEGER NOT NULL);
INSERT INTO meta VALUES ('holder', 'a-holder'), ('epoch', '4');
INSERT INTO message VALUES (10, 10, 'acme', 'a@acme.test', 1000, 1, 0, x'41');
INSERT INTO recipient VALUES (10, 10, 'acme', 'r@example.net', 'example.net', 0, 1000, 0, 'received');
INSERT INTO outbox VALUES (1, 1, 1000, 'acme', 10, 10, '', 'r@example.net', '', 1, 'smtp', 0, 0, NULL, NULL, NULL, 0,
    0, 0);
"""


def _make_version_1(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"{_VERSION_1} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
    connection.close()


def test_an_upgrade_that_breaks_off_leaves_the_file_as_it_was(
    spool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_version_1(spool_path)
    with monkeypatch.context() as patch:
        patch.setitem(schema._UPGRADES, 1, schema._UPGRADES[1] + "ALTER TABLE missing ADD COLUMN x;")
        with pytest.raises(SpoolFileError):
            open_file(spool_path)
    reader = connect(spool_path, read_only=True)
    assert reader.execute("PRAGMA user_version").fetchone() == (1,)
    assert "stream" not in {name for _, name, *_ in reader.execute("PRAGMA table_info(message)")}
    reader.close()
    file = open_file(spool_path)
    assert (file.holder, file.epoch) == ("a-holder", 5)
    file.lock.close()


async def test_a_file_of_version_1_is_brought_up_with_what_is_in_it(spool_path: Path) -> None:
    _make_version_1(spool_path)
    file = open_file(spool_path)
    assert (file.holder, file.epoch) == ("a-holder", 5)
    store = SqliteStore(file)
    (queued,) = await store.due(2000, (0, 0), 10)
    assert (queued.recipient_id, queued.stream, queued.provider) == (10, "", "")
    assert await store.content(10) == b"A"
    await store.close()
    reader = connect(spool_path, read_only=True)
    assert reader.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert [OutboxRow(*row).recipient for row in reader.execute("SELECT * FROM outbox")] == ["r@example.net"]
    reader.close()
