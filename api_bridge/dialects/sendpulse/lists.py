"""What was sent: ``/smtp/emails``, one message, several, ``/smtp/bounces/day`` and ``/smtp/ips``.

One row for each recipient, newest first, without the notifications that senders get of what failed. Times are UTC.
``total`` counts what the history keeps (``control.history_days``).
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from barua.control.v1 import egress_service_pb2, history_service_pb2
from barua.control.v1.history_service_pb2 import MessageRecord, MessageRecordFilter

from api_bridge import messageids
from api_bridge.dialects.sendpulse import errors, records, times
from api_bridge.dialects.sendpulse.calls import ME, Call, Paths
from api_bridge.dialects.sendpulse.emails import has_sender
from mta.runtime.refusals import Reason, Refusal

MAX_INFO = 500
"""Ids that can be asked for at once."""
MAX_SKIP = 10_000
"""Records that control passes over in one call."""
MAX_OFFSET = 100_000
"""The furthest that a list can begin."""


async def emails(call: Call) -> Any:
    """GET /smtp/emails."""
    limit, offset = call.page()
    asked = call.parameters
    wanted = MessageRecordFilter(
        sender=asked.text("sender"), recipient=asked.text("recipient"), without_notifications=True
    )
    start, end = asked.text("from", "fromDate", "from_date"), asked.text("to", "toDate", "to_date")
    if start:
        wanted.start_time.CopyFrom(times.moment("from", start))
    if end:
        wanted.end_time.CopyFrom(times.end("to", end))
    try:
        found = await _page(call, wanted, limit, offset)
    except Refusal as refusal:
        raise errors.tariff(refusal) from None
    country = asked.text("country").lower() != "off"
    used = await _used(call, found)
    return [records.email(record, _sender_ip(record), used, country=country) for record in found]


async def total(call: Call) -> Any:
    """GET /smtp/emails/total."""
    try:
        count = await _count(call, MessageRecordFilter(without_notifications=True))
    except Refusal as refusal:
        raise errors.tariff(refusal) from None
    if not count and not await has_sender(call):
        raise errors.NO_SMTP_USER.problem()
    return {"total": count}


async def email(call: Call) -> Any:
    """GET /smtp/emails/{id}. Credentials that may only send can ask for it, too."""
    number = _number(call.in_path("id"))
    if number is None:
        raise errors.NO_SUCH_EMAIL.problem()
    request = history_service_pb2.GetMessageRecordRequest(name=f"{ME}/messages/{number}")
    try:
        found = await call.ask("history", "GetMessageRecord", request)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND:
            raise errors.NO_SUCH_EMAIL.problem() from None
        raise
    return records.email(found, _sender_ip(found), await _used(call, [found]))


async def info(call: Call) -> Any:
    """POST /smtp/emails/info."""
    ids = call.parameters.bare if call.parameters.bare is not None else call.parameters.structure("emails")
    if isinstance(ids, dict):
        ids = list(ids.values())
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_INFO:
        raise errors.EMAILS_INCORRECT.problem()
    if not all(isinstance(id_, str | int) and not isinstance(id_, bool) for id_ in ids):
        raise errors.EMAILS_INCORRECT.problem()
    found = await _named(call, list(dict.fromkeys(str(id_).strip() for id_ in ids)))
    if not found:
        raise errors.NO_SUCH_EMAILS.problem()
    used = await _used(call, found)
    return [records.email(record, _sender_ip(record), used) for record in found]


async def bounces(call: Call) -> Any:
    """GET /smtp/bounces/day."""
    limit, offset = call.page()
    wanted = _bounced(call, call.parameters.text("date"))
    if wanted is None:
        return {"total": 0, "emails": [], "request_limit": call.options.page_size, "found": 0}
    found = await _page(call, wanted, limit, offset)
    used = await _used(call, found)
    return {
        "total": await _count(call, wanted),
        "emails": [records.bounce(record, _sender_ip(record), used) for record in found],
        "request_limit": call.options.page_size,
        "found": len(found),
    }


async def bounces_total(call: Call) -> Any:
    """GET /smtp/bounces/day/total."""
    wanted = _bounced(call, "")
    return {"total": await _count(call, wanted) if wanted is not None else 0}


async def ips(call: Call) -> Any:
    """GET /smtp/ips."""
    return await _addresses(call)


def _bounced(call: Call, date: str) -> MessageRecordFilter | None:
    """Failures for good of the last 24 hours, or of a day; None: none of that day can be told."""
    now = datetime.now(UTC)
    first, last = now - times.DAY, now
    if date:
        start, end = times.day("date", date)
        if call.options.last_day_only:
            start, end = max(start, first), min(end, last)
        if start >= end:
            return None
        first, last = start, end
    return MessageRecordFilter(
        states=[MessageRecord.STATE_BOUNCED],
        outcome_start_time=times.stamp(first),
        outcome_end_time=times.stamp(last),
        without_notifications=True,
    )


async def _page(call: Call, wanted: MessageRecordFilter, limit: int, offset: int) -> list[MessageRecord]:
    if offset > MAX_OFFSET:
        raise errors.invalid("offset")
    found: list[MessageRecord] = []
    request = history_service_pb2.ListMessageRecordsRequest(
        parent=ME, filter=wanted, view=history_service_pb2.RECORD_VIEW_EVENTS
    )
    try:
        # Beyond what one call passes over, a record is read to get to the next page.
        while offset > MAX_SKIP:
            request.skip, request.page_size = MAX_SKIP, 1
            answer = await call.ask("history", "ListMessageRecords", request)
            if not answer.next_page_token:
                return []
            request.page_token = answer.next_page_token
            offset -= MAX_SKIP + len(answer.message_records)
        request.skip = max(offset, 0)
        while len(found) < limit:
            request.page_size = limit - len(found)
            answer = await call.ask("history", "ListMessageRecords", request)
            found += answer.message_records
            if not answer.next_page_token:
                break
            request.page_token, request.skip = answer.next_page_token, 0
    except Refusal as refusal:
        if refusal.reason is Reason.INVALID_ARGUMENT:
            return []  # a sender or recipient that is no address has no messages
        raise
    return found[:limit]


async def _count(call: Call, wanted: MessageRecordFilter) -> int:
    request = history_service_pb2.CountMessageRecordsRequest(parent=ME, filter=wanted)
    answer = await call.ask("history", "CountMessageRecords", request)
    return int(answer.count)


async def _named(call: Call, ids: Sequence[str]) -> list[MessageRecord]:
    """The records with these ids, those that there are, in this order."""
    numbers = [number for id_ in ids if (number := _number(id_)) is not None]
    if not numbers:
        return []
    request = history_service_pb2.BatchGetMessageRecordsRequest(
        parent=ME,
        names=[f"{ME}/messages/{number}" for number in dict.fromkeys(numbers)],
        view=history_service_pb2.RECORD_VIEW_EVENTS,
    )
    answer = await call.ask("history", "BatchGetMessageRecords", request)
    return list(answer.message_records)


def _number(id_: str) -> int | None:
    """The whole number of an id in either spelling; None: it is none."""
    number = messageids.from_base36(id_)
    return number if number is not None else messageids.from_decimal(id_)


async def _addresses(call: Call) -> list[str]:
    """The addresses that mail leaves from, as far as they are set up."""
    request = egress_service_pb2.ListOutgoingAddressesRequest(parent=ME, page_size=1000)
    answer = await call.ask("egress", "ListOutgoingAddresses", request)
    return list(answer.addresses)


async def _used(call: Call, found: Sequence[MessageRecord]) -> str:
    """The address that mail leaves from, if there is one only and the account may know; otherwise ""."""
    if not any(record.egress_source for record in found):
        return ""
    try:
        addresses = await _addresses(call)
    except Refusal as refusal:
        if refusal.reason is Reason.PERMISSION_DENIED:
            return ""
        raise
    return addresses[0] if len(addresses) == 1 else ""


def _sender_ip(record: MessageRecord) -> str:
    """Where the message came from, if the one who took it said so."""
    try:
        said = json.loads(record.properties or "{}")
    except ValueError:
        return ""
    address = said.get("client_address", "") if isinstance(said, dict) else ""
    return address if isinstance(address, str) else ""


PATHS: Paths = [
    ("/smtp/emails", {"GET": emails}),
    ("/smtp/emails/total", {"GET": total}),
    ("/smtp/emails/info", {"POST": info}),
    ("/smtp/emails/{id}", {"GET": email}),
    ("/smtp/bounces/day", {"GET": bounces}),
    ("/smtp/bounces/day/total", {"GET": bounces_total}),
    ("/smtp/ips", {"GET": ips}),
]
