"""How much content of messages that are still coming in may be in memory: one budget per worker.

Without it, as many peers as may connect, each in the middle of a message of the largest size, would take all memory.
"""

from prometheus_client import Gauge

RECEIVING = Gauge("barua_smtp_receiving_bytes", "Content of messages that are being received.")


class ReceiveBudget:
    """Octets held, and how many may be."""

    __slots__ = ("_held", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def take(self, octets: int) -> bool:
        """Hold so many more; False if that is more than may be held. They count either way until given back."""
        self._held += octets
        RECEIVING.set(self._held)
        return self._held <= self._limit

    def give_back(self, octets: int) -> None:
        """Hold so many fewer."""
        self._held -= octets
        RECEIVING.set(self._held)
