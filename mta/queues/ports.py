"""What the queues need from others: the consumer owns the interface."""

from typing import Protocol

from mta.queues.jobs import Job


class Delivery(Protocol):
    """Takes jobs that are due."""

    def submit(self, job: Job) -> None:
        """Deliver a job as soon as its site has room. Every recipient of it is settled later, whatever happens."""

    @property
    def active_bytes(self) -> int:
        """Content of messages held in memory."""
