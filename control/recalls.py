"""Getting leased credits back for somebody who needs them now.

Control is stateless and may run several times, so the recall goes to every node over every control program, through
PostgreSQL; the nodes have their workers release what they have not spent, and the releases arrive with the journal, at
whichever control program the node talks to. ``settled`` repeats the attempt each time something came back.

Errors: CREDITS_UNAVAILABLE if not enough came back in time; nothing has moved then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from control.announcements import Announcements
from control.database import Database
from control.store import leases
from control.store.ledger import CreditsLeased
from mta.runtime.refusals import Reason, Refusal

T = TypeVar("T")

LOOK_AGAIN_SECONDS = 0.25
"""A release is announced; this stands in for announcements that are lost."""


class Recalls:
    """Calls leases back."""

    def __init__(self, database: Database, announcements: Announcements) -> None:
        self._database = database
        self._announcements = announcements

    async def settled(self, attempt: Callable[[], Awaitable[T]], wait_seconds: float) -> T:
        """What ``attempt`` returns, once it no longer raises CreditsLeased; it may run many times."""
        try:
            return await attempt()
        except CreditsLeased as leased:
            tenant_id = leased.tenant_id
        deadline = time.monotonic() + wait_seconds
        with self._announcements.returns(tenant_id) as returned:
            await self._database.transact(lambda connection: leases.recall(connection, tenant_id))
            while (left := deadline - time.monotonic()) > 0:
                await _wait(returned, min(left, LOOK_AGAIN_SECONDS))
                try:
                    return await attempt()
                except CreditsLeased:
                    continue
        raise Refusal(
            Reason.CREDITS_UNAVAILABLE,
            f'the credits of tenant "{tenant_id}" are leased to nodes and did not come back in time; try again',
            retry_after=1.0,
            metadata={"tenant": tenant_id},
        )


async def _wait(event: asyncio.Event, timeout_seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_seconds)
    except TimeoutError:
        return
    event.clear()
