"""Credits whose time is over: what is unspent of them goes back to issuance, and leases that hold some are called back.

Several control programs doing it at once is harmless: each credit expires once, under the lock of its account.
"""

import asyncio

from control.database import FAILURES, Database
from control.store import leases, ledger
from mta.runtime.log import get_logger

log = get_logger(__name__)

PAUSE_SECONDS = 5.0
"""Between looks. Credits can be used no more from their very time on, whenever this comes by."""


async def expire_credits(database: Database) -> None:
    """Take expired credits away for ever."""
    while True:
        try:
            await sweep(database)
        except FAILURES as error:
            log.warning("expiry_postponed", error=type(error).__name__, text=str(error))
        await asyncio.sleep(PAUSE_SECONDS)


async def sweep(database: Database) -> None:
    """Take away what has expired by now."""
    await database.transact(leases.recall_expired)
    while await database.transact(ledger.expire_due):
        pass
