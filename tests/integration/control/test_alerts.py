"""Alerts end to end: rules are evaluated, firings recorded, webhooks and mail told."""

import asyncio
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from barua.control.v1 import alert_service_pb2 as proto
from barua.control.v1 import credit_service_pb2, tenant_service_pb2
from barua.control.v1.alert_pb2 import Alert, AlertRule
from barua.control.v1.alert_service_pb2_grpc import AlertServiceStub
from barua.control.v1.webhook_pb2 import Webhook
from barua.control.v1.webhook_service_pb2_grpc import WebhookServiceStub
from barua.journal.v1.event_pb2 import Event

from control.alerting import Alerting
from control.database import Database
from control.store import alerts
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id, running
from tests.integration.control.hooks import World, impatient, options
from tests.integration.control.receiver import receiving, until

__all__ = ["impatient"]  # a fixture


class Rules:
    """The alert service of a control program that evaluates five times a second."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.stub = AlertServiceStub(control.channel)
        self.world = World(control, WebhookServiceStub(control.channel))

    async def create(self, tenant: str, **settings: Any) -> AlertRule:
        """Make a rule."""
        request = proto.CreateAlertRuleRequest(parent=tenant, alert_rule=AlertRule(**settings), request_id=new_id())
        made: AlertRule = await self.control.call(self.stub.CreateAlertRule, request)
        return made

    async def get(self, name: str) -> AlertRule:
        """A rule as it is now."""
        found: AlertRule = await self.control.call(self.stub.GetAlertRule, proto.GetAlertRuleRequest(name=name))
        return found

    async def firings(self, tenant: str, **query: Any) -> list[Alert]:
        """A tenant's firings, newest first."""
        answer = await self.control.call(self.stub.ListAlerts, proto.ListAlertsRequest(parent=tenant, **query))
        return list(answer.alerts)

    async def until_state(self, name: str, state: int) -> AlertRule:
        """Wait until a rule is in a state."""

        async def probe() -> list[AlertRule]:
            rule = await self.get(name)
            return [rule] if rule.state == state else []

        return (await until(probe))[0]


@pytest.fixture
async def rules(database_url: str, tmp_path: Path) -> AsyncIterator[Rules]:
    """The alert service of a fresh control program."""
    async with running(database_url, tmp_path / "home", **options()) as control:
        yield Rules(control)


OK, FIRING = AlertRule.STATE_OK, AlertRule.STATE_FIRING


async def test_a_low_balance_fires_and_ends_when_credits_come(rules: Rules) -> None:
    tenant = await rules.control.tenant("tenant", credits=5)
    async with receiving() as receiver:
        await rules.world.create(tenant, receiver.url, event_kinds=[Webhook.EVENT_KIND_ALERT])
        await rules.world.create("tenants/operator", receiver.url, event_kinds=[Webhook.EVENT_KIND_ALERT])
        rule = await rules.create(
            tenant, metric=AlertRule.METRIC_BALANCE, threshold=10.0, hysteresis=5.0, display_name="low"
        )
        assert (rule.state, rule.enabled, rule.notify_webhooks, rule.window.seconds) == (OK, True, True, 3600)
        firing = await rules.until_state(rule.name, FIRING)
        assert firing.last_value == 5
        (alert,) = await rules.firings(tenant, open_only=True)
        assert (alert.alert_rule, alert.value, alert.threshold, alert.HasField("end_time")) == (rule.name, 5, 10, False)
        await receiver.until(lambda: len(receiver.events) == 1)
        grant = credit_service_pb2.GrantCreditsRequest(tenant=tenant, amount=6)
        await rules.control.call(rules.control.credits.GrantCredits, grant)
        await asyncio.sleep(0.6)
        assert (await rules.get(rule.name)).state == FIRING  # not past the hysteresis yet
        await rules.control.call(rules.control.credits.GrantCredits, grant)
        await rules.until_state(rule.name, OK)
        await receiver.until(lambda: len(receiver.events) == 2)
    notes = [event["alert"] for event in receiver.events]
    assert {note["name"] for note in notes} == {alert.name}
    assert sorted(note["state"] for note in notes) == ["firing", "ok"]
    assert {(note["metric"], note["rule"], note["display_name"]) for note in notes} == {("balance", rule.name, "low")}
    (ended,) = await rules.firings(tenant)
    assert ended.HasField("end_time")
    assert await rules.firings(tenant, open_only=True) == []


async def test_a_bounce_rate_of_the_subtree(rules: Rules) -> None:
    reseller = await rules.control.tenant("reseller")
    account = await rules.control.tenant("account", "reseller")
    settings: dict[str, Any] = {"metric": AlertRule.METRIC_BOUNCE_RATE, "threshold": 0.2, "minimum_volume": 10}
    whole = await rules.create(reseller, include_subtree=True, **settings)
    own = await rules.create(reseller, **settings)
    many = await rules.create(account, **(settings | {"minimum_volume": 1000}))
    delivered = await rules.create(
        account, metric=AlertRule.METRIC_DELIVERED_RATE, threshold=0.7, minimum_volume=10, window=Duration(seconds=60)
    )
    await rules.world.tell(account, 6, Event.KIND_DELIVERED)
    await rules.world.tell(account, 4, Event.KIND_BOUNCED)
    assert (await rules.until_state(whole.name, FIRING)).last_value == pytest.approx(0.4)
    assert (await rules.until_state(delivered.name, FIRING)).last_value == pytest.approx(0.6)
    for rule in (own, many):
        found = await rules.get(rule.name)
        assert (found.state, found.HasField("last_value")) == (OK, False)


@pytest.mark.each_postgres
async def test_a_cap_that_is_nearly_used(rules: Rules, database: Database) -> None:
    tenant = await rules.control.tenant("tenant")
    rule = await rules.create(tenant, metric=AlertRule.METRIC_DAILY_CAP_USED, threshold=0.8)
    await asyncio.sleep(0.5)
    assert not (await rules.get(rule.name)).HasField("last_value")
    await database.transact(
        lambda c: c.execute(
            "WITH cap AS (UPDATE tenant SET max_daily = 100 WHERE tenant_id = 'tenant') UPDATE lease_count"
            " SET day_start = date_trunc('day', now()), day_credits = 80 WHERE tenant_id = 'tenant'"
        )
    )
    assert (await rules.until_state(rule.name, FIRING)).last_value == pytest.approx(0.8)


async def test_failing_things_are_named(rules: Rules, database: Database) -> None:
    tenant = await rules.control.tenant("tenant")
    hook = await rules.world.create(tenant, "https://example.com/")
    hooks = await rules.create(tenant, metric=AlertRule.METRIC_WEBHOOKS_FAILING, threshold=1)
    domains = await rules.create(tenant, metric=AlertRule.METRIC_DOMAINS_FAILING, threshold=1)
    await database.transact(lambda c: c.execute("UPDATE webhook SET failing_since = now() - interval '2 hours'"))
    await database.transact(
        lambda c: c.execute(
            "INSERT INTO domain (domain, tenant_id, verified, signing_off, challenge, checks) VALUES"
            " ('good.test', 'tenant', true, true, 'x', '[{\"kind\": \"spf\", \"state\": \"ok\"}]'),"
            " ('bad.test', 'tenant', true, true, 'x', '[{\"kind\": \"spf\", \"state\": \"missing\"}]')"
        )
    )
    await rules.until_state(hooks.name, FIRING)
    await rules.until_state(domains.name, FIRING)
    details = {alert.alert_rule: alert.detail for alert in await rules.firings(tenant)}
    assert details == {hooks.name: hook.name, domains.name: "bad.test"}


async def test_disabling_and_removing_end_a_firing(rules: Rules) -> None:
    tenant = await rules.control.tenant("tenant")
    first = await rules.create(tenant, metric=AlertRule.METRIC_BALANCE, threshold=10)
    second = await rules.create(tenant, metric=AlertRule.METRIC_BALANCE, threshold=20)
    for rule in (first, second):
        await rules.until_state(rule.name, FIRING)
    update = proto.UpdateAlertRuleRequest(
        alert_rule=AlertRule(name=first.name, enabled=False), update_mask=FieldMask(paths=["enabled"])
    )
    changed = await rules.control.call(rules.stub.UpdateAlertRule, update)
    assert (changed.state, changed.enabled, changed.threshold) == (OK, False, 10)
    delete = proto.DeleteAlertRuleRequest(name=second.name, request_id=new_id())
    for _ in range(2):
        await rules.control.call(rules.stub.DeleteAlertRule, delete)
    listed = await rules.firings(tenant)
    assert len(listed) == 2
    assert all(alert.HasField("end_time") for alert in listed)
    assert len(await rules.firings(tenant, alert_rule=first.name)) == 1
    seen = proto.AcknowledgeAlertRequest(name=listed[0].name, note="I know", request_id=new_id())
    answer = await rules.control.call(rules.stub.AcknowledgeAlert, seen)
    assert (answer.acknowledgement, answer.HasField("acknowledge_time")) == ("I know", True)


async def test_nothing_is_kept_for_a_deleted_tenant(rules: Rules, database: Database) -> None:
    tenant = await rules.control.tenant("tenant")
    rule = await rules.create(tenant, metric=AlertRule.METRIC_BALANCE, threshold=10)
    await rules.world.create(tenant, "https://example.com/")
    await rules.until_state(rule.name, FIRING)
    await rules.control.call(rules.control.tenants.DeleteTenant, tenant_service_pb2.DeleteTenantRequest(name=tenant))
    left = await database.transact(
        lambda c: c.fetchrow(
            "SELECT (SELECT count(*) FROM webhook) AS webhooks, (SELECT count(*) FROM alert_rule) AS rules,"
            " (SELECT count(*) FROM alert WHERE ended_at IS NULL) AS open"
        )
    )
    assert left is not None
    assert dict(left) == {"webhooks": 0, "rules": 0, "open": 0}


async def test_those_above_hear_of_an_end_that_a_tenant_brings_about(rules: Rules) -> None:
    reseller = await rules.control.tenant("reseller")
    account = await rules.control.tenant("account", "reseller")
    async with receiving() as receiver:
        await rules.world.create(reseller, receiver.url, event_kinds=[Webhook.EVENT_KIND_ALERT], include_subtree=True)
        rule = await rules.create(account, metric=AlertRule.METRIC_BALANCE, threshold=10)
        await rules.until_state(rule.name, FIRING)
        await receiver.until(lambda: len(receiver.events) == 1)
        delete = proto.DeleteAlertRuleRequest(name=rule.name)
        await rules.control.call(rules.stub.DeleteAlertRule, delete, basic("account"))
        await receiver.until(lambda: len(receiver.events) == 2)
        assert [event["alert"]["state"] for event in receiver.events] == ["firing", "ok"]


async def test_the_field_at_fault_is_named(control: Control) -> None:
    tenant = await control.tenant("tenant")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"metric": 0}, "metric"),
        ({"threshold": 1.5}, "threshold"),
        ({"hysteresis": 0.5}, "hysteresis"),
        ({"window": Duration(seconds=59)}, "window"),
        ({"window": Duration(seconds=86_401)}, "window"),
        ({"cooldown": Duration(seconds=-1)}, "cooldown"),
        ({"minimum_volume": -1}, "minimum_volume"),
        ({"emails": ["nobody"]}, "emails"),
        ({"display_name": "x" * 201}, "display_name"),
    )
    for settings, at_fault in cases:
        rule = {"metric": AlertRule.METRIC_BOUNCE_RATE, "threshold": 0.1} | settings
        with pytest.raises(Refusal) as refused:
            await Rules(control).create(tenant, **rule)
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, f"alert_rule.{at_fault}")


async def test_rules_of_others_are_not_there(rules: Rules) -> None:
    tenant = await rules.control.tenant("tenant")
    await rules.control.tenant("other")
    rule = await rules.create(tenant, metric=AlertRule.METRIC_BALANCE, threshold=10)
    await rules.until_state(rule.name, FIRING)
    (alert,) = await rules.firings(tenant)
    for prefix in ("tenants/tenant", "tenants/other"):
        name, fired = (text.replace("tenants/tenant", prefix) for text in (rule.name, alert.name))
        for method, request in (
            (rules.stub.GetAlertRule, proto.GetAlertRuleRequest(name=name)),
            (rules.stub.UpdateAlertRule, proto.UpdateAlertRuleRequest(alert_rule=AlertRule(name=name, threshold=1))),
            (rules.stub.DeleteAlertRule, proto.DeleteAlertRuleRequest(name=name)),
            (rules.stub.AcknowledgeAlert, proto.AcknowledgeAlertRequest(name=fired)),
        ):
            assert await rules.control.refused(method, request, basic("other")) is Reason.NOT_FOUND
    stale = proto.UpdateAlertRuleRequest(alert_rule=AlertRule(name=rule.name, threshold=1, etag="0"))
    assert await rules.control.refused(rules.stub.UpdateAlertRule, stale) is Reason.STALE_ETAG


class Outbox:
    """A mailer that keeps what it is given, and fails at first if told so."""

    def __init__(self, failures: int = 0) -> None:
        self.sent: list[tuple[str, EmailMessage]] = []
        self.failures = failures

    async def send(self, recipient: str, message: EmailMessage) -> None:
        """Keep a message."""
        if self.failures:
            self.failures -= 1
            raise Refusal(Reason.UNAVAILABLE, "not now")
        self.sent.append((recipient, message))


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control does no rounds of its own: a late first one would take what the test looks at."""

    async def never(alerting: Alerting) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Alerting, "run", never)


@pytest.mark.usefixtures("by_hand")
async def test_mail_goes_to_addresses_that_are_proved(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    rules = Rules(control)
    settings: dict[str, Any] = {"metric": AlertRule.METRIC_BALANCE, "threshold": 10}
    with pytest.raises(Refusal) as refused:
        await rules.create(tenant, emails=["ops@own.test"], **settings)
    assert (refused.value.reason, refused.value.field) == (Reason.FAILED_PRECONDITION, "alert_rule.emails")
    await database.transact(
        lambda c: c.execute(
            "INSERT INTO domain (domain, tenant_id, verified, signing_off, challenge)"
            " VALUES ('own.test', 'tenant', true, true, 'x')"
        )
    )
    await rules.create(tenant, emails=["Ops@own.test", "boss@own.test"], display_name="low", **settings)
    outbox = Outbox(failures=1)
    alerting = Alerting(database, outbox, 60.0)
    await alerting.evaluate()
    await alerting.send_mail()
    assert [recipient for recipient, _ in outbox.sent] in (["ops@own.test"], ["boss@own.test"])
    await database.transact(lambda c: c.execute("UPDATE alert_mail SET due_at = now()"))
    await alerting.send_mail()
    assert {recipient for recipient, _ in outbox.sent} == {"ops@own.test", "boss@own.test"}
    message = outbox.sent[0][1]
    assert message["Subject"] == "[firing] low (tenant)"
    assert "balance = 0, threshold 10" in message.get_content()
    await alerting.evaluate()
    await alerting.send_mail()
    assert len(outbox.sent) == 2


@pytest.mark.usefixtures("by_hand")
async def test_only_one_program_evaluates_at_a_time(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    rules = Rules(control)
    await rules.create(tenant, metric=AlertRule.METRIC_BALANCE, threshold=10)
    alerting = Alerting(database, Outbox(), 60.0)
    locked, done = asyncio.Event(), asyncio.Event()

    async def hold(connection: Any) -> None:
        assert await alerts.lock(connection)
        locked.set()
        await done.wait()

    holding = asyncio.create_task(database.transact(hold))
    await locked.wait()
    await alerting.evaluate()
    assert await rules.firings(tenant) == []
    done.set()
    await holding
    await asyncio.gather(*(alerting.evaluate() for _ in range(4)))
    assert len(await rules.firings(tenant)) == 1
