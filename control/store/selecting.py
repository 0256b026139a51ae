"""Parts of lists of numbered things, as a ``Selection`` asks for them: one way for all tables.

The search looks for a text anywhere in some columns, whatever the case. It reads the rows that the other conditions
leave, which are those of one tenant or of one part of the tree: no index serves it.
"""

# ruff: noqa: S608 - the text put into statements is that of tables in the code, and numbers

from dataclasses import dataclass
from typing import Any

from control.database import Connection, Row
from control.model.selection import Order, Selection


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be listed. ``name`` is the column of the order by name, ``searched`` are those of a search."""

    table: str
    columns: str
    name: str
    searched: tuple[str, ...]


async def select(
    connection: Connection, table: Table, wanted: Selection, where: str, *values: Any
) -> tuple[list[Row], int]:
    """The wanted rows of those for which ``where`` holds, and how many match in all (0 unless that was asked for)."""
    conditions, given = [f"({where})"], list(values)
    if wanted.number:
        given.append(wanted.number)
        conditions.append(f"{table.table}.number = ${len(given)}::bigint")
    if wanted.search:
        given.append(wanted.search)
        found = " OR ".join(f"position(folded(${len(given)}) IN folded({column})) > 0" for column in table.searched)
        conditions.append(f"({found})")
    matching = " AND ".join(conditions)
    total = 0
    if wanted.count_total:
        total = await connection.fetchval(f"SELECT count(*) FROM {table.table} WHERE {matching}", *given)
    by_name, newest = wanted.order is Order.NAME, wanted.order is Order.NEWEST
    sort, type_ = (table.name, "text") if by_name else (f"{table.table}.number", "bigint")
    given.append(wanted.after)
    rows = await connection.fetch(
        f"SELECT {table.columns} FROM {table.table} WHERE {matching}"
        f" AND {sort} {'<' if newest else '>'} ${len(given)}::{type_} ORDER BY {sort} {'DESC' if newest else ''}"
        f" LIMIT {wanted.limit:d} OFFSET {wanted.skip:d}",
        *given,
    )
    return list(rows), total
