"""``POST /smtp/resubscribe``: asks somebody on the unsubscribe list, by mail, whether they want mail again."""

from typing import Any

from barua.control.v1.resubscription_service_pb2 import RequestResubscriptionRequest

from api_bridge import messageids, mime
from api_bridge.dialects.sendpulse import errors
from api_bridge.dialects.sendpulse.calls import ME, Call, Paths
from api_bridge.dialects.sendpulse.decoder import Undecodable
from api_bridge.dialects.sendpulse.emails import has_sender
from api_bridge.dialects.sendpulse.errors import Known
from api_bridge.fieldtext import FieldError
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

LANGUAGES = {"ru": "ru", "en": "en", "ua": "uk", "tr": "tr", "es": "es", "pt": "pt"}
"""The original's names of the languages, and their tags."""

_SENDER_INVALID = Known(422, 422, "Argument sender is invalid")


async def resubscribe(call: Call) -> Any:
    """POST /smtp/resubscribe."""
    address = _address(call, "email", errors.EMAIL_MISSING, errors.EMAIL_INVALID)
    sender = _address(call, "sender", errors.SENDER_MISSING, _SENDER_INVALID)
    request = RequestResubscriptionRequest(
        parent=ME, address=address, sender=sender, language_code=_language(call), request_id=call.request_id
    )
    try:
        answer = await call.ask("resubscriptions", "RequestResubscription", request)
    except Refusal as refusal:
        raise await _problem(call, refusal) from None
    return {"result": True, "id": messageids.base36(answer.message_id)}


async def _problem(call: Call, refusal: Refusal) -> Problem:
    reason = refusal.reason
    if reason is Reason.NOT_FOUND:
        return errors.NOT_BLOCKED.problem()
    if reason is Reason.RATE_LIMITED and refusal.metadata.get("window") == "24h":
        return errors.FIVE_A_DAY.problem()
    if reason is Reason.SENDER_NOT_ALLOWED:
        known = errors.SENDER_NOT_VALID if await has_sender(call) else errors.RESUBSCRIBE_NO_SMTP_USER
        return known.problem()
    if reason is Reason.INVALID_ARGUMENT:
        return (_SENDER_INVALID if refusal.field == "sender" else errors.EMAIL_INVALID).problem()
    return errors.sending(refusal)


def _address(call: Call, name: str, missing: Known, invalid: Known) -> str:
    try:
        text = call.parameters.text(name)
        if not text:
            raise missing.problem()
        return mime.address(name, text)
    except (Undecodable, FieldError):
        raise invalid.problem() from None


def _language(call: Call) -> str:
    given = call.parameters.get("lang")
    if given is None or given == "":
        return LANGUAGES["en"]
    if not isinstance(given, str) or given.strip().lower() not in LANGUAGES:
        raise errors.LANG_INVALID.problem()
    return LANGUAGES[given.strip().lower()]


PATHS: Paths = [("/smtp/resubscribe", {"POST": resubscribe})]
