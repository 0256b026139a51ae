"""Webhooks whose endpoints, or whose own program, fail: what is told again, and what becomes of the others."""

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from barua.control.v1 import alert_service_pb2
from barua.control.v1.alert_service_pb2_grpc import AlertServiceStub
from barua.control.v1.webhook_pb2 import Webhook, WebhookDelivery
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub

from control.database import Connection, Database
from control.model.webhooks import Kind
from control.store import webhook_deliveries
from control.store.webhook_deliveries import Attempt, NewDelivery
from control.webhooks import keeping
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import opened, running
from tests.integration.control.hooks import (
    DELIVERED,
    FAILED,
    PENDING,
    World,
    impatient,
    options,
    receiver,
    world,
)
from tests.integration.control.receiver import Answer, Cut, Hang, Receiver, Request, receiving, until

__all__ = ["impatient", "receiver", "world"]  # fixtures


async def test_failures_are_tried_again_with_the_same_id(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    moved = Answer(301, headers=(("Location", "/x"),))
    answers = iter([Answer(500, b"a\0b" + b"x" * 5000), None, moved, Answer(204)])

    def behave(_: Request) -> Answer:
        answer = next(answers)
        if answer is None:
            raise Cut
        return answer

    receiver.behaviour = behave
    hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
    await world.tell(tenant)
    await receiver.until(lambda: len(receiver.requests) == 1)

    async def answered() -> list[WebhookDelivery]:
        return [entry for entry in await world.log(hook.name) if entry.status_code]

    log = await until(answered)
    assert (log[0].state, log[0].status_code, log[0].attempt_count) == (PENDING, 500, 1)
    assert log[0].response_excerpt == "a\N{REPLACEMENT CHARACTER}b" + "x" * 997
    assert log[0].HasField("next_attempt_time")
    (done,) = await world.until_logged(hook.name, DELIVERED)
    assert (done.attempt_count, done.status_code, done.HasField("next_attempt_time")) == (4, 204, False)
    assert len({event["id"] for event in receiver.events}) == 1
    assert [request.headers["barua-attempt"] for request in receiver.requests] == ["1", "2", "3", "4"]
    assert {request.path for request in receiver.requests} == {"/hook"}
    assert (await world.get(hook.name)).failure_count == 0


async def test_a_slow_endpoint_delays_nobody_else(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")

    def hang(_: Request) -> Answer:
        raise Hang

    async with receiving() as slow:
        slow.behaviour = hang
        await world.create(tenant, slow.url, batch_size=1)
        await world.create(tenant, receiver.url, batch_size=10)
        started = time.monotonic()
        await world.tell(tenant, 200)
        await receiver.until(lambda: len({event["id"] for event in receiver.events}) == 200)
        assert time.monotonic() - started < 30  # 200 that hang for three seconds each
        assert slow.requests
        assert slow.connections <= 8


async def test_a_timeout_is_logged_and_does_not_last(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    answers = iter([Answer(delay=9.0)])
    receiver.behaviour = lambda _: next(answers, Answer())
    hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
    await world.tell(tenant)
    await receiver.until(lambda: len(receiver.requests) == 2)
    (done,) = await world.until_logged(hook.name, DELIVERED)
    assert done.attempt_count == 2


async def test_what_was_posted_and_not_recorded_is_posted_again(
    world: World, receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await world.control.tenant("tenant")
    hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
    settle = webhook_deliveries.settle

    async def die(*_: Any) -> int:
        raise Refusal(Reason.UNAVAILABLE, "gone between posting and recording")

    monkeypatch.setattr(webhook_deliveries, "settle", die)
    await world.tell(tenant)
    await receiver.until(lambda: len(receiver.requests) == 1)
    await asyncio.sleep(0.3)
    (entry,) = await world.log(hook.name)
    assert (entry.state, entry.status_code, entry.attempt_count) == (PENDING, 0, 1)
    monkeypatch.setattr(webhook_deliveries, "settle", settle)
    await asyncio.sleep(0.3)
    assert len(receiver.requests) == 1  # not before the claim runs out
    await database.transact(lambda c: c.execute("UPDATE webhook_delivery SET due_at = now()"))
    (done,) = await world.until_logged(hook.name, DELIVERED)
    assert (done.attempt_count, len(receiver.requests)) == (2, 2)
    assert len({event["id"] for event in receiver.events}) == 1


async def test_a_claim_that_another_took_over_records_nothing(database: Database, database_url: str) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()

    async def prepare(c: Connection) -> None:
        await c.execute(
            "INSERT INTO webhook (tenant_id, webhook_id, display_name, url, kinds, streams, sender_domains,"
            " include_subtree, enabled, format, sealed_headers, batch_size, sealed_secret)"
            " VALUES ('operator', 'hook', '', '', '{1}', '{}', '{}', false, true, 1, '', 10, '')"
        )
        delivery = NewDelivery("operator", "hook", uuid.uuid4(), Kind.ACCEPTED, datetime.now(UTC), b"{}")
        assert await webhook_deliveries.add(c, [delivery, delivery._replace(event_id=uuid.uuid4())]) == 2
        assert await webhook_deliveries.add(c, [delivery]) == 0

    await database.transact(prepare)
    claimed = await database.transact(lambda c: webhook_deliveries.claim(c, "hook", first, 10, 0.0))
    assert len(claimed) == 2
    again = await database.transact(lambda c: webhook_deliveries.claim(c, "hook", second, 10, 60.0))
    assert sorted(one.delivery_id for one in again) == sorted(one.delivery_id for one in claimed)
    none = await database.transact(lambda c: webhook_deliveries.claim(c, "hook", uuid.uuid4(), 10, 60.0))
    assert none == []
    outcome = [(one.delivery_id, None) for one in claimed]
    attempt = Attempt(200, "", "", 1)
    for token, kept in ((first, 0), (second, 2), (second, 0)):
        settled = await database.transact(
            lambda c, token=token: webhook_deliveries.settle(c, token, attempt, outcome, True)  # type: ignore[misc]
        )
        assert settled == kept


async def test_a_killed_dispatcher_loses_nothing(
    database_url: str, tmp_path: Path, receiver: Receiver, database: Database
) -> None:
    async with running(database_url, tmp_path / "home", **options(timeout_seconds=20.0)) as control:
        world = World(control, WebhookServiceStub(control.channel))
        tenant = await control.tenant("tenant")
        hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])

        def hang(_: Request) -> Answer:
            raise Hang

        receiver.behaviour = hang
        await world.tell(tenant, 3)
        await receiver.until(lambda: bool(receiver.requests))
    # The program ended with requests in the air: their claims run out, here at once.
    await database.transact(lambda connection: connection.execute("UPDATE webhook_delivery SET due_at = now()"))
    receiver.answer()
    async with running(database_url, tmp_path / "home", **options()) as control:
        world = World(control, WebhookServiceStub(control.channel))
        await world.until_logged(hook.name, DELIVERED, DELIVERED, DELIVERED)
        assert len({event["id"] for event in receiver.events}) == 3


async def test_two_programs_share_the_work(database_url: str, tmp_path: Path, receiver: Receiver) -> None:
    async with AsyncExitStack() as stack:
        home = tmp_path / "home"
        first = await stack.enter_async_context(running(database_url, home, **options()))
        await stack.enter_async_context(running(database_url, home, **options()))
        world = World(first, WebhookServiceStub(first.channel))
        tenant = await first.tenant("tenant")
        hook = await world.create(tenant, receiver.url, batch_size=7, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
        await world.tell(tenant, 300)
        await receiver.until(lambda: len(receiver.events) >= 300)
        await world.until_told(hook.name)
    assert len(receiver.events) == len({event["id"] for event in receiver.events}) == 300
    assert all(len(request.events) <= 7 for request in receiver.requests)


async def test_an_endpoint_that_fails_for_long_is_switched_off_with_an_alert(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.behaviour = lambda _: Answer(500)
    async with (
        receiving() as other,
        running(database_url, tmp_path / "home", **options(disable_after_seconds=0.5, pace=0.005)) as control,
    ):
        world = World(control, WebhookServiceStub(control.channel))
        tenant = await control.tenant("tenant")
        hook = await world.create(tenant, receiver.url)
        await world.create(tenant, other.url, event_kinds=[Webhook.EVENT_KIND_ALERT])
        await world.tell(tenant, 30)
        await other.until(lambda: len(other.events) == 1)
        alert = other.events[0]["alert"]
        assert (alert["metric"], alert["state"]) == ("webhooks_failing", "firing")
        found = await world.get(hook.name)
        assert (found.state, found.enabled) == (Webhook.STATE_DISABLED, False)
        assert "status 500" in found.disabled_reason
        assert found.HasField("disable_time")
        listed = await control.call(
            AlertServiceStub(control.channel).ListAlerts, alert_service_pb2.ListAlertsRequest(parent=tenant)
        )
        assert [(one.name, one.alert_rule) for one in listed.alerts] == [(alert["name"], "")]
        receiver.answer()
        revived = await world.update(hook.name, enabled=True)
        assert (revived.state, revived.disabled_reason, revived.failure_count) == (Webhook.STATE_ACTIVE, "", 0)
        await world.until_told(hook.name)


async def test_gone_means_gone(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    receiver.behaviour = lambda _: Answer(410)
    hook = await world.create(tenant, receiver.url)
    await world.tell(tenant)

    async def reason() -> str:
        return (await world.get(hook.name)).disabled_reason

    assert await until(reason) == "the endpoint answered 410 Gone"


async def test_one_event_that_is_refused_does_not_hold_up_the_others(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    poison: list[str] = []

    def behave(request: Request) -> Answer:
        poison[:] = poison or [request.events[0]["id"]]
        return Answer(422 if poison[0] in request.body.decode() else 200)

    receiver.behaviour = behave
    hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED], batch_size=10)
    await world.tell(tenant, 10)

    async def nine() -> bool:
        return len(await world.log(hook.name, DELIVERED)) == 9

    await until(nine)
    (rest,) = await world.log(hook.name, PENDING)
    assert (rest.event_id, rest.status_code) == (poison[0], 422)


async def test_what_is_old_goes_and_what_waits_too_long_is_given_up(
    world: World, receiver: Receiver, database_url: str
) -> None:
    tenant = await world.control.tenant("tenant")
    hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
    await world.tell(tenant, 2)
    await world.until_logged(hook.name, DELIVERED, DELIVERED)
    await world.update(hook.name, "enabled", enabled=False)
    async with opened(database_url) as database:
        newest = (await world.log(hook.name))[0].name.rpartition("/")[2]
        await database.transact(
            lambda c: c.execute(
                "UPDATE webhook_delivery SET state = CASE WHEN delivery_id = $1 THEN 1 ELSE 2 END,"
                " queued_at = now() - interval '5 days', due_at = now() - interval '1 day'",
                int(newest),
            )
        )
        await keeping.clean(database, 6 * 86_400.0)
        log = await world.until_logged(hook.name, FAILED, DELIVERED)
        assert log[0].error == "" or "waited too long" in log[0].error
        await keeping.clean(database, 86_400.0)
    assert await world.log(hook.name) == []
