"""QueueService: what is queued in the spools of this machine, read from the files themselves.

So it answers also for a worker that is down. For the operator.
"""

import asyncio
import hmac
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import grpc

from barua.mta.v1 import queue_service_pb2 as pb
from barua.mta.v1 import queue_service_pb2_grpc as services

from mta.message.ids import MAX_ID
from mta.node.convert import timestamp
from mta.runtime.refusals import Reason, Refusal
from mta.spool.schema import connect

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

DEFAULT_PAGE = 50
MAX_PAGE = 1000

_SUMMARY = """
    SELECT r.domain, count(*), min(m.received_ms), min(r.due_ms)
    FROM recipient r JOIN message m USING (message_id) GROUP BY r.domain
"""
_RECIPIENTS = """
    SELECT r.recipient_id, r.message_id, r.tenant, m.sender, r.address, m.size, r.attempts, m.received_ms, r.due_ms,
           r.reason
    FROM recipient r JOIN message m USING (message_id)
    WHERE r.recipient_id > :after AND (:domain = '' OR r.domain = :domain) AND (:tenant = '' OR r.tenant = :tenant)
      AND (:id = 0 OR r.recipient_id = :id OR r.message_id = :id)
    ORDER BY r.recipient_id LIMIT :limit
"""


class QueueService(services.QueueServiceServicer):
    """Serves ``barua.mta.v1.QueueService``."""

    def __init__(self, spools: Sequence[Path], operator_token: str) -> None:
        self._spools = spools
        self._token = f"Bearer {operator_token}".encode()
        self._thread = ThreadPoolExecutor(1, "queue-listing")

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        services.add_QueueServiceServicer_to_server(self, server)
        return pb.DESCRIPTOR.services_by_name["QueueService"].full_name

    async def ListQueues(self, request: pb.ListQueuesRequest, context: Context) -> pb.ListQueuesResponse:
        """Count queued recipients per domain; see the proto."""
        self._authorise(context)
        limit = _page_size(request.page_size)
        if request.page_token:
            raise Refusal(Reason.INVALID_ARGUMENT, "there is only one page", field="page_token")
        rows = await self._in_thread(lambda: [row for spool in self._spools for row in _query(spool, _SUMMARY, {})])
        merged: dict[str, tuple[int, int, int]] = {}
        for domain, count, oldest, due in rows:
            known = merged.get(domain, (0, oldest, due))
            merged[domain] = (known[0] + count, min(known[1], oldest), min(known[2], due))
        order = sorted(merged.items(), key=lambda entry: (-entry[1][0], entry[0]))[:limit]
        return pb.ListQueuesResponse(
            queues=[
                pb.QueueSummary(
                    domain=domain,
                    recipient_count=count,
                    oldest_receive_time=timestamp(oldest),
                    next_attempt_time=timestamp(due),
                )
                for domain, (count, oldest, due) in order
            ]
        )

    async def ListQueuedRecipients(
        self, request: pb.ListQueuedRecipientsRequest, context: Context
    ) -> pb.ListQueuedRecipientsResponse:
        """List queued recipients; see the proto."""
        self._authorise(context)
        limit = _page_size(request.page_size)
        parameters: dict[str, int | str] = {
            "after": _place(request.page_token),
            "domain": request.domain.lower(),
            "tenant": request.tenant_id,
            "id": request.id,
            "limit": limit + 1,
        }

        def read() -> list[tuple[int, Any]]:
            found = [
                (worker, row)
                for worker, spool in enumerate(self._spools)
                for row in _query(spool, _RECIPIENTS, parameters)
            ]
            return sorted(found, key=lambda entry: int(entry[1][0]))

        rows = await self._in_thread(read)
        page = [_recipient(worker, row) for worker, row in rows[:limit]]
        more = str(page[-1].recipient_id) if len(rows) > limit else ""
        return pb.ListQueuedRecipientsResponse(queued_recipients=page, next_page_token=more)

    def _authorise(self, context: Context) -> None:
        value = dict(context.invocation_metadata() or ()).get("authorization", "")
        given = value if isinstance(value, bytes) else value.encode()
        if not hmac.compare_digest(given, self._token):
            raise Refusal(Reason.UNAUTHENTICATED, "this needs the operator's token")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _query(spool: Path, query: str, parameters: dict[str, int | str]) -> Iterable[tuple[Any, ...]]:
    if not spool.exists():
        return []
    try:
        with closing(connect(spool, read_only=True)) as connection:
            return connection.execute(query, parameters).fetchall()
    except sqlite3.Error as error:
        raise Refusal(Reason.UNAVAILABLE, "a spool cannot be read now; try again") from error


def _page_size(wanted: int) -> int:
    if wanted < 0:
        raise Refusal(Reason.INVALID_ARGUMENT, "page_size must not be negative", field="page_size")
    return min(wanted or DEFAULT_PAGE, MAX_PAGE)


def _place(token: str) -> int:
    if not token:
        return 0
    if not token.isdecimal() or len(token) > 19 or int(token) > MAX_ID:
        raise Refusal(Reason.INVALID_ARGUMENT, "page_token is not one of this list", field="page_token")
    return int(token)


def _recipient(worker: int, row: Any) -> pb.QueuedRecipient:
    return pb.QueuedRecipient(
        recipient_id=row[0],
        message_id=row[1],
        tenant_id=row[2],
        sender=row[3],
        recipient=row[4],
        size_bytes=row[5],
        attempt_count=row[6],
        receive_time=timestamp(row[7]),
        next_attempt_time=timestamp(row[8]),
        reason=row[9],
        worker=worker,
    )
