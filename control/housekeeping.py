"""What has to be cleared away from time to time.

Old answers of the request log, old doings of recipients, old changes of the policy log, suppressions whose time is
over, days of the history past their time: in pieces, each of them one short transaction.
"""

import asyncio

from control.database import FAILURES, Connection, Database
from control.retention import keep_history
from control.store import bounce_ladder, engagement, policy_log, request_log, suppressions
from mta.runtime.log import get_logger

log = get_logger(__name__)

PAUSE_SECONDS = 600.0
PIECE = 5_000
"""Rows cleared away in one transaction."""


async def keep_house(database: Database, history_days: int) -> None:
    """Clear away for ever; keep so many days of history. Several control programs doing it at once is harmless."""
    while True:
        try:
            await keep_history(database, history_days)
            await _clear(database)
        except FAILURES as error:
            log.warning("housekeeping_postponed", error=type(error).__name__, text=str(error))
        await asyncio.sleep(PAUSE_SECONDS)


async def _clear(database: Database) -> None:
    await database.transact(request_log.forget_old)
    await database.transact(bounce_ladder.forget_old)
    while await database.transact(_forget_doings) == PIECE:
        pass
    while await database.transact(_remove_expired) == PIECE:
        pass
    while await database.transact(policy_log.trim):
        pass


async def _forget_doings(connection: Connection) -> int:
    return await engagement.forget_old(connection, PIECE)


async def _remove_expired(connection: Connection) -> int:
    return await suppressions.remove_expired(connection, PIECE)
