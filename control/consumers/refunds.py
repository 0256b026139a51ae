"""Gives credits back for outcomes that the refund policy of a tenant names."""

from collections.abc import Sequence

from control.database import Connection
from control.model.events import EventKind, PastEvent
from control.store import refunds

_OUTCOMES = {EventKind.BOUNCED: "bounced", EventKind.EXPIRED: "expired"}


class RefundConsumer:
    """A ``Consumer``: refunds recipients that were not reached, where that is the policy in force now."""

    name = "refunds"

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Refund what a batch tells of."""
        ended = [event for event in events if event.kind in _OUTCOMES]
        if not ended:
            return
        refunded = await refunds.policies(connection, {event.tenant_id for event in ended})
        outcomes = {
            event.recipient_id: (event.tenant_id, _OUTCOMES[event.kind])
            for event in ended
            if _OUTCOMES[event.kind] in refunded.get(event.tenant_id, ())
        }
        if outcomes:
            await refunds.refund(connection, outcomes)
