"""The inbox's messages: one SQLite file below ``home/inbox``, so that they survive a restart.

One row per SMTP transaction. ``add`` returns when the row is committed; the oldest go when there are more than the
limit. DKIM results are added later by whoever verified.

Thread and loop rules: methods may be called from any thread, one at a time (a lock sees to that); each takes well under
a millisecond except reading or writing large messages.

Limits: ``synchronous=NORMAL``: a killed process loses nothing, a power cut may lose the last messages. It is a demo.
"""

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    recipients TEXT NOT NULL,
    subject TEXT NOT NULL,
    received_at REAL NOT NULL,
    content BLOB NOT NULL,
    dkim TEXT
)
"""
TRIM_EVERY = 50
"""Messages between two looks at the limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as it is listed. ``dkim`` is None until it was verified."""

    id: int
    sender: str
    recipients: list[str]
    subject: str
    received_at: float
    """Unix time."""
    dkim: list[dict[str, str]] | None


class Store:
    """The messages of one inbox."""

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._limit = limit
        self._lock = threading.Lock()
        self._added = 0
        self._connection = sqlite3.connect(folder / "inbox.db", check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(_SCHEMA)
        self._trim()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, sender: str, recipients: Sequence[str], subject: str, content: bytes) -> int:
        """Keep a message; its id."""
        with self._lock:
            cursor = self._connection.execute(
                "INSERT INTO message (sender, recipients, subject, received_at, content) VALUES (?, ?, ?, ?, ?)",
                (sender, msgspec.json.encode(list(recipients)).decode(), subject, time.time(), content),
            )
            self._added += 1
            if self._added % TRIM_EVERY == 0:
                self._trim()
            return cursor.lastrowid or 0

    def entries(self, limit: int | None = None, recipient: str | None = None) -> list[Entry]:
        """Newest first; only those to ``recipient`` (any case) if given."""
        condition, values = "", []
        if recipient is not None:
            condition = "WHERE EXISTS (SELECT 1 FROM json_each(recipients) WHERE lower(value) = lower(?))"
            values.append(recipient)
        rows = self._rows(
            "SELECT id, sender, recipients, subject, received_at, dkim FROM message "  # noqa: S608 - constant parts
            f"{condition} ORDER BY id DESC LIMIT ?",
            (*values, self._limit if limit is None else min(limit, self._limit)),
        )
        return [
            Entry(
                id=row[0],
                sender=row[1],
                recipients=msgspec.json.decode(row[2]),
                subject=row[3],
                received_at=row[4],
                dkim=None if row[5] is None else msgspec.json.decode(row[5]),
            )
            for row in rows
        ]

    def content(self, number: int) -> bytes | None:
        """The message as it came, or None if there is none of that id."""
        rows = self._rows("SELECT content FROM message WHERE id = ?", (number,))
        return rows[0][0] if rows else None

    def unverified(self, limit: int) -> list[int]:
        """Ids of messages without DKIM results, newest first."""
        rows = self._rows("SELECT id FROM message WHERE dkim IS NULL ORDER BY id DESC LIMIT ?", (limit,))
        return [row[0] for row in rows]

    def verified(self, number: int, results: list[dict[str, str]]) -> None:
        """Keep the DKIM results of a message."""
        with self._lock:
            self._connection.execute(
                "UPDATE message SET dkim = ? WHERE id = ?", (msgspec.json.encode(results).decode(), number)
            )

    def clear(self) -> int:
        """Remove all messages; how many."""
        with self._lock:
            return self._connection.execute("DELETE FROM message").rowcount

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _trim(self) -> None:
        self._connection.execute(
            "DELETE FROM message WHERE id <= (SELECT id FROM message ORDER BY id DESC LIMIT 1 OFFSET ?)", (self._limit,)
        )
