"""What tests of webhooks share: a control program whose webhooks reach this machine, and a journal that fills it."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import webhook_service_pb2 as proto
from barua.control.v1.webhook_pb2 import Webhook, WebhookDelivery
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub
from barua.journal.v1 import journal_service_pb2
from barua.journal.v1.event_pb2 import Event

from control.model import messageids
from control.webhooks import signing
from mta.runtime.options import AlertOptions, WebhookOptions
from tests.integration.control.harness import Control, Metadata, new_id, running
from tests.integration.control.receiver import Receiver, Request, receiving, until
from tests.support.dns import DnsServer

PACE = 0.005
"""Ten seconds become 0.05."""
ALL = [Webhook.EVENT_KIND_ACCEPTED, Webhook.EVENT_KIND_DELIVERED, Webhook.EVENT_KIND_BOUNCED]


def options(**chosen: Any) -> dict[str, Any]:
    """Options of control for these tests."""
    settings: dict[str, Any] = {
        "allow_http": True, "allowed_networks": ["127.0.0.0/8"], "pace": PACE, "timeout_seconds": 3.0,
    }  # fmt: skip
    return {"webhooks": WebhookOptions(**(settings | chosen)), "alerts": AlertOptions(interval_seconds=0.2)}


@dataclass
class World:
    """A control program with a stub, and a journal that tells it events."""

    control: Control
    hooks: WebhookServiceStub
    who: Metadata | None = None
    holder: str = field(default_factory=new_id)
    sequence: int = 0

    async def create(self, tenant: str, url: str, **settings: Any) -> Webhook:
        """Make a webhook."""
        webhook = Webhook(**({"url": url, "event_kinds": ALL} | settings))
        request = proto.CreateWebhookRequest(parent=tenant, webhook=webhook, request_id=new_id())
        made: Webhook = await self.control.call(self.hooks.CreateWebhook, request, self.who)
        return made

    async def get(self, name: str) -> Webhook:
        """A webhook as it is now."""
        found: Webhook = await self.control.call(self.hooks.GetWebhook, proto.GetWebhookRequest(name=name), self.who)
        return found

    async def update(self, name: str, *paths: str, **settings: Any) -> Webhook:
        """Change a webhook."""
        request = proto.UpdateWebhookRequest(
            webhook=Webhook(name=name, **settings), update_mask=FieldMask(paths=list(paths))
        )
        changed: Webhook = await self.control.call(self.hooks.UpdateWebhook, request, self.who)
        return changed

    async def log(self, name: str, state: int = 0) -> list[WebhookDelivery]:
        """A webhook's deliveries, newest first."""
        request = proto.ListWebhookDeliveriesRequest(parent=name, state=WebhookDelivery.State.ValueType(state))
        answer = await self.control.call(self.hooks.ListWebhookDeliveries, request, self.who)
        return list(answer.webhook_deliveries)

    async def tell(
        self, tenant: str, count: int = 1, *kinds: int, at: datetime | None = None, **fields: Any
    ) -> list[int]:
        """Have messages accepted and then go through ``kinds``; ids of the recipients."""
        time_ = at or datetime.now(UTC)
        first = messageids.first_at(time_) + self.sequence
        stamp = Timestamp()
        stamp.FromDatetime(time_)
        events = []
        for number in range(count):
            common = {"tenant_id": tenant.removeprefix("tenants/"), "recipient_id": first + number, "time": stamp}
            # What is dropped is not received.
            for kind in kinds if Event.KIND_DROPPED in kinds else (Event.KIND_RECEIVED, *kinds):
                self.sequence += 1
                values: dict[str, Any] = {"sequence": self.sequence, "kind": kind, "message_id": first, **common}
                if kind in (Event.KIND_RECEIVED, Event.KIND_DROPPED):
                    values |= {
                        "sender": "news@example.com",
                        "recipient": "ann@example.net",
                        "subject": "Hello",
                        **fields,
                    }
                else:
                    values |= {"attempt": 1, "code": 250, "enhanced_code": "2.0.0", "text": "Ok"}
                events.append(Event(**values))
        request = journal_service_pb2.PushEventsRequest(holder=self.holder, node="n", events=events)
        await self.control.call(self.control.journal.PushEvents, request, self.control.node)
        return [first + number for number in range(count)]

    async def until_logged(self, name: str, *states: int, seconds: float = 60.0) -> list[WebhookDelivery]:
        """Wait until the log has these states, newest first."""

        async def probe() -> list[WebhookDelivery]:
            log = await self.log(name)
            return log if [entry.state for entry in log] == list(states) else []

        return await until(probe, seconds)

    async def until_told(self, name: str) -> None:
        """Wait until nothing is pending."""

        async def probe() -> bool:
            return not await self.log(name, PENDING)

        await until(probe)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what is due more often than is good for a real database."""
    monkeypatch.setattr("control.webhooks.dispatcher.POLL_SECONDS", 0.05)


@pytest.fixture
async def world(database_url: str, tmp_path: Path, dns_server: DnsServer) -> AsyncIterator[World]:
    """A control program whose webhooks may reach this machine, and whose pauses are short."""
    nameservers = [f"127.0.0.1:{dns_server.port}"]
    async with running(database_url, tmp_path / "home", nameservers, **options()) as control:
        yield World(control, WebhookServiceStub(control.channel))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """An endpoint."""
    async with receiving() as receiver:
        yield receiver


def genuine(request: Request, secret: str) -> bool:
    """Whether a request carries a signature made with a secret."""
    header = request.headers[signing.HEADER.lower()]
    sent = int(header.split(",")[0].removeprefix("t="))
    wanted = signing.signature([secret], sent, request.body).split(",")[1]
    return wanted in header.split(",") and abs(time.time() - sent) < 60


DELIVERED = WebhookDelivery.STATE_DELIVERED
FAILED = WebhookDelivery.STATE_FAILED
PENDING = WebhookDelivery.STATE_PENDING


def stamp(time_: datetime) -> Timestamp:
    """A time as proto."""
    proto_time = Timestamp()
    proto_time.FromDatetime(time_)
    return proto_time
