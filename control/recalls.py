"""Getting leased credits back for somebody who needs them now.

Control is stateless and may run several times, so the recall goes to every node over every control program, through
PostgreSQL; the nodes have their workers release what they have not spent, and the releases arrive with the journal, at
whichever control program the node talks to. ``settled`` repeats the attempt each time something came back.

Workers that go on sending want new leases at once, and would always be first at what came back. So who asks with
``hold`` (a transfer) has the account held for a moment: no lease is granted until the attempt is over or the hold ends
by itself, which is shorter than workers wait.

Errors: CREDITS_UNAVAILABLE if not enough came back in time, or what the attempt itself says of that (RATE_LIMITED for a
cap that leases of others fill); nothing has moved then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from control.announcements import Announcements
from control.database import FAILURES, Database
from control.store import leases
from control.store.ledger import CreditsHeld, CreditsLeased
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

T = TypeVar("T")

LOOK_AGAIN_SECONDS = 0.25
"""A release is announced; this stands in for announcements that are lost."""
RECALL_AGAIN_SECONDS = 0.5
"""A lease that was on its way to its worker when the recall came through is still out."""


class Recalls:
    """Calls leases back."""

    def __init__(self, database: Database, announcements: Announcements) -> None:
        self._database = database
        self._announcements = announcements

    async def settled(self, attempt: Callable[[], Awaitable[T]], wait_seconds: float, *, hold: bool = False) -> T:
        """What ``attempt`` returns, once it no longer raises CreditsLeased; it may run many times.

        ``hold`` keeps leases from being granted meanwhile.
        """
        try:
            return await attempt()
        except CreditsLeased as leased:
            first = leased
        try:
            return await self._repeated(attempt, first, wait_seconds, hold)
        finally:
            if hold:
                await self._let_go(first.tenant_id)

    async def _repeated(
        self, attempt: Callable[[], Awaitable[T]], leased: CreditsLeased, wait_seconds: float, hold: bool
    ) -> T:
        tenant_id = leased.tenant_id
        deadline = time.monotonic() + wait_seconds
        next_recall = 0.0
        with self._announcements.returns(tenant_id) as returned:
            while (left := deadline - time.monotonic()) > 0:
                # Leases that are only held back are being called back by somebody else.
                if time.monotonic() >= next_recall and not isinstance(leased, CreditsHeld):
                    next_recall = time.monotonic() + RECALL_AGAIN_SECONDS
                    await self._database.transact(lambda connection: leases.recall(connection, tenant_id, hold=hold))
                await _wait(returned, min(left, LOOK_AGAIN_SECONDS))
                try:
                    return await attempt()
                except CreditsLeased as again:
                    leased = again
        if leased.refusal is not None:
            raise leased.refusal
        raise Refusal(
            Reason.CREDITS_UNAVAILABLE,
            f'the credits of tenant "{tenant_id}" are leased to nodes and did not come back in time; try again',
            retry_after=1.0,
            metadata={"tenant": tenant_id},
        )

    async def _let_go(self, tenant_id: str) -> None:
        try:
            await self._database.transact(lambda connection: leases.let_go(connection, tenant_id))
        except FAILURES as error:  # it ends by itself
            log.warning("hold_not_ended", tenant=tenant_id, error=type(error).__name__, text=str(error))


async def _wait(event: asyncio.Event, timeout_seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_seconds)
    except TimeoutError:
        return
    event.clear()
