"""Questions to people who unsubscribed: how many there were, and who said yes."""

from control.database import Connection, Row
from control.model.suppressions import Place, Reason
from control.store import suppressions
from control.store.tenants import not_found
from mta.runtime.refusals import Reason as Why
from mta.runtime.refusals import Refusal

A_DAY = 5
"""Questions of a tenant within 24 hours."""
VALID_DAYS = 30
"""A yes is good for so long."""
UNWANTED = frozenset({Reason.UNSUBSCRIBE, Reason.MANUAL, Reason.COMPLAINT})
"""Suppressions that a yes takes back: those because of what people want, not of what mailboxes do."""


async def begin(connection: Connection, tenant_id: str, address: str, reference: bytes, language: str) -> None:
    """Note a question that is about to be sent; the tenant's row is locked. Raises NOT_FOUND and RATE_LIMITED.

    One that is asked again, since its fate was not known, is the same question.
    """
    held = await suppressions.get(connection, tenant_id, Place(address, ""))
    if held.reason not in UNWANTED:
        raise not_found("suppression", address)
    await connection.execute(
        "DELETE FROM resubscription WHERE tenant_id = $1 AND requested_at < now() - make_interval(days => $2)",
        tenant_id,
        VALID_DAYS,
    )
    asked = await connection.fetchval(
        "SELECT count(*) FROM resubscription WHERE tenant_id = $1 AND counts AND reference <> $2"
        " AND requested_at > now() - interval '24 hours'",
        tenant_id,
        reference,
    )
    if asked >= A_DAY:
        text = f"{A_DAY} of these messages were sent within the last 24 hours; no more can be sent now"
        raise Refusal(Why.RATE_LIMITED, text, metadata={"limit": str(A_DAY), "window": "24h"}, retry_after=3600.0)
    await connection.execute(
        "INSERT INTO resubscription (reference, tenant_id, address, language_code) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (reference) DO UPDATE SET counts = true",
        reference,
        tenant_id,
        address,
        language,
    )


async def failed(connection: Connection, reference: bytes) -> None:
    """The question was not taken, or nobody knows; it does not count. If it was sent after all, its link works."""
    await connection.execute("UPDATE resubscription SET counts = false WHERE reference = $1", reference)


async def confirm(connection: Connection, reference: bytes) -> str | None:
    """Take back what the question was about, the first time; its language, or None if there is none (any more)."""
    row: Row | None = await connection.fetchrow(
        "SELECT tenant_id, address, language_code, confirmed_at FROM resubscription"
        " WHERE reference = $1 AND requested_at > now() - make_interval(days => $2) FOR UPDATE",
        reference,
        VALID_DAYS,
    )
    if row is None:
        return None
    if row["confirmed_at"] is None:
        await connection.execute("UPDATE resubscription SET confirmed_at = now() WHERE reference = $1", reference)
        await _take_back(connection, row["tenant_id"], Place(row["address"], ""))
    language: str = row["language_code"]
    return language


async def _take_back(connection: Connection, tenant_id: str, place: Place) -> None:
    try:
        held = await suppressions.get(connection, tenant_id, place, lock=True)
    except Refusal:
        return
    if held.reason in UNWANTED:
        await suppressions.delete(connection, tenant_id, [place])
