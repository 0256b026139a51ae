"""Reading the policy replica: the workers' side.

A ``Policy`` over the local file. Answers are kept in memory until the file changes: ``refresh``, called several times a
second, sees that by a counter of SQLite's and forgets everything at once, so a revoked key or a new suppression is in
force within a fraction of a second. Suppressions are not kept: there are millions, and one look-up takes microseconds.

Thread rules: the loop's thread. Reads come from the page cache of the operating system; the node's writes never block
them (write-ahead log).
"""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from mta.policy.records import ApiKey, KeyAlgorithm, Login, OAuthClient, SealedKey, SenderDomain, Suppression, Tenant
from mta.replica.egress import EgressReader
from mta.replica.writer import VERSION

V = TypeVar("V")

CACHE_SIZE = 50_000
"""Answers kept per kind: when there are more, all are forgotten rather than the oldest sought."""


class ReplicaMissing(Exception):
    """There is no replica yet that can be used: the node has not written one."""


class ReplicaReader:
    """A ``mta.policy.lookup.Policy`` on a replica file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ReplicaMissing(f"{path} is not there yet; start the node")
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            self._connection.execute("PRAGMA query_only = ON")
            ready = self._connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
        except sqlite3.Error as error:
            self._connection.close()
            raise ReplicaMissing(f"{path} cannot be read: {error}") from error
        if not ready:  # the node is about to make it, or to make it anew
            self._connection.close()
            raise ReplicaMissing(f"{path} is not filled yet; start the node")
        self._version = -1
        self._revision = 0
        self._tenants: dict[str, Tenant | None] = {}
        self._logins: dict[str, Login] = {}
        self._api_keys: dict[str, ApiKey] = {}
        self._oauth_clients: dict[str, OAuthClient] = {}
        self._domains: dict[str, SenderDomain | None] = {}
        self._first_domains: dict[str, str | None] = {}
        self._signing_domains: dict[str, str | None] = {}
        self.egress = EgressReader(self._connection)
        """The ways out: a ``mta.policy.egress.EgressPolicy``."""
        self.refresh()

    @property
    def revision(self) -> int:
        """The revision in force; 0: nothing has come from control yet."""
        return self._revision

    def refresh(self) -> bool:
        """Look whether the file has changed; True if what was kept is forgotten."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return False
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()
        self._revision = int(row[0]) if row else 0
        for cache in (
            self._tenants,
            self._logins,
            self._api_keys,
            self._oauth_clients,
            self._domains,
            self._first_domains,
            self._signing_domains,
        ):
            cache.clear()
        self.egress.refresh()
        self._version = version  # last: what could not be read is read again
        return True

    def tenant(self, tenant_id: str) -> Tenant | None:
        """A tenant by its id."""
        if tenant_id not in self._tenants:
            row = self._one(
                "SELECT tenant_id, parent_id, suspended, default_sender, max_message_bytes, max_message_recipients"
                " FROM tenant WHERE tenant_id = ?",
                tenant_id,
            )
            _keep(self._tenants, tenant_id, Tenant(row[0], row[1], bool(row[2]), *row[3:]) if row else None)
        return self._tenants[tenant_id]

    def login(self, username: str) -> Login | None:
        """A login by its username."""
        login = self._logins.get(username)
        if login is None:
            row = self._one(
                "SELECT username, tenant_id, password_hash, networks, expire_time FROM login WHERE username = ?",
                username,
            )
            if row is None:
                return None  # not kept: anybody may try any number of names
            login = Login(row[0], row[1], row[2], tuple(row[3].split()), row[4])
            _keep(self._logins, username, login)
        return login

    def api_key(self, key_id: str) -> ApiKey | None:
        """An API key by its id."""
        key = self._api_keys.get(key_id)
        if key is None:
            row = self._one(
                "SELECT key_id, tenant_id, secret_sha256, scopes, networks, expire_time, previous_sha256,"
                " previous_expire_time FROM api_key WHERE key_id = ?",
                key_id,
            )
            if row is None:
                return None  # as for logins
            key = ApiKey(row[0], row[1], row[2], tuple(row[3].split()), tuple(row[4].split()), row[5], row[6], row[7])
            _keep(self._api_keys, key_id, key)
        return key

    def oauth_client(self, client_id: str) -> OAuthClient | None:
        """An OAuth client by its id."""
        client = self._oauth_clients.get(client_id)
        if client is None:
            row = self._one(
                "SELECT client_id, tenant_id, scopes, token_generation, networks, expire_time FROM oauth_client"
                " WHERE client_id = ?",
                client_id,
            )
            if row is None:
                return None  # as for logins
            client = OAuthClient(row[0], row[1], tuple(row[2].split()), row[3], tuple(row[4].split()), row[5])
            _keep(self._oauth_clients, client_id, client)
        return client

    def sender_domain(self, domain: str) -> SenderDomain | None:
        """A verified domain by its name."""
        if domain not in self._domains:
            _keep(self._domains, domain, self._load_domain(domain))
        return self._domains[domain]

    def first_domain(self, tenant_id: str) -> str | None:
        """A verified domain of exactly this tenant, the first by name."""
        if tenant_id not in self._first_domains:
            row = self._one("SELECT domain FROM domain WHERE tenant_id = ? ORDER BY domain LIMIT 1", tenant_id)
            _keep(self._first_domains, tenant_id, row[0] if row else None)
        return self._first_domains[tenant_id]

    def senders(self, address: str) -> list[str]:
        """The tenants that have verified a canonical address."""
        rows = self._connection.execute("SELECT tenant_id FROM sender WHERE address = ?", (address,))
        return [row[0] for row in rows]

    def signing_domain(self) -> SenderDomain | None:
        """The domain that signs for verified senders, if there is one."""
        if "" not in self._signing_domains:
            row = self._connection.execute("SELECT domain FROM domain WHERE signs_for_senders LIMIT 1").fetchone()
            self._signing_domains[""] = row[0] if row else None
        name = self._signing_domains[""]
        return self.sender_domain(name) if name is not None else None

    def suppressions(self, address: str, tenant_ids: Sequence[str]) -> list[Suppression]:
        """Every suppression of a canonical address on one of these tenants."""
        # Only theirs: thousands of other tenants may have the same dead address on their lists.
        rows = self._connection.execute(_suppressions_query(len(tenant_ids)), (address, *tenant_ids))
        return [Suppression(*row) for row in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _load_domain(self, domain: str) -> SenderDomain | None:
        row = self._one("SELECT tenant_id, signing_off, signs_for_senders FROM domain WHERE domain = ?", domain)
        if row is None:
            return None
        keys = self._connection.execute(
            "SELECT selector, algorithm, sealed FROM dkim_key WHERE domain = ? ORDER BY selector", (domain,)
        )
        sealed = tuple(SealedKey(selector, KeyAlgorithm(algorithm), blob) for selector, algorithm, blob in keys)
        return SenderDomain(domain, row[0], bool(row[1]), sealed, bool(row[2]))

    def _one(self, query: str, value: str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(query, (value,)).fetchone()
        return row


@lru_cache
def _suppressions_query(tenants: int) -> str:
    marks = ",".join("?" * tenants)
    columns = "tenant_id, address, reason, stream, expire_time"
    return f"SELECT {columns} FROM suppression WHERE address = ? AND tenant_id IN ({marks})"  # noqa: S608 (only marks)


def _keep(cache: dict[str, V], key: str, value: V) -> None:
    """Remember an answer."""
    if len(cache) >= CACHE_SIZE:
        cache.clear()
    cache[key] = value
