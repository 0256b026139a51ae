"""The unsubscribe list: ``/smtp/unsubscribe`` and ``/smtp/unsubscribe/search``.

It is the account's own suppressions by the recipient's link, by the account and by complaint. Addresses whose mailbox
refuses mail are suppressed, too, but they are not on this list, and taking them off it does not help them.

A list is checked whole before anything of it is written. More than 1000 addresses are written in pieces; a repetition
after an outage does no harm.
"""

from typing import Any

from barua.control.v1 import suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression
from barua.control.v1.suppression_service_pb2 import SuppressionFilter

from api_bridge import mime
from api_bridge.dialects.sendpulse import errors, times
from api_bridge.dialects.sendpulse.calls import ME, Call, Paths
from api_bridge.fieldtext import FieldError
from mta.runtime.refusals import Reason, Refusal

BATCH = 1000
"""Addresses that control takes at once."""
MAX_COMMENT = 500
"""Characters; the same bound as control's."""
REASONS = (Suppression.REASON_UNSUBSCRIBE, Suppression.REASON_MANUAL, Suppression.REASON_COMPLAINT)
"""What the list is made of: by link, by the account, by complaint."""
MAX_SKIP = 1_000_000
"""Rows that control passes over."""


async def add(call: Call) -> Any:
    """POST /smtp/unsubscribe."""
    entries = _entries(call)
    for start in range(0, len(entries), BATCH):
        request = suppression_service_pb2.BatchCreateSuppressionsRequest(
            parent=ME,
            suppressions=[
                Suppression(address=address, reason=Suppression.REASON_MANUAL, note=comment)
                for address, comment in entries[start : start + BATCH]
            ],
        )
        await call.ask("suppressions", "BatchCreateSuppressions", request)
    return {"result": True}


async def remove(call: Call) -> Any:
    """DELETE /smtp/unsubscribe."""
    entries = _entries(call)
    for start in range(0, len(entries), BATCH):
        request = suppression_service_pb2.BatchDeleteSuppressionsRequest(
            parent=ME,
            addresses=[address for address, _ in entries[start : start + BATCH]],
            stream="",
            reasons=REASONS,
            allow_missing=True,
        )
        await call.ask("suppressions", "BatchDeleteSuppressions", request)
    return {"result": True}


async def listed(call: Call) -> Any:
    """GET /smtp/unsubscribe."""
    limit, offset = call.page()
    if offset > MAX_SKIP:
        raise errors.invalid("offset")
    wanted = SuppressionFilter(reasons=REASONS, stream="")
    date = call.parameters.text("date")
    if date:
        start, end = times.day("date", date)
        wanted.start_time.CopyFrom(times.stamp(start))
        wanted.end_time.CopyFrom(times.stamp(end))
    request = suppression_service_pb2.ListSuppressionsRequest(
        parent=ME, filter=wanted, page_size=limit, skip=offset, order_by="create_time"
    )
    try:
        answer = await call.ask("suppressions", "ListSuppressions", request)
    except Refusal as refusal:
        raise errors.tariff(refusal) from None
    return [_row(suppression) for suppression in answer.suppressions]


async def search(call: Call) -> Any:
    """GET /smtp/unsubscribe/search."""
    text = call.parameters.text("email")
    if not text:
        raise errors.EMPTY_EMAIL.problem()
    try:
        address = mime.address("email", text)
    except FieldError:
        raise errors.WRONG_EMAIL.problem() from None
    return {"result": await is_listed(call, address)}


async def is_listed(call: Call, address: str) -> bool:
    """Whether an address is on the list."""
    request = suppression_service_pb2.GetSuppressionRequest(name=f"{ME}/suppressions/{address}")
    try:
        found = await call.ask("suppressions", "GetSuppression", request)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND:
            return False
        if refusal.reason is Reason.INVALID_ARGUMENT:
            raise errors.WRONG_EMAIL.problem() from None
        raise
    return found.reason in REASONS


def _row(suppression: Suppression) -> dict[str, Any]:
    reason = suppression.reason
    return {
        "email": suppression.address,
        "unsubscribe_by_link": int(reason == Suppression.REASON_UNSUBSCRIBE),
        "unsubscribe_by_user": int(reason == Suppression.REASON_MANUAL),
        "spam_complaint": int(reason == Suppression.REASON_COMPLAINT),
        "date": times.shown(suppression.create_time),
    }


def _entries(call: Call) -> list[tuple[str, str]]:
    """Addresses and comments: objects or plain strings, in ``emails`` or as the whole body. Raises Problem."""
    bare = call.parameters.bare
    given = call.parameters.structure("emails") if bare is None else bare
    if isinstance(given, dict):
        given = [given] if "email" in given else list(given.values())
    if isinstance(given, str) and "@" in given:
        given = [given]
    if not isinstance(given, list) or not given:
        raise errors.EMPTY_EMAILS.problem()
    return list(dict(map(_entry, given)).items())


def _entry(given: Any) -> tuple[str, str]:
    comment: Any = None
    if isinstance(given, dict):
        comment, given = given.get("comment"), given.get("email")
    if given is None or given == "":
        raise errors.EMPTY_EMAILS.problem()
    comment = "" if comment is None else comment
    if isinstance(comment, bool) or not isinstance(comment, str | int):
        raise errors.invalid("comment")
    comment = " ".join(str(comment).split())  # it is kept as one line
    if len(comment) > MAX_COMMENT or not comment.isprintable():
        raise errors.invalid("comment")
    try:
        if not isinstance(given, str):
            raise FieldError("email", "is not text")
        return mime.address("email", given.strip(" ")), comment
    except FieldError:
        raise errors.EMAIL_INVALID.problem() from None


PATHS: Paths = [
    ("/smtp/unsubscribe", {"GET": listed, "POST": add, "DELETE": remove}),
    ("/smtp/unsubscribe/search", {"GET": search}),
]
