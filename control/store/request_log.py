"""Answers to requests with a request id, so that a retry gets the earlier answer and moves nothing twice.

``claim`` is the first statement of a transaction and ``answer`` its last: the record and the effect are committed
together or not at all, and a second request with the same id waits for the first one's transaction.
"""

# ruff: noqa: S608 - what is put into statements is hexadecimal, a UUID, or checked by _place

import re
import uuid
from dataclasses import dataclass

from control.database import Connection
from mta.runtime.refusals import Reason, Refusal

KEPT_HOURS = 24
"""How long a retry is safe."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Which request: ids are the caller's own, per method. ``fingerprint`` is a keyed hash of the body."""

    tenant_id: str
    method: str
    request_id: uuid.UUID
    fingerprint: bytes


async def claim(connection: Connection, key: RequestKey) -> bytes | None:
    """The earlier answer to this request; None if this is the first time. REQUEST_ID_REUSED for another body.

    Without parameters, so that it goes out together with BEGIN.
    """
    done = await connection.execute(
        "INSERT INTO request_log (tenant_id, method, request_id, fingerprint)"
        f" VALUES ({_place(key)}, '\\x{key.fingerprint.hex()}') ON CONFLICT DO NOTHING"
    )
    if done == "INSERT 0 1":
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


def answer(connection: Connection, key: RequestKey, content: bytes) -> None:
    """Keep the answer, with the commit."""
    connection.conclude(
        f"UPDATE request_log SET answer = '\\x{content.hex()}' WHERE (tenant_id, method, request_id) = ({_place(key)})"
    )


async def forget_old(connection: Connection) -> None:
    """Remove answers whose time is over."""
    await connection.execute(
        "DELETE FROM request_log WHERE created_at < now() - make_interval(hours => $1)", KEPT_HOURS
    )


def _place(key: RequestKey) -> str:
    """The key's place as literals. Both names are made of letters, digits, dots, dashes and underscores."""
    if not (_NAME.fullmatch(key.tenant_id) and _NAME.fullmatch(key.method)):
        raise ValueError(f"{key} cannot be written into a statement")
    return f"'{key.tenant_id}', '{key.method}', '{key.request_id}'"


def _reused(key: RequestKey) -> Refusal:
    return Refusal(
        Reason.REQUEST_ID_REUSED,
        "request_id was used before with another request; take a new one",
        field="request_id",
        metadata={"request_id": str(key.request_id)},
    )
