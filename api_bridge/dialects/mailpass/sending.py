"""Sending: one message, or a batch of up to 100.

A single send is answered once its message is durable; then it is "sent": the MTA is the provider, or has the provider's
queue. A message fails as a whole when its recipient is suppressed, or any address is none; copies to suppressed
addresses are left out and on record.

A batch is stored with one call. Items that are wrong fail alone, with a row that says why; a limit, or credits, that do
not suffice for all others fail the whole batch, so that a repetition sends nothing twice.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from barua.control.v1 import history_service_pb2
from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest

from api_bridge import idempotency
from api_bridge.backend import IdempotencyKey, Submitted
from api_bridge.bulk import OFF_LOOP_BYTES
from api_bridge.dialects.mailpass import errors, shapes
from api_bridge.dialects.mailpass.calls import ME, Call
from api_bridge.dialects.mailpass.shapes import Composer, Defaults, Letter
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

LOOK_SECONDS = 0.1
"""Between looks at a message whose outcome is waited for."""

_ACCOUNTS = frozenset({errors.NO_SMTP_PROVIDER, errors.SEND_LIMIT_EXCEEDED})
"""Codes that say nothing of a single message."""

_Outcome = Submitted | Problem


async def send(call: Call) -> dict[str, Any]:
    """``POST /api/v1/mail/send``."""
    async with call.parts.received(call.request) as data:
        if len(data) > OFF_LOOP_BYTES:
            async with call.parts.bulk.room(len(data)):
                return await _send(call, data)
        return await _send(call, data)


async def send_batch(call: Call) -> dict[str, Any]:
    """``POST /api/v1/mail/send-batch``."""
    async with call.parts.received(call.request) as data:
        if len(data) > OFF_LOOP_BYTES:
            async with call.parts.bulk.room(len(data)):
                return await _send_batch(call, data)
        return await _send_batch(call, data)


async def _send(call: Call, data: bytes) -> dict[str, Any]:
    key = idempotency.key_of(call.request, data)
    letter: Letter = await call.compute(data, lambda: shapes.letter(call.parse(data)))
    if len(data) > OFF_LOOP_BYTES:
        await call.parts.backend.check_key(call.authorization, call.peer)
    composer = _composer(call, batch=False)
    submission: SubmitMessageRequest = await call.compute(data, lambda: composer.compose(letter))
    [outcome] = await _submit(call, [letter], [submission], key)
    if isinstance(outcome, Problem):
        raise outcome
    if call.options.wait_seconds:
        await _wait(call, outcome)
    return {
        "message_id": outcome.message_id_header,
        "status": "sent",
        "to": letter.to,
        "from": letter.from_email or outcome.sender,
    }


async def _send_batch(call: Call, data: bytes) -> dict[str, Any]:
    key = idempotency.key_of(call.request, data)
    items, defaults = await call.compute(data, lambda: shapes.batch(call.parse(data)))
    if len(data) > OFF_LOOP_BYTES:
        await call.parts.backend.check_key(call.authorization, call.peer)
    composer = _composer(call, batch=True)
    checked = await call.compute(data, lambda: [_checked(composer, item, defaults) for item in items])
    good = [one for one in checked if not isinstance(one, Problem)]
    if good:
        letters, submissions = [letter for letter, _ in good], [submission for _, submission in good]
        found = iter(await _submit(call, letters, submissions, key))
    else:
        await call.parts.backend.check_key(call.authorization, call.peer)
        found = iter(())
    outcomes: list[_Outcome] = [one if isinstance(one, Problem) else next(found) for one in checked]
    _judge(outcomes)
    rows = [_row(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
    queued = sum(row["status"] == "queued" for row in rows)
    return {"total": len(rows), "queued": queued, "failed": len(rows) - queued, "messages": rows}


def _composer(call: Call, *, batch: bool) -> Composer:
    options, parts = call.options, call.parts
    return Composer(parts.tracker, options.track_opens, options.track_clicks, parts.hostname, call.peer, batch)


def _checked(composer: Composer, item: Any, defaults: Defaults) -> tuple[Letter, SubmitMessageRequest] | Problem:
    try:
        letter = shapes.letter(item, defaults)
        return letter, composer.compose(letter)
    except Problem as problem:
        return problem


async def _submit(
    call: Call, letters: Sequence[Letter], submissions: Sequence[SubmitMessageRequest], key: IdempotencyKey | None
) -> list[_Outcome]:
    """What became of each. Raises Refusal if nothing of it could be tried."""
    answers = await call.parts.backend.submit(
        submissions, authorization=call.authorization, peer=call.peer, key=key, together=True
    )
    return [_outcome(letter, answer) for letter, answer in zip(letters, answers, strict=True)]


def _outcome(letter: Letter, answer: Submitted | Refusal) -> _Outcome:
    if isinstance(answer, Refusal):
        return errors.sending_problem(answer, from_named=bool(letter.from_email))
    return answer


def _judge(outcomes: Sequence[_Outcome]) -> None:
    """Raise what concerns the whole batch: nothing was queued, and not for what single messages are."""
    problems = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    if len(problems) < len(outcomes):
        return
    for problem in problems:
        if problem.code in _ACCOUNTS or problem.status >= 500:
            raise problem


def _row(item: Any, outcome: _Outcome) -> dict[str, Any]:
    if isinstance(outcome, Problem):
        return {"to": shapes.to_of(item), "status": "failed", "error": outcome.message}
    id_ = outcome.message_id
    return {"to": shapes.to_of(item), "status": "queued", "queue_id": id_, "message_id": outcome.message_id_header}


async def _wait(call: Call, sent: Submitted) -> None:
    """Wait for the outcome of a message. Raises Problem SEND_FAILED if it is refused for good meanwhile."""
    record = history_service_pb2.MessageRecord
    request = history_service_pb2.GetMessageRecordRequest(name=f"{ME}/messages/{sent.message_id}")
    clock = asyncio.get_running_loop().time
    until = clock() + call.options.wait_seconds
    while clock() < until:
        try:
            found = await call.ask("history", "GetMessageRecord", request)
        except Refusal:  # it is not on record yet, or control is away: the message is stored all the same
            found = record()
        if found.state == record.STATE_BOUNCED:
            raise errors.failed(f"The message was refused: {found.last_reply}")
        if found.state == record.STATE_DELIVERED:
            return
        await asyncio.sleep(LOOK_SECONDS)
