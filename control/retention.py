"""Days of the history: makes the partitions of the next ones, drops those past their time.

A day is dropped whole, when it is older than ``history_days`` and every consumer has dealt with all its events: what a
bounce costs or returns must not depend on how far a consumer is behind. Its events go first, then its records.

Several control programs doing this at once is harmless. Errors: those of ``Database.transact``; a partition that is in
use for too long is left for the next time.
"""

from datetime import UTC, date, datetime, timedelta

from control.database import Database
from control.store import events, statistics
from control.store.events import Day
from mta.runtime.log import get_logger
from mta.runtime.refusals import Refusal

log = get_logger(__name__)

DAYS_AHEAD = 3
"""Days that have partitions before they begin, so that intake does not have to make them."""


async def keep_history(database: Database, history_days: int, today: date | None = None) -> None:
    """Make and drop what is due. ``history_days`` whole days are kept, beside the one that is running."""
    today = today or datetime.now(UTC).date()
    ahead = [today + timedelta(days=number) for number in range(DAYS_AHEAD + 1)]
    await database.transact(lambda connection: events.make_days(connection, ahead))
    await database.transact(lambda connection: statistics.forget_old(connection, today))
    oldest_kept = today - timedelta(days=history_days)
    due = [day for day in await database.transact(events.days) if day.day < oldest_kept]
    consumed = await database.transact(events.oldest_consumed) if due else None
    for day in due:
        newest = day.newest_number
        if consumed is not None and newest > consumed:
            log.warning("history_waits_for_consumers", day=str(day.day), newest_number=newest, consumed_number=consumed)
            continue
        try:
            await _drop(database, day)
        except Refusal as error:
            log.info("history_day_in_use", day=str(day.day), error=str(error))


async def _drop(database: Database, day: Day) -> None:
    # One after the other, so that no transaction waits for one table while it holds the other.
    await database.transact(lambda connection: events.drop_events(connection, day))
    await database.transact(lambda connection: events.drop_records(connection, day.day))
    log.info("history_dropped", day=str(day.day))
