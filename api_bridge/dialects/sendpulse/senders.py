"""Addresses to send from: ``/senders``, ``/smtp/senders``, and the older ``/smtp/domains``.

Adding one mails a code of eight digits to it, and who knows the code has proved it. ``/smtp/domains`` is what the
libraries call it: it took an address, mailed it, and listed the domains that may be used, with an "@" before them.
"""

from typing import Any

from barua.control.v1 import domain_service_pb2, sender_service_pb2
from barua.control.v1.sender_pb2 import Sender

from api_bridge import fieldtext, mime
from api_bridge.dialects.sendpulse import errors
from api_bridge.dialects.sendpulse.calls import ME, Call, Paths
from api_bridge.dialects.sendpulse.decoder import Undecodable
from api_bridge.fieldtext import FieldError
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

MAX_NAME = 200
"""Characters of a sender's name; the same bound as control's."""
NO_SENDER = errors.Known(404, 901, "Sender not found")
"""The original documents 901 to 906 as errors of senders, without texts for them all."""
WRONG_CODE = errors.Known(422, 1101, "Wrong activation code")
NOTHING_TO_PROVE = errors.Known(422, 1104, "Sender is already activated")
TOO_MANY_CODES = errors.Known(422, 1103, "Too many activation codes were sent. Please try later.")
CODE_PAUSE_SECONDS = 60.0
"""Control sends no second code before."""


async def listed(call: Call) -> Any:
    """GET /senders."""
    rows = []
    async for sender in call.ask_pages("senders", "ListSenders", _listing()):
        proved = sender.state == Sender.STATE_VERIFIED
        rows.append(
            {
                "email": _address(sender),
                "name": sender.display_name,
                "status": "Active" if proved else "Not active",
                "is_allowed_for_smtp": proved,
            }
        )
    return rows


async def usable(call: Call) -> Any:
    """GET /smtp/senders."""
    request = _listing(verified=True)
    return [_address(sender) async for sender in call.ask_pages("senders", "ListSenders", request)]


async def add(call: Call) -> Any:
    """POST /senders."""
    address = _given_address(call)
    await _create(call, address, _given_name(call))
    return {"result": True}


async def remove(call: Call) -> Any:
    """DELETE /senders."""
    request = sender_service_pb2.DeleteSenderRequest(
        name=f"{ME}/senders/{_given_address(call)}", request_id=call.request_id
    )
    await _ask(call, "DeleteSender", request)
    return {"result": True}


async def send_code(call: Call) -> Any:
    """GET /senders/{email}/code."""
    address = _address_in_path(call)
    await _request_code(call, address)
    return {"result": True, "email": address}


async def activate(call: Call) -> Any:
    """POST /senders/{email}/code."""
    address, code = _address_in_path(call), call.parameters.text("code")
    if not code:
        raise errors.Known(422, 422, "Argument code missing").problem()
    request = sender_service_pb2.VerifySenderRequest(
        name=f"{ME}/senders/{address}", code=code, request_id=call.request_id
    )
    await _ask(call, "VerifySender", request)
    return {"result": True, "email": address}


async def allowed(call: Call) -> Any:
    """GET /smtp/domains."""
    request = domain_service_pb2.ListDomainsRequest(parent=ME, page_size=1000, verified=True)
    found = call.ask_pages("domains", "ListDomains", request)
    return ["@" + domain.name.rpartition("/")[2] async for domain in found]


async def allow(call: Call) -> Any:
    """POST /smtp/domains."""
    await _create(call, _given_address(call), "")
    return {"result": True}


async def verify(call: Call) -> Any:
    """GET /smtp/domains/{email}, and /domains/{email}: the code once more, unless it is proved."""
    try:
        await _request_code(call, _address_in_path(call))
    except Problem as problem:
        if problem.code != NOTHING_TO_PROVE.code:
            raise
    return {"result": True}


async def _create(call: Call, address: str, name: str) -> None:
    request = sender_service_pb2.CreateSenderRequest(
        parent=ME, address=address, sender=Sender(display_name=name), request_id=call.request_id
    )
    try:
        await call.ask("senders", "CreateSender", request)
    except Refusal as refusal:
        raise _creation_problem(refusal) from None


def _creation_problem(refusal: Refusal) -> Problem:
    if refusal.reason is Reason.ALREADY_EXISTS:
        return errors.SENDER_EXISTS.problem()
    if refusal.reason is Reason.FAILED_PRECONDITION:
        return (errors.DMARC if "dmarc_policy" in refusal.metadata else errors.SENDER_REFUSED).problem()
    if refusal.reason is Reason.INVALID_ARGUMENT:
        named = (refusal.field or "").endswith("display_name")
        return (errors.NAME_INVALID if named else errors.EMAIL_INVALID).problem()
    return errors.problem(refusal)


async def _request_code(call: Call, address: str) -> None:
    request = sender_service_pb2.SendSenderCodeRequest(name=f"{ME}/senders/{address}", request_id=call.request_id)
    try:
        await _ask(call, "SendSenderCode", request)
    except Refusal as refusal:
        if refusal.reason is not Reason.RATE_LIMITED:
            raise
        # A code of the last minute is as good as a new one.
        if refusal.retry_after is None or refusal.retry_after > CODE_PAUSE_SECONDS:
            raise TOO_MANY_CODES.problem(errors.retry_after(refusal)) from None


async def _ask(call: Call, method: str, request: Any) -> None:
    """A call about one sender. Raises Problem or Refusal."""
    try:
        await call.ask("senders", method, request)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND:
            raise NO_SENDER.problem() from None
        if refusal.reason is Reason.FAILED_PRECONDITION:
            raise (WRONG_CODE if refusal.field == "code" else NOTHING_TO_PROVE).problem() from None
        if refusal.reason is Reason.INVALID_ARGUMENT:
            raise errors.EMAIL_INVALID.problem() from None
        raise


def _listing(**fields: Any) -> sender_service_pb2.ListSendersRequest:
    return sender_service_pb2.ListSendersRequest(parent=ME, page_size=1000, order_by="number", **fields)


def _address(sender: Sender) -> str:
    return sender.name.rpartition("/")[2]


def _given_address(call: Call) -> str:
    try:
        text = call.parameters.text("email")
    except Undecodable:
        raise errors.EMAIL_INVALID.problem() from None
    if not text:
        raise errors.EMAIL_MISSING.problem()
    return _checked(text)


def _address_in_path(call: Call) -> str:
    return _checked(call.in_path("email"))


def _checked(text: str) -> str:
    try:
        address = mime.address("email", text)
    except FieldError:
        raise errors.EMAIL_INVALID.problem() from None
    if "/" in address or address.endswith("]"):
        raise errors.EMAIL_INVALID.problem()
    return address


def _given_name(call: Call) -> str:
    try:
        name = call.parameters.text("name")
    except Undecodable:
        raise errors.NAME_INVALID.problem() from None
    if not name:
        raise errors.NAME_MISSING.problem()
    try:
        if len(name) > MAX_NAME:
            raise FieldError("name", "is too long")
        return fieldtext.check("name", name)
    except FieldError:
        raise errors.NAME_INVALID.problem() from None


PATHS: Paths = [
    ("/senders", {"GET": listed, "POST": add, "DELETE": remove}),
    ("/senders/{email}/code", {"GET": send_code, "POST": activate}),
    ("/smtp/senders", {"GET": usable}),
    ("/smtp/domains", {"GET": allowed, "POST": allow}),
    ("/smtp/domains/{email}", {"GET": verify}),
    ("/domains/{email}", {"GET": verify}),
]
