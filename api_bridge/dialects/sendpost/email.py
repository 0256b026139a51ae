"""Sending: one call for up to 1,000 recipients, each with a message and an id of its own.

All messages of a call go to the MTA together; what became of each recipient is in the answer, in the order of ``to``.
The call fails as a whole only if nothing of it was taken, for a reason that is not one of single recipients: a wrong
key, no credits, an outage. A send that is too large for one call to the MTA goes in several, and the answer tells what
was not taken of it, too.

``X-SendPost-Mock-Email: true`` has everything done but the sending, if the server has a domain for that.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

from barua.control.v1 import template_pb2, template_service_pb2
from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest, SubmitMessageResponse

from api_bridge import idempotency, messageids
from api_bridge.backend import IdempotencyKey
from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.sendpost import decoding, errors
from api_bridge.dialects.sendpost.composing import Batch, Sending, Stored
from api_bridge.dialects.sendpost.letter import EmailMessage, EmailResponse, TemplateMessage
from api_bridge.dialects.sendpost.operation import MAX_ID, Call, Key, Kind, Operation, Parameter
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal

OFF_LOOP_RECIPIENTS = 20
"""Messages for more than these are composed beside the loop: a hundred take some milliseconds."""

ACCEPTED = 0
INVALID_RECIPIENT = 1
SUPPRESSED = 2
DOMAIN_NOT_VERIFIED = 3
RATE_LIMITED = 4
INVALID_SENDER = 5

_Result = TypeVar("_Result")


class _Run(Protocol):
    """Where work is done."""

    async def __call__(self, work: Callable[[], _Result]) -> _Result: ...


_CODES: Mapping[Reason, int] = MappingProxyType(
    {
        Reason.INVALID_ARGUMENT: INVALID_RECIPIENT,
        Reason.RECIPIENT_SUPPRESSED: SUPPRESSED,
        Reason.SENDER_NOT_ALLOWED: DOMAIN_NOT_VERIFIED,
        Reason.RATE_LIMITED: RATE_LIMITED,
    }
)
"""Codes of the contract; what it has none for gets the HTTP status of the reason."""
_OF_RECIPIENTS = frozenset({Reason.RECIPIENT_SUPPRESSED, Reason.SENDER_NOT_ALLOWED})
"""Reasons that are told for each recipient, even if they are those of all."""
_OF_CALLERS = frozenset({Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED, Reason.TENANT_SUSPENDED})

_FIELDS = MappingProxyType({"pool": "ippool", "tags": "groups", "content": ""})
"""Fields of the MTA by the names here; the message as a whole has none."""

_HEADERS = (
    Parameter(
        "Idempotency-Key", description="The same request with the same key is sent once within 24 hours.", most=200
    ),
    Parameter("X-SendPost-Mock-Email", Kind.FLAG, "Do everything but the sending."),
    Parameter("X-SendPost-Mock-Time-Shift", description="Without effect.", most=200),
)


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    return [
        Operation(
            "POST",
            path,
            name,
            summary,
            send,
            Key.SUB_ACCOUNT,
            body=body,
            answer=list[EmailResponse],
            failures=(402, 403, 409),
            headers=_HEADERS,
            unknown_status=422,
            sends=True,
        )
        for path, name, summary, body in (
            ("/subaccount/email", "send_email", "Send a message to each recipient.", EmailMessage),
            ("/subaccount/email/template", "send_template", "Send a stored template.", TemplateMessage),
        )
    ]


async def send(call: Call) -> list[EmailResponse]:
    """Send to everybody in ``to``."""
    parts = call.dialect.parts
    async with parts.received(call.request) as data:
        if len(data) <= OFF_LOOP_BYTES:
            letter = _letter(call, data)
            few = len(letter.to) <= OFF_LOOP_RECIPIENTS
            return await _send(call, data, letter, _at_once if few else parts.bulk.compute, check=not few)
        async with parts.bulk.room(len(data)):
            letter = await parts.bulk.compute(lambda: _letter(call, data))
            return await _send(call, data, letter, parts.bulk.compute, check=True)


async def _at_once(work: Callable[[], _Result]) -> _Result:
    return work()


def _letter(call: Call, data: bytes) -> TemplateMessage:
    return decoding.decode(call.document(data), TemplateMessage)


async def _send(call: Call, data: bytes, letter: TemplateMessage, run: _Run, check: bool) -> list[EmailResponse]:
    """``run`` does what takes long; ``check``: the key is to be good before any of that is done."""
    parts = call.dialect.parts
    key = idempotency.key_of(call.request, data)
    sending = Sending(parts.tracker, letter.ippool or letter.ipPool or "", _mock_domain(call), call.peer)
    if check:
        await parts.backend.check_key(call.authorization, call.peer)
    stored = await _stored(call, letter)
    batch: Batch = await run(lambda: Batch(letter, stored, sending))
    outcomes: dict[int, SubmitMessageResponse | Refusal] = {}
    chunks = batch.chunks()
    number = 0
    while chunk := await run(lambda: next(chunks, None)):
        outcomes.update(await _submitted(call, chunk, _part(key, number), first=number == 0))
        number += 1
    if not number:
        await parts.backend.check_key(call.authorization, call.peer)  # nobody else has looked at it
    _raise_common(outcomes)
    left_out = _left_out(outcomes, batch.owners)
    return [
        _refused(to.email, INVALID_RECIPIENT, batch.rejected[index])
        if index in batch.rejected
        else _told(to.email, outcomes[index], left_out.get(index, ()))
        for index, to in enumerate(letter.to)
    ]


async def _stored(call: Call, letter: TemplateMessage) -> Stored | None:
    """The template that the message names, by name or id; an id may be its number. Raises Problem 422, Refusal."""
    wanted = template_service_pb2.FindTemplateRequest(parent="tenants/me")
    id_ = str(letter.templateId or "").strip()
    if id_:
        field = "templateId"
        if id_.isascii() and id_.isdecimal() and len(id_) <= 10 and 0 < int(id_) <= MAX_ID:
            wanted.number = int(id_)
        else:
            wanted.template_id = id_
    elif letter.template:
        field, wanted.display_name = "template", letter.template
    else:
        return None
    try:
        found: template_pb2.Template = await call.ask("templates", "FindTemplate", wanted)
    except Refusal as refusal:
        if refusal.reason in (Reason.NOT_FOUND, Reason.INVALID_ARGUMENT):
            raise errors.invalid_body(field, f"{field} names no template of this account.") from None
        raise
    return Stored(found.display_name, found.subject, found.html, found.text)


def _mock_domain(call: Call) -> str:
    """The domain that takes the place of all others for this send; empty: it is a real one. Raises Problem."""
    text = call.request.headers.get("x-sendpost-mock-email", "").strip().lower()
    if text in ("", "false", "0"):
        return ""
    if text not in ("true", "1"):
        raise errors.invalid_query("X-SendPost-Mock-Email", "X-SendPost-Mock-Email must be true or false.")
    domain = call.dialect.parts.mock_domain
    if not domain:
        raise errors.invalid_query("X-SendPost-Mock-Email", "X-SendPost-Mock-Email cannot be used on this server.")
    return domain


def _part(key: IdempotencyKey | None, number: int) -> IdempotencyKey | None:
    """The key of one of the calls that a send becomes; which messages are in which follows from the request alone."""
    if key is None or number == 0:
        return key
    digest = hashlib.sha256(f"{number} {key.text}".encode()).hexdigest()
    return IdempotencyKey(f"part-{digest}", key.fingerprint)


async def _submitted(
    call: Call, chunk: Sequence[tuple[int, SubmitMessageRequest]], key: IdempotencyKey | None, *, first: bool
) -> Mapping[int, SubmitMessageResponse | Refusal]:
    """What became of each. Raises Refusal if nothing was sent before."""
    submissions = [submission for _, submission in chunk]
    try:
        answers = await call.dialect.parts.backend.submit(
            submissions, authorization=call.authorization, peer=call.peer, key=key
        )
    except Refusal as refusal:
        if first:
            raise
        return {index: refusal for index, _ in chunk}
    return {index: answer for (index, _), answer in zip(chunk, answers, strict=True)}


def _raise_common(outcomes: Mapping[int, SubmitMessageResponse | Refusal]) -> None:
    """Raise the refusal of all, unless something was taken or the reason is one of single recipients."""
    refusals = [_in_json_names(answer) for answer in outcomes.values() if isinstance(answer, Refusal)]
    for refusal in refusals:
        if refusal.reason in _OF_CALLERS:
            raise refusal
    if not refusals or len(refusals) < len(outcomes):
        return
    for refusal in refusals:
        if refusal.reason in _OF_RECIPIENTS or _concerns_address(refusal):
            return
    raise refusals[0]


def _in_json_names(refusal: Refusal) -> Refusal:
    """The refusal with its field as the client calls it."""
    name = _FIELDS.get(refusal.field or "")
    if name is None:
        return refusal
    text = re.sub(rf"\b{refusal.field}\b", name, refusal.message) if name else refusal.message
    return Refusal(refusal.reason, text, field=name or None, retry_after=refusal.retry_after, metadata=refusal.metadata)


def _concerns_address(refusal: Refusal) -> bool:
    field = refusal.field or ""
    return refusal.reason is Reason.INVALID_ARGUMENT and field.startswith(("recipients", "sender"))


def _left_out(
    outcomes: Mapping[int, SubmitMessageResponse | Refusal], owners: Mapping[int, int]
) -> Mapping[int, Sequence[str]]:
    """Why copies of a recipient's message were not taken, by the recipient's place."""
    found: dict[int, list[str]] = {}
    for place, answer in outcomes.items():
        reasons: list[str] = []
        if not isinstance(answer, Refusal):
            copies = answer.results[0 if place < 0 else 1 :]
            reasons = [f"{one.recipient}: {rpc.refusal_in(one.status).message}" for one in copies if one.status.code]
        elif place < 0:
            reasons = [errors.problem(answer).message]
        if reasons:
            found.setdefault(owners.get(place, place), []).extend(reasons)
    return found


def _told(to: str, answer: SubmitMessageResponse | Refusal, left_out: Sequence[str] = ()) -> EmailResponse:
    """What became of a recipient, which is the first of its message, and why copies of it were ``left_out``."""
    if isinstance(answer, Refusal):
        return _refused(to, _code(answer), errors.problem(answer).message)
    result = answer.results[0]
    if result.status.code == 0:
        text = f"Accepted, but not for all copies: {'; '.join(left_out)}" if left_out else "Accepted."
        id_ = result.recipient_id
        return EmailResponse(to, _nanoseconds(id_), messageids.uuid(id_), ACCEPTED, text)
    refusal = rpc.refusal_in(result.status)
    return _refused(to, _code(refusal), errors.problem(refusal).message, result.recipient_id)


def _code(refusal: Refusal) -> int:
    if refusal.reason is Reason.INVALID_ARGUMENT and (refusal.field or "").startswith("sender"):
        return INVALID_SENDER
    code = _CODES.get(refusal.reason)
    return errors.problem(refusal).status if code is None else code


def _refused(to: str, code: int, message: str, id_: int = 0) -> EmailResponse:
    submitted = _nanoseconds(id_) if id_ else time.time_ns() // 1_000_000 * 1_000_000
    return EmailResponse(to, submitted, messageids.uuid(id_) if id_ else "", code, message)


def _nanoseconds(id_: int) -> int:
    return messageids.unix_ms(id_) * 1_000_000
