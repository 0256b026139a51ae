"""Webhooks against real endpoints: who is told what, signed how, tested and replayed."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from barua.control.v1 import webhook_service_pb2 as proto
from barua.control.v1.webhook_pb2 import Webhook
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub
from barua.journal.v1.event_pb2 import Event

from control.database import Database
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import basic, new_id, running
from tests.integration.control.hooks import (
    DELIVERED,
    World,
    genuine,
    impatient,
    options,
    receiver,
    stamp,
    world,
)
from tests.integration.control.receiver import Answer, Receiver, receiving
from tests.support.certs import Authority
from tests.support.dns import DnsServer

__all__ = ["impatient", "receiver", "world"]  # fixtures


async def test_events_arrive_signed_and_are_logged(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    world.who = basic("tenant")
    hook = await world.create(tenant, receiver.url, headers={"X-Key": "abc"}, display_name="mine")
    assert (hook.state, hook.number > 0, dict(hook.headers)) == (Webhook.STATE_ACTIVE, True, {"X-Key": ""})
    (recipient,) = await world.tell(tenant, 1, Event.KIND_DELIVERED, stream="news")
    await receiver.until(lambda: len(receiver.events) == 2)
    by_kind = {event["kind"]: event for event in receiver.events}
    delivered = by_kind["delivered"]
    assert delivered["message"] == {
        "name": f"{tenant}/messages/{recipient}",
        "ids": by_kind["accepted"]["message"]["ids"],
        "sender": "news@example.com",
        "recipient": "ann@example.net",
        "subject": "Hello",
        "stream": "news",
    }
    assert (delivered["tenant"], delivered["reply"]) == (tenant, {"code": 250, "enhanced_code": "2.0.0", "text": "Ok"})
    for request in receiver.requests:
        assert genuine(request, hook.secret)
        assert not genuine(request, hook.secret + "x")
        assert request.headers["x-key"] == "abc"
        assert request.headers["barua-webhook"] == request.json["webhook"] == hook.name
        assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    log = await world.until_logged(hook.name, DELIVERED, DELIVERED)
    assert {entry.event_id for entry in log} == {event["id"] for event in receiver.events}
    assert all((entry.status_code, entry.response_excerpt, entry.attempt_count) == (200, "thanks", 1) for entry in log)


async def test_filters_and_the_subtree(world: World, receiver: Receiver) -> None:
    reseller = await world.control.tenant("reseller")
    account = await world.control.tenant("account", "reseller")
    await world.control.tenant("stranger")
    async with receiving() as own, receiving() as narrow:
        await world.create(reseller, receiver.url, include_subtree=True, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
        await world.create(reseller, own.url, event_kinds=[Webhook.EVENT_KIND_ACCEPTED])
        await world.create(account, narrow.url, streams=["a"], sender_domains=["Example.COM"])
        await world.tell(account, 1, stream="a")
        await world.tell(account, 1, stream="b")
        await world.tell(account, 1, stream="a", sender="x@example.org")
        await world.tell("tenants/stranger")
        await receiver.until(lambda: len(receiver.events) == 3)
        await narrow.until(lambda: len(narrow.events) == 1)
        await asyncio.sleep(0.3)
        assert {event["tenant"] for event in receiver.events} == {account}
        assert (len(receiver.events), own.requests, len(narrow.events)) == (3, [], 1)


async def test_rotation_signs_with_both_secrets_until_the_old_one_ends(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    world.who = basic("tenant")
    hook = await world.create(tenant, receiver.url)
    rotate = proto.RotateWebhookSecretRequest(name=hook.name, request_id=new_id())
    rotated = await world.control.call(world.hooks.RotateWebhookSecret, rotate, world.who)
    assert rotated.secret not in ("", hook.secret)
    again = await world.control.call(world.hooks.RotateWebhookSecret, rotate, world.who)
    assert (again.secret, again.etag) == ("", rotated.etag)
    assert (await world.get(hook.name)).secret == ""
    await world.tell(tenant)
    await receiver.until(lambda: len(receiver.requests) == 1)
    assert genuine(receiver.requests[0], hook.secret)
    assert genuine(receiver.requests[0], rotated.secret)
    now = proto.RotateWebhookSecretRequest(name=hook.name, grace_period=Duration())
    last = await world.control.call(world.hooks.RotateWebhookSecret, now, world.who)
    await world.tell(tenant)
    await receiver.until(lambda: len(receiver.requests) == 2)
    assert genuine(receiver.requests[1], last.secret)
    assert not genuine(receiver.requests[1], rotated.secret)
    for seconds in (-1, 31 * 86_400):
        bad = proto.RotateWebhookSecretRequest(name=hook.name, grace_period=Duration(seconds=seconds))
        assert await world.control.refused(world.hooks.RotateWebhookSecret, bad, world.who) is Reason.INVALID_ARGUMENT


@pytest.mark.each_postgres
async def test_secrets_are_kept_sealed(world: World, database: Database) -> None:
    tenant = await world.control.tenant("tenant")
    hook = await world.create(tenant, "https://example.com/", headers={"Authorization": "Bearer quite-secret"})
    kept = await database.transact(
        lambda c: c.fetchval(
            "SELECT (SELECT string_agg(w::text, ' ') FROM webhook AS w)"
            " || (SELECT string_agg(l::text, ' ') FROM request_log AS l)"
        )
    )
    for secret in (hook.secret, "quite-secret"):
        assert secret not in kept
        assert secret.encode().hex() not in kept


async def test_a_replay_tells_again_with_the_same_ids(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    world.who = basic("tenant")
    at = datetime.now(UTC)
    await world.tell(tenant, 2, Event.KIND_DELIVERED, at=at)  # before there is a webhook
    hook = await world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_DELIVERED], enabled=False)
    times: dict[str, Any] = {
        "start_time": stamp(at - timedelta(minutes=1)),
        "end_time": stamp(at + timedelta(minutes=1)),
    }
    replay = proto.ReplayWebhookDeliveriesRequest(name=hook.name, request_id=new_id(), **times)
    assert (
        await world.control.refused(world.hooks.ReplayWebhookDeliveries, replay, world.who)
        is Reason.FAILED_PRECONDITION
    )
    await world.update(hook.name, enabled=True)
    dry = proto.ReplayWebhookDeliveriesRequest(name=hook.name, validate_only=True, **times)
    assert (await world.control.call(world.hooks.ReplayWebhookDeliveries, dry, world.who)).queued_count == 2
    dry.start_time.FromDatetime(datetime.min)
    assert (await world.control.call(world.hooks.ReplayWebhookDeliveries, dry, world.who)).queued_count == 2
    assert (await world.control.call(world.hooks.ReplayWebhookDeliveries, replay, world.who)).queued_count == 2
    await receiver.until(lambda: len(receiver.events) == 2)
    log = await world.until_logged(hook.name, DELIVERED, DELIVERED)
    assert (await world.control.call(world.hooks.ReplayWebhookDeliveries, replay, world.who)).queued_count == 2
    await asyncio.sleep(0.3)
    assert len(receiver.events) == 2  # the same request again
    one = proto.ReplayWebhookDeliveriesRequest(name=hook.name, deliveries=[log[0].name])
    assert (await world.control.call(world.hooks.ReplayWebhookDeliveries, one, world.who)).queued_count == 1
    await receiver.until(lambda: len(receiver.events) == 3)
    assert receiver.events[2]["id"] == log[0].event_id
    assert {event["id"] for event in receiver.events} == {entry.event_id for entry in log}
    cases: tuple[tuple[dict[str, Any], Reason], ...] = (
        ({}, Reason.INVALID_ARGUMENT),
        ({"start_time": times["end_time"], "end_time": times["start_time"]}, Reason.INVALID_ARGUMENT),
        ({"deliveries": [hook.name]}, Reason.INVALID_ARGUMENT),
        ({"deliveries": [f"{tenant}/webhooks/other/deliveries/1"]}, Reason.INVALID_ARGUMENT),
        ({"deliveries": [f"{hook.name}/deliveries/999999"]}, Reason.NOT_FOUND),
    )
    for bad, reason in cases:
        request = proto.ReplayWebhookDeliveriesRequest(name=hook.name, **bad)
        assert await world.control.refused(world.hooks.ReplayWebhookDeliveries, request, world.who) is reason


async def test_a_disabled_webhook_is_not_told_and_gets_no_events(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    hook = await world.create(tenant, receiver.url, enabled=False)
    async with receiving() as other:
        await world.create(tenant, other.url)
        await world.tell(tenant)
        await other.until(lambda: len(other.events) == 1)
    assert receiver.requests == []
    assert await world.log(hook.name) == []
    assert (await world.get(hook.name)).state == Webhook.STATE_DISABLED


async def test_a_test_tells_what_the_endpoint_said(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    hook = await world.create(tenant, receiver.url, enabled=False)
    request = proto.TestWebhookRequest(name=hook.name)
    answer = await world.control.call(world.hooks.TestWebhook, request, basic("tenant"))
    assert (answer.delivered, answer.status_code, answer.response_excerpt) == (True, 200, "thanks")
    assert [event["kind"] for event in receiver.events] == ["test"]
    assert genuine(receiver.requests[0], hook.secret)
    receiver.behaviour = lambda _: Answer(404, b"no such page")
    answer = await world.control.call(world.hooks.TestWebhook, request)
    assert (answer.delivered, answer.status_code, answer.response_excerpt) == (False, 404, "no such page")
    receiver.behaviour = lambda _: Answer(delay=12)
    answer = await world.control.call(world.hooks.TestWebhook, request)
    assert (answer.delivered, answer.status_code, answer.error) == (False, 0, "no answer within 3 s")
    assert await world.log(hook.name) == []


async def test_https_is_verified_with_the_name_and_the_checked_address_is_used(
    database_url: str, tmp_path: Path, dns_server: DnsServer
) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    good = authority.issue("hook.example").server_context()
    wrong = stranger.issue("hook.example").server_context()
    dns_server.set("hook.example", "A", "127.0.0.1")
    dns_server.set("inner.example", "A", "10.0.0.1")
    dns_server.set("mixed.example", "A", "127.0.0.1", "10.0.0.1")
    chosen = options(ca_file=str(authority.ca_file), allow_http=False)
    nameservers = [f"127.0.0.1:{dns_server.port}"]
    async with (
        receiving(good) as receiver,
        receiving(wrong) as false,
        running(database_url, tmp_path / "home", nameservers, **chosen) as control,
    ):
        world = World(control, WebhookServiceStub(control.channel))
        tenant = await control.tenant("tenant")

        async def error_of(url: str) -> str:
            hook = await world.create(tenant, url)
            answer = await control.call(world.hooks.TestWebhook, proto.TestWebhookRequest(name=hook.name))
            assert answer.delivered == (answer.error == "")
            return str(answer.error)

        assert await error_of(f"https://hook.example:{receiver.port}/a?b=c") == ""
        assert receiver.requests[0].path == "/a?b=c"
        assert receiver.requests[0].headers["host"] == f"hook.example:{receiver.port}"
        assert "CERTIFICATE_VERIFY_FAILED" in await error_of(f"https://hook.example:{false.port}/")
        assert "certificate" in await error_of(f"https://127.0.0.1:{receiver.port}/")
        assert "not public" in await error_of("https://inner.example/")
        assert "not public" in await error_of("https://mixed.example/")
        assert "has no address" in await error_of("https://nowhere.example/")
        assert false.requests == []
        with pytest.raises(Refusal):
            await world.create(tenant, "http://hook.example/")


async def test_secret_headers_do_not_follow_to_another_host(world: World) -> None:
    tenant = await world.control.tenant("tenant")
    world.who = basic("tenant")
    hook = await world.create(tenant, "https://example.com/a", headers={"Authorization": "Bearer quite-secret"})
    for paths, values in ((("url",), {}), (("url", "headers"), {"headers": {"Authorization": ""}})):
        with pytest.raises(Refusal) as refused:
            await world.update(hook.name, *paths, url="https://elsewhere.example/a", **values)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "webhook.headers")
    new = {"Authorization": "Bearer another"}
    changed = await world.update(hook.name, "url", "headers", url="https://elsewhere.example/a", headers=new)
    assert changed.url == "https://elsewhere.example/a"


async def test_updates_keep_what_is_not_named(world: World) -> None:
    tenant = await world.control.tenant("tenant")
    world.who = basic("tenant")
    hook = await world.create(
        tenant, "https://example.com/a", headers={"X-A": "1"}, streams=["s"], include_subtree=True
    )
    changed = await world.update(hook.name, "url", url="https://example.com/b", display_name="ignored")
    assert (changed.url, changed.display_name, list(changed.streams)) == ("https://example.com/b", "", ["s"])
    assert changed.etag != hook.etag
    changed = await world.update(hook.name, "streams", "include_subtree", "headers", headers={"X-A": "", "X-B": "2"})
    assert (list(changed.streams), changed.include_subtree, set(changed.headers)) == ([], False, {"X-A", "X-B"})
    for bad, field_at_fault in (
        ({"url": "https://10.0.0.1/"}, "webhook.url"),
        ({"batch_size": 501}, "webhook.batch_size"),
        ({"event_kinds": [Webhook.EVENT_KIND_TEST]}, "webhook.event_kinds"),
        ({"payload_format": 9}, "webhook.payload_format"),
        ({"headers": {"Host": "x"}}, "webhook.headers"),
        ({"streams": ["not a stream"]}, "webhook.streams"),
        ({"sender_domains": ["x y"]}, "webhook.sender_domains"),
    ):
        with pytest.raises(Refusal) as refused:
            await world.update(hook.name, *bad, **bad)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, field_at_fault)
    with pytest.raises(Refusal) as refused:
        await world.update(hook.name, "display_name", display_name="x", etag=hook.etag)
    assert refused.value.reason is Reason.STALE_ETAG
    with pytest.raises(Refusal):
        await world.update(hook.name, "secret", secret="x")
    delete = proto.DeleteWebhookRequest(name=hook.name, etag=hook.etag)
    assert await world.control.refused(world.hooks.DeleteWebhook, delete, world.who) is Reason.STALE_ETAG
    delete = proto.DeleteWebhookRequest(name=hook.name, request_id=new_id())
    for _ in range(2):
        await world.control.call(world.hooks.DeleteWebhook, delete, world.who)
    listed = await world.control.call(world.hooks.ListWebhooks, proto.ListWebhooksRequest(parent=tenant), world.who)
    assert list(listed.webhooks) == []


async def test_a_webhook_of_others_is_not_there(world: World, receiver: Receiver) -> None:
    tenant = await world.control.tenant("tenant")
    await world.control.tenant("other")
    hook = await world.create(tenant, receiver.url)
    other = basic("other")
    own_spelling = hook.name.replace("tenants/tenant", "tenants/other")
    for name in (hook.name, own_spelling):
        for method, request in (
            (world.hooks.GetWebhook, proto.GetWebhookRequest(name=name)),
            (world.hooks.UpdateWebhook, proto.UpdateWebhookRequest(webhook=Webhook(name=name, display_name="x"))),
            (world.hooks.DeleteWebhook, proto.DeleteWebhookRequest(name=name)),
            (world.hooks.RotateWebhookSecret, proto.RotateWebhookSecretRequest(name=name)),
            (world.hooks.TestWebhook, proto.TestWebhookRequest(name=name)),
            (world.hooks.ListWebhookDeliveries, proto.ListWebhookDeliveriesRequest(parent=name)),
        ):
            assert await world.control.refused(method, request, other) is Reason.NOT_FOUND
    assert receiver.requests == []
