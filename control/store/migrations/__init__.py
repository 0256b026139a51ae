"""Numbered migrations: ``NNNN_name.sql`` files, applied in order, each in one transaction with its record.

``migrate`` may run in several processes at once: an advisory lock lets one work and the others find it done. A database
that is newer than this code is refused, because older code would misread it. Migrations are never edited once released.
"""

from importlib.resources import files

import asyncpg

from control.database import APP_ROLE, Connection, Database
from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError

log = get_logger(__name__)

_LOCK = 0x6261727561
"""Key of the advisory lock: "barua" in ASCII."""
SCRIPT_SECONDS = 3600.0
"""For one script: a large table may have to be written anew."""


def known() -> list[tuple[int, str, str]]:
    """All migrations of this code in order: number, name, SQL."""
    scripts = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), name, files(__name__).joinpath(name).read_text("utf-8")) for name in scripts]


async def migrate(database: Database) -> None:
    """Bring the database to this code's schema.

    Raises OptionsError if the database is newer than the code or its user may not do what is needed, and the
    UNAVAILABLE Refusal if it is away.
    """
    try:
        await database.transact(_migrate)
    except asyncpg.InsufficientPrivilegeError as error:
        raise OptionsError(
            f"the user in database.url may not change the schema ({error}): it must own the database, and have"
            f" CREATEROLE or find the role {APP_ROLE} made and granted to it"
        ) from error


async def _migrate(connection: Connection) -> None:
    # A migration may take its time; the wait for another program's is bounded by the lock timeout, and repeated.
    await connection.execute("SET LOCAL statement_timeout = 0")
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
            await connection.execute(script, timeout=SCRIPT_SECONDS)
            await connection.execute("INSERT INTO schema_migration (number, name) VALUES ($1, $2)", number, name)
            log.info("migration_applied", name=name)
    await _check_role(connection)


async def _check_role(connection: Connection) -> None:
    """Raise OptionsError unless transactions for tenants can and will run under row-level security."""
    row = await connection.fetchrow(
        "SELECT current_user AS owner, pg_has_role($1, 'MEMBER') AS granted, rolsuper OR rolbypassrls AS bypasses,"
        " pg_has_role($1, current_user, 'MEMBER') AS owns FROM pg_roles WHERE rolname = $1",
        APP_ROLE,
    )
    if row is None or not row["granted"]:
        raise OptionsError(f"the user in database.url must be granted the role {APP_ROLE}: GRANT {APP_ROLE} TO ...")
    if row["bypasses"] or row["owns"]:
        raise OptionsError(
            f"the role {APP_ROLE} bypasses row-level security: it must be neither superuser, BYPASSRLS nor a member"
            f" of {row['owner']}"
        )
