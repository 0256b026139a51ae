"""The ways out in the policy replica: tables of SMTP providers, sources, pools, rules and assignments.

``apply`` writes one record, through whatever runs the writer's statements. ``EgressReader`` answers for workers: what
is few (sources, pools, rules) is read whole when it has changed; what may be many is looked up and kept.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from mta.policy.egress import (
    EgressRecord,
    EgressRule,
    Pool,
    PoolAssignment,
    ProviderTls,
    SmtpProvider,
    Source,
    SourceState,
)

V = TypeVar("V")
Execute = Callable[[str, tuple[object, ...]], object]

CACHE_SIZE = 50_000
"""Answers kept per kind: when there are more, all are forgotten rather than the oldest sought."""

SCHEMA = """
CREATE TABLE smtp_provider (tenant_id TEXT, provider_id TEXT, host TEXT, port INTEGER, tls TEXT, username TEXT,
    sealed_password BLOB, limited INTEGER, waits INTEGER, shared INTEGER, is_default INTEGER, allow_private INTEGER,
    allow_invalid_certificate INTEGER, PRIMARY KEY (tenant_id, provider_id)) WITHOUT ROWID;
CREATE TABLE source (source_id TEXT PRIMARY KEY, address TEXT, ehlo_name TEXT, state TEXT, limited INTEGER)
    WITHOUT ROWID;
CREATE TABLE pool (pool_id TEXT PRIMARY KEY, tenant_id TEXT, folded_name TEXT, overflow_pool_id TEXT) WITHOUT ROWID;
CREATE TABLE pool_member (pool_id TEXT, source_id TEXT, weight INTEGER, PRIMARY KEY (pool_id, source_id)) WITHOUT ROWID;
CREATE TABLE egress_rule (rule_id TEXT PRIMARY KEY, position INTEGER, tenant_id TEXT, stream TEXT, sender_domain TEXT,
    recipient_domain TEXT, mx_suffix TEXT, pool_id TEXT, provider_tenant_id TEXT, provider_id TEXT, suspended INTEGER,
    connections INTEGER, messages_per_connection INTEGER, messages_per_minute INTEGER) WITHOUT ROWID;
CREATE TABLE pool_assignment (tenant_id TEXT PRIMARY KEY, pool_id TEXT) WITHOUT ROWID;
-- Another mark whenever something above has changed.
CREATE TABLE egress_mark (number INTEGER PRIMARY KEY, mark TEXT);
"""


def apply(execute: Execute, record: EgressRecord, deleted: bool) -> None:
    """Write a record, or that it is gone."""
    match record:
        case SmtpProvider():
            key = (record.tenant_id, record.provider_id)
            execute("DELETE FROM smtp_provider WHERE tenant_id = ? AND provider_id = ?", key)
            if not deleted:
                execute("INSERT INTO smtp_provider VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", _provider_row(record))
        case Source():
            execute("DELETE FROM source WHERE source_id = ?", (record.source_id,))
            if not deleted:
                row = (record.source_id, record.address, record.ehlo_name, record.state.value, int(record.limited))
                execute("INSERT INTO source VALUES (?,?,?,?,?)", row)
        case Pool():
            execute("DELETE FROM pool WHERE pool_id = ?", (record.pool_id,))
            execute("DELETE FROM pool_member WHERE pool_id = ?", (record.pool_id,))
            if not deleted:
                named = (record.pool_id, record.tenant_id, record.folded_name, record.overflow_pool_id)
                execute("INSERT INTO pool VALUES (?,?,?,?)", named)
                for source_id, weight in record.members:
                    execute("INSERT INTO pool_member VALUES (?,?,?)", (record.pool_id, source_id, weight))
        case EgressRule():
            execute("DELETE FROM egress_rule WHERE rule_id = ?", (record.rule_id,))
            if not deleted:
                execute("INSERT INTO egress_rule VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", _rule_row(record))
        case PoolAssignment():
            execute("DELETE FROM pool_assignment WHERE tenant_id = ?", (record.tenant_id,))
            if not deleted:
                execute("INSERT INTO pool_assignment VALUES (?,?)", (record.tenant_id, record.pool_id))
    execute("INSERT OR REPLACE INTO egress_mark VALUES (1, ?)", (uuid4().hex,))


class EgressReader:
    """A ``mta.policy.egress.EgressPolicy`` on a replica file. ``refresh`` is called when the file has changed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._mark: str | None = ""
        self._providers: dict[tuple[str, str], SmtpProvider | None] = {}
        self._defaults: dict[str, SmtpProvider | None] = {}
        self._assigned: dict[str, str] = {}
        self._named: dict[tuple[str, str], str] = {}
        self.has_providers = False
        self.has_assignments = False
        self.sources: Mapping[str, Source] = {}
        self.pools: Mapping[str, Pool] = {}
        self.rules: Sequence[EgressRule] = ()
        self.refresh()

    @property
    def egress_version(self) -> object:
        """Another value whenever anything of this may have changed."""
        return self._mark

    def refresh(self) -> None:
        """Read again what has changed."""
        row = self._connection.execute("SELECT mark FROM egress_mark").fetchone()
        mark = row[0] if row else None
        if mark == self._mark:
            return
        for cache in (self._providers, self._defaults, self._assigned):
            cache.clear()
        execute = self._connection.execute
        self.has_providers = execute("SELECT 1 FROM smtp_provider LIMIT 1").fetchone() is not None
        self.has_assignments = execute("SELECT 1 FROM pool_assignment LIMIT 1").fetchone() is not None
        self.sources = {
            row[0]: Source(row[0], row[1], row[2], SourceState(row[3]), bool(row[4]))
            for row in execute("SELECT source_id, address, ehlo_name, state, limited FROM source")
        }
        pools = execute("SELECT pool_id, tenant_id, folded_name, overflow_pool_id FROM pool").fetchall()
        members: dict[str, list[tuple[str, int]]] = {}
        for pool_id, source_id, weight in execute("SELECT pool_id, source_id, weight FROM pool_member ORDER BY 1, 2"):
            members.setdefault(pool_id, []).append((source_id, weight))
        self.pools = {row[0]: Pool(row[0], tuple(members.get(row[0], ())), *row[1:]) for row in pools}
        self._named = {(row[1], row[2]): row[0] for row in pools if row[1]}
        self.rules = tuple(_rule(row) for row in execute("SELECT * FROM egress_rule ORDER BY position, rule_id"))
        self._mark = mark  # last: what could not be read is read again

    def provider(self, tenant_id: str, provider_id: str) -> SmtpProvider | None:
        """A provider of exactly this tenant."""
        key = (tenant_id, provider_id)
        if key not in self._providers:
            row = self._one("SELECT * FROM smtp_provider WHERE tenant_id = ? AND provider_id = ?", key)
            _keep(self._providers, key, _provider(row) if row else None)
        return self._providers[key]

    def default_provider(self, tenant_id: str) -> SmtpProvider | None:
        """The default that exactly this tenant has chosen."""
        if tenant_id not in self._defaults:
            row = self._one("SELECT * FROM smtp_provider WHERE tenant_id = ? AND is_default", (tenant_id,))
            _keep(self._defaults, tenant_id, _provider(row) if row else None)
        return self._defaults[tenant_id]

    def assigned_pool(self, tenant_id: str) -> str:
        """The pool of exactly this tenant; empty: none."""
        if tenant_id not in self._assigned:
            row = self._one("SELECT pool_id FROM pool_assignment WHERE tenant_id = ?", (tenant_id,))
            _keep(self._assigned, tenant_id, row[0] if row else "")
        return self._assigned[tenant_id]

    def tenant_pool(self, tenant_id: str, folded_name: str) -> str:
        """The id of exactly this tenant's pool of this name; empty: there is none."""
        return self._named.get((tenant_id, folded_name), "")

    def _one(self, query: str, values: tuple[str, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return row


K = TypeVar("K")


def _keep(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= CACHE_SIZE:
        cache.clear()
    cache[key] = value


def _provider_row(provider: SmtpProvider) -> tuple[object, ...]:
    return (
        provider.tenant_id,
        provider.provider_id,
        provider.host,
        provider.port,
        provider.tls.value,
        provider.username,
        provider.sealed_password,
        int(provider.limited),
        int(provider.waits),
        int(provider.shared),
        int(provider.is_default),
        int(provider.allow_private),
        int(provider.allow_invalid_certificate),
    )


def _provider(row: tuple[Any, ...]) -> SmtpProvider:
    return SmtpProvider(row[0], row[1], row[2], row[3], ProviderTls(row[4]), row[5], row[6], *map(bool, row[7:]))


def _rule_row(rule: EgressRule) -> tuple[object, ...]:
    provider = rule.provider or ("", "")
    return (
        rule.rule_id,
        rule.position,
        rule.tenant_id,
        rule.stream,
        rule.sender_domain,
        rule.recipient_domain,
        rule.mx_suffix,
        rule.pool_id,
        *provider,
        int(rule.suspended),
        rule.connections,
        rule.messages_per_connection,
        rule.messages_per_minute,
    )


def _rule(row: tuple[Any, ...]) -> EgressRule:
    provider = (row[8], row[9]) if row[9] else None
    tenant_id, stream, sender_domain, recipient_domain, mx_suffix, pool_id = row[2:8]
    return EgressRule(
        row[0],
        row[1],
        tenant_id,
        stream,
        sender_domain,
        recipient_domain,
        mx_suffix,
        pool_id,
        provider,
        bool(row[10]),
        *row[11:14],
    )
