"""When credentials were used last: noted in memory with each call, written to the database in batches.

Best effort: what was noted since the last batch is lost with the process, and a time in the database is that of the use
to the minute. ``note`` never waits; with more than ``MAX_NOTED`` credentials in one batch the rest is passed over.
"""

import asyncio
from datetime import UTC, datetime

from control.database import FAILURES, Connection, Database
from control.store import credential_use
from control.store.credential_use import Credential
from mta.runtime.log import get_logger

log = get_logger(__name__)

BATCH_SECONDS = 10.0
MAX_NOTED = 100_000


class Usage:
    """Collects uses. ``run`` writes them for ever; ``flush`` writes what is left."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[tuple[Credential, str], datetime] = {}

    def note(self, kind: Credential, id_: str) -> None:
        """These credentials are being used."""
        if (kind, id_) in self._noted or len(self._noted) < MAX_NOTED:
            self._noted[kind, id_] = datetime.now(UTC)

    async def run(self) -> None:
        """Write batches for ever."""
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted."""
        noted, self._noted = self._noted, {}
        if not noted:
            return

        async def write(connection: Connection) -> None:
            for kind in Credential:
                times = {id_: time for (of_kind, id_), time in sorted(noted.items()) if of_kind is kind}
                if times:
                    await credential_use.mark(connection, kind, times)

        try:
            await self._database.transact(write)
        except FAILURES as error:
            log.warning("credential_use_not_written", error=type(error).__name__)
