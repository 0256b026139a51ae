"""Writing the policy replica: the node's side.

Each batch of changes and its revision are one transaction, so that a reader sees a revision whole or not at all. A
snapshot may hold millions of records: it is written piece by piece into tables beside those in force, which it replaces
at its end in one short transaction. A snapshot that was broken off leaves nothing that is ever read.

Blocking; the node calls it from one thread of its own. Errors: ``sqlite3.Error``.
"""

import re
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mta.policy.egress import EgressRecord
from mta.policy.records import ApiKey, Login, OAuthClient, Sender, SenderDomain, Suppression, Tenant
from mta.replica import egress

VERSION = 4
"""``PRAGMA user_version``. The file is a cache: one of another version is thrown away and filled anew."""

_SCHEMA = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tenant (tenant_id TEXT PRIMARY KEY, parent_id TEXT, suspended INTEGER, default_sender TEXT,
    max_message_bytes INTEGER, max_message_recipients INTEGER) WITHOUT ROWID;
CREATE TABLE login (username TEXT PRIMARY KEY, tenant_id TEXT, password_hash TEXT, networks TEXT, expire_time REAL)
    WITHOUT ROWID;
CREATE TABLE api_key (key_id TEXT PRIMARY KEY, tenant_id TEXT, secret_sha256 BLOB, scopes TEXT, networks TEXT,
    expire_time REAL, previous_sha256 BLOB, previous_expire_time REAL) WITHOUT ROWID;
CREATE TABLE oauth_client (client_id TEXT PRIMARY KEY, tenant_id TEXT, scopes TEXT, token_generation INTEGER,
    networks TEXT, expire_time REAL) WITHOUT ROWID;
CREATE TABLE domain (domain TEXT PRIMARY KEY, tenant_id TEXT, signing_off INTEGER, signs_for_senders INTEGER)
    WITHOUT ROWID;
CREATE INDEX domain_tenant ON domain (tenant_id, domain);
CREATE TABLE dkim_key (domain TEXT, selector TEXT, algorithm TEXT, sealed BLOB, PRIMARY KEY (domain, selector))
    WITHOUT ROWID;
CREATE TABLE sender (address TEXT, tenant_id TEXT, PRIMARY KEY (address, tenant_id)) WITHOUT ROWID;
CREATE TABLE suppression (address TEXT, tenant_id TEXT, stream TEXT, reason TEXT, expire_time REAL,
    PRIMARY KEY (address, tenant_id, stream)) WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', '0'), ('lineage', '');
"""
    + egress.SCHEMA
)
_STAGE = "incoming_"
"""Begins the names of the tables that a snapshot is written into."""
_CREATED = re.compile(r'CREATE TABLE "?\w+"?\s*')
_TABLE = re.compile(r"\b(INTO|FROM) (\w+)")
CACHE_KIB = 32_768
"""Pages kept in memory: the suppressions of a snapshot do not come in the order of their table."""

Record = Tenant | Login | ApiKey | OAuthClient | SenderDomain | Sender | Suppression | EgressRecord


class ReplicaWriter:
    """The one writer of a replica file."""

    def __init__(self, path: Path) -> None:
        self._connection = self._open(path)
        self._staging = False

    def position(self) -> tuple[str, int]:
        """The lineage and revision on file; ("", 0) when new."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        return meta["lineage"], int(meta["revision"])

    def apply(self, changes: Iterable[tuple[Record, bool]], revision: int) -> None:
        """Write changes, each a record and whether it is gone, and the revision they lead to."""
        with self._transaction():
            self._apply(changes)
            self._connection.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (str(revision),))

    def replace(self, records: Iterable[Record], lineage: str, revision: int) -> None:
        """Write a small snapshot in place of everything, in one go."""
        self.begin_snapshot()
        self.add_to_snapshot(records)
        self.finish_snapshot(lineage, revision)

    def begin_snapshot(self) -> None:
        """Make empty tables for a snapshot, and forget an earlier one that did not come to its end."""
        with self._transaction():
            self._drop(f"{_STAGE}{name}" for name in self._schema())
            for name, statement in self._schema().items():
                self._connection.execute(_CREATED.sub(f"CREATE TABLE {_STAGE}{name} ", statement, count=1))

    def add_to_snapshot(self, records: Iterable[Record]) -> None:
        """Write a piece of the snapshot. Nobody sees it yet."""
        with self._transaction():
            self._staging = True
            try:
                self._apply((record, False) for record in records)
            finally:
                self._staging = False

    def finish_snapshot(self, lineage: str, revision: int) -> None:
        """Put the snapshot in force in place of everything."""
        with self._transaction():
            schema = self._schema()
            indexes = self._connection.execute(
                "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
            ).fetchall()
            self._drop(schema)
            for name in schema:
                self._connection.execute(f"ALTER TABLE {_STAGE}{name} RENAME TO {name}")
            for (statement,) in indexes:
                self._connection.execute(statement)
            values = [(str(revision), "revision"), (lineage, "lineage")]
            self._connection.executemany("UPDATE meta SET value = ? WHERE key = ?", values)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._connection)

    def _schema(self) -> dict[str, str]:
        """How the tables of records are made, by name."""
        rows = self._connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {name: statement for name, statement in rows if name != "meta" and not name.startswith(_STAGE)}

    def _drop(self, tables: Iterable[str]) -> None:
        for name in list(tables):
            self._connection.execute(f"DROP TABLE IF EXISTS {name}")

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        """Run a statement on a table of records, or on the one of the snapshot in its place."""
        self._connection.execute(_staged(statement) if self._staging else statement, values)

    def _apply(self, changes: Iterable[tuple[Record, bool]]) -> None:
        """Write changes in order. Suppressions come by the million: runs of them are written at once."""
        entries: list[tuple[str, str, str, str, float]] = []
        for record, deleted in changes:
            if isinstance(record, Suppression) and not deleted:
                entries.append((record.address, record.tenant_id, record.stream, record.reason, record.expire_time))
                continue
            self._put_suppressions(entries)
            self._apply_one(record, deleted)
        self._put_suppressions(entries)

    def _put_suppressions(self, entries: list[tuple[str, str, str, str, float]]) -> None:
        if entries:
            statement = "INSERT OR REPLACE INTO suppression VALUES (?,?,?,?,?)"
            self._connection.executemany(_staged(statement) if self._staging else statement, entries)
            entries.clear()

    def _apply_one(self, record: Record, deleted: bool) -> None:
        execute = self._execute
        match record:
            case Tenant():
                execute("DELETE FROM tenant WHERE tenant_id = ?", (record.tenant_id,))
                if not deleted:
                    row = (record.tenant_id, record.parent_id, int(record.suspended), record.default_sender)
                    limits = (record.max_message_bytes, record.max_message_recipients)
                    execute("INSERT INTO tenant VALUES (?,?,?,?,?,?)", row + limits)
            case Login():
                execute("DELETE FROM login WHERE username = ?", (record.username,))
                if not deleted:
                    networks = " ".join(record.allowed_networks)
                    login = (record.username, record.tenant_id, record.password_hash, networks, record.expire_time)
                    execute("INSERT INTO login VALUES (?,?,?,?,?)", login)
            case ApiKey():
                execute("DELETE FROM api_key WHERE key_id = ?", (record.key_id,))
                if not deleted:
                    execute("INSERT INTO api_key VALUES (?,?,?,?,?,?,?,?)", _key_row(record))
            case OAuthClient():
                execute("DELETE FROM oauth_client WHERE client_id = ?", (record.client_id,))
                if not deleted:
                    execute("INSERT INTO oauth_client VALUES (?,?,?,?,?,?)", _client_row(record))
            case SenderDomain():
                self._apply_domain(record, deleted)
            case Sender():
                execute("DELETE FROM sender WHERE address = ? AND tenant_id = ?", (record.address, record.tenant_id))
                if not deleted:
                    execute("INSERT INTO sender VALUES (?,?)", (record.address, record.tenant_id))
            case Suppression():
                place = (record.address, record.tenant_id, record.stream)
                execute("DELETE FROM suppression WHERE address = ? AND tenant_id = ? AND stream = ?", place)
            case _:
                egress.apply(execute, record, deleted)

    def _apply_domain(self, record: SenderDomain, deleted: bool) -> None:
        execute = self._execute
        execute("DELETE FROM domain WHERE domain = ?", (record.domain,))
        execute("DELETE FROM dkim_key WHERE domain = ?", (record.domain,))
        if deleted:
            return
        domain = (record.domain, record.tenant_id, int(record.signing_off), int(record.signs_for_senders))
        execute("INSERT INTO domain VALUES (?,?,?,?)", domain)
        for key in record.keys:
            row = (record.domain, key.selector, key.algorithm.value, key.sealed_private_key)
            execute("INSERT INTO dkim_key VALUES (?,?,?,?)", row)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a cache: after a power cut control sends it again
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            drops = "".join(f"DROP TABLE {name};" for (name,) in tables)
            connection.executescript(f"BEGIN EXCLUSIVE; {drops} {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        return connection


@lru_cache(maxsize=64)
def _staged(statement: str) -> str:
    """A statement for the table of a snapshot; it names its table after INTO or FROM."""
    return _TABLE.sub(rf"\1 {_STAGE}\2", statement)


def _key_row(key: ApiKey) -> tuple[object, ...]:
    return (
        key.key_id,
        key.tenant_id,
        key.secret_sha256,
        " ".join(key.scopes),
        " ".join(key.allowed_networks),
        key.expire_time,
        key.previous_sha256,
        key.previous_expire_time,
    )


def _client_row(client: OAuthClient) -> tuple[object, ...]:
    return (
        client.client_id,
        client.tenant_id,
        " ".join(client.scopes),
        client.token_generation,
        " ".join(client.allowed_networks),
        client.expire_time,
    )


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # A commit that failed leaves the transaction open or not, as SQLite thinks fit.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
