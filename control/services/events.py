"""EventService: what happens to messages, as it happens.

A stream keeps nothing but its position. Near the newest event it filters what the process has read once for everybody
(``control.consumers.feed``); further back it reads from the database by itself, as the caller, in spans that bound the
work even where hardly any event is the caller's. A slow client slows nobody and grows nothing.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from prometheus_client import Gauge

from barua.control.v1.event_service_pb2 import WatchedEvent, WatchEventsRequest, WatchEventsResponse
from barua.control.v1.event_service_pb2_grpc import EventServiceServicer
from barua.journal.v1 import event_pb2

from control.authentication import caller
from control.consumers.feed import BATCH, Feed
from control.database import Database
from control.model import eventtokens, fields, names
from control.model.caller import ROOT_TENANT, acting_for_platform
from control.model.events import EventKind, PastEvent
from control.services.timestamps import to_proto
from control.store import events, tenants
from control.store.events import Head
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

PROGRESS_SECONDS = 4.0
"""Between signs of life; clients are promised one every five seconds."""
MAX_STREAM_SECONDS = 3600.0
"""Then the client comes again, and its credentials are looked at again."""
MAX_STREAMS = 10
"""At once for the credentials of one tenant, on one control program."""
MAX_ALL_STREAMS = 500
"""At once on one control program: leaves room for other calls."""
SPAN = 20_000
"""Events of the platform that one read far behind the newest one covers."""
MAX_PATHS = 50_000
"""Tenants whose place in the tree is remembered."""

_KINDS = {kind.value: kind for kind in EventKind if kind is not EventKind.LEASE_RELEASED}

_streams = Gauge("barua_control_event_streams", "Streams of WatchEvents.")


class EventServicer(EventServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed
        self._open: Counter[str] = Counter()
        self._paths: dict[str, Sequence[str]] = {}

    async def WatchEvents(self, request: WatchEventsRequest, context: _Context) -> AsyncIterator[WatchEventsResponse]:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        kinds = frozenset(_checked_kinds(request.kinds))
        await self._database.transact(lambda connection: tenants.visible(connection, me, tenant_id))
        with self._counted(me):
            head = await self._feed.look()
            epoch = self._feed.epoch
            position = head.number
            if request.resume_token:
                position = eventtokens.decode(head.lineage, request.resume_token)
                _check(head, position)
            ends = time.monotonic() + MAX_STREAM_SECONDS
            next_sign = 0.0
            while not self._feed.ended and time.monotonic() < ends:
                found, reached = await self._next(tenant_id, kinds, position)
                if self._feed.epoch != epoch:
                    break
                moved, position = reached > position, reached
                if found or time.monotonic() >= next_sign:
                    next_sign = time.monotonic() + PROGRESS_SECONDS
                    token = eventtokens.encode(head.lineage, position)
                    yield WatchEventsResponse(events=map(_to_proto, found), resume_token=token)
                if not moved:
                    await self._feed.beyond(position, max(0.0, next_sign - time.monotonic()))
        raise Refusal(Reason.UNAVAILABLE, "the stream ends here; begin again with the last token", retry_after=1.0)

    @contextmanager
    def _counted(self, tenant_id: str) -> Iterator[None]:
        """Hold one of the streams that may be open at once."""
        if self._open[tenant_id] >= MAX_STREAMS or self._open.total() >= MAX_ALL_STREAMS:
            what = f"there are {self._open[tenant_id]} streams of this tenant already; end one of them or try later"
            raise Refusal(Reason.RATE_LIMITED, what, metadata={"tenant": tenant_id}, retry_after=5.0)
        self._open[tenant_id] += 1
        _streams.inc()
        try:
            yield
        finally:
            _streams.dec()
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]

    async def _next(self, tenant_id: str, kinds: frozenset[int], position: int) -> tuple[Sequence[PastEvent], int]:
        """The next events of a tenant and those below it, and how far they reach."""
        if not self._feed.holds(position):
            return await self._next_from_record(tenant_id, kinds, position)
        found = await self._feed.after(position)
        if not found:
            return [], position
        reached = found[-1].event_number
        if tenant_id != ROOT_TENANT:
            await self._learn({event.tenant_id for event in found})
            found = [event for event in found if tenant_id in self._paths.get(event.tenant_id, ())]
        return [event for event in found if not kinds or event.kind in kinds], reached

    async def _next_from_record(
        self, tenant_id: str, kinds: frozenset[int], position: int
    ) -> tuple[Sequence[PastEvent], int]:
        up_to = min(position + SPAN, self._feed.number)
        found = await self._database.transact(
            lambda connection: events.read_of(connection, tenant_id, position, up_to, BATCH, sorted(kinds))
        )
        # After the read: then days that were dropped between the two are seen to be gone.
        _check(await self._feed.look(), position)
        return found, found[-1].event_number if len(found) == BATCH else up_to

    async def _learn(self, tenant_ids: set[str]) -> None:
        """Remember the place of tenants in the tree; they never move."""
        unknown = tenant_ids - self._paths.keys()
        if not unknown:
            return
        with acting_for_platform():
            learnt = await self._database.transact(lambda connection: events.paths(connection, list(unknown)))
        if len(self._paths) + len(learnt) > MAX_PATHS:
            self._paths.clear()
        self._paths.update(learnt)


def _check(head: Head, position: int) -> None:
    if position > head.number:
        raise eventtokens.lost("the order of events is shorter than it was, as after a restored backup")
    if position < head.trimmed_number:
        raise eventtokens.lost("what followed it is no longer on record")


def _checked_kinds(kinds: Iterable[int]) -> Iterator[int]:
    for index, kind in enumerate(kinds):
        if kind not in _KINDS:
            raise fields.invalid(f"kinds[{index}]", f"kinds[{index}] is {kind}, which is no kind of a message's event")
        yield kind


def _to_proto(event: PastEvent) -> WatchedEvent:
    return WatchedEvent(
        event=event_pb2.Event(
            kind=event_pb2.Event.Kind.ValueType(event.kind),
            time=to_proto(event.occurred_at),
            tenant_id=event.tenant_id,
            recipient_id=event.recipient_id,
            message_id=event.message_id,
            sender=event.sender,
            recipient=event.recipient,
            attempt=event.attempt,
            code=event.code,
            enhanced_code=event.enhanced_code,
            text=event.reply,
            remote_host=event.remote_host,
            next_attempt_time=to_proto(event.next_attempt_at),
            lease_id=event.lease_id,
            credits=event.credits,
            stream=event.stream,
            egress_source=event.egress_source,
            provider=event.provider,
            tags=event.tags,
            ip_address=event.ip_address,
            user_agent=event.user_agent,
            url=event.url,
            first=event.first,
        ),
        message_record=f"tenants/{event.tenant_id}/messages/{event.recipient_id}",
    )
