"""The schema of a spool file, and how a file is opened, checked and made.

``mta/doc/spool.md`` explains it to other people's programs. Blocking: called at start and from the spool's own threads.
Errors: ``SpoolFileError`` with a text for the operator; nothing is touched then.
"""

import fcntl
import os
import sqlite3
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

VERSION = 3
"""Number of the schema, in ``PRAGMA user_version``. A file with a higher one is refused, not guessed at."""
APPLICATION_ID = 0x42415255
"""``PRAGMA application_id``: "BARU"."""
PAGE_BYTES = 8192
"""Fits a 4 KB message into one leaf page: fewer overflow pages than with 4096."""
CHECKPOINT_PAGES = 4000
"""The write-ahead log is folded into the file at this length (32 MB), in the commit thread."""

_ANSWER = """
CREATE TABLE answer (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    answer BLOB NOT NULL,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX answer_expiry ON answer (expires_ms);
"""
_SCHEMA = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE message (
    message_id INTEGER PRIMARY KEY,
    last_recipient_id INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    sender TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    size INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    stream TEXT NOT NULL DEFAULT '',
    provider TEXT NOT NULL DEFAULT '',
    pool TEXT NOT NULL DEFAULT '',
    -- Last: what lies behind a large content is slow to read. In files that were upgraded, it is not.
    content BLOB NOT NULL
);
CREATE TABLE recipient (
    recipient_id INTEGER PRIMARY KEY,
    message_id INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    address TEXT NOT NULL,
    domain TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    reason TEXT NOT NULL
);
-- Only what waits is indexed: a recipient that is delivered at once costs no index entry.
CREATE INDEX recipient_due ON recipient (due_ms, recipient_id) WHERE parked = 1;
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    recipient_id INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    sender TEXT,
    recipient TEXT,
    subject TEXT,
    size INTEGER NOT NULL,
    source TEXT,
    attempt INTEGER NOT NULL,
    code INTEGER NOT NULL,
    enhanced TEXT,
    text TEXT,
    remote_host TEXT,
    next_ms INTEGER NOT NULL,
    lease_id INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    stream TEXT,
    provider TEXT,
    egress_source TEXT,
    tags TEXT,
    properties TEXT,
    reference BLOB
);
CREATE TABLE lease (
    lease_id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    amount INTEGER NOT NULL,
    used INTEGER NOT NULL
);
"""
    + _ANSWER
)

_UPGRADES = {
    1: """
ALTER TABLE message ADD COLUMN stream TEXT NOT NULL DEFAULT '';
ALTER TABLE message ADD COLUMN provider TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN stream TEXT;
ALTER TABLE outbox ADD COLUMN provider TEXT;
ALTER TABLE outbox ADD COLUMN egress_source TEXT;
""",
    2: """
ALTER TABLE message ADD COLUMN pool TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN tags TEXT;
ALTER TABLE outbox ADD COLUMN properties TEXT;
ALTER TABLE outbox ADD COLUMN reference BLOB;
"""
    + _ANSWER,
}
"""What brings a file of an earlier version to the next one."""


class SpoolFileError(Exception):
    """A spool file cannot be used; the text names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """An opened spool: its identity, and the lock that keeps other processes out."""

    path: Path
    holder: str
    """UUID of the spool, which its credit leases belong to."""
    epoch: int
    """Number of this run."""
    lock: IO[bytes]


def open_file(path: Path) -> SpoolFile:
    """Lock the spool file, make it if it is missing, and begin a new run. Raises SpoolFileError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise SpoolFileError(f"{path} cannot be used as a spool: {error.strerror}; check its folder") from error
    try:
        _refuse_foreign(path)
        # Made with its mode, because the files that SQLite puts beside it take theirs from it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = connect(path)
        try:
            _prepare(connection, path)
            return SpoolFile(path, *_begin_run(connection), lock)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        lock.close()
        raise SpoolFileError(f"{path} cannot be used as a spool: {error}; move it aside to look at it") from error
    except SpoolFileError:
        lock.close()
        raise


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the settings that the promise depends on. Transactions are explicit.

    A read-only one never makes the file or changes its settings: a reader may come before the worker does.
    """
    uri = f"file:{quote(str(path))}?mode={'rw' if read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            return connection
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_foreign(path: Path) -> None:
    """Look at a file's header before SQLite does: even opening another program's file would change it."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return
    if not header:
        return
    write_format, version, application = header[18:19], header[60:64], header[68:72]
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise _foreign(path)
    if application == version == bytes(4):
        # A spool whose making is still in its write-ahead log looks like this; without such a log it is not ours.
        if write_format != b"\x02":
            raise _foreign(path)
    elif int.from_bytes(application) != APPLICATION_ID:
        raise _foreign(path)
    elif int.from_bytes(version) > VERSION:
        raise _newer(path, int.from_bytes(version))


def _foreign(path: Path) -> SpoolFileError:
    return SpoolFileError(f"{path} is not a spool of this program; choose another file or move it aside")


def _newer(path: Path, version: int) -> SpoolFileError:
    return SpoolFileError(f"{path} has version {version}, this program knows {VERSION}; run the program that made it")


def _lock(path: Path) -> IO[bytes]:
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    lock = os.fdopen(handle, "r+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise SpoolFileError(f"{path} belongs to another running worker; stop that one first") from error
    return lock


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if version == VERSION and application == APPLICATION_ID:
        return
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        path.chmod(0o600)
        identity = f"INSERT INTO meta VALUES ('holder', '{uuid.uuid4()}'), ('epoch', '0');"  # noqa: S608 (a script takes no parameters)
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        connection.executescript(f"BEGIN EXCLUSIVE; {marks} {_SCHEMA} {identity} COMMIT;")
        return
    if application != APPLICATION_ID:
        raise _foreign(path)
    if version not in _UPGRADES:
        raise _newer(path, version)
    for step in range(version, VERSION):
        connection.executescript(f"BEGIN EXCLUSIVE; {_UPGRADES[step]} PRAGMA user_version = {step + 1}; COMMIT;")


def _begin_run(connection: sqlite3.Connection) -> tuple[str, int]:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'epoch'")
    # What the earlier run had in memory waits on file now, due since it was accepted.
    connection.execute("UPDATE recipient SET parked = 1 WHERE parked = 0")
    rows = dict(connection.execute("SELECT key, value FROM meta"))
    connection.execute("COMMIT")
    return rows["holder"], int(rows["epoch"])
