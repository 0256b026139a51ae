"""Suppressions: addresses that get no mail from a tenant and those below it.

One whose time is over counts as gone in everything here, from that moment on; ``remove_expired`` clears the rows away.
Every change is logged for the nodes, in one statement however many there are.
"""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from control.database import Connection, Row
from control.model.suppressions import Draft, Filter, Place, Reason, kept_id, prefix_end
from control.store import policy_log
from control.store.policy_log import Key, Kind
from control.store.tenants import not_found

_COLUMNS = (
    "tenant_id, address, stream, reason, note, evidence, source_message_id, expires_at, created_at, updated_at,"
    " created_by, version, number"
)
_ENTRY = "tenant_id, address, stream, reason, expires_at"
_IN_FORCE = "(expires_at IS NULL OR expires_at > now())"
_PUT = """
    INSERT INTO suppression AS held
        (tenant_id, address, stream, reason, note, evidence, source_message_id, expires_at, created_at, created_by,
         number)
    SELECT $1, line.address, line.stream, line.reason, line.note, line.evidence, line.source_message_id,
           line.expires_at, coalesce(line.created_at, now()), $2,
           coalesce((SELECT number FROM suppression AS before WHERE before.tenant_id = $1
                     AND before.address = line.address AND before.stream = line.stream),
                    nextval('suppression_number'))
      FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::timestamptz[],
                  $10::timestamptz[])
           AS line (address, stream, reason, note, evidence, source_message_id, expires_at, created_at)
     ORDER BY line.address, line.stream
        ON CONFLICT (tenant_id, address, stream) DO UPDATE
       SET reason = excluded.reason, note = excluded.note, evidence = excluded.evidence,
           source_message_id = excluded.source_message_id, expires_at = excluded.expires_at,
           created_at = CASE WHEN held.expires_at <= now() THEN excluded.created_at ELSE held.created_at END,
           updated_at = now(), created_by = excluded.created_by, version = held.version + 1
     WHERE CASE WHEN held.expires_at <= now() THEN true
           WHEN $11 = 'keep' THEN false
           WHEN $11 = 'strengthen' THEN held.reason = 'soft_bounce' AND held.expires_at IS NOT NULL
           ELSE (held.reason, held.note, held.evidence, held.source_message_id, held.expires_at)
                IS DISTINCT FROM (excluded.reason, excluded.note, excluded.evidence, excluded.source_message_id,
                                  excluded.expires_at) END
    RETURNING address, stream, version = 1 AS created
"""
"""Rows that would not change are not written; $11 is an ``Existing``."""


class Existing(StrEnum):
    """What becomes of suppressions that hold already."""

    REPLACE = "replace"
    KEEP = "keep"
    STRENGTHEN = "strengthen"
    """Only temporary ones for soft bounces are replaced: what people said stays."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """A suppression as it is kept."""

    tenant_id: str
    address: str
    stream: str
    reason: Reason
    note: str
    evidence: str
    source_message_id: int
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    created_by: str
    version: int
    number: int

    @property
    def place(self) -> Place:
        """What it is about."""
        return Place(self.address, self.stream)

    @property
    def etag(self) -> str:
        """Changes with each write."""
        return str(self.version)


class Entry(NamedTuple):
    """What nodes need of a suppression. A NamedTuple: snapshots have millions."""

    tenant_id: str
    address: str
    stream: str
    reason: str
    expires_at: datetime | None

    @property
    def id(self) -> str:
        """As in the resource name and the log."""
        return f"{self.stream}:{self.address}" if self.stream else self.address


async def put(
    connection: Connection,
    tenant_id: str,
    drafts: Sequence[Draft],
    who: str,
    existing: Existing = Existing.REPLACE,
) -> tuple[int, int]:
    """Suppress addresses, each key once; how many were made, and how many of those that were there replaced."""
    rows = await connection.fetch(
        _PUT,
        tenant_id,
        who,
        [draft.address for draft in drafts],
        [draft.stream for draft in drafts],
        [draft.reason.value for draft in drafts],
        [draft.note for draft in drafts],
        [draft.evidence for draft in drafts],
        [draft.source_message_id for draft in drafts],
        [draft.expires_at for draft in drafts],
        [draft.created_at for draft in drafts],
        existing.value,
    )
    if rows:
        await policy_log.note(connection, [_change(tenant_id, Place(row["address"], row["stream"])) for row in rows])
    created = sum(row["created"] for row in rows)
    return created, len(rows) - created


async def get(connection: Connection, tenant_id: str, place: Place, *, lock: bool = False) -> Suppression:
    """One that is in force. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM suppression"
        f" WHERE tenant_id = $1 AND address = $2 AND stream = $3 AND {_IN_FORCE}" + (" FOR UPDATE" if lock else ""),
        tenant_id,
        *place,
    )
    if row is None:
        raise not_found("suppression", place.id)
    return _suppression(row)


async def held(connection: Connection, tenant_id: str, places: Sequence[Place]) -> list[Suppression]:
    """Those of these of a tenant that are in force."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE tenant_id = $1 AND {_IN_FORCE}"
        " AND (address, stream) IN (SELECT * FROM unnest($2::text[], $3::text[]))",
        tenant_id,
        [place.address for place in places],
        [place.stream for place in places],
    )
    return [_suppression(row) for row in rows]


async def update(connection: Connection, suppression: Suppression) -> Suppression:
    """Write the fields that can change, of one that was read with a lock."""
    row = await connection.fetchrow(
        "UPDATE suppression SET reason = $4, note = $5, evidence = $6, source_message_id = $7, expires_at = $8,"
        " updated_at = now(), version = version + 1 WHERE tenant_id = $1 AND address = $2 AND stream = $3"
        f" RETURNING {_COLUMNS}",
        suppression.tenant_id,
        *suppression.place,
        suppression.reason.value,
        suppression.note,
        suppression.evidence,
        suppression.source_message_id,
        suppression.expires_at,
    )
    assert row is not None, "it is locked"
    await policy_log.note(connection, [_change(suppression.tenant_id, suppression.place)])
    return _suppression(row)


async def delete(connection: Connection, tenant_id: str, places: Sequence[Place]) -> int:
    """Take suppressions back; how many there were. What a ladder of soft bounces counted is forgotten with them."""
    addresses = [place.address for place in places]
    rows = await connection.fetch(
        "DELETE FROM suppression WHERE tenant_id = $1 AND (address, stream) IN"
        " (SELECT * FROM unnest($2::text[], $3::text[])) RETURNING address, stream",
        tenant_id,
        addresses,
        [place.stream for place in places],
    )
    if rows:
        await connection.execute(
            "DELETE FROM bounce_ladder WHERE tenant_id = $1 AND address = ANY ($2)", tenant_id, addresses
        )
        await policy_log.note(connection, [_change(tenant_id, Place(row["address"], row["stream"])) for row in rows])
    return len(rows)


async def page(
    connection: Connection, tenant_id: str, wanted: Filter, after: Place, limit: int, skip: int = 0
) -> list[Suppression]:
    """A tenant's own suppressions, by address."""
    where, values = _conditions(tenant_id, wanted)
    values += after
    # The address by itself too: the planner does not see it in the comparison of rows.
    where += f" AND address >= ${len(values) - 1} AND (address, stream) > (${len(values) - 1}, ${len(values)})"
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE {where} ORDER BY address, stream LIMIT {limit:d} OFFSET {skip:d}",
        *values,
    )
    return [_suppression(row) for row in rows]


async def by_time(
    connection: Connection,
    tenant_id: str,
    wanted: Filter,
    after: tuple[datetime, int] | None,
    limit: int,
    skip: int = 0,
    *,
    newest: bool,
) -> list[Suppression]:
    """A tenant's own suppressions by the time they were made, after a time and number; ``newest``: the newest first."""
    where, values = _conditions(tenant_id, wanted)
    if after is not None:
        values += after
        where += f" AND (created_at, number) {'<' if newest else '>'} (${len(values) - 1}, ${len(values)})"
    way = "DESC" if newest else "ASC"
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE {where} ORDER BY created_at {way}, number {way}"
        f" LIMIT {limit:d} OFFSET {skip:d}",
        *values,
    )
    return [_suppression(row) for row in rows]


async def count(connection: Connection, tenant_id: str, wanted: Filter) -> dict[Reason, int]:
    """How many suppressions of its own a tenant has for each reason that occurs."""
    where, values = _conditions(tenant_id, wanted)
    rows = await connection.fetch(
        f"SELECT reason, count(*) AS count FROM suppression WHERE {where} GROUP BY reason", *values
    )
    return {_REASONS[row["reason"]]: row["count"] for row in rows}


async def of_addresses(
    connection: Connection, tenant_id: str, addresses: Sequence[str], stream: str | None, reasons: Sequence[Reason]
) -> list[Suppression]:
    """Those of a tenant's own for these addresses, locked; of one stream or of all, of some reasons or of any."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE tenant_id = $1 AND address = ANY ($2)"
        f" AND ($3::text IS NULL OR stream = $3) AND (cardinality($4::text[]) = 0 OR reason = ANY ($4)) AND {_IN_FORCE}"
        " ORDER BY address, stream FOR UPDATE",
        tenant_id,
        addresses,
        stream,
        [reason.value for reason in reasons],
    )
    return [_suppression(row) for row in rows]


async def matching(
    connection: Connection, tenant_ids: Sequence[str], addresses: Sequence[str], stream: str
) -> list[Suppression]:
    """Those of some tenants that hold now for mail of a stream to these canonical addresses.

    Where tenants above the caller are among them it has to run for the platform.
    """
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM suppression WHERE tenant_id = ANY ($1) AND address = ANY ($2)"
        f" AND stream = ANY ($3) AND {_IN_FORCE}",
        tenant_ids,
        addresses,
        ["", stream],
    )
    return [_suppression(row) for row in rows]


async def everything(connection: Connection, after: tuple[str, str, str], limit: int) -> list[Entry]:
    """All suppressions in force, by tenant, address and stream, for a snapshot."""
    rows = await connection.fetch(
        f"SELECT {_ENTRY} FROM suppression WHERE (tenant_id, address, stream) > ($1, $2, $3) AND {_IN_FORCE}"
        " ORDER BY tenant_id, address, stream LIMIT $4",
        *after,
        limit,
    )
    return list(map(Entry._make, rows))


async def some(connection: Connection, keys: Sequence[tuple[str, str]]) -> list[Entry]:
    """Those of the suppressions (tenant id, id) that are in force."""
    places = [kept_id(id_) for _, id_ in keys]
    rows = await connection.fetch(
        # Row by row through the primary key, however large the table and whatever the planner believes of the list.
        f"SELECT {_ENTRY} FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant_id, address, stream),"
        " LATERAL (SELECT reason, expires_at FROM suppression WHERE suppression.tenant_id = wanted.tenant_id"
        " AND suppression.address = wanted.address AND suppression.stream = wanted.stream"
        f" AND {_IN_FORCE} LIMIT 1) AS held",
        [tenant_id for tenant_id, _ in keys],
        [place.address for place in places],
        [place.stream for place in places],
    )
    return list(map(Entry._make, rows))


async def remove_expired(connection: Connection, limit: int) -> int:
    """Remove rows whose time is over; how many. The nodes stopped to heed them by themselves."""
    rows = await connection.fetch(
        "DELETE FROM suppression WHERE ctid = ANY (ARRAY(SELECT ctid FROM suppression WHERE expires_at <= now()"
        " ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING tenant_id, address, stream",
        limit,
    )
    if rows:
        changes = [_change(row["tenant_id"], Place(row["address"], row["stream"])) for row in rows]
        await policy_log.note(connection, changes)
    return len(rows)


def _conditions(tenant_id: str, wanted: Filter) -> tuple[str, list[Any]]:
    """The WHERE clause of a filter with its values."""
    values: list[Any] = [tenant_id]
    where = [f"tenant_id = $1 AND {_IN_FORCE}"]
    for condition, value in (
        ("reason = ANY (${})", [reason.value for reason in wanted.reasons] or None),
        ("stream = ${}", wanted.stream),
        ("address >= ${}", wanted.address_prefix or None),
        ("address < ${}", prefix_end(wanted.address_prefix) or None),
        ("domain = ${}", wanted.domain or None),
        ("created_at >= ${}", wanted.start),
        ("created_at < ${}", wanted.end),
        ("position(${} IN address) > 0", wanted.search or None),
        ("number = ${}", wanted.number or None),
    ):
        if value is not None:
            values.append(value)
            where.append(condition.format(len(values)))
    return " AND ".join(where), values


def _change(tenant_id: str, place: Place) -> Key:
    return Key(Kind.SUPPRESSION, place.id, tenant_id)


def _suppression(row: Row) -> Suppression:
    return Suppression(
        row["tenant_id"],
        row["address"],
        row["stream"],
        _REASONS[row["reason"]],
        row["note"],
        row["evidence"],
        row["source_message_id"],
        row["expires_at"],
        row["created_at"],
        row["updated_at"],
        row["created_by"],
        row["version"],
        row["number"],
    )


_REASONS = {reason.value: reason for reason in Reason}  # several times as fast as Reason(text)
