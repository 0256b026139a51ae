"""Another sealing key takes the place of the one in use, while everything runs.

    python -m control keys show      # ids of the keys, and how many things each has sealed
    python -m control keys add       # a new key that opens and does not seal yet: copy the file to every machine
    python -m control keys rotate    # the added key, or a new one, seals from now on; what is sealed is sealed anew
    python -m control keys forget    # drop the keys that seal nothing any more: copy the file to every machine

On one machine ``rotate`` is all there is to do. Control and the workers notice the changed file by themselves. A
rotation that was cut off is finished by ``reseal``. Let a day pass before ``forget``: request ids of earlier calls are
known by the oldest key until then, and so are codes that were mailed to confirm senders.

``reseal`` takes ``BATCH`` things at a time, each batch in a transaction with the change that tells the nodes. Whatever
cannot be opened stays as it is, is counted, and keeps ``forget`` from dropping a key.

Errors: ``OptionsError`` with a text for the operator; ``Refusal`` if the database is away.
"""

# ruff: noqa: S608 - the text put into statements is that of the table below

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from control.database import Connection, Database, Row
from control.sealing import Sealer
from control.store import policy_log
from control.store.policy_log import Key, Kind
from mta.runtime import keyring
from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError

log = get_logger(__name__)

BATCH = 100
"""Things sealed anew in one transaction: others wait for the policy revision meanwhile."""


@dataclass(frozen=True, slots=True)
class Place:
    """A column with sealed things, and what they are sealed for. ``kind`` and ``name`` are SQL.

    ``change`` makes of a row's tenant, kind and name the record that nodes are told of.
    """

    table: str
    column: str
    kind: str
    name: str
    change: Callable[[str, str, str], Key] | None = None


PLACES = (
    Place(
        "dkim_key",
        "sealed_private_key",
        "domain",
        "selector",
        lambda _tenant_id, domain, _selector: Key(Kind.DOMAIN, domain),
    ),
    Place(
        "smtp_provider",
        "sealed_password",
        "'smtpProviders'",
        "provider_id",
        lambda tenant_id, _kind, provider_id: Key(Kind.SMTP_PROVIDER, provider_id, tenant_id),
    ),
    Place("api_key", "sealed_secret", "'apiKeys'", "key_id"),
    Place("webhook", "sealed_headers", "'webhook-headers'", "webhook_id"),
    Place("webhook", "sealed_secret", "'webhook-secret'", "webhook_id"),
    Place("webhook", "sealed_previous_secret", "'webhook-secret'", "webhook_id"),
)
"""Everything that is sealed. A test compares it with the columns of the database."""


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of the things that older keys had sealed."""

    done: int = 0
    failed: int = 0


async def reseal(database: Database, sealer: Sealer) -> Resealed:
    """Seal with the newest key whatever another one has sealed."""
    done = failed = 0
    for place in PLACES:
        after: Position | None = Position("", "", "")
        while after is not None:
            batch = await _reseal_batch(database, sealer, place, after)
            done, failed, after = done + batch.done, failed + batch.failed, batch.last
    return Resealed(done, failed)


async def sealed_by(database: Database) -> dict[bytes, int]:
    """How many things each key has sealed, by the key's id; those without a key id are under an empty one."""
    counts: dict[bytes, int] = {}

    async def read(connection: Connection) -> list[Row]:
        rows: list[Row] = []
        for place in PLACES:
            rows += await connection.fetch(
                f"SELECT CASE WHEN get_byte({place.column}, 0) = 1 THEN substring({place.column} FROM 2 FOR 4)"
                f" ELSE '' END AS key_id, count(*) AS count FROM {place.table} WHERE length({place.column}) > 0"
                " GROUP BY key_id"
            )
        return rows

    for row in await database.transact(read):
        counts[row["key_id"]] = counts.get(row["key_id"], 0) + row["count"]
    return counts


async def rotate(path: Path, database: Database, sealer: Sealer) -> Resealed:
    """Have the next key, or a new one, seal from now on, and seal everything with it."""
    keyring.write(path, keyring.read(path).rotated())
    log.info("sealing_key_rotated", key_id=sealer.mark[1:].hex())
    return await reseal(database, sealer)


async def forget(path: Path, database: Database) -> int:
    """Drop the older keys; how many. Raises OptionsError if something is sealed with one of them."""
    ring = keyring.read(path)
    kept = ring.without_older()
    in_use = {key_id: count for key_id, count in (await sealed_by(database)).items() if key_id not in kept.by_id}
    if in_use:
        raise OptionsError(
            f"{sum(in_use.values())} secrets are sealed with other keys than the newest;"
            " run `python -m control keys reseal` first"
        )
    keyring.write(path, kept)
    log.info("sealing_keys_forgotten", keys=len(ring.older))
    return len(ring.older)


class Position(NamedTuple):
    """What one thing is sealed for."""

    tenant_id: str
    kind: str
    name: str


class _Batch(NamedTuple):
    done: int
    failed: int
    last: Position | None


async def _reseal_batch(database: Database, sealer: Sealer, place: Place, after: Position) -> _Batch:
    mark = sealer.mark

    async def work(connection: Connection) -> _Batch:
        rows = await connection.fetch(
            f"SELECT tenant_id, {place.kind} AS kind, {place.name} AS name, {place.column} AS sealed FROM {place.table}"
            f" WHERE (tenant_id, {place.kind}, {place.name}) > ($1::text, $2::text, $3::text)"
            f" AND substring({place.column} FROM 1 FOR $4) <> $5 ORDER BY tenant_id, kind, name LIMIT $6 FOR UPDATE",
            *after,
            len(mark),
            mark,
            BATCH,
        )
        fresh: dict[Position, bytes] = {}
        for row in rows:
            position = Position(row["tenant_id"], row["kind"], row["name"])
            try:
                fresh[position] = sealer.seal(sealer.open(row["sealed"], *position), *position)
            except ValueError as error:
                log.error("not_resealed", table=place.table, column=place.column, reason=str(error))
        await _keep(connection, place, fresh)
        last = Position(rows[-1]["tenant_id"], rows[-1]["kind"], rows[-1]["name"]) if len(rows) == BATCH else None
        return _Batch(len(fresh), len(rows) - len(fresh), last)

    return await database.transact(work, repeatable=True)


async def _keep(connection: Connection, place: Place, fresh: Mapping[Position, bytes]) -> None:
    if not fresh:
        return
    await connection.execute(
        f"UPDATE {place.table} AS kept SET {place.column} = fresh.sealed"
        " FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS fresh (owner, use, label, sealed)"
        f" WHERE tenant_id = owner AND {place.kind} = use AND {place.name} = label",
        [position.tenant_id for position in fresh],
        [position.kind for position in fresh],
        [position.name for position in fresh],
        list(fresh.values()),
    )
    if place.change is not None:
        changes = {place.change(*position): None for position in fresh}
        await policy_log.note(connection, list(changes))
