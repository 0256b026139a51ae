"""Looks after the deliveries: what waits too long is given up, what is old goes, figures say how far behind we are.

Several control programs doing it at once is harmless. Errors: none; what fails is logged and tried again.
"""

import asyncio

from prometheus_client import Gauge

from control.database import FAILURES, Database
from control.store import webhook_deliveries, webhook_endpoints
from control.webhooks.schedule import LIFETIME_SECONDS
from mta.runtime.log import get_logger

log = get_logger(__name__)

LOOK_SECONDS = 15.0
"""Between looks at the backlog."""
CLEAN_EVERY = 20
"""Looks between one cleaning and the next."""
BATCH = 5000
"""Rows of one statement."""

_pending = Gauge("barua_control_webhook_pending", "Deliveries to enabled webhooks that wait, due or not.")
_lag = Gauge("barua_control_webhook_lag_seconds", "How long the oldest of them has been due.")


async def keep(database: Database, kept_seconds: float) -> None:
    """Look after the deliveries for ever; finished ones are kept for so long."""
    looks = 0
    while True:
        try:
            backlog = await database.transact(webhook_deliveries.backlog)
            _pending.set(backlog.pending)
            _lag.set(backlog.lag_seconds)
            if looks % CLEAN_EVERY == 0:
                await clean(database, kept_seconds)
        except FAILURES as error:
            log.warning("webhook_keeping_postponed", error=type(error).__name__, text=str(error))
        looks += 1
        await asyncio.sleep(LOOK_SECONDS)


async def clean(database: Database, kept_seconds: float) -> None:
    """Give up and forget, batch by batch."""
    for work in (
        lambda connection: webhook_deliveries.give_up(connection, LIFETIME_SECONDS, BATCH),
        lambda connection: webhook_deliveries.forget(connection, kept_seconds, BATCH),
        lambda connection: webhook_endpoints.forget(connection, BATCH),
    ):
        while await database.transact(work) == BATCH:
            pass
