"""A real PostgreSQL server in a folder, for tests: started, stopped and crashed at will.

The server is the one that ships with the extra ``embedded``, run by ``control.embedded`` as in production. Any thread,
blocking.
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from control.embedded import EmbeddedPostgres

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


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    _RUNNER.submit(asyncio.run, coroutine).result()
