"""What the original tells of a message, made of a record of the history. Pure.

Types are those that its strict clients need: numbers are numbers but for the enhanced code, arrays are never null, a
message that waits has code 0 and empty texts.
"""

from typing import Any

from barua.control.v1.history_service_pb2 import MessageRecord
from barua.journal.v1.event_pb2 import Event

from api_bridge import messageids
from api_bridge.dialects.sendpulse import agents, times

NOT_SENT_CODE = 550
"""Shown for a recipient that was dropped: it is no success, and there is no reply."""
NO_SUBCODE = "0"
"""Shown where the reply had no enhanced code."""

_EXPLANATIONS = {
    MessageRecord.STATE_DELIVERED: "Delivered",
    MessageRecord.STATE_BOUNCED: "Bounced",
    MessageRecord.STATE_DROPPED: "Not sent: the recipient is on the unsubscribe list",
}


def email(record: MessageRecord, sender_ip: str, used_ip: str, *, country: bool = True) -> dict[str, Any]:
    """An EmailRecord. ``country``: whether the keys of that name are there."""
    code, subcode, data = answer(record)
    return {
        "id": messageids.base36(number(record)),
        "sender": record.sender,
        "total_size": record.size_bytes,
        "sender_ip": sender_ip,
        "smtp_answer_code": code,
        "smtp_answer_code_explain": _EXPLANATIONS.get(record.state, ""),
        "smtp_answer_subcode": subcode,
        "smtp_answer_data": data,
        "used_ip": used_ip,
        "recipient": record.recipient,
        "subject": record.subject,
        "send_date": times.shown(record.receive_time),
        "tracking": _tracking(record, country),
    }


def bounce(record: MessageRecord, sender_ip: str, used_ip: str) -> dict[str, Any]:
    """A Bounce, which is here an EmailRecord, too: the documentation shows both."""
    return {"email_to": record.recipient, **email(record, sender_ip, used_ip)}


def number(record: MessageRecord) -> int:
    """The id of the recipient's copy: the integer alias."""
    return int(record.name.rpartition("/")[2])


def answer(record: MessageRecord) -> tuple[int, str, str]:
    """The code, enhanced code and words of the last reply."""
    if record.state == MessageRecord.STATE_QUEUED:
        return 0, "", ""
    code = record.last_code
    if record.state == MessageRecord.STATE_DROPPED:
        code = code or NOT_SENT_CODE
    return code, record.last_enhanced_code or NO_SUBCODE, record.last_text or record.last_reply


def _tracking(record: MessageRecord, country: bool) -> dict[str, Any]:
    clicks = [event for event in record.events if event.kind == Event.KIND_CLICKED]
    opens = [event for event in record.events if event.kind == Event.KIND_OPENED]
    return {
        "click": record.click_count,
        "open": record.open_count,
        "link": [
            {
                "url": event.url,
                "browser": agents.browser(event.user_agent),
                "os": agents.system(event.user_agent),
                "screen_resolution": "",
                **_place(event, country),
            }
            for event in clicks
        ],
        "client_info": [
            {
                "browser": agents.browser(event.user_agent),
                "os": agents.system(event.user_agent),
                **_place(event, country),
            }
            for event in opens
        ],
    }


def _place(event: Event, country: bool) -> dict[str, str]:
    # There is no table of countries here, so the country is not known.
    known = {"country": ""} if country else {}
    return {"ip": event.ip_address, **known, "action_date": times.shown(event.time)}
