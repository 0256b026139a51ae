"""``POST /smtp/emails``: a message, sent.

The message has one id for its sender, that of its first recipient. Without tracking it is one message with several
recipients. With tracking, or a link to unsubscribe, each recipient gets a copy with links of its own, all in one call.
Recipients that are suppressed are recorded and dropped silently, as the original does; if others are refused, but not
all, ``failed`` names them, which the original does not do. Success means that the message is on disk.

A large message (``bulk``) is read and composed beside the loop, and composed only when the MTA knows its credentials,
so that strangers cannot have the bridge work for them.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from barua.control.v1.domain_service_pb2 import ListDomainsRequest
from barua.control.v1.sender_service_pb2 import ListSendersRequest
from barua.control.v1.template_service_pb2 import RenderTemplateRequest
from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest, SubmitMessageResponse

from api_bridge import idempotency, messageids, mime
from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.sendpulse import errors, sending
from api_bridge.dialects.sendpulse.calls import ME, NAME, Call, Reader, answered, credentials
from api_bridge.dialects.sendpulse.decoder import Undecodable
from api_bridge.dialects.sendpulse.sending import Draft, Mail
from api_bridge.endpoint import peer_of
from api_bridge.fieldtext import FieldError
from api_bridge.precedence import credentials_first
from api_bridge.problems import Problem
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal

_Result = TypeVar("_Result")

UNSUBSCRIBE = "{{unsubscribe_url}}"
"""What stands for the address of the page where the recipient unsubscribes."""
MAX_COPIES_BYTES = 33_554_432
"""All copies of a message together, roughly; one that would take more is sent as one message, without links of ours."""
MANY_RECIPIENTS = 50
"""Copies for more than these are made beside the loop, however small the message is."""
ID_FIELD = "x-message-id"
"""Header field of the answer: the message's id as a whole number, which is understood wherever an id is."""


def handler(reader: Reader) -> Callable[[Request], Awaitable[Response]]:
    """For ``Endpoint``."""

    async def handle(request: Request) -> Response:
        authorization = credentials(request)
        reader.parts.rates.admit(NAME, authorization)
        try:
            return await _received(reader, request, authorization)
        except Problem as problem:
            await credentials_first(problem, reader.parts.backend, authorization, peer_of(request), sends=True)
            if problem.status == 413 and problem.code is None:
                raise errors.TOO_LARGE.problem(dict(problem.headers)) from None
            raise

    return handle


async def _received(reader: Reader, request: Request, authorization: str) -> Response:
    async with reader.parts.received(request) as data:
        try:
            if len(data) <= OFF_LOOP_BYTES:
                return await _send(reader, request, authorization, data)
            async with reader.parts.bulk.room(len(data)):
                return await _send(reader, request, authorization, data)
        except Undecodable:
            raise errors.BADLY_FORMED.problem() from None


async def _send(reader: Reader, request: Request, authorization: str, data: bytes) -> Response:
    call = Call(reader.parts, reader.options, request, authorization, await reader.parameters(request, data), data)
    key = idempotency.key_of(request, data)
    draft = await _compute(call, lambda: sending.draft(call.parameters, raw_html=call.options.raw_html))
    html, text = await _rendered(call, draft) if draft.template is not None else (draft.html, draft.text)
    mail = await _compute(call, lambda: sending.finish(draft, html, text))
    try:
        if len(data) > OFF_LOOP_BYTES:
            await call.parts.backend.check_key(authorization, call.peer)
        many = len(mail.recipients) > MANY_RECIPIENTS
        submissions = await _compute(call, lambda: _submissions(call, mail), beside=many)
        answers = await call.parts.backend.submit(submissions, authorization=authorization, peer=call.peer, key=key)
    except FieldError as error:
        raise errors.invalid(error.field.partition(" ")[0]) from None
    except Refusal as refusal:
        raise await _refused(call, refusal) from None
    return await _answer(call, submissions, answers)


async def _compute(call: Call, work: Callable[[], _Result], *, beside: bool = False) -> _Result:
    """What ``work`` returns or raises; beside the loop if the message is large, or ``beside`` is set."""
    large = len(call.body) > OFF_LOOP_BYTES
    return await call.parts.bulk.compute(work) if large or beside else work()


async def _rendered(call: Call, draft: Draft) -> tuple[str, str]:
    """The template's HTML and text with its variables; the message's own text goes before the template's."""
    template = draft.template
    assert template is not None
    variables = template.variables
    if call.options.unsubscribe_links and call.parts.tracker.on:
        variables = {UNSUBSCRIBE.strip("{}"): UNSUBSCRIBE, **variables}  # each recipient's copy gets its own later
    request = RenderTemplateRequest(name=f"{ME}/templates/{template.id.lower()}", variables=variables)
    try:
        answer = await call.ask("templates", "RenderTemplate", request)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND or (
            refusal.reason is Reason.INVALID_ARGUMENT and refusal.field == "name"
        ):
            raise errors.TEMPLATE_NOT_FOUND.problem() from None
        if refusal.reason is Reason.INVALID_ARGUMENT:
            raise errors.VARIABLES_INVALID.problem() from None
        raise
    if not answer.html and not answer.text:
        raise errors.TEMPLATE_EMPTY.problem()
    return answer.html, draft.text or answer.text


def _submissions(call: Call, mail: Mail) -> list[SubmitMessageRequest]:
    """One message for all recipients, or, with links of ours in it, a copy for each. Raises FieldError."""
    said = {**mail.properties, "client_address": call.peer}
    sender = mail.message.author.address if mail.message.author is not None else ""
    if not _has_links(call, mail):
        content, properties = mime.compose(mail.message), sending.shown(said)
        return [_submission(sender, mail.recipients, content, properties, b"")]
    if mail.message.html:
        said |= {"track_opens": call.options.track_opens, "track_clicks": call.options.track_clicks}
    properties = sending.shown(said)
    submissions = []
    for recipient in mail.recipients:
        reference = call.parts.tracker.reference()
        content = mime.compose(_copy(call, mail.message, reference))
        submissions.append(_submission(sender, [recipient], content, properties, reference))
    return submissions


def _submission(
    sender: str, recipients: Sequence[str], content: bytes, properties: str, reference: bytes
) -> SubmitMessageRequest:
    return SubmitMessageRequest(
        sender=sender,
        recipients=recipients,
        content=content,
        properties=properties,
        reference=reference,
        record_suppressed=True,
    )


def _copy(call: Call, message: mime.Message, reference: bytes) -> mime.Message:
    """The message with links for one recipient."""
    # Large messages are made in a thread: what the tracker remembers of others may be looked up twice then, no more.
    options, tracker = call.options, call.parts.tracker
    html, text, url = message.html, message.text, ""
    if options.unsubscribe_links:
        url = tracker.unsubscribe_url(reference)
        html = html.replace(UNSUBSCRIBE, tracker.unsubscribe_link(reference))
        text = text.replace(UNSUBSCRIBE, url)
    if html:
        html = tracker.track(html, reference, opens=options.track_opens, clicks=options.track_clicks)
    return replace(message, html=html, text=text, unsubscribe=url)


def _has_links(call: Call, mail: Mail) -> bool:
    """Whether each recipient gets links of its own."""
    message, options = mail.message, call.options
    size = len(message.html) + len(message.text) + sum(len(file.content) for file in message.attachments)
    if (size + 64 * len(mail.recipients)) * len(mail.recipients) > MAX_COPIES_BYTES:
        return False
    tracked = bool(message.html) and (options.track_opens or options.track_clicks)
    return call.parts.tracker.on and (tracked or options.unsubscribe_links)


async def _answer(
    call: Call, submissions: Sequence[SubmitMessageRequest], answers: Sequence[SubmitMessageResponse | Refusal]
) -> Response:
    """The id of the first recipient that has one, and who was refused."""
    id_, failed = 0, []
    for submission, answer in zip(submissions, answers, strict=True):
        if isinstance(answer, Refusal):
            failed += [(recipient, answer) for recipient in submission.recipients]
            continue
        id_ = id_ or answer.message_id
        failed += [
            (result.recipient, rpc.refusal_in(result.status))
            for result in answer.results
            if result.status.code and not result.recipient_id
        ]
    if not id_:
        raise await _refused(call, failed[0][1])
    body: dict[str, Any] = {"result": True, "id": messageids.base36(id_)}
    if failed:
        body["failed"] = [_failure(recipient, refusal) for recipient, refusal in failed]
    response = answered(body)
    response.headers[ID_FIELD] = str(id_)
    return response


def _failure(recipient: str, refusal: Refusal) -> dict[str, Any]:
    problem = errors.sending(refusal)
    return {"email": recipient, "message": problem.message, "error_code": problem.code or problem.status}


async def _refused(call: Call, refusal: Refusal) -> Problem:
    """What to answer; a sender is not valid, or the account has none at all: it was never set up."""
    if refusal.reason is Reason.SENDER_NOT_ALLOWED and not await has_sender(call):
        return errors.NO_SMTP_USER.problem()
    return errors.sending(refusal)


async def has_sender(call: Call) -> bool:
    """Whether there is anything that the account could send from, or it has begun to add some; if in doubt, yes."""
    try:
        await call.parts.backend.check_sender(call.authorization, call.peer)
    except Refusal as refusal:
        if refusal.reason is not Reason.SENDER_NOT_ALLOWED:
            return True
    else:
        return True  # a domain of its own, or of a tenant above it
    try:
        domains = await call.ask("domains", "ListDomains", ListDomainsRequest(parent=ME, page_size=1))
        senders = await call.ask("senders", "ListSenders", ListSendersRequest(parent=ME, page_size=1))
    except Refusal:
        return True
    return bool(domains.domains or senders.senders)
