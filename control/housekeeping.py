"""What has to be cleared away from time to time: old answers of the request log, old changes of the policy log."""

import asyncio

from control.database import FAILURES, Connection, Database
from control.store import policy_log, request_log
from mta.runtime.log import get_logger

log = get_logger(__name__)

PAUSE_SECONDS = 600.0


async def keep_house(database: Database) -> None:
    """Clear away for ever. Several control programs doing it at once is harmless."""
    while True:
        try:
            await database.transact(_clear)
        except FAILURES as error:
            log.warning("housekeeping_postponed", error=type(error).__name__, text=str(error))
        await asyncio.sleep(PAUSE_SECONDS)


async def _clear(connection: Connection) -> None:
    await request_log.forget_old(connection)
    await policy_log.trim(connection)
