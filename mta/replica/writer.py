"""Writing the policy replica: the node's side.

Each batch of changes and its revision are one transaction, so that a reader sees a revision whole or not at all. A
snapshot is written the same way: the tables are emptied and filled within one transaction.

Blocking; the node calls it from one thread of its own. Errors: ``sqlite3.Error``.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from mta.policy.records import ApiKey, Login, SenderDomain, Suppression, Tenant

VERSION = 2
"""``PRAGMA user_version``. The file is a cache: one of another version is thrown away and filled anew."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tenant (tenant_id TEXT PRIMARY KEY, parent_id TEXT, suspended INTEGER, default_sender TEXT) WITHOUT ROWID;
CREATE TABLE login (username TEXT PRIMARY KEY, tenant_id TEXT, password_hash TEXT) WITHOUT ROWID;
CREATE TABLE api_key (key_id TEXT PRIMARY KEY, tenant_id TEXT, secret_sha256 BLOB, scopes TEXT) WITHOUT ROWID;
CREATE TABLE domain (domain TEXT PRIMARY KEY, tenant_id TEXT, signing_off INTEGER) WITHOUT ROWID;
CREATE INDEX domain_tenant ON domain (tenant_id, domain);
CREATE TABLE dkim_key (domain TEXT, selector TEXT, algorithm TEXT, sealed BLOB, PRIMARY KEY (domain, selector))
    WITHOUT ROWID;
CREATE TABLE suppression (address TEXT, tenant_id TEXT, reason TEXT, PRIMARY KEY (address, tenant_id)) WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', '0'), ('lineage', '');
"""
_TABLES = ("tenant", "login", "api_key", "domain", "dkim_key", "suppression")

Record = Tenant | Login | ApiKey | SenderDomain | Suppression


class ReplicaWriter:
    """The one writer of a replica file."""

    def __init__(self, path: Path) -> None:
        self._connection = self._open(path)

    def position(self) -> tuple[str, int]:
        """The lineage and revision on file; ("", 0) when new."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        return meta["lineage"], int(meta["revision"])

    def apply(self, changes: Iterable[tuple[Record, bool]], revision: int) -> None:
        """Write changes, each a record and whether it is gone, and the revision they lead to."""
        with self._transaction():
            for record, deleted in changes:
                self._apply_one(record, deleted)
            self._connection.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (str(revision),))

    def replace(self, records: Iterable[Record], lineage: str, revision: int) -> None:
        """Write a snapshot in place of everything."""
        with self._transaction():
            for table in _TABLES:
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 (names from this module)
            for record in records:
                self._apply_one(record, False)
            values = [(str(revision), "revision"), (lineage, "lineage")]
            self._connection.executemany("UPDATE meta SET value = ? WHERE key = ?", values)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._connection)

    def _apply_one(self, record: Record, deleted: bool) -> None:
        execute = self._connection.execute
        match record:
            case Tenant():
                execute("DELETE FROM tenant WHERE tenant_id = ?", (record.tenant_id,))
                if not deleted:
                    row = (record.tenant_id, record.parent_id, int(record.suspended), record.default_sender)
                    execute("INSERT INTO tenant VALUES (?,?,?,?)", row)
            case Login():
                execute("DELETE FROM login WHERE username = ?", (record.username,))
                if not deleted:
                    login = (record.username, record.tenant_id, record.password_hash)
                    execute("INSERT INTO login VALUES (?,?,?)", login)
            case ApiKey():
                execute("DELETE FROM api_key WHERE key_id = ?", (record.key_id,))
                if not deleted:
                    key = (record.key_id, record.tenant_id, record.secret_sha256, " ".join(record.scopes))
                    execute("INSERT INTO api_key VALUES (?,?,?,?)", key)
            case SenderDomain():
                self._apply_domain(record, deleted)
            case Suppression():
                execute(
                    "DELETE FROM suppression WHERE address = ? AND tenant_id = ?", (record.address, record.tenant_id)
                )
                if not deleted:
                    entry = (record.address, record.tenant_id, record.reason)
                    execute("INSERT INTO suppression VALUES (?,?,?)", entry)

    def _apply_domain(self, record: SenderDomain, deleted: bool) -> None:
        execute = self._connection.execute
        execute("DELETE FROM domain WHERE domain = ?", (record.domain,))
        execute("DELETE FROM dkim_key WHERE domain = ?", (record.domain,))
        if deleted:
            return
        execute("INSERT INTO domain VALUES (?,?,?)", (record.domain, record.tenant_id, int(record.signing_off)))
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
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            drops = "".join(f"DROP TABLE {name};" for (name,) in tables)
            connection.executescript(f"BEGIN EXCLUSIVE; {drops} {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        return connection


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
