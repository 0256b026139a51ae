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

VERSION = 1
"""Number of the schema, in ``PRAGMA user_version``. A file with a higher one is refused, not guessed at."""
APPLICATION_ID = 0x42415255
"""``PRAGMA application_id``: "BARU"."""
PAGE_BYTES = 8192
"""Fits a 4 KB message into one leaf page: fewer overflow pages than with 4096."""
CHECKPOINT_PAGES = 4000
"""The write-ahead log is folded into the file at this length (32 MB), in the commit thread."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE message (
    message_id INTEGER PRIMARY KEY,
    last_recipient_id INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    sender TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    size INTEGER NOT NULL,
    flags INTEGER NOT NULL,
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
    credits INTEGER NOT NULL
);
CREATE TABLE lease (
    lease_id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    amount INTEGER NOT NULL,
    used INTEGER NOT NULL
);
"""


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
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        connection = connect(path)
        try:
            _prepare(connection, path)
            return SpoolFile(path, *_begin_run(connection), lock)
        finally:
            connection.close()
    except sqlite3.Error as error:
        lock.close()
        raise SpoolFileError(f"{path} cannot be used as a spool: {error}; move it aside to look at it") from error
    except SpoolFileError:
        lock.close()
        raise


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the settings that the promise depends on. Transactions are explicit."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA temp_store = MEMORY")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


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
        raise SpoolFileError(f"{path} is not a spool of this program; choose another file or move it aside")
    raise SpoolFileError(f"{path} has version {version}, this program knows {VERSION}; run the program that made it")


def _begin_run(connection: sqlite3.Connection) -> tuple[str, int]:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'epoch'")
    rows = dict(connection.execute("SELECT key, value FROM meta"))
    connection.execute("COMMIT")
    return rows["holder"], int(rows["epoch"])
