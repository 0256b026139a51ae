"""Makes of each event of the journal a delivery for every webhook that wants it.

``Fanout`` is a consumer of the journal: the deliveries of a batch and the advance of its cursor are one transaction,
so each event is queued exactly once for each webhook. A webhook wants an event when it is enabled, asks for the kind,
is of the event's tenant or looks at the subtree of one above it, and its filters let stream and sender domain through.

A message can name an endpoint of its own (``webhook_endpoint`` in its properties, if its dialect is ``sendpost``). Then
its events go there instead of to webhooks in the forms of SendPost; others are told as ever.
"""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from control.database import Connection
from control.model.events import PastEvent
from control.model.webhooks import SENDPOST_FORMATS, Format, Kind
from control.store import webhook_deliveries, webhook_endpoints, webhooks
from control.store.alerts import Alert
from control.store.webhook_deliveries import NewDelivery, Record
from control.store.webhooks import Webhook
from control.webhooks import composing
from control.webhooks.composing import NAMESPACE, Context
from control.webhooks.destinations import Rules, Target
from control.webhooks.formats import RENDERERS
from control.webhooks.rendering import AlertNote, Event, Origin, encode
from control.webhooks.vault import Vault
from control.webhooks.wanting import KINDS, wanted
from mta.runtime.refusals import Refusal

_BEFORE_ITS_TIME = timedelta(minutes=5)
"""A webhook gets no events from before it was made; clocks of nodes may be so far off."""
ENOUGH = 500
"""Events that are posted at once where events are gathered."""

_NO_RECORD = Record("", (), "")
_OWN = '"webhook_endpoint"'
_DIALECT = "sendpost"


class _Own(NamedTuple):
    """The endpoint that a message names for itself."""

    target: Target
    format: Format


@dataclass(frozen=True, slots=True)
class _Told:
    """An event to be queued: what is known of its recipient, who wants it, and where it goes instead."""

    event: PastEvent
    context: Context
    takers: Sequence[Webhook]
    own: _Own | None


class Fanout:
    """The consumer. ``pace`` stretches the time for which events are gathered."""

    name = "webhooks"

    def __init__(self, rules: Rules, vault: Vault, pace: float) -> None:
        self._rules = rules
        self._vault = vault
        self._pace = pace

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Queue a batch of events."""
        told = [event for event in events if event.kind in KINDS]
        if not told:
            return
        by_subject: dict[str, list[Webhook]] = defaultdict(list)
        for listener in await webhooks.listeners(connection, sorted({event.tenant_id for event in told})):
            by_subject[listener.subject].append(listener.webhook)
        candidates = [(event, [one for one in by_subject[event.tenant_id] if _due(one, event)]) for event in told]
        found = await self._completed(connection, candidates)
        await _queue(connection, await self._deliveries(connection, found))

    async def replay(self, connection: Connection, webhook: Webhook, events: Sequence[PastEvent]) -> int:
        """Queue events again, or for the first time, as far as the webhook's filters let them through; how many."""
        candidates = [(event, [webhook]) for event in events if event.kind in KINDS and wanted(webhook.settings, event)]
        found = await self._completed(connection, candidates)
        queue = [one for told in found for one in _of_takers(told, 0.0)]
        return await _queue(connection, queue, again=True)

    async def _completed(
        self, connection: Connection, candidates: Sequence[tuple[PastEvent, Sequence[Webhook]]]
    ) -> list[_Told]:
        """Events with what is known of their recipients: those that somebody wants, and that name an endpoint."""
        if not candidates:
            return []
        surely = sorted({event.recipient_id for event, takers in candidates if takers})
        everyone = sorted({event.recipient_id for event, _ in candidates})
        records = await webhook_deliveries.records(connection, everyone, surely)
        involved = [(event, takers) for event, takers in candidates if takers or event.recipient_id in records]
        if not involved:
            return []
        numbers = await webhook_deliveries.involved(connection, sorted({event.tenant_id for event, _ in involved}))
        sources = sorted({event.egress_source for event, _ in involved if event.egress_source})
        addresses = await webhook_deliveries.addresses(connection, sources) if sources else {}
        found = []
        for event, takers in involved:
            record = records.get(event.recipient_id, _NO_RECORD)
            tenant, account = numbers.get(event.tenant_id, (0, 0))
            origin = Origin(tenant, account, addresses.get(event.egress_source, ""))
            properties = composing.properties_of(record.properties)
            own = self._own(properties) if _OWN in record.properties else None
            found.append(_Told(event, Context(record.subject, record.tags, properties, origin), takers, own))
        return found

    async def _deliveries(self, connection: Connection, found: Sequence[_Told]) -> list[NewDelivery]:
        queue: list[NewDelivery] = []
        made: dict[tuple[str, str, Format], Webhook | None] = {}
        for told in found:
            queue += _of_takers(told, self._pace)
            if told.own is None:
                continue
            key = (told.event.tenant_id, told.own.target.authority, told.own.format)
            if key not in made:
                made[key] = await self._webhook_for(connection, *key)
            webhook = made[key]
            if webhook is not None:
                queue += _of_one(told, webhook, 0.0, told.own.target.url)
        return queue

    def _own(self, properties: dict[str, Any]) -> _Own | None:
        url = properties.get("webhook_endpoint")
        if not isinstance(url, str) or properties.get("dialect") != _DIALECT:
            return None
        format_ = Format.SENDPOST_LEGACY if properties.get("contract") == "legacy" else Format.SENDPOST
        try:
            return _Own(self._rules.parse(url, "webhook_endpoint"), format_)
        except Refusal:  # the operator's rules are other ones than when the message was taken
            return None

    async def _webhook_for(
        self, connection: Connection, tenant_id: str, endpoint: str, format_: Format
    ) -> Webhook | None:
        """The webhook for messages' own endpoints at a host and port; None: the tenant is gone."""
        found = await webhook_endpoints.find(connection, tenant_id, endpoint, format_)
        if found is None and await webhook_endpoints.crowded(connection, tenant_id):
            endpoint = ""
            found = await webhook_endpoints.find(connection, tenant_id, endpoint, format_)
        if found is not None:
            return found
        id_ = webhook_endpoints.new_id()
        sealed = (self._vault.seal_secret("", tenant_id, id_), self._vault.seal_headers({}, tenant_id, id_))
        await webhook_endpoints.create(connection, tenant_id, id_, endpoint, format_, sealed)
        return await webhook_endpoints.find(connection, tenant_id, endpoint, format_)


async def tell_alert(connection: Connection, alert: Alert, *, firing: bool) -> int:
    """Queue an alert's beginning, or its end, for the webhooks that want alerts of its tenant; how many."""
    found = await webhooks.listeners(connection, [alert.tenant_id])
    takers = [one.webhook for one in found if Kind.ALERT in one.webhook.settings.kinds]
    takers = [taker for taker in takers if taker.settings.format is Format.NATIVE]
    if not takers:
        return 0
    state = "firing" if firing else "ok"
    id_ = uuid.uuid5(NAMESPACE, f"alert {alert.alert_id} {state}")
    time = alert.started_at if firing or alert.ended_at is None else alert.ended_at
    note = AlertNote(
        name=alert.name,
        state=state,
        metric=alert.metric.name.lower(),
        value=alert.value,
        threshold=alert.threshold,
        rule=alert.rule_name,
        display_name=alert.display_name,
        detail=alert.detail,
    )
    kind = composing.name_of(Kind.ALERT)
    event = Event(str(id_), kind, composing.timestamp(time), f"tenants/{alert.tenant_id}", alert=note)
    content = encode(event)
    queue = [NewDelivery(taker.tenant_id, taker.webhook_id, id_, Kind.ALERT, time, content) for taker in takers]
    return await webhook_deliveries.add(connection, queue)


def _due(webhook: Webhook, event: PastEvent) -> bool:
    return event.occurred_at >= webhook.created_at - _BEFORE_ITS_TIME and bool(wanted(webhook.settings, event))


def _of_takers(told: _Told, pace: float) -> list[NewDelivery]:
    """The deliveries of an event to the webhooks that somebody made."""
    takers = [one for one in told.takers if told.own is None or one.settings.format not in SENDPOST_FORMATS]
    return [delivery for taker in takers for delivery in _of_one(told, taker, pace)]


def _of_one(told: _Told, taker: Webhook, pace: float, url: str = "") -> list[NewDelivery]:
    event = told.event
    delay = RENDERERS[taker.settings.format].gathering_seconds * pace
    return [
        NewDelivery(
            taker.tenant_id,
            taker.webhook_id,
            composing.event_id(event, kind),
            kind,
            event.occurred_at,
            encode(composing.native(event, told.context, kind)),
            url,
            delay,
        )
        for kind in wanted(taker.settings, event)
    ]


async def _queue(connection: Connection, queue: Sequence[NewDelivery], *, again: bool = False) -> int:
    """Queue deliveries; how many were new. Those that wait for others are due when there are enough."""
    if not queue:
        return 0
    count = await webhook_deliveries.add(connection, queue, again=again)
    for webhook_id in sorted({delivery.webhook_id for delivery in queue if delivery.delay_seconds}):
        await webhook_deliveries.gathered(connection, webhook_id, ENOUGH)
    return count
