"""A real PostgreSQL server in a folder, for tests: started, stopped and crashed at will.

``Postgres`` is the one that ships with the extra ``embedded``, run by ``control.embedded`` as in production.
``External`` is a server as an operator may have one already: Debian's PostgreSQL 15, reached over TCP with a password
by a user who owns the database and is no superuser. Any thread, blocking.
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg

from control.embedded import DATABASE, EmbeddedPostgres, Programs
from tests.support import debian
from tests.support.ports import free_port

# Tests that run in an event loop call these too, and a loop cannot run inside another one of its thread.
_RUNNER = ThreadPoolExecutor(1, thread_name_prefix="postgres")


class Postgres:
    """A server whose data is in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder)

    @property
    def url(self) -> str:
        """Where to connect."""
        return self._server.url

    @property
    def is_running(self) -> bool:
        """Whether the server is there."""
        return self._server.pid is not None

    def start(self) -> None:
        """Start it; the first time make the data and the database."""
        _run(self._server.start())

    def stop(self) -> None:
        """Stop it in order; sessions are ended."""
        _run(self._server.stop("fast"))

    def crash(self) -> None:
        """Stop it without a checkpoint: the next start recovers from the log."""
        _run(self._server.stop("immediate"))


class External:
    """PostgreSQL 15 with its data in ``folder``, set up as ``control/README.md`` says."""

    USER, PASSWORD = "barua", "correct-horse"

    def __init__(self, folder: Path) -> None:
        tools = debian.postgresql()
        programs = Programs(tools.program("postgres").parent, 15, {"LD_LIBRARY_PATH": tools.library_path})
        self._port = free_port()
        settings = {"listen_addresses": "127.0.0.1", "port": str(self._port)}
        self.server = EmbeddedPostgres(folder, programs, settings)

    @property
    def url(self) -> str:
        """Where the owner connects."""
        return f"postgresql://{self.USER}:{self.PASSWORD}@127.0.0.1:{self._port}/{DATABASE}"

    @property
    def admin_url(self) -> str:
        """Where the superuser connects, to the same database."""
        return self.server.url

    async def start(self) -> None:
        """Start it; the first time make its user and the database."""
        await self.server.start()
        connection = await asyncpg.connect(self.admin_url)
        try:
            if await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", self.USER):
                return
            access = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            (self.server.data / "pg_hba.conf").write_text(access)
            await connection.execute("SELECT pg_reload_conf()")
            await connection.execute(f"CREATE ROLE {self.USER} LOGIN PASSWORD '{self.PASSWORD}'")
            await connection.execute(f"CREATE ROLE barua_app NOLOGIN NOINHERIT; GRANT barua_app TO {self.USER}")
            await connection.execute(f"ALTER DATABASE {DATABASE} OWNER TO {self.USER}")
        finally:
            await connection.close()


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    _RUNNER.submit(asyncio.run, coroutine).result()
