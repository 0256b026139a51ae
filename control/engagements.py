"""Settles what recipients did with messages that were not on record yet: see ``control.store.engagement``.

``settle`` is a task; several control programs share the work. One event loop.
"""

import asyncio

from control.database import FAILURES, Database
from control.store import engagement
from mta.runtime.log import get_logger

log = get_logger(__name__)

PAUSE_SECONDS = 1.0


async def settle(database: Database) -> None:
    """Settle what is due, for ever."""
    while True:
        try:
            while await database.transact(engagement.settle_due) == engagement.PIECE:
                pass
        except FAILURES as error:
            log.warning("engagement_postponed", error=type(error).__name__, text=str(error))
        await asyncio.sleep(PAUSE_SECONDS)
