"""Fills the daily counters from the events."""

from collections.abc import Sequence

from control.database import Connection
from control.model.events import PastEvent
from control.model.statistics import tally
from control.store import statistics


class StatisticsConsumer:
    """A ``Consumer``: counts what happened, by tenant, day and dimension."""

    name = "statistics"

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Count a batch."""
        await statistics.add(connection, await statistics.bounded(connection, tally(events)))
