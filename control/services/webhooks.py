"""WebhookService: who is told of events, tests, the log of deliveries, replays."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import webhook_service_pb2
from barua.control.v1.webhook_pb2 import Webhook as WebhookProto
from barua.control.v1.webhook_pb2 import WebhookDelivery as DeliveryProto
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import apikeys, fields, names
from control.model import webhooks as rules
from control.model.names import ChildName
from control.model.webhooks import Kind
from control.services.listing import listing_of, page_of
from control.services.mutation import Mutations
from control.services.timestamps import from_proto, to_proto
from control.services.updates import check_etag, paths_of
from control.services.webhook_fields import UPDATABLE, Fields, settings_of, settings_with
from control.store import tenants, webhook_deliveries, webhook_replays, webhooks
from control.store.webhook_deliveries import Attempt, Delivery, State
from control.store.webhook_replays import Wanted
from control.store.webhooks import Webhook
from control.webhooks import composing
from control.webhooks.destinations import MAX_URL
from control.webhooks.fanout import Fanout
from control.webhooks.formats import RENDERERS
from control.webhooks.rendering import Posting
from control.webhooks.sender import Sender
from control.webhooks.vault import new_secret
from control.webhooks.wanting import sources
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]
_NEWEST = 2**63 - 1
_ID_CHARACTERS = 12
_READ_AT_ONCE = 1000
"""Events read at once for a replay."""


class WebhookServicer(WebhookServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, checked: Fields, sender: Sender) -> None:
        self._database = database
        self._mutations = mutations
        self._fields = checked
        self._sender = sender
        self._fanout = Fanout(checked.rules, checked.vault, 0.0)
        # Tenants with a test under way: one at a time, so that nobody makes requests with it in bulk.
        self._testing: set[str] = set()

    async def CreateWebhook(self, request: webhook_service_pb2.CreateWebhookRequest, context: _Context) -> WebhookProto:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        webhook_id = apikeys.random_name(_ID_CHARACTERS)
        settings = settings_of(self._fields, request.webhook, tenant_id, webhook_id)
        given = request.webhook.secret
        secret = rules.secret(given, "webhook.secret") if given else new_secret()
        sealed = self._fields.vault.seal_secret(secret, tenant_id, webhook_id)

        async def effect(connection: Connection) -> WebhookProto:
            await tenants.visible(connection, me, tenant_id, lock=True)
            if request.unique_url:
                await webhooks.check_url(connection, tenant_id, settings.url)
            made = self._to_proto(await webhooks.create(connection, tenant_id, webhook_id, settings, sealed))
            made.secret = "" if given else secret
            return made

        return await self._mutations.run(request, WebhookProto, effect, _without_secret)

    async def GetWebhook(self, request: webhook_service_pb2.GetWebhookRequest, context: _Context) -> WebhookProto:
        """See the proto."""
        webhook = await self._find(request.name)
        rates = await self._database.transact(partial(_rates, webhooks=[webhook]))
        return self._to_proto(webhook, rates)

    async def ListWebhooks(
        self, request: webhook_service_pb2.ListWebhooksRequest, context: _Context
    ) -> webhook_service_pb2.ListWebhooksResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        url = fields.text(request.url, "url", MAX_URL)
        listing = listing_of(request, tenant_id, url)

        async def read(connection: Connection) -> tuple[list[Webhook], int, dict[str, float]]:
            await tenants.visible(connection, me, tenant_id)
            found, total = await webhooks.page(connection, tenant_id, url, listing.wanted)
            return found, total, await _rates(connection, found)

        found, total, rates = await self._database.transact(read)
        shown, token = listing.cut(found, lambda webhook: webhook.webhook_id)
        return webhook_service_pb2.ListWebhooksResponse(
            webhooks=[self._to_proto(webhook, rates) for webhook in shown], next_page_token=token, total_size=total
        )

    async def UpdateWebhook(self, request: webhook_service_pb2.UpdateWebhookRequest, context: _Context) -> WebhookProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.webhook.name, "webhooks", me, "webhook.name")
        paths = paths_of(request.update_mask, request.webhook, "webhook", UPDATABLE)

        async def effect(connection: Connection) -> WebhookProto:
            kept = await self._locked(connection, me, name)
            check_etag(request.webhook.etag, str(kept.version))
            settings = settings_with(self._fields, kept, request.webhook, paths)
            if request.unique_url:
                await webhooks.check_url(connection, kept.tenant_id, settings.url, kept.webhook_id)
            revive = settings.enabled and ("enabled" in paths or "url" in paths)
            rates = await _rates(connection, [kept])
            return self._to_proto(await webhooks.update(connection, kept, settings, revive=revive), rates)

        return await self._mutations.run(request, WebhookProto, effect)

    async def DeleteWebhook(self, request: webhook_service_pb2.DeleteWebhookRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "webhooks", me)

        async def effect(connection: Connection) -> Empty:
            kept = await self._locked(connection, me, name)
            check_etag(request.etag, str(kept.version))
            await webhooks.delete(connection, kept)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def RotateWebhookSecret(
        self, request: webhook_service_pb2.RotateWebhookSecretRequest, context: _Context
    ) -> WebhookProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "webhooks", me)
        grace = float(rules.DEFAULT_GRACE_SECONDS)
        if request.HasField("grace_period"):
            grace = rules.grace_seconds(request.grace_period.seconds + request.grace_period.nanos / 1e9, "grace_period")
        secret = rules.secret(request.secret, "secret") if request.secret else new_secret()

        async def effect(connection: Connection) -> WebhookProto:
            kept = await self._locked(connection, me, name)
            sealed = self._fields.vault.seal_secret(secret, kept.tenant_id, kept.webhook_id)
            rotated = self._to_proto(await webhooks.rotate(connection, kept, sealed, grace))
            rotated.secret = "" if request.secret else secret
            return rotated

        return await self._mutations.run(request, WebhookProto, effect, _without_secret)

    async def TestWebhook(
        self, request: webhook_service_pb2.TestWebhookRequest, context: _Context
    ) -> webhook_service_pb2.TestWebhookResponse:
        """See the proto."""
        earlier = await self._mutations.earlier(request, webhook_service_pb2.TestWebhookResponse)
        if earlier is not None:
            return earlier
        webhook = await self._find(request.name)
        self._fields.rules.parse(webhook.settings.url, "webhook.url")
        answer = webhook_service_pb2.TestWebhookResponse()
        if not request.validate_only:
            answer = _test_answer(await self._test_alone(webhook))

        async def effect(connection: Connection) -> webhook_service_pb2.TestWebhookResponse:
            return answer

        return await self._mutations.run(request, webhook_service_pb2.TestWebhookResponse, effect)

    async def ListWebhookDeliveries(
        self, request: webhook_service_pb2.ListWebhookDeliveriesRequest, context: _Context
    ) -> webhook_service_pb2.ListWebhookDeliveriesResponse:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.parent, "webhooks", me, "parent")
        if request.state not in DeliveryProto.State.values():
            raise fields.invalid("state", f"state {request.state} is not known")
        state = State(request.state) if request.state else None
        page = page_of(request, _NEWEST, name.tenant_id, name.id, str(request.state))

        async def read(connection: Connection) -> list[Delivery]:
            await tenants.visible(connection, me, name.tenant_id)
            webhook = await webhooks.get(connection, name.tenant_id, name.id)
            return await webhook_deliveries.page(connection, webhook.webhook_id, state, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda delivery: delivery.delivery_id)
        return webhook_service_pb2.ListWebhookDeliveriesResponse(
            webhook_deliveries=map(_delivery_proto, found), next_page_token=token
        )

    async def ReplayWebhookDeliveries(
        self, request: webhook_service_pb2.ReplayWebhookDeliveriesRequest, context: _Context
    ) -> webhook_service_pb2.ReplayWebhookDeliveriesResponse:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "webhooks", me)
        ids = _delivery_ids(request, name, me)
        times = None if ids else _times(request)

        async def effect(connection: Connection) -> webhook_service_pb2.ReplayWebhookDeliveriesResponse:
            webhook = await self._locked(connection, me, name)
            if not webhook.settings.enabled:
                raise Refusal(
                    Reason.FAILED_PRECONDITION,
                    "the webhook is disabled; enable it, then replay",
                    metadata={"webhook": webhook.name},
                )
            if times is None:
                queued = await webhook_deliveries.again(connection, webhook.webhook_id, ids)
            else:
                queued = await _replay_between(self._fanout, connection, webhook, *times)
            return webhook_service_pb2.ReplayWebhookDeliveriesResponse(queued_count=queued)

        return await self._mutations.run(request, webhook_service_pb2.ReplayWebhookDeliveriesResponse, effect)

    async def _test_alone(self, webhook: Webhook) -> Attempt:
        if webhook.tenant_id in self._testing:
            message = "a test of this tenant is under way; wait for its answer"
            raise Refusal(Reason.RATE_LIMITED, message, retry_after=self._sender.timeout_seconds)
        self._testing.add(webhook.tenant_id)
        try:
            return await self._test(webhook)
        finally:
            self._testing.discard(webhook.tenant_id)

    async def _test(self, webhook: Webhook) -> Attempt:
        now = datetime.now(UTC)
        target = self._fields.rules.parse(webhook.settings.url, "webhook.url")
        posting = Posting(
            webhook=webhook.name,
            attempt=1,
            time=int(now.timestamp()),
            secrets=self._fields.vault.secrets(webhook),
            events=[composing.sample(webhook, now)],
        )
        rendered = RENDERERS[webhook.settings.format].render(posting)
        async with self._sender.line() as line:
            return await line.post(target, rendered, self._fields.vault.headers(webhook))

    async def _find(self, text: str) -> Webhook:
        me = caller().tenant_id
        name = names.child(text, "webhooks", me)

        async def read(connection: Connection) -> Webhook:
            await tenants.visible(connection, me, name.tenant_id)
            return await webhooks.get(connection, name.tenant_id, name.id)

        return await self._database.transact(read)

    async def _locked(self, connection: Connection, me: str, name: ChildName) -> Webhook:
        await tenants.visible(connection, me, name.tenant_id)
        return await webhooks.get(connection, name.tenant_id, name.id, lock=True)

    def _to_proto(self, webhook: Webhook, rates: Mapping[str, float] = {}) -> WebhookProto:
        settings = webhook.settings
        return WebhookProto(
            name=webhook.name,
            display_name=settings.display_name,
            url=settings.url,
            event_kinds=[WebhookProto.EventKind.ValueType(kind) for kind in settings.kinds],
            streams=settings.streams,
            sender_domains=settings.sender_domains,
            include_subtree=settings.include_subtree,
            enabled=settings.enabled,
            state=_state(webhook),
            disabled_reason=webhook.disabled_reason,
            disable_time=to_proto(webhook.disabled_at),
            payload_format=WebhookProto.PayloadFormat.ValueType(settings.format),
            headers=dict.fromkeys(self._fields.vault.headers(webhook), ""),
            batch_size=settings.batch_size,
            previous_secret_expire_time=to_proto(webhook.previous_secret_until),
            failure_count=webhook.failures,
            failing_since_time=to_proto(webhook.failing_since),
            number=webhook.number,
            create_time=to_proto(webhook.created_at),
            update_time=to_proto(webhook.updated_at),
            etag=str(webhook.version),
            success_rate=rates.get(webhook.webhook_id),
        )


async def _rates(connection: Connection, webhooks: Sequence[Webhook]) -> dict[str, float]:
    """The success rates of webhooks."""
    ids = [webhook.webhook_id for webhook in webhooks]
    return await webhook_deliveries.success_rates(connection, ids, rules.JUDGED)


async def _replay_between(
    fanout: Fanout, connection: Connection, webhook: Webhook, start: datetime, end: datetime
) -> int:
    """Queue all events of a time that the filters let through, in the log or not; of alerts those in the log."""
    kinds = sources(webhook.settings)
    wanted = Wanted(await webhook_replays.subjects(connection, webhook), kinds, start, end)
    queued = await webhook_deliveries.again_between(connection, webhook.webhook_id, Kind.ALERT, start, end)
    looked_at, after = 0, (-1, 0)
    while True:
        found = await webhook_replays.read(connection, wanted, after, _READ_AT_ONCE)
        queued += await fanout.replay(connection, webhook, found)
        looked_at += len(found)
        if queued > rules.MAX_REPLAYED or looked_at > rules.MAX_LOOKED_AT:
            raise Refusal(
                Reason.FAILED_PRECONDITION,
                f"there are more than {rules.MAX_REPLAYED} events between start_time and end_time; take a shorter time",
                field="end_time",
                metadata={"maximum": str(rules.MAX_REPLAYED)},
            )
        if len(found) < _READ_AT_ONCE:
            return queued
        after = (found[-1].recipient_id, found[-1].event_number)


def _delivery_ids(
    request: webhook_service_pb2.ReplayWebhookDeliveriesRequest, webhook: ChildName, me: str
) -> Sequence[int]:
    """The ids of named deliveries, all of the webhook."""
    if len(request.deliveries) > rules.MAX_NAMED:
        raise fields.invalid(
            "deliveries", f"deliveries has {len(request.deliveries)} names; {rules.MAX_NAMED} are possible"
        )
    found: list[int] = []
    for index, text in enumerate(request.deliveries):
        field = f"deliveries[{index}]"
        child = names.child(text, "webhooks", me, field)
        webhook_id, _, number = child.id.partition("/deliveries/")
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            raise fields.invalid(
                field, f"{field} must have the form tenants/{{tenant}}/webhooks/{{webhook}}/deliveries/{{delivery}}"
            )
        if (child.tenant_id, webhook_id) != (webhook.tenant_id, webhook.id):
            raise fields.invalid(field, f"{field} is of another webhook than name")
        found.append(int(number))
    return found


def _times(request: webhook_service_pb2.ReplayWebhookDeliveriesRequest) -> tuple[datetime, datetime]:
    if not (request.HasField("start_time") and request.HasField("end_time")):
        raise fields.invalid("deliveries", "name deliveries, or give both start_time and end_time")
    try:
        start, end = from_proto(request.start_time), from_proto(request.end_time)
    except OverflowError:
        raise fields.invalid("start_time", "start_time or end_time is no time that exists") from None
    if end <= start:
        raise fields.invalid("end_time", "end_time must be after start_time")
    return start, end


def _test_answer(attempt: Attempt) -> webhook_service_pb2.TestWebhookResponse:
    return webhook_service_pb2.TestWebhookResponse(
        delivered=200 <= attempt.status_code <= 299,
        status_code=attempt.status_code,
        response_excerpt=attempt.answer,
        error=attempt.error,
        duration=_duration(attempt.duration_ms),
    )


def _without_secret(webhook: WebhookProto) -> WebhookProto:
    kept = WebhookProto()
    kept.CopyFrom(webhook)
    kept.ClearField("secret")
    return kept


def _state(webhook: Webhook) -> WebhookProto.State.ValueType:
    if not webhook.settings.enabled:
        return WebhookProto.STATE_DISABLED
    return WebhookProto.STATE_DEGRADED if webhook.failures else WebhookProto.STATE_ACTIVE


def _delivery_proto(delivery: Delivery) -> DeliveryProto:
    waiting = delivery.state is State.PENDING
    return DeliveryProto(
        name=f"tenants/{delivery.tenant_id}/webhooks/{delivery.webhook_id}/deliveries/{delivery.delivery_id}",
        event_id=str(delivery.event_id),
        event_kind=WebhookProto.EventKind.ValueType(delivery.kind),
        event_time=to_proto(delivery.occurred_at),
        state=DeliveryProto.State.ValueType(delivery.state),
        attempt_count=delivery.attempts,
        last_attempt_time=to_proto(delivery.attempted_at),
        status_code=delivery.status_code,
        response_excerpt=delivery.answer,
        error=delivery.error,
        duration=_duration(delivery.duration_ms),
        next_attempt_time=to_proto(delivery.due_at) if waiting else None,
        create_time=to_proto(delivery.created_at),
    )


def _duration(milliseconds: int) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(milliseconds=milliseconds))
    return duration
