"""What has to be cleared away from time to time: old answers of the request log, old changes of the policy log."""

import asyncio

from control.database import Connection, Database
from control.store import policy_log, request_log
from mta.runtime.log import get_logger
from mta.runtime.refusals import Refusal

log = get_logger(__name__)

PAUSE_SECONDS = 600.0


async def keep_house(database: Database) -> None:
    """Clear away for ever. Several control programs doing it at once is harmless."""
    while True:
        try:
            await database.transact(_clear)
        except Refusal as refusal:
            log.warning("housekeeping_postponed", reason=refusal.message)
        await asyncio.sleep(PAUSE_SECONDS)


async def _clear(connection: Connection) -> None:
    await request_log.forget_old(connection)
    await policy_log.trim(connection)
