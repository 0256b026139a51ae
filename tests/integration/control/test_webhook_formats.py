"""Webhooks in the forms of other services, against real HTTPS endpoints: bytes, signatures, repeats, own endpoints."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from barua.control.v1 import credential_pb2, credential_service_pb2, tenant_service_pb2
from barua.control.v1 import webhook_service_pb2 as proto
from barua.control.v1.tenant_pb2 import Tenant
from barua.control.v1.webhook_pb2 import Webhook
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub
from barua.journal.v1.event_pb2 import Event

from control.database import Database
from control.model import messageids
from control.model.caller import acting_for_platform
from control.model.events import EventKind
from control.store import engagement
from control.store.engagement import Engagement
from mta.runtime import links
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import new_id, running
from tests.integration.control.hooks import DELIVERED, FAILED, PENDING, World, impatient, options, world
from tests.integration.control.receiver import Answer, Receiver, Request, receiving, until
from tests.support.certs import Authority
from tests.support.dns import DnsServer

__all__ = ["impatient", "world"]  # fixtures

KEY = "bk_abcdefghijkl_abcdefghijklmnopqrstuvwxyz234567"
SENDPOST = {
    "payload_format": Webhook.PAYLOAD_FORMAT_SENDPOST,
    "event_kinds": [kind for kind in Webhook.EventKind.values() if kind not in (0, 10, 11)],
}


@dataclass
class Secure:
    """A control program that demands HTTPS, and endpoints that speak it."""

    world: World
    authority: Authority

    @asynccontextmanager
    async def endpoint(self) -> AsyncIterator[Receiver]:
        """An endpoint with a certificate that is believed."""
        context = self.authority.issue("127.0.0.1").server_context()
        async with receiving(context) as receiver:
            yield receiver


@pytest.fixture
async def secure(database_url: str, tmp_path: Path, dns_server: DnsServer) -> AsyncIterator[Secure]:
    """With the pauses of the real world."""
    authority = Authority(tmp_path / "ca")
    chosen = options(ca_file=str(authority.ca_file), allow_http=False, pace=1.0)
    async with running(database_url, tmp_path / "home", [f"127.0.0.1:{dns_server.port}"], **chosen) as control:
        yield Secure(World(control, WebhookServiceStub(control.channel)), authority)


def signed_by(request: Request, key: str) -> bool:
    """What a customer's program does, independent of ours."""
    expected = hmac.new(key.encode(), request.body, hashlib.sha256).hexdigest()
    return (
        hmac.compare_digest(request.headers["x-sendpost-signature"], expected)
        and request.headers["x-sendpost-signature-alg"] == "hmac-sha256"
    )


def types(receiver: Receiver) -> list[str]:
    """Names of the events that a SendPost endpoint got, sorted."""
    return sorted(request.json["event"]["typeName"] for request in receiver.requests)


async def number_of(world: World, tenant: str) -> int:
    """The small number of a tenant."""
    found: Tenant = await world.control.call(
        world.control.tenants.GetTenant, tenant_service_pb2.GetTenantRequest(name=tenant)
    )
    return found.number


async def test_sendpost_over_https_to_the_byte(secure: Secure) -> None:
    world = secure.world
    account = await world.control.tenant("account")
    sub = await world.control.tenant("sub", "account")
    at = datetime.now(UTC).replace(microsecond=250_000)
    properties = {
        "dialect": "sendpost", "from": {"email": "hello@example.com", "name": "Hello"},
        "to": {"email": "ann@example.net", "name": "Ann", "custom_fields": {"first": "Ann"}},
        "headers": {"X-Mine": "1"}, "track_opens": True, "track_clicks": True,
    }  # fmt: skip
    async with secure.endpoint() as receiver:
        kinds = {"event_kinds": [Webhook.EVENT_KIND_DELIVERED]}
        hook = await world.create(account, receiver.url, include_subtree=True, secret=KEY, **SENDPOST | kinds)
        assert hook.secret == ""
        (id_,) = await world.tell(
            sub, 1, Event.KIND_DELIVERED, at=at, tags=["a", "b"], properties=json.dumps(properties)
        )
        await receiver.until(lambda: len(receiver.requests) == 1)
        (log,) = await world.until_logged(hook.name, DELIVERED)
    (request,) = receiver.requests
    numbers = {"accountID": await number_of(world, account), "subAccountID": await number_of(world, sub)}
    uuid, time = messageids.uuid(id_), round(at.timestamp() * 1000) * 1_000_000
    author, fields = {"email": "hello@example.com", "name": "Hello"}, {"first": "Ann"}
    reply = {"smtpCode": 250, "smtpDescription": "2.0.0 Ok"}
    expected = {
        "event": {
            "eventId": log.event_id, "eventID": log.event_id, "messageId": uuid, "messageID": uuid, "type": 2,
            "typeName": "delivered", "from": "hello@example.com", "fromName": "Hello", "to": "ann@example.net",
            "toName": "Ann", "subject": "Hello", "messageSubject": "Hello", "messageType": "default",
            "groups": ["a", "b"], "submittedAt": time, "timestamp": time, **reply, **numbers, "ipID": 0,
            "ipPoolID": 0, "domainID": 0, "tpspId": 0, "eventMetadata": reply,
        },
        "emailMessage": {
            "messageID": uuid, **numbers, "ipID": 0, "publicIP": "", "localIP": "", "emailType": "default",
            "submittedAt": time, "from": author, "replyTo": author,
            "to": {"email": "ann@example.net", "name": "Ann", "cc": [], "bcc": [], "customFields": fields},
            "groups": ["a", "b"], "ipPool": "", "headers": {"X-Mine": "1"}, "customFields": fields,
            "trackOpens": True, "trackClicks": True, "webhookEndpoint": "",
        },
    }  # fmt: skip
    assert request.body == json.dumps(expected, separators=(",", ":")).encode()
    assert signed_by(request, KEY)
    assert not signed_by(request, KEY + "x")
    assert request.headers["x-sendpost-webhook-id"] == log.event_id
    assert request.headers["x-sendpost-webhook-attempt"] == "1"
    assert request.headers["content-type"] == "application/json"
    assert "barua-signature" not in request.headers


async def test_sendposts_schedule(secure: Secure, database: Database) -> None:
    """One minute, five, half an hour, two hours, a day; then it is over. The clock is moved, not waited for."""
    world = secure.world
    tenant = await world.control.tenant("tenant")
    async with secure.endpoint() as receiver:
        receiver.behaviour = lambda _: Answer(500 + len(receiver.requests))
        kinds = {"event_kinds": [Webhook.EVENT_KIND_ACCEPTED]}
        hook = await world.create(tenant, receiver.url, **SENDPOST | kinds)
        assert not hook.HasField("success_rate")
        await world.tell(tenant)
        pauses: list[float] = []
        for attempt in range(1, 7):
            await receiver.until(lambda attempt=attempt: len(receiver.requests) == attempt)  # type: ignore[misc]

            async def settled(attempt: int = attempt) -> Any:
                (entry,) = await world.log(hook.name)
                return entry if (entry.attempt_count, entry.status_code) == (attempt, 500 + attempt) else None

            if attempt == 6:
                break
            entry = await until(settled)
            last = entry.last_attempt_time.ToDatetime()
            pauses.append((entry.next_attempt_time.ToDatetime() - last).total_seconds())
            assert (await world.get(hook.name)).state == Webhook.STATE_DEGRADED
            await _pass_time(database)
        (over,) = await world.until_logged(hook.name, FAILED)
    for pause, exact in zip(pauses, (60, 300, 1800, 7200, 86_400), strict=True):
        assert exact <= pause < exact + 50  # the attempt itself takes a moment
    assert not over.HasField("next_attempt_time")
    assert [request.headers["x-sendpost-webhook-attempt"] for request in receiver.requests] == list("123456")
    assert len({request.headers["x-sendpost-webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1
    failed = await world.get(hook.name)
    assert (failed.state, failed.failure_count, failed.success_rate) == (Webhook.STATE_DEGRADED, 6, 0.0)


async def _pass_time(database: Database) -> None:
    """Let what waits be due, and pauses of endpoints be over."""

    async def work(connection: Any) -> None:
        with_time = "UPDATE webhook_delivery SET due_at = now() WHERE state = 1"
        await connection.execute(with_time)
        await connection.execute("UPDATE webhook SET paused_until = '-infinity'")

    with acting_for_platform():
        await database.transact(work)


async def test_mailpass_over_https(secure: Secure) -> None:
    world = secure.world
    tenant = await world.control.tenant("tenant")
    properties = {"dialect": "mailpass", "host": "mail.example.org", "metadata": {"order_id": "12345"}}
    async with secure.endpoint() as receiver:
        hook = await world.create(tenant, receiver.url, payload_format=Webhook.PAYLOAD_FORMAT_MAILPASS)
        await world.tell(tenant, 1, Event.KIND_DELIVERED, tags=["order"], properties=json.dumps(properties))
        await receiver.until(lambda: len(receiver.requests) == 2)
        await world.until_logged(hook.name, DELIVERED, DELIVERED)
    assert {request.headers["x-webhook-event"] for request in receiver.requests} == {"email.sent", "email.delivered"}
    assert len({request.headers["x-webhook-id"] for request in receiver.requests}) == 2
    for request in receiver.requests:
        expected = hmac.new(hook.secret.encode(), request.body, hashlib.sha256).hexdigest()
        assert request.headers["x-webhook-signature"] == f"sha256={expected}"
        assert request.json["event"] == request.headers["x-webhook-event"]
        assert request.json["data"]["message_id"].endswith("@mail.example.org>")
        assert request.json["data"]["metadata"] == {"order_id": "12345"}
    assert (await world.get(hook.name)).success_rate == 1.0


async def test_sendpulse_gathers(world: World) -> None:
    tenant = await world.control.tenant("tenant")
    async with receiving() as receiver:
        hook = await world.create(tenant, receiver.url, payload_format=Webhook.PAYLOAD_FORMAT_SENDPULSE)
        assert hook.batch_size == 500
        ids = await world.tell(tenant, 3, Event.KIND_DELIVERED)
        await receiver.until(lambda: len(receiver.requests) == 1)
        items = receiver.requests[0].json
        await world.until_logged(hook.name, DELIVERED, DELIVERED, DELIVERED)
    assert [item["event"] for item in items] == ["delivered"] * 3
    assert sorted(item["message_id"] for item in items) == ids
    assert set(items[0]) == {
        *("event", "timestamp", "message_id", "recipient", "sender", "subject"),
        *("smtp_server_response_code", "smtp_server_response_subcode", "smtp_server_response"),
    }


async def test_sendpulse_waits_for_half_a_minute_or_five_hundred(secure: Secure) -> None:
    world = secure.world
    tenant = await world.control.tenant("tenant")
    async with secure.endpoint() as receiver:
        kinds = {"event_kinds": [Webhook.EVENT_KIND_DELIVERED]}
        hook = await world.create(tenant, receiver.url, payload_format=Webhook.PAYLOAD_FORMAT_SENDPULSE, **kinds)
        await world.tell(tenant, 3, Event.KIND_DELIVERED)

        async def queued() -> Any:
            return await world.log(hook.name, PENDING)

        waiting = await until(queued)
        spans = [entry.next_attempt_time.ToDatetime() - entry.create_time.ToDatetime() for entry in waiting]
        assert set(spans) == {timedelta(seconds=30)}
        assert receiver.requests == []
        await world.tell(tenant, 498, Event.KIND_DELIVERED)
        await receiver.until(lambda: len(receiver.requests) == 1)
        assert len(receiver.requests[0].json) == 500

        async def one_left() -> bool:
            return len(await world.log(hook.name, PENDING)) == 1

        await until(one_left)


async def test_the_first_of_several(world: World, database: Database) -> None:
    tenant = await world.control.tenant("tenant")
    async with receiving() as every, receiving() as unique, receiving() as sendpost:
        opened, first = Webhook.EVENT_KIND_OPENED, Webhook.EVENT_KIND_UNIQUE_OPENED
        await world.create(tenant, every.url, event_kinds=[opened, first])
        await world.create(tenant, unique.url, event_kinds=[first])
        await world.create(
            tenant, sendpost.url, **SENDPOST | {"event_kinds": [first, Webhook.EVENT_KIND_UNIQUE_CLICKED]}
        )
        reference = links.new_reference()
        await world.tell(tenant, 1, Event.KIND_DELIVERED, reference=reference)
        done = [
            Engagement(kind, datetime.now(UTC), reference, "192.0.2.1", "curl/8", url)
            for kind, url in ((EventKind.OPENED, ""), (EventKind.OPENED, ""), (EventKind.CLICKED, "https://a.example/"))
        ]
        for one in done:
            with acting_for_platform():
                await database.transact(lambda connection, one=one: engagement.take(connection, [one]))  # type: ignore[misc]
        await sendpost.until(lambda: len(sendpost.requests) == 2)
        await every.until(lambda: len(every.events) == 2)
        await unique.until(lambda: len(unique.events) == 1)
    assert types(sendpost) == ["clicked", "opened"]
    by_type = {request.json["event"]["typeName"]: request.json["event"] for request in sendpost.requests}
    assert by_type["clicked"]["eventMetadata"]["clickedUrl"] == "https://a.example/"
    assert by_type["opened"]["eventMetadata"]["userAgent"]["family"] == "curl"
    assert {event["kind"] for event in [*every.events, *unique.events]} == {"opened"}
    assert unique.events[0]["engagement"] == {"ip_address": "192.0.2.1", "user_agent": "curl/8", "first": True}


async def test_a_message_can_name_its_own_endpoint(world: World) -> None:
    account = await world.control.tenant("account")
    sub = await world.control.tenant("sub", "account")
    async with receiving() as general, receiving() as own, receiving() as native:
        await world.create(account, general.url, include_subtree=True, secret=KEY, **SENDPOST)
        await world.create(account, native.url, include_subtree=True)

        def properties(url: str) -> str:
            return json.dumps({"dialect": "sendpost", "webhook_endpoint": url})

        here = own.url + "?for=me"
        await world.tell(sub, 1, Event.KIND_DELIVERED, properties=properties(here))
        await own.until(lambda: len(own.requests) == 3)
        await world.tell(sub, 1, Event.KIND_DELIVERED, properties=properties("https://10.0.0.1/"))
        await general.until(lambda: len(general.requests) == 3)
        await native.until(lambda: len(native.events) == 4)
        assert types(own) == types(general) == ["delivered", "processed", "sent"]
        assert all(signed_by(request, KEY) for request in [*own.requests, *general.requests])
        assert {request.path for request in own.requests} == {"/hook?for=me"}
        assert {request.json["emailMessage"]["webhookEndpoint"] for request in own.requests} == {here}
        listed = await world.control.call(world.hooks.ListWebhooks, proto.ListWebhooksRequest(parent=sub))
        assert list(listed.webhooks) == []


async def test_an_own_endpoint_is_signed_with_a_key_that_can_be_read_again(world: World) -> None:
    account = await world.control.tenant("account")
    async with receiving() as own:
        url = json.dumps({"dialect": "sendpost", "webhook_endpoint": own.url})
        await world.tell(account, 1, Event.KIND_DROPPED, properties=url)
        await own.until(lambda: len(own.requests) == 2)
        assert types(own) == ["dropped", "processed"]
        assert all("x-sendpost-signature" not in request.headers for request in own.requests)
        made = await world.control.call(
            world.control.credentials.CreateApiKey,
            credential_service_pb2.CreateApiKeyRequest(
                parent=account, api_key=credential_pb2.ApiKey(recoverable=True, scopes=["mail"]), request_id=new_id()
            ),
        )
        await world.tell(account, 1, properties=url)
        await own.until(lambda: len(own.requests) == 4)
        assert all(signed_by(request, made.secret_key) for request in own.requests[2:])


async def test_a_secret_can_be_given(world: World) -> None:
    tenant = await world.control.tenant("tenant")
    async with receiving() as receiver:
        with pytest.raises(Refusal) as refused:
            await world.create(tenant, receiver.url, secret="too short")
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "webhook.secret")
        hook = await world.create(tenant, receiver.url, secret=KEY, **SENDPOST)
        other = "x" * 32
        rotate = proto.RotateWebhookSecretRequest(name=hook.name, secret=other, request_id=new_id())
        rotated = await world.control.call(world.hooks.RotateWebhookSecret, rotate)
        assert (hook.secret, rotated.secret) == ("", "")
        answer = await world.control.call(world.hooks.TestWebhook, proto.TestWebhookRequest(name=hook.name))
        assert answer.delivered
        assert signed_by(receiver.requests[0], other)
        assert receiver.requests[0].json["event"]["typeName"] == "delivered"


async def test_a_form_of_another_service_may_ask_for_nothing(world: World) -> None:
    tenant = await world.control.tenant("tenant")
    async with receiving() as receiver:
        hook = await world.create(tenant, receiver.url, **SENDPOST | {"event_kinds": []})
        assert list(hook.event_kinds) == []
        with pytest.raises(Refusal):
            await world.create(tenant, receiver.url, event_kinds=[])
