"""Bounces: the addresses that get no mail because of one, and a way to report those that others saw.

A hard bounce or a complaint that is reported suppresses the address for good, a soft one for ``SOFT_DAYS``. What the
installation itself sees becomes a suppression by its own policy. The list is of suppressions in force.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from barua.control.v1 import suppression_pb2, suppression_service_pb2

from api_bridge.dialects.mailpass import shapes
from api_bridge.dialects.mailpass.calls import ME, SMALL_BYTES, Call
from api_bridge.dialects.mailpass.status import time_of

SOFT_DAYS = 1
TYPES = {
    "hard": suppression_pb2.Suppression.REASON_HARD_BOUNCE,
    "soft": suppression_pb2.Suppression.REASON_SOFT_BOUNCE,
    "complaint": suppression_pb2.Suppression.REASON_COMPLAINT,
}
_NAMES = {reason: name for name, reason in TYPES.items()}


async def listed(call: Call) -> dict[str, Any]:
    """``GET /api/v1/bounces``."""
    limit, offset = call.page()
    request = suppression_service_pb2.ListSuppressionsRequest(
        parent=ME,
        page_size=limit,
        skip=offset,
        order_by="create_time desc",
        count_total=True,
        filter=suppression_service_pb2.SuppressionFilter(reasons=TYPES.values()),
    )
    found = await call.ask("suppressions", "ListSuppressions", request)
    rows = [_row(suppression) for suppression in found.suppressions]
    return {"bounces": rows, "total": found.total_size, "limit": limit, "offset": offset}


async def report(call: Call) -> dict[str, Any]:
    """``POST /api/v1/bounces``."""
    async with call.parts.received(call.request, SMALL_BYTES) as data:
        bounce = shapes.bounce(call.parse(data))
    suppression = suppression_pb2.Suppression(
        reason=TYPES[bounce.type], note=bounce.subtype, evidence=bounce.diagnostic_code
    )
    if bounce.type == "soft":
        suppression.expire_time.FromDatetime(datetime.now(UTC).replace(microsecond=0) + timedelta(days=SOFT_DAYS))
    request = suppression_service_pb2.CreateSuppressionRequest(parent=ME, address=bounce.email, suppression=suppression)
    made = await call.ask("suppressions", "CreateSuppression", request)
    return {"bounce_id": made.uid}


def _row(suppression: suppression_pb2.Suppression) -> dict[str, Any]:
    return {
        "id": suppression.uid,
        "email": suppression.address,
        "bounce_type": _NAMES[suppression.reason],
        "bounce_subtype": suppression.note or None,
        "diagnostic_code": suppression.evidence or None,
        "created_at": time_of(suppression.create_time),
    }
