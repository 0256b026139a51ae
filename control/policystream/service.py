"""PolicyService: the numbered stream of changes.

A stream holds no transaction open and keeps nothing in memory but its revision and pending recalls: each step is read
from the database when the node is ready for it, so a slow node slows nobody and grows nothing.

A snapshot is read page by page, while changes go on. It carries the revision from before its first page, and the log
goes on from there: whatever changed meanwhile is sent once more, as it is then.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from prometheus_client import Gauge

from barua.policy.v1 import policy_service_pb2
from barua.policy.v1.policy_service_pb2 import WatchPolicyResponse
from barua.policy.v1.policy_service_pb2_grpc import PolicyServiceServicer

from control.announcements import Announcements, Subscriber
from control.database import Connection, Database
from control.model import fields
from control.policystream import records
from control.store import policy_log
from control.store.credential_use import Credential
from control.store.policy_log import Head
from control.usage import Usage
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]

PROGRESS_SECONDS = 4.0
"""Between signs of life; nodes expect one every five seconds."""
BATCH = 5000
"""Changes sent at once: a node that is behind catches up in large steps."""
MAX_USES = 100_000
"""Uses of credentials in one report."""

_USED = {
    policy_service_pb2.CredentialUse.KIND_LOGIN: Credential.LOGIN,
    policy_service_pb2.CredentialUse.KIND_API_KEY: Credential.API_KEY,
    policy_service_pb2.CredentialUse.KIND_OAUTH_CLIENT: Credential.OAUTH_CLIENT,
}

_node_revision = Gauge("barua_control_node_revision", "Policy revision in force on a node, as it said last.", ["node"])


class PolicyServicer(PolicyServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, announcements: Announcements, usage: Usage) -> None:
        self._database = database
        self._announcements = announcements
        self._usage = usage

    async def WatchPolicy(
        self, request: policy_service_pb2.WatchPolicyRequest, context: _Context
    ) -> AsyncIterator[WatchPolicyResponse]:
        """See the proto."""
        node = _checked_node(request.node)
        with self._announcements.subscription() as subscriber:
            head = await self._database.transact(policy_log.head)
            position = request.after_revision
            if not head.can_continue(request.lineage, position):
                log.info("policy_snapshot_sent", node=node, after_revision=position, revision=head.revision)
                async for step in self._snapshot(head):
                    yield step
                position = head.revision
            subscriber.tell(revision=head.revision)
            async for step in self._follow(subscriber, head.lineage, position):
                yield step

    async def ReportRevision(
        self, request: policy_service_pb2.ReportRevisionRequest, context: _Context
    ) -> policy_service_pb2.ReportRevisionResponse:
        """See the proto."""
        node = _checked_node(request.node)
        await self._database.transact(lambda c: policy_log.report_node(c, node, request.revision))
        _node_revision.labels(node).set(request.revision)
        return policy_service_pb2.ReportRevisionResponse()

    async def ReportCredentialUses(
        self, request: policy_service_pb2.ReportCredentialUsesRequest, context: _Context
    ) -> policy_service_pb2.ReportCredentialUsesResponse:
        """See the proto."""
        _checked_node(request.node)
        if len(request.uses) > MAX_USES:
            raise fields.invalid("uses", f"uses must have at most {MAX_USES} entries; it has {len(request.uses)}")
        for use in request.uses:
            kind = _USED.get(use.kind)
            if kind is not None and "\0" not in use.id:
                self._usage.note(kind, use.id)
        return policy_service_pb2.ReportCredentialUsesResponse()

    async def _snapshot(self, head: Head) -> AsyncIterator[WatchPolicyResponse]:
        yield WatchPolicyResponse(snapshot_begin=policy_service_pb2.SnapshotBegin(lineage=head.lineage))
        async for page in records.snapshot(self._database):
            # Without a revision: a node has none in force before the end.
            yield WatchPolicyResponse(changes=policy_service_pb2.ChangeBatch(changes=page))
        yield WatchPolicyResponse(snapshot_end=policy_service_pb2.SnapshotEnd(revision=head.revision))

    async def _follow(self, subscriber: Subscriber, lineage: str, position: int) -> AsyncIterator[WatchPolicyResponse]:
        """Everything after ``position``, until the process stops or the history is another one."""
        next_progress = 0.0
        while not subscriber.ended:
            for tenant_id in subscriber.take_recalls():
                yield WatchPolicyResponse(recall=policy_service_pb2.LeaseRecall(tenant_id=tenant_id))
            if subscriber.revision > position:
                batch = await self._batch_after(lineage, position)
                position = batch.revision
                yield WatchPolicyResponse(changes=batch)
                continue
            if time.monotonic() >= next_progress:
                next_progress = time.monotonic() + PROGRESS_SECONDS
                await self._check_history(lineage, position)
                yield WatchPolicyResponse(progress=policy_service_pb2.Progress(revision=position))
            await subscriber.changed(max(0.0, next_progress - time.monotonic()))
        raise _cannot_go_on()

    async def _check_history(self, lineage: str, position: int) -> None:
        try:
            head = await self._database.transact(policy_log.head)
        except Refusal:
            return  # the database is away; a node that keeps its stream hears at once of what comes after
        _check(head, lineage, position)

    async def _batch_after(self, lineage: str, position: int) -> policy_service_pb2.ChangeBatch:
        async def read(connection: Connection) -> policy_service_pb2.ChangeBatch:
            logged = await policy_log.changes_after(connection, position, BATCH)
            # After the changes: then a log that was cut between the two reads is seen to be cut.
            _check(await policy_log.head(connection), lineage, position)
            if not logged:
                raise _cannot_go_on()
            changes = await records.changes_of(connection, [change.key for change in logged])
            return policy_service_pb2.ChangeBatch(changes=changes, revision=logged[-1].revision)

        return await self._database.transact(read)


def _check(head: Head, lineage: str, position: int) -> None:
    if not head.can_continue(lineage, position):
        raise _cannot_go_on()


def _cannot_go_on() -> Refusal:
    return Refusal(Reason.UNAVAILABLE, "the stream cannot go on from here; connect again", retry_after=1.0)


def _checked_node(node: str) -> str:
    if not node:
        raise fields.invalid("node", "node must be the name of the node")
    return fields.text(node, "node", 63)
