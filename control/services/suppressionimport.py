"""Taking in lists of suppressions of any length, in pieces, each of them one transaction.

Nothing of a list is kept in memory but its current piece. When the nodes fall behind, the import waits for them: their
stream is in order, and a key that is revoked meanwhile must not wait behind millions of addresses.

Errors: INVALID_ARGUMENT for a message that cannot be used at all, NOT_FOUND for the tenant, UNAVAILABLE if the client
falls silent or the database is away. What was written stays, and sending it again changes nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

from barua.control.v1 import suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression as SuppressionProto

from control.database import Connection, Database
from control.model import fields, names
from control.model.caller import Caller, acting_for_platform
from control.model.suppressions import Draft, Place
from control.services import suppressionshapes as shapes
from control.store import policy_log, suppressions, tenants
from control.store.suppressions import Existing
from mta.runtime.refusals import Reason, Refusal

MAX_LINES = 5_000
"""Lines of one message: one transaction."""
MAX_ERRORS = 100
"""Errors that are told one by one."""
SILENCE_SECONDS = 60.0
"""A client that sends nothing for so long has gone."""
NODES_BEHIND = 20_000
"""Changes that nodes may be behind before an import waits: less than a second's work for them."""
WAIT_SECONDS = 2.0
"""A node that comes no nearer for so long hangs, or is away: it takes what it lacks when it comes back."""
LOOK_SECONDS = 0.1
_SHOWN = 320

_Pieces = AsyncIterator[suppression_service_pb2.ImportSuppressionsRequest]


class SuppressionImport:
    """One call of ImportSuppressions."""

    def __init__(self, database: Database, me: Caller) -> None:
        self._database = database
        self._me = me
        self._answer = suppression_service_pb2.ImportSuppressionsResponse()
        self._patient = True

    async def run(self, pieces: _Pieces) -> suppression_service_pb2.ImportSuppressionsResponse:
        """Take in everything; the counts."""
        first = await _next(pieces)
        if first is None:
            raise fields.invalid("parent", "parent must be tenants/{tenant} in the first message; there was none")
        tenant_id = names.tenant(first.parent, self._me.tenant_id, "parent")
        await self._database.transact(lambda c: tenants.visible(c, self._me.tenant_id, tenant_id))
        existing = Existing.KEEP if first.keep_existing else Existing.REPLACE
        piece: suppression_service_pb2.ImportSuppressionsRequest | None = first
        while piece is not None:
            drafts = self._checked(piece.suppressions)
            if first.validate_only:
                self._answer.created_count += len(drafts)
            elif drafts:
                await self._write(tenant_id, drafts, existing)
                await self._wait_for_nodes()
            piece = await _next(pieces)
            if piece is not None and piece.parent:
                raise fields.invalid("parent", "parent belongs in the first message alone; leave it out of the others")
        return self._answer

    def _checked(self, lines: Iterable[SuppressionProto]) -> list[Draft]:
        """The lines that can be used, each key once."""
        now = datetime.now(UTC)
        drafts: dict[Place, Draft] = {}
        count = 0
        for line in lines:
            count += 1
            if count > MAX_LINES:
                raise fields.invalid("suppressions", f"suppressions must be at most {MAX_LINES} in one message")
            self._answer.line_count += 1
            try:
                draft = shapes.draft(line, line.address, "suppression", now, dated=True)
            except Refusal as refusal:
                self._failed(line.address, refusal.message)
                continue
            place = Place(draft.address, draft.stream)
            self._answer.unchanged_count += place in drafts
            drafts[place] = draft
        return list(drafts.values())

    def _failed(self, address: str, message: str) -> None:
        self._answer.error_count += 1
        if len(self._answer.errors) < MAX_ERRORS:
            self._answer.errors.add(line=self._answer.line_count, address=address[:_SHOWN], message=message)

    async def _write(self, tenant_id: str, drafts: list[Draft], existing: Existing) -> None:
        async def work(connection: Connection) -> tuple[int, int]:
            await tenants.visible(connection, self._me.tenant_id, tenant_id)
            return await suppressions.put(connection, tenant_id, drafts, self._me.name, existing)

        created, updated = await self._database.transact(work, repeatable=True)
        self._answer.created_count += created
        self._answer.updated_count += updated
        self._answer.unchanged_count += len(drafts) - created - updated

    async def _wait_for_nodes(self) -> None:
        """Wait while nodes are behind and come nearer; for one that does not, this import does not wait again."""
        least, deadline = None, time.monotonic() + WAIT_SECONDS
        while self._patient and (behind := await self._nodes_behind()) > NODES_BEHIND:
            if least is None or behind < least:
                least, deadline = behind, time.monotonic() + WAIT_SECONDS
            self._patient = time.monotonic() < deadline
            await asyncio.sleep(LOOK_SECONDS)

    async def _nodes_behind(self) -> int:
        with acting_for_platform():
            return await self._database.transact(policy_log.nodes_behind)


async def _next(pieces: _Pieces) -> suppression_service_pb2.ImportSuppressionsRequest | None:
    """The next message; None: there is none."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(pieces, None)
    except TimeoutError:
        raise Refusal(Reason.UNAVAILABLE, f"nothing came for {SILENCE_SECONDS:.0f} s; send the list again") from None
