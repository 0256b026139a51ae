"""Queued recipients and jobs for queue tests."""

from mta.queues.jobs import Job, JobRecipient
from mta.spool.records import QueuedRecipient


def queued(
    recipient_id: int,
    *,
    message_id: int | None = None,
    tenant: str = "acme",
    domain: str = "example.net",
    attempts: int = 0,
    local: str | None = None,
) -> QueuedRecipient:
    """A recipient as the spool gives it."""
    message_id = recipient_id if message_id is None else message_id
    address = f"{local or f'r{recipient_id}'}@{domain}"
    return QueuedRecipient(
        recipient_id, message_id, recipient_id, tenant, "a@acme.test", address, domain, attempts, 0, 1_000, 100, 0
    )


def job(number: int, tenant: str = "acme") -> Job:
    """A job with one recipient."""
    recipient = queued(number, tenant=tenant)
    return Job(recipient, [JobRecipient(number, recipient.address, 0)], b"")
