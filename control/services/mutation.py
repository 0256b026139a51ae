"""How a change is made: one transaction, idempotent by request id, dry if asked.

``Mutations.run`` records the answer to a request that carries a ``request_id`` together with its effect; a repeat with
the same body gets that answer, another body REQUEST_ID_REUSED. ``validate_only`` does everything and rolls back, so a
dry run meets exactly the refusals of the real one. Checks before ``run`` and refusals inside leave no record.

A connection that breaks during COMMIT leaves open whether the change was made. With a request id the transaction then
runs again on another connection: claiming the id waits for the lost transaction, if the server is still at it, and
tells what became of it. Either the recorded answer is given, or there is none and the change is made now. Without a
request id the caller gets UNAVAILABLE and has to look.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields
from control.sealing import Sealer
from control.store import request_log
from control.store.request_log import RequestKey

Answer = TypeVar("Answer", bound=Message)


class Mutations:
    """Makes changes."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def run(
        self,
        request: Any,
        answer_type: type[Answer],
        effect: Callable[[Connection], Awaitable[Answer]],
        kept: Callable[[Answer], Answer] | None = None,
    ) -> Answer:
        """Have ``effect`` change the database and give the answer, or give the earlier answer to this request.

        ``kept`` makes of an answer what is recorded, where the answer holds a secret.
        """
        dry = bool(getattr(request, "validate_only", False))
        key = self._key(request) if request.request_id and not dry else None
        # What the runs of this very call would have recorded: more than the record if that leaves a secret out.
        own: dict[bytes, Answer] = {}

        async def work(connection: Connection) -> Answer:
            if key is None:
                return await effect(connection)
            earlier = await request_log.claim(connection, key)
            if earlier is not None:
                return own[earlier] if earlier in own else answer_type.FromString(earlier)
            answer = await effect(connection)
            record = (kept(answer) if kept is not None else answer).SerializeToString()
            request_log.answer(connection, key, record)
            own[record] = answer
            return answer

        return await self._database.transact(work, keep=not dry, repeatable=key is not None)

    async def earlier(self, request: Any, answer_type: type[Answer]) -> Answer | None:
        """The answer to an earlier run of this request; for effects with costly preparations. ``run`` looks again."""
        if not request.request_id or request.validate_only:
            return None
        key = self._key(request)
        kept = await self._database.transact(lambda connection: request_log.find(connection, key))
        return answer_type.FromString(kept) if kept is not None else None

    def _key(self, request: Any) -> RequestKey:
        request_id = fields.identifier(request.request_id, "request_id")
        body = type(request)()
        body.CopyFrom(request)
        body.ClearField("request_id")
        fingerprint = self._sealer.fingerprint(body.SerializeToString(deterministic=True))
        return RequestKey(caller().tenant_id, request.DESCRIPTOR.full_name, request_id, fingerprint)
