"""Sender addresses of a sub-account: of its domains, or proved by a code that is mailed to them.

The original has no call that takes the code; ``POST /subaccount/sender/{senderId}/verify`` with ``{"code"}`` is ours.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from barua.control.v1 import sender_pb2, sender_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Count, Deleted
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Operation, paging
from mta.runtime.refusals import Refusal

WHAT = "Sender"

_FIELDS = {"address": "fromEmail", "sender.display_name": "name", "sender.reply_to": "replyToEmail", "code": "code"}
_Address = Annotated[str, Meta(min_length=1, max_length=320)]
_Text = str | None


class SenderChange(Struct):
    """Body of update. ``fromEmail`` and ``domain`` cannot be changed, but may be said."""

    name: Annotated[str, Meta(max_length=200)] | None = None
    fromEmail: _Text = None  # noqa: N815  # the name in the JSON
    replyToEmail: _Text = None  # noqa: N815
    domain: _Text = None


class NewSender(SenderChange, kw_only=True):
    """Body of create. ``domain``, if given, must be that of the address."""

    fromEmail: _Address  # noqa: N815


class Code(Struct):
    """Body of verify."""

    code: Annotated[str, Meta(min_length=1, max_length=100)]


class Sender(Struct):
    """A sender. ``verified``: mail from it is taken."""

    id: int
    name: str
    fromEmail: str  # noqa: N815
    replyToEmail: str  # noqa: N815
    domain: str
    verified: bool
    created: int


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    path, one, key = "/subaccount/sender", "/subaccount/sender/{sender_id}", Key.SUB_ACCOUNT
    return [
        Operation(
            "GET",
            path,
            "list_senders",
            "Senders of the sub-account, the oldest first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[Sender],
        ),
        Operation(
            "POST",
            path,
            "create_sender",
            "Make a sender; unless its domain is verified, a code is mailed to it.",
            _create,
            key,
            body=NewSender,
            answer=Sender,
            failures=(403, 409),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation("GET", f"{path}/count", "count_senders", "Count the senders.", _count, key, answer=Count),
        Operation("GET", one, "get_sender", "Read a sender.", _get, key, answer=Sender, unknown_status=406),
        Operation(
            "PUT",
            one,
            "update_sender",
            "Change a sender; what is not given stays.",
            _update,
            key,
            body=SenderChange,
            answer=Sender,
            unknown_status=406,
        ),
        Operation("DELETE", one, "delete_sender", "Delete a sender.", _delete, key, answer=Deleted, unknown_status=406),
        Operation(
            "POST",
            f"{one}/verify",
            "verify_sender",
            "Prove a sender with the code that was mailed to it.",
            _verify,
            key,
            body=Code,
            answer=Sender,
            unknown_status=406,
        ),
    ]


async def _list(call: Call) -> list[Sender]:
    request = sender_service_pb2.ListSendersRequest(
        parent="tenants/me", search=call.query["search"] or "", order_by="number"
    )
    return [_sender(found) for found in await call.page("senders", "ListSenders", request)]


async def _create(call: Call) -> Sender:
    body = await call.body(NewSender)
    _check_domain(body.fromEmail, body.domain)
    request = sender_service_pb2.CreateSenderRequest(
        parent="tenants/me",
        address=body.fromEmail.strip(),
        sender=sender_pb2.Sender(display_name=body.name or "", reply_to=body.replyToEmail or ""),
        request_id=idempotency.request_id(call.request),
    )
    return _sender(await answers.ask(call, "senders", "CreateSender", request, _FIELDS))


async def _count(call: Call) -> Count:
    return await answers.total(
        call, "senders", "ListSenders", sender_service_pb2.ListSendersRequest(parent="tenants/me")
    )


async def _get(call: Call) -> Sender:
    return _sender(await _read(call))


async def _update(call: Call) -> Sender:
    name, body = _name(call), await call.body(SenderChange)
    found = await _read(call)
    address = found.name.split("/", 3)[3]
    if isinstance(body.fromEmail, str) and body.fromEmail.strip().lower() != address:
        raise errors.invalid_body("fromEmail", "fromEmail cannot be changed: make another sender.")
    _check_domain(address, body.domain)
    wanted, paths = sender_pb2.Sender(name=name), []
    if isinstance(body.name, str):
        wanted.display_name = body.name
        paths.append("display_name")
    if isinstance(body.replyToEmail, str):
        wanted.reply_to = body.replyToEmail.strip()
        paths.append("reply_to")
    if not paths:
        return _sender(found)
    request = sender_service_pb2.UpdateSenderRequest(sender=wanted)
    request.update_mask.paths.extend(paths)
    return _sender(await _asked(call, "UpdateSender", request))


async def _delete(call: Call) -> Deleted:
    number = call.number("sender_id", WHAT)
    await _asked(call, "DeleteSender", sender_service_pb2.DeleteSenderRequest(name=_name(call)))
    return Deleted(number, "Sender deleted.")


async def _verify(call: Call) -> Sender:
    name, body = _name(call), await call.body(Code)
    request = sender_service_pb2.VerifySenderRequest(name=name, code=body.code)
    return _sender(await _asked(call, "VerifySender", request))


async def _read(call: Call) -> sender_pb2.Sender:
    return await _asked(call, "GetSender", sender_service_pb2.GetSenderRequest(name=_name(call)))


async def _asked(call: Call, method: str, request: object) -> sender_pb2.Sender:
    try:
        found: sender_pb2.Sender = await answers.ask(call, "senders", method, request, _FIELDS)
    except Refusal as refusal:
        raise answers.of_path(call, WHAT, refusal) from None
    return found


def _name(call: Call) -> str:
    return f"tenants/me/senders/{call.number('sender_id', WHAT)}"


def _check_domain(address: str, domain: _Text) -> None:
    """Refuse a domain that is not that of the address. Raises Problem 422."""
    if isinstance(domain, str) and domain and domain.strip().lower() != address.strip().rpartition("@")[2].lower():
        raise errors.invalid_body("domain", "domain must be that of fromEmail.")


def _sender(found: sender_pb2.Sender) -> Sender:
    address = found.name.split("/", 3)[3]
    return Sender(
        id=found.number,
        name=found.display_name,
        fromEmail=address,
        replyToEmail=found.reply_to,
        domain=address.rpartition("@")[2],
        verified=found.state == sender_pb2.Sender.STATE_VERIFIED,
        created=times.nanoseconds(found.create_time),
    )
