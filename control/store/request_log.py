"""Answers to requests with a request id, so that a retry gets the earlier answer and moves nothing twice.

``claim`` is the first statement of a transaction and ``answer`` its last: the record and the effect are committed
together or not at all, and a second request with the same id waits for the first one's transaction.
"""

import uuid
from dataclasses import dataclass

from control.database import Connection
from mta.runtime.refusals import Reason, Refusal

KEPT_HOURS = 24
"""How long a retry is safe."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Which request: ids are the caller's own, per method. ``fingerprint`` is a keyed hash of the body."""

    tenant_id: str
    method: str
    request_id: uuid.UUID
    fingerprint: bytes


async def claim(connection: Connection, key: RequestKey) -> bytes | None:
    """The earlier answer to this request; None if this is the first time. REQUEST_ID_REUSED for another body."""
    new = await connection.fetchval(
        "INSERT INTO request_log (tenant_id, method, request_id, fingerprint) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT DO NOTHING RETURNING true",
        key.tenant_id,
        key.method,
        key.request_id,
        key.fingerprint,
    )
    if new:
        return None
    earlier = await find(connection, key)
    if earlier is None:  # it was there and has just been forgotten
        raise _reused(key)
    return earlier


async def find(connection: Connection, key: RequestKey) -> bytes | None:
    """The earlier answer to this request, if there is one. REQUEST_ID_REUSED for another body."""
    row = await connection.fetchrow(
        "SELECT fingerprint, answer FROM request_log WHERE tenant_id = $1 AND method = $2 AND request_id = $3",
        key.tenant_id,
        key.method,
        key.request_id,
    )
    if row is None:
        return None
    if row["answer"] is None or row["fingerprint"] != key.fingerprint:
        raise _reused(key)
    answer: bytes = row["answer"]
    return answer


async def answer(connection: Connection, key: RequestKey, content: bytes) -> None:
    """Keep the answer."""
    await connection.execute(
        "UPDATE request_log SET answer = $4 WHERE tenant_id = $1 AND method = $2 AND request_id = $3",
        key.tenant_id,
        key.method,
        key.request_id,
        content,
    )


async def forget_old(connection: Connection) -> None:
    """Remove answers whose time is over."""
    await connection.execute(
        "DELETE FROM request_log WHERE created_at < now() - make_interval(hours => $1)", KEPT_HOURS
    )


def _reused(key: RequestKey) -> Refusal:
    return Refusal(
        Reason.REQUEST_ID_REUSED,
        "request_id was used before with another request; take a new one",
        field="request_id",
        metadata={"request_id": str(key.request_id)},
    )
