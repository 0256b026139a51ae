"""Plays the recipients of the mock domain: who is ``test`` there opens what was delivered, and follows a link.

Nothing is ever sent to the mock domain (``mta.mock_domain``), so nobody could. The opening is 2 to 5 seconds after the
delivery, the click 1 to 3 seconds later; how long exactly follows from the id of the recipient, and so does the request
id under which it is taken in, so both happen once.
"""

import hashlib
import uuid
from collections.abc import Sequence
from datetime import timedelta

from control.database import Connection
from control.model.events import EventKind, PastEvent
from control.store import engagement
from control.store.engagement import Engagement

LOCAL_PART = "test"
OPEN_SECONDS, CLICK_SECONDS = (2.0, 5.0), (1.0, 3.0)
"""After the delivery, and after the opening: at least and at most."""
ADDRESS = "192.0.2.1"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

_NAMESPACE = uuid.UUID("b0b1a9d4-5b0e-5e0c-8f4e-4a6b9c2f7d13")


class MockConsumer:
    """A ``Consumer``. ``domain`` is the mock domain; empty: there is none."""

    name = "mock"

    def __init__(self, domain: str) -> None:
        self._recipient = f"{LOCAL_PART}@{domain.lower()}" if domain else ""
        self._url = f"https://{domain}/"

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Have what was delivered to the mock recipient opened and followed."""
        played = [
            one
            for event in events
            if event.kind is EventKind.DELIVERED and self._recipient and event.recipient_key == self._recipient
            for one in self._doings(event)
        ]
        if played:
            await engagement.take(connection, played)

    def _doings(self, event: PastEvent) -> tuple[Engagement, Engagement]:
        chance = hashlib.sha256(event.recipient_id.to_bytes(8, "big")).digest()
        opened = event.occurred_at + _between(OPEN_SECONDS, chance[0])
        clicked = opened + _between(CLICK_SECONDS, chance[1])
        return (
            Engagement(
                EventKind.OPENED, opened, event.recipient_id, ADDRESS, USER_AGENT, request_id=_id(event, "open")
            ),
            Engagement(
                EventKind.CLICKED, clicked, event.recipient_id, ADDRESS, USER_AGENT, self._url,
                request_id=_id(event, "click"),
            ),
        )  # fmt: skip


def _between(bounds: tuple[float, float], chance: int) -> timedelta:
    least, most = bounds
    return timedelta(seconds=least + (most - least) * chance / 255)


def _id(event: PastEvent, what: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{what} {event.recipient_id}")
