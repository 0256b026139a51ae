"""Suppressions that follow from bounces: what the journal tells becomes one, once, as the tenant's policy says."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import suppression_pb2, suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression
from barua.journal.v1 import journal_service_pb2
from barua.journal.v1.event_pb2 import Event

from control.database import Database
from mta.message.ids import IdMaker
from tests.integration.control.harness import Control, new_id
from tests.integration.control.test_suppressions import check, create

NOW = datetime.now(UTC).replace(microsecond=0)
DELIVERED, BOUNCED, EXPIRED = Event.KIND_DELIVERED, Event.KIND_BOUNCED, Event.KIND_EXPIRED


class Journal:
    """A spool that tells what happened to mail of one tenant."""

    def __init__(self, control: Control, tenant_id: str) -> None:
        self._control = control
        self._tenant_id = tenant_id
        self._holder = new_id()
        self._sequence = 0
        self._ids = IdMaker(7)
        self.last_id = 0

    async def tell(
        self,
        recipient: str,
        kind: Event.Kind.ValueType,
        enhanced: str = "",
        text: str = "",
        *,
        day: int = 0,
        sender: str = "a@acme.test",
    ) -> None:
        """A message came in and this became of it, ``day`` days from now."""
        moment = NOW + timedelta(days=day)
        self.last_id = self._ids.next(int(time.time() * 1000))
        stamp = Timestamp(seconds=int(moment.timestamp()))
        values = {
            "time": stamp,
            "tenant_id": self._tenant_id,
            "recipient_id": self.last_id,
            "message_id": self.last_id,
        }
        self._sequence += 2
        events = [
            Event(
                sequence=self._sequence - 1,
                kind=Event.KIND_RECEIVED,
                sender=sender,
                recipient=recipient,
                source="smtp",
                **values,  # type: ignore[arg-type]
            ),
            Event(
                sequence=self._sequence,
                kind=kind,
                attempt=1,
                code=int(enhanced[:1] or 0) * 100 + 50 if enhanced else 0,
                enhanced_code=enhanced,
                text=text,
                remote_host="mx.x.test",
                **values,  # type: ignore[arg-type]
            ),
        ]
        request = journal_service_pb2.PushEventsRequest(holder=self._holder, node="node1", events=events)
        await self._control.call(self._control.journal.PushEvents, request, self._control.node)


@pytest.fixture
async def journal(control: Control) -> Journal:
    """A spool of a tenant."""
    await control.tenant("reseller")
    await control.tenant("acme", "reseller")
    return Journal(control, "acme")


async def consumed(control: Control, database: Database) -> None:
    """Wait until everything that was told has been dealt with."""
    async with asyncio.timeout(60):
        while True:
            behind = await database.transact(
                lambda c: c.fetchval(
                    "SELECT event_head.number - event_cursor.number FROM event_head, event_cursor"
                    " WHERE name = 'suppressions'"
                )
            )
            if behind == 0:
                return
            await asyncio.sleep(0.02)


async def held(control: Control, database: Database, address: str) -> Suppression | None:
    """The suppression of an address on the tenant."""
    await consumed(control, database)
    (result,) = await check(control, "tenants/acme", [address])
    return result.matches[0].suppression if result.matches else None


@pytest.mark.each_postgres
async def test_a_hard_bounce_suppresses_with_its_evidence(
    control: Control, database: Database, journal: Journal
) -> None:
    await journal.tell("Ann@X.test", BOUNCED, "5.1.1", "no such user")
    source = journal.last_id
    found = await held(control, database, "ann@x.test")
    assert found is not None
    assert (found.reason, found.evidence) == (Suppression.REASON_HARD_BOUNCE, "mx.x.test said: 550 5.1.1 no such user")
    assert (found.source_message_id, found.created_by, found.stream) == (source, "control", "")
    assert not found.HasField("expire_time")
    await journal.tell("bob@x.test", BOUNCED, "5.7.1", "spam")
    await journal.tell("cid@x.test", BOUNCED, "5.1.1", "no such user", sender="")
    assert await held(control, database, "bob@x.test") is None
    assert await held(control, database, "cid@x.test") is None


async def test_what_people_said_stays(control: Control, database: Database, journal: Journal) -> None:
    await create(control, "tenants/acme", "ann@x.test", reason=Suppression.REASON_COMPLAINT)
    await journal.tell("ann@x.test", BOUNCED, "5.1.1", "no such user")
    found = await held(control, database, "ann@x.test")
    assert found is not None
    assert found.reason == Suppression.REASON_COMPLAINT


async def test_soft_bounces_pause_and_a_delivery_ends_it(
    control: Control, database: Database, journal: Journal
) -> None:
    for day in (0, 0, 1):
        await journal.tell("ann@x.test", EXPIRED, "4.2.2", "full", day=day)
    assert await held(control, database, "ann@x.test") is None
    await journal.tell("ann@x.test", BOUNCED, "5.2.2", "full", day=2)
    found = await held(control, database, "ann@x.test")
    assert found is not None
    assert found.reason == Suppression.REASON_SOFT_BOUNCE
    assert found.expire_time.seconds == int((NOW + timedelta(days=9)).timestamp())
    await journal.tell("ann@x.test", DELIVERED, "2.0.0", day=3)
    assert await held(control, database, "ann@x.test") is None
    assert await database.transact(lambda c: c.fetchval("SELECT count(*) FROM bounce_ladder")) == 0
    for day in (4, 5, 6):
        await journal.tell("ann@x.test", EXPIRED, "4.4.1", "nobody there", day=day)
    again = await held(control, database, "ann@x.test")
    assert again is not None
    assert again.expire_time.seconds == int((NOW + timedelta(days=13)).timestamp())
    await journal.tell("ann@x.test", BOUNCED, "5.1.1", "no such user", day=7)
    final = await held(control, database, "ann@x.test")
    assert final is not None
    assert (final.reason, final.HasField("expire_time")) == (Suppression.REASON_HARD_BOUNCE, False)


async def test_a_policy_switches_it_off(control: Control, database: Database, journal: Journal) -> None:
    request = suppression_service_pb2.UpdateSuppressionPolicyRequest(
        policy=suppression_pb2.SuppressionPolicy(
            name="tenants/reseller/suppressionPolicy",
            hard_bounces=suppression_pb2.SWITCH_OFF,
            soft_bounce_count=1,
            soft_bounce_days=1,
            pause_count=0,
        )
    )
    await control.call(control.suppressions.UpdateSuppressionPolicy, request)
    await journal.tell("bob@x.test", EXPIRED, "4.4.1", "nobody there")
    found = await held(control, database, "bob@x.test")
    assert found is not None
    assert not found.HasField("expire_time")
    request.policy.soft_bounces = suppression_pb2.SWITCH_OFF
    await control.call(control.suppressions.UpdateSuppressionPolicy, request)
    await journal.tell("ann@x.test", BOUNCED, "5.1.1", "no such user")
    assert await held(control, database, "ann@x.test") is None


async def test_mail_of_a_tenant_that_does_not_exist_stops_nothing(
    control: Control, database: Database, journal: Journal
) -> None:
    await Journal(control, "nobody").tell("ann@x.test", BOUNCED, "5.1.1", "no such user")
    await journal.tell("bob@x.test", BOUNCED, "5.1.1", "no such user")
    assert await held(control, database, "ann@x.test") is None
    assert await held(control, database, "bob@x.test") is not None
