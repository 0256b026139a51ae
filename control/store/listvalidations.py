"""Lists of addresses that are being validated, line by line, in their order."""

# ruff: noqa: S608 - the only text put into statements is the list of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from control.database import Connection, Row
from control.model.selection import Selection
from control.store import selecting
from control.store.tenants import not_found

ABANDONED_SECONDS = 3600.0
"""An upload that nothing was added to for so long has broken."""

_COLUMNS = (
    "tenant_id, validation_id, number, display_name, stream, state, address_count, checked_count, verdicts, created_by,"
    " created_at, finished_at"
)
_TABLE = selecting.Table("list_validation", _COLUMNS, "validation_id", ("display_name",))


class State(IntEnum):
    """Where a list stands; the numbers of ``barua.control.v1.ListValidation.State``."""

    RECEIVING = 1
    QUEUED = 2
    RUNNING = 3
    DONE = 4
    CANCELLED = 5


FINISHED = frozenset({State.DONE, State.CANCELLED})


@dataclass(frozen=True, slots=True)
class ListValidation:
    """A list as it is kept."""

    tenant_id: str
    validation_id: str
    number: int
    display_name: str
    stream: str
    state: State
    address_count: int
    checked_count: int
    verdicts: tuple[int, ...]
    """How many have each verdict, in the order of the numbers of verdicts."""
    created_by: str
    created_at: datetime
    finished_at: datetime | None


class Checked(NamedTuple):
    """The result of one line."""

    line: int
    verdict: int
    result: bytes


async def create(
    connection: Connection, tenant_id: str, validation_id: str, display_name: str, stream: str, who: str
) -> None:
    """Begin a list, empty and receiving."""
    await connection.execute(
        "INSERT INTO list_validation (tenant_id, validation_id, display_name, stream, state, created_by)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        tenant_id,
        validation_id,
        display_name,
        stream,
        State.RECEIVING.value,
        who,
    )


async def add(connection: Connection, tenant_id: str, validation_id: str, addresses: Sequence[str], first: int) -> None:
    """Add lines to a list that is receiving, the first of which has the number ``first``. NOT_FOUND if it is gone."""
    found = await connection.fetchval(
        "UPDATE list_validation SET address_count = $3, updated_at = now()"
        " WHERE tenant_id = $1 AND validation_id = $2 AND state = $4 RETURNING true",
        tenant_id,
        validation_id,
        first - 1 + len(addresses),
        State.RECEIVING.value,
    )
    if not found:
        raise not_found("list validation", validation_id)
    await connection.execute(
        "INSERT INTO list_validation_line (tenant_id, validation_id, line, address)"
        " SELECT $1, $2, $3 + ordinality - 1, address FROM unnest($4::text[]) WITH ORDINALITY AS given (address)"
        " ON CONFLICT DO NOTHING",
        tenant_id,
        validation_id,
        first,
        addresses,
    )


async def complete(connection: Connection, tenant_id: str, validation_id: str) -> ListValidation:
    """The list is whole: it may be worked on. NOT_FOUND if it is gone."""
    row = await connection.fetchrow(
        "UPDATE list_validation SET state = $3, updated_at = now() WHERE tenant_id = $1 AND validation_id = $2"
        f" AND state IN ($3, $4) RETURNING {_COLUMNS}",
        tenant_id,
        validation_id,
        State.QUEUED.value,
        State.RECEIVING.value,
    )
    if row is None:
        raise not_found("list validation", validation_id)
    return _validation(row)


async def count_open(connection: Connection, tenant_id: str) -> int:
    """Lists of a tenant that are not finished."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM list_validation WHERE tenant_id = $1 AND state IN (1, 2, 3)", tenant_id
    )
    return count


async def get(connection: Connection, tenant_id: str, validation_id: str, *, lock: bool = False) -> ListValidation:
    """A list. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM list_validation WHERE tenant_id = $1 AND validation_id = $2"
        + (" FOR UPDATE" if lock else ""),
        tenant_id,
        validation_id,
    )
    if row is None:
        raise not_found("list validation", validation_id)
    return _validation(row)


async def page(connection: Connection, tenant_id: str, wanted: Selection) -> tuple[list[ListValidation], int]:
    """A tenant's lists, and how many match."""
    rows, total = await selecting.select(connection, _TABLE, wanted, "tenant_id = $1", tenant_id)
    return [_validation(row) for row in rows], total


async def results(
    connection: Connection,
    tenant_id: str,
    validation_id: str,
    verdict: int | None,
    after: int,
    limit: int,
    skip: int = 0,
) -> list[Checked]:
    """Results so far after a line, of one verdict or all, without the first ``skip`` of them."""
    rows = await connection.fetch(
        "SELECT line, verdict, result FROM list_validation_line WHERE tenant_id = $1 AND validation_id = $2"
        " AND line > $3 AND verdict IS NOT NULL AND ($4::smallint IS NULL OR verdict = $4) ORDER BY line LIMIT $5"
        " OFFSET $6",
        tenant_id,
        validation_id,
        after,
        verdict,
        limit,
        skip,
    )
    return [Checked(row["line"], row["verdict"], row["result"]) for row in rows]


async def cancel(connection: Connection, tenant_id: str, validation_id: str) -> ListValidation:
    """Stop one that was read with a lock."""
    row = await connection.fetchrow(
        "UPDATE list_validation SET state = $3, finished_at = now(), updated_at = now()"
        f" WHERE tenant_id = $1 AND validation_id = $2 RETURNING {_COLUMNS}",
        tenant_id,
        validation_id,
        State.CANCELLED.value,
    )
    assert row is not None, "it is locked"
    return _validation(row)


async def delete(connection: Connection, tenant_id: str, validation_id: str) -> None:
    """Remove a list and its results. NOT_FOUND if there is none."""
    gone = await connection.fetchval(
        "DELETE FROM list_validation WHERE tenant_id = $1 AND validation_id = $2 RETURNING true",
        tenant_id,
        validation_id,
    )
    if not gone:
        raise not_found("list validation", validation_id)


async def claim(connection: Connection, seconds: float) -> ListValidation | None:
    """Take the list that waited longest, for so long; None if none waits. Nobody else gets it meanwhile."""
    row = await connection.fetchrow(
        "UPDATE list_validation SET claimed_until = clock_timestamp() + make_interval(secs => $1), state = $2"
        " WHERE (tenant_id, validation_id) = (SELECT tenant_id, validation_id FROM list_validation"
        " WHERE state IN (2, 3) AND claimed_until < clock_timestamp()"
        " ORDER BY claimed_until, created_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
        f" RETURNING {_COLUMNS}",
        seconds,
        State.RUNNING.value,
    )
    return _validation(row) if row is not None else None


async def next_lines(connection: Connection, found: ListValidation, limit: int) -> list[tuple[int, str]]:
    """The next lines to check."""
    rows = await connection.fetch(
        "SELECT line, address FROM list_validation_line WHERE tenant_id = $1 AND validation_id = $2 AND line > $3"
        " ORDER BY line LIMIT $4",
        found.tenant_id,
        found.validation_id,
        found.checked_count,
        limit,
    )
    return [(row["line"], row["address"]) for row in rows]


async def record(connection: Connection, found: ListValidation, checked: Sequence[Checked]) -> None:
    """Write the results of the next lines and let go of the list; with its last line it is done.

    Nothing happens if it was cancelled, removed or taken by somebody else meanwhile.
    """
    counts = [sum(line.verdict == number for line in checked) for number in range(1, 5)]
    last = checked[-1].line if checked else found.address_count
    kept = await connection.fetchval(
        "UPDATE list_validation SET checked_count = $3, claimed_until = clock_timestamp(), updated_at = now(),"
        " verdicts = ARRAY[verdicts[1] + $5, verdicts[2] + $6, verdicts[3] + $7, verdicts[4] + $8],"
        " state = CASE WHEN $3 >= address_count THEN 4 ELSE state END,"
        " finished_at = CASE WHEN $3 >= address_count THEN now() END"
        " WHERE tenant_id = $1 AND validation_id = $2 AND state = 3 AND checked_count = $4 RETURNING true",
        found.tenant_id,
        found.validation_id,
        last,
        found.checked_count,
        *counts,
    )
    if kept and checked:
        await connection.execute(
            "UPDATE list_validation_line AS held SET verdict = given.verdict, result = given.result"
            " FROM unnest($3::bigint[], $4::smallint[], $5::bytea[]) AS given (line, verdict, result)"
            " WHERE held.tenant_id = $1 AND held.validation_id = $2 AND held.line = given.line",
            found.tenant_id,
            found.validation_id,
            [line.line for line in checked],
            [line.verdict for line in checked],
            [line.result for line in checked],
        )


async def remove_old(connection: Connection, kept_days: int) -> None:
    """Remove a list that finished long ago, or whose upload broke: one at a time, for it may be large."""
    await connection.execute(
        "DELETE FROM list_validation WHERE (tenant_id, validation_id) = (SELECT tenant_id, validation_id"
        " FROM list_validation WHERE finished_at < now() - make_interval(days => $1)"
        " OR (state = 1 AND updated_at < now() - make_interval(secs => $2)) LIMIT 1)",
        kept_days,
        ABANDONED_SECONDS,
    )


def _validation(row: Row) -> ListValidation:
    return ListValidation(
        row["tenant_id"],
        row["validation_id"],
        row["number"],
        row["display_name"],
        row["stream"],
        State(row["state"]),
        row["address_count"],
        row["checked_count"],
        tuple(row["verdicts"]),
        row["created_by"],
        row["created_at"],
        row["finished_at"],
    )
