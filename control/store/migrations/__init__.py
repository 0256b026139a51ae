"""Numbered migrations: ``NNNN_name.sql`` files, applied in order, each in one transaction with its record.

``migrate`` may run in several processes at once: an advisory lock lets one work and the others find it done. A database
that is newer than this code is refused, because older code would misread it. Migrations are never edited once released.
"""

from importlib.resources import files

from control.database import Connection, Database
from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError

log = get_logger(__name__)

_LOCK = 0x6261727561
"""Key of the advisory lock: "barua" in ASCII."""


def known() -> list[tuple[int, str, str]]:
    """All migrations of this code in order: number, name, SQL."""
    scripts = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), name, files(__name__).joinpath(name).read_text("utf-8")) for name in scripts]


async def migrate(database: Database) -> None:
    """Bring the database to this code's schema.

    Raises OptionsError if the database is newer than the code, and the UNAVAILABLE Refusal if it is away.
    """
    await database.transact(_migrate)


async def _migrate(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration"
        " (number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    applied = await connection.fetchval("SELECT coalesce(max(number), 0) FROM schema_migration")
    migrations = known()
    newest = migrations[-1][0]
    if applied > newest:
        raise OptionsError(
            f"the database has schema {applied}, but this version of control knows only {newest}; install a newer one"
        )
    for number, name, script in migrations:
        if number > applied:
            await connection.execute(script)
            await connection.execute("INSERT INTO schema_migration (number, name) VALUES ($1, $2)", number, name)
            log.info("migration_applied", name=name)
