"""The verbs of ``python -m control keys``: what they do is in ``control.resealing``.

They work on the database beside the control programs that run; the embedded server must be up for that. Errors:
``OptionsError`` with a text for the operator; ``Refusal`` if the database is away.
"""

from pathlib import Path

from control import resealing, sealing
from control.app import EMBEDDED
from control.database import Database
from control.embedded import EmbeddedPostgres
from mta.runtime import keyring
from mta.runtime.options import Options, OptionsError

VERBS = {
    "show": "list the ids of the keys and what they have sealed",
    "add": "add a key that seals after the next rotation and opens from now on",
    "rotate": "seal with the added key, or a new one, from now on, and seal everything anew",
    "reseal": "seal everything anew that an older key has sealed",
    "forget": "drop keys that seal nothing any more",
}


async def run(verb: str, loaded: Options) -> str:
    """Do what the verb says; what there is to tell. ``VERBS`` has them all."""
    path = loaded.path("secrets", "sealing.key")
    sealer = sealing.load(path)
    if verb == "add":
        keyring.write(path, keyring.read(path).with_next())
        return f"{path} has a key for the next rotation; copy the file to every machine, then rotate"
    database = Database(_database_url(loaded), loaded.database)
    await database.open()
    try:
        return await _with_database(verb, path, database, sealer)
    finally:
        await database.close()


async def _with_database(verb: str, path: Path, database: Database, sealer: sealing.Sealer) -> str:
    if verb == "forget":
        return f"{await resealing.forget(path, database)} keys forgotten; copy {path} to every machine"
    if verb == "show":
        return await _described(path, database)
    rotating = verb == "rotate"
    outcome = await (resealing.rotate(path, database, sealer) if rotating else resealing.reseal(database, sealer))
    if outcome.failed:
        raise OptionsError(f"{outcome.done} secrets sealed anew; {outcome.failed} cannot be opened, see the log")
    return f"{outcome.done} secrets sealed anew; copy {path} to every machine"


async def _described(path: Path, database: Database) -> str:
    ring = keyring.read(path)
    counts = await resealing.sealed_by(database)
    states = [(ring.sealing, "seals"), *((key, "opens") for key in ring.older)]
    if ring.next is not None:
        states.append((ring.next, "opens, seals after the next rotation"))
    lines = [f"{keyring.key_id(key).hex()}  {counts.pop(keyring.key_id(key), 0):>8}  {state}" for key, state in states]
    lines += [f"{key_id.hex() or 'no id':8}  {count:>8}  not in {path}" for key_id, count in counts.items()]
    return "\n".join(lines)


def _database_url(loaded: Options) -> str:
    if loaded.database.url != EMBEDDED:
        return loaded.database.url
    embedded = EmbeddedPostgres(loaded.path("postgres"))
    if embedded.pid is None:
        raise OptionsError("the embedded database does not run: start control first")
    return embedded.url
