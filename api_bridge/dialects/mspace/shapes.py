"""MSpace's JSON as types, and both ways between them and the protos. Pure.

The types are lenient where customers are sloppy (unknown fields, null for an optional field, numbers as strings) and
strict where a guess could cost money. Errors: ``Problem`` 400 with a text that begins with the field's name.
"""

import base64
import binascii
import re
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from barua.control.v1 import credit_service_pb2, tenant_pb2, tenant_service_pb2
from barua.mta.v1 import injection_service_pb2

from api_bridge import fieldtext, mime, plaintext
from api_bridge.dialects.mspace import errors
from api_bridge.fieldtext import FieldError
from api_bridge.problems import Problem, bad_request
from mta.runtime import rpc

MAX_CREDITS = 10**15
"""Of one transfer; the same bound as control's."""
MAX_RECIPIENTS = 1000
"""Addresses in ``to``; the same bound as the MTA's."""
MAX_TO = 500_000
"""Characters of ``to``: 1000 addresses of full length, names and quotes around them."""
MAX_ATTACHMENTS = 100
"""Files of one message."""
MIN_PASSWORD = 8
"""Characters of a password, as MSpace documents it."""
MAX_NAME = 200
"""Characters of the name shown for a tenant; the same bound as control's."""

_Shape = TypeVar("_Shape", bound=Struct)
_WHOLE = re.compile(r"\+?[0-9]{1,18}")
_MOBILE = re.compile(r"\+?[0-9]{6,15}")
_BETWEEN_DIGITS = re.compile(r"[ ().-]")
_LIST_ITEM = re.compile(r'(?:"(?:[^"\\]++|\\.)*+"?|[^,"]++)++', re.DOTALL)
_EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_WORDS = {"str": "a string", "int": "a whole number", "array": "an array", "object": "an object"}


class CreateSubUser(Struct):
    """Body of createSubUser. ``firstname``, ``surname`` and ``organization`` are in all samples, but in no table."""

    username: str
    password: str
    credits: int | str | None = None
    mobile: int | str | None = None
    firstname: str | None = None
    surname: str | None = None
    organization: str | None = None


class ManageCredits(Struct):
    """Body of manageCredits."""

    sub_username: str
    action: str
    amount: int | str


class Attachment(Struct):
    """An element of ``attachments``, which is an extension of ours: the original promises files but names no field."""

    filename: str
    content: str
    contentType: str | None = None  # noqa: N815  # the name in the JSON


class Send(Struct):
    """Body of send."""

    apiKey: str  # noqa: N815
    to: str | list[str]
    subject: str
    body: str
    fromName: str | None = None  # noqa: N815
    attachments: list[Attachment] | None = None


def decode(document: dict[str, Any], shape: type[_Shape]) -> _Shape:
    """``document`` as ``shape``; required strings are not empty. Raises Problem 400."""
    try:
        value = msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise bad_request(_explain(str(error))) from None
    for name in _required(shape):
        if getattr(value, name) in ("", []):
            raise bad_request(f"{name} is required")
    return value


def tenant_request(body: CreateSubUser, request_id: str) -> tenant_service_pb2.CreateTenantRequest:
    """createSubUser for control. Raises Problem 400."""
    if len(body.password) < MIN_PASSWORD:
        raise bad_request(f"password must be at least {MIN_PASSWORD} characters long")
    person = f"{body.firstname or ''} {body.surname or ''}".strip()
    return tenant_service_pb2.CreateTenantRequest(
        parent="tenants/me",
        tenant=tenant_pb2.Tenant(
            display_name=(body.organization or person or body.username)[:MAX_NAME],
            contact=tenant_pb2.Contact(
                first_name=body.firstname or "",
                surname=body.surname or "",
                organization=body.organization or "",
                phone=_mobile(body.mobile),
            ),
        ),
        initial_login=tenant_service_pb2.InitialLogin(username=body.username, password=body.password),
        initial_credits=0 if body.credits in (None, "") else _whole("credits", body.credits, 0),
        request_id=request_id,
    )


def transfer_request(body: ManageCredits, request_id: str) -> tuple[bool, credit_service_pb2.TransferCreditsRequest]:
    """manageCredits for control, and whether it gives to the sub-user. Raises Problem 400."""
    action = body.action.strip().upper()
    if action not in ("ADD", "DEDUCT"):
        raise bad_request("action must be ADD or DEDUCT")
    reseller, sub_user = "tenants/me", f"logins/{body.sub_username}"
    adds = action == "ADD"
    request = credit_service_pb2.TransferCreditsRequest(
        source=reseller if adds else sub_user,
        destination=sub_user if adds else reseller,
        amount=_whole("amount", body.amount, 1),
        note="MSpace manageCredits",
        request_id=request_id,
    )
    return adds, request


def transferred(adds: bool, answer: credit_service_pb2.TransferCreditsResponse) -> dict[str, Any]:
    """The answer of manageCredits."""
    reseller, sub_user = (answer.source, answer.destination) if adds else (answer.destination, answer.source)
    return {
        "status": "success",
        "message": "Credits updated",
        "reseller_balance": reseller.balance,
        "subuser_balance": sub_user.balance,
    }


def message_request(body: Send) -> injection_service_pb2.SubmitMessageRequest:
    """send for the MTA. Raises Problem 400."""
    try:
        recipients = [mime.address("to", address) for address in _addresses(body.to)]
        html = plaintext.is_html(body.body)
        message = mime.Message(
            subject=body.subject,
            to=[mime.Mailbox(recipient) for recipient in recipients],
            html=body.body if html else "",
            text="" if html else body.body,
            attachments=_attachments(body.attachments or []),
        )
        return injection_service_pb2.SubmitMessageRequest(
            recipients=recipients,
            content=mime.compose(message),
            from_display_name=fieldtext.check("fromName", body.fromName or ""),
        )
    except FieldError as error:
        raise bad_request(str(error)) from None


def sent(answer: injection_service_pb2.SubmitMessageResponse) -> dict[str, Any]:
    """The answer of send. ``failed`` is there only if some of several recipients were refused."""
    body: dict[str, Any] = {
        "status": "success",
        "message": "Email queued successfully",
        "messageId": f"msg_{answer.message_id}",
    }
    failed = [
        {"to": result.recipient, "message": errors.problem(rpc.refusal_in(result.status)).message}
        for result in answer.results
        if result.status.code
    ]
    if failed:
        body["failed"] = failed
    return body


@cache
def _required(shape: type[Struct]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(shape) if field.required)


def _explain(text: str) -> str:
    """msgspec's text in the words of this API."""
    if match := _MISSING.match(text):
        return f"{match[2] + '.' if match[2] else ''}{match[1]} is required"
    if not (match := _EXPECTED.match(text)):
        return "a field has the wrong type"
    expected, got, field = match[1], match[2], match[3] or "the request body"
    if got == "null":
        return f"{field} is required"
    if field in ("amount", "credits"):
        return _not_whole(field, 1 if field == "amount" else 0).message
    words = [_WORDS[kind] for kind in expected.split(" | ") if kind in _WORDS]
    return f"{field} must be {' or '.join(words)}"


def _whole(field: str, value: int | str | None, least: int) -> int:
    if isinstance(value, str):
        text = value.strip()
        number = int(text) if _WHOLE.fullmatch(text) else -1
    else:
        number = -1 if value is None else value
    if not least <= number <= MAX_CREDITS:
        raise _not_whole(field, least)
    return number


def _not_whole(field: str, least: int) -> Problem:
    return bad_request(f"{field} must be a whole number from {least} to {MAX_CREDITS}")


def _mobile(value: int | str | None) -> str:
    digits = _BETWEEN_DIGITS.sub("", str(value if value is not None else ""))
    if digits and not _MOBILE.fullmatch(digits):
        raise bad_request("mobile must be a telephone number in international form, such as 254729651022")
    return digits


def _addresses(to: str | list[str]) -> list[str]:
    """The addresses in ``to``: one, several with commas between, or an array; each once, in their order."""
    items = [to] if isinstance(to, str) else to
    if sum(map(len, items)) > MAX_TO:
        raise FieldError("to", f"must not be longer than {MAX_TO} characters")
    pieces = (piece.strip() for item in items for piece in _LIST_ITEM.findall(item))
    addresses = list(dict.fromkeys(piece for piece in pieces if piece))
    if not addresses:
        raise FieldError("to", "is required")
    if len(addresses) > MAX_RECIPIENTS:
        raise FieldError("to", f"has more than {MAX_RECIPIENTS} addresses")
    return addresses


def _attachments(given: list[Attachment]) -> list[mime.Attachment]:
    if len(given) > MAX_ATTACHMENTS:
        raise FieldError("attachments", f"has more than {MAX_ATTACHMENTS} files")
    return [_attachment(f"attachments[{number}]", attachment) for number, attachment in enumerate(given)]


def _attachment(field: str, given: Attachment) -> mime.Attachment:
    if not given.filename:
        raise FieldError(f"{field}.filename", "is required")
    try:
        content = base64.b64decode(given.content.encode("ascii").translate(None, b" \t\r\n\f\v"), validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(f"{field}.content", "is not valid Base64") from None
    return mime.Attachment(given.filename, content, given.contentType or "", field)
