"""Alerts: looks at every rule once a minute, and tells when one begins or ceases to fire.

``MinuteCounter`` is a consumer of the journal that counts events per minute for tenants with rules about rates; so a
rate looks back to the making of a tenant's first such rule at most.
``Alerting`` evaluates: values of all rules by a few statements, then ``Condition.step`` for each; what begins or ends
is recorded, queued for webhooks and for mail, all in one transaction. Of several control programs one does it at a
time.

Mail goes through a ``Mailer``, from the operator and at the operator's cost, and only to addresses that the rule's
tenant has proved to own. It is sent at least once, and given up after ``MAIL_ATTEMPTS``.

Metrics without a source have no value and never fire: caps of tenants without one. One event loop.
"""

import asyncio
import functools
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTPUTF8
from typing import Protocol

import prometheus_client

from control.database import FAILURES, Connection, Database
from control.model.alerts import MAX_WINDOW_SECONDS, RATES, Condition, Metric, Step, rate
from control.model.events import PastEvent
from control.store import alert_measures, alerts
from control.store.alert_measures import Counted
from control.store.alerts import Alert, Mail, Rule
from control.webhooks import composing, fanout
from mta.runtime.log import get_logger
from mta.runtime.refusals import Refusal

log = get_logger(__name__)

PAGE = 500
"""Rules of one transaction."""
MAIL_BATCH = 20
MAIL_ATTEMPTS = 8
MAIL_PAUSE_SECONDS = 300.0
"""Between attempts to send mail; an attempt under way is ours for as long."""
MAIL_SECONDS = 30.0
"""For handing one message to the relay."""
KEPT_ALERTS_SECONDS = 400 * 86_400.0
"""How long ended firings are kept."""
CLEAN_EVERY = 60
"""Evaluations between one cleaning and the next."""

_firing = prometheus_client.Gauge("barua_control_alerts_firing", "Alert rules that fire, of those seen last.")
_steps = prometheus_client.Counter("barua_control_alerts_total", "Alerts that began or ended.", ["state"])
_mails = prometheus_client.Counter("barua_control_alert_mails_total", "Attempts to mail alerts, by result.", ["result"])


class MinuteCounter:
    """The consumer that counts."""

    name = "alerts"

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Count a batch of events; what is older than any rule looks back is passed over."""
        oldest = datetime.now(UTC) - timedelta(seconds=MAX_WINDOW_SECONDS)
        recent = [event for event in events if event.occurred_at > oldest]
        if not recent:
            return
        counted = await alert_measures.counting(connection, sorted({event.tenant_id for event in recent}))
        if not counted:
            return
        counts: Counter[Counted] = Counter()
        for event in recent:
            minute = event.occurred_at.replace(second=0, microsecond=0)
            for tenant_id, subtree in counted.get(event.tenant_id, ()):
                counts[Counted(tenant_id, subtree, minute, event.kind)] += 1
        if counts:
            await alert_measures.count(connection, counts)


class Mailer(Protocol):
    """Hands messages of the platform itself to a mail server."""

    async def send(self, recipient: str, message: EmailMessage) -> None:
        """Send a message without a From field, which is added. Raises Refusal."""


class Alerting:
    """The evaluation of all rules."""

    def __init__(self, database: Database, mailer: Mailer, interval_seconds: float) -> None:
        self._database = database
        self._mailer = mailer
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Evaluate for ever."""
        rounds = 0
        while True:
            try:
                await self.evaluate()
                await self.send_mail()
                if rounds % CLEAN_EVERY == 0:
                    await self._database.transact(
                        lambda connection: alerts.forget(connection, MAX_WINDOW_SECONDS + 600.0, KEPT_ALERTS_SECONDS)
                    )
            except FAILURES as error:
                log.warning("alerts_postponed", error=type(error).__name__, text=str(error))
            except Exception:  # a mistake here must not end the program
                log.exception("alerts_broke")
            rounds += 1
            await asyncio.sleep(self._interval_seconds)

    async def evaluate(self) -> None:
        """Evaluate all rules once, unless another control program is at it."""
        after, firing = "", 0
        while True:
            page = await self._database.transact(functools.partial(self._evaluate_page, after))
            if page is None:
                return
            after, fire, more = page
            firing += fire
            if not more:
                _firing.set(firing)
                return

    async def _evaluate_page(self, after: str, connection: Connection) -> tuple[str, int, bool] | None:
        """Evaluate the rules after an id: the last id, how many fire, whether there may be more."""
        if not await alerts.lock(connection):
            return None
        rules = await alerts.enabled(connection, after, PAGE)
        if not rules:
            return after, 0, False
        measured = await _measure(connection, rules)
        now = datetime.now(UTC)
        firing = 0
        for rule in rules:
            value, detail = measured.get(rule.alert_rule_id, (None, ""))
            settings = rule.settings
            condition = Condition(settings.metric, settings.threshold, settings.hysteresis, settings.cooldown_seconds)
            step = condition.step(value, rule.firing, rule.state_since, now)
            if step is Step.BEGIN and value is not None:
                await tell(connection, rule, await alerts.begin(connection, rule, value, detail), firing=True)
            elif step is Step.END:
                await finish(connection, rule)
            firing += step is Step.BEGIN or (rule.firing and step is Step.NONE)
        await alerts.evaluated(
            connection, [(rule.alert_rule_id, measured.get(rule.alert_rule_id, (None, ""))[0]) for rule in rules]
        )
        return rules[-1].alert_rule_id, firing, len(rules) == PAGE

    async def send_mail(self) -> None:
        """Send what is due."""
        while True:
            batch = await self._database.transact(lambda c: alerts.take_mail(c, MAIL_BATCH, MAIL_PAUSE_SECONDS))
            for mail in batch:
                await self._send_one(mail)
            if len(batch) < MAIL_BATCH:
                return

    async def _send_one(self, mail: Mail) -> None:
        message = EmailMessage(policy=SMTPUTF8)
        message["To"] = mail.recipient
        message["Subject"] = mail.subject
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.body)
        try:
            async with asyncio.timeout(MAIL_SECONDS):
                await self._mailer.send(mail.recipient, message)
        except (Refusal, OSError, TimeoutError) as error:
            _mails.labels("failed").inc()
            log.warning("alert_mail_failed", attempts=mail.attempts, error=type(error).__name__, text=str(error))
            if mail.attempts < MAIL_ATTEMPTS:
                return
        else:
            _mails.labels("sent").inc()
        await self._database.transact(lambda connection: alerts.mailed(connection, mail.alert_mail_id))


async def finish(connection: Connection, rule: Rule) -> None:
    """End a rule's firing, if it fires, and tell."""
    ended = await alerts.end(connection, rule)
    if ended is not None:
        await tell(connection, rule, ended, firing=False)


async def tell(connection: Connection, rule: Rule, alert: Alert, *, firing: bool) -> None:
    """Queue an alert's beginning or end for whoever the rule names."""
    _steps.labels("firing" if firing else "ok").inc()
    log.info("alert", tenant=rule.tenant_id, rule=rule.alert_rule_id, firing=firing, value=alert.value)
    if rule.settings.notify_webhooks:
        await fanout.tell_alert(connection, alert, firing=firing)
    if rule.settings.emails:
        subject, body = letter(alert, firing=firing)
        await alerts.post(connection, rule.tenant_id, rule.settings.emails, subject, body)


def letter(alert: Alert, *, firing: bool) -> tuple[str, str]:
    """Subject and text of mail about an alert."""
    what = alert.display_name or alert.metric.name.lower().replace("_", " ")
    state = "firing" if firing else "over"
    lines = [
        f"Alert: {what}",
        f"State: {state}",
        f"Tenant: {alert.tenant_id}",
        f"Measured: {alert.metric.name.lower()} = {alert.value:.6g}, threshold {alert.threshold:.6g}",
        f"Began: {composing.timestamp(alert.started_at)}",
    ]
    if alert.ended_at is not None:
        lines.append(f"Ended: {composing.timestamp(alert.ended_at)}")
    if alert.detail:
        lines.append(f"Detail: {alert.detail}")
    lines.append(f"Name: {alert.name}")
    return f"[{state}] {what} ({alert.tenant_id})", "\n".join(lines) + "\n"


_Values = dict[str, tuple[float | None, str]]


async def _measure(connection: Connection, rules: Sequence[Rule]) -> _Values:
    """The value of each rule with what exactly it is about; None: there is too little to judge."""
    values: _Values = {}
    groups: dict[tuple[Metric, int, bool], list[Rule]] = defaultdict(list)
    for rule in rules:
        settings = rule.settings
        looks_back = settings.metric in RATES or settings.metric is Metric.WEBHOOKS_FAILING
        key = (settings.metric, settings.window_seconds if looks_back else 0, settings.include_subtree)
        groups[key].append(rule)
    for (metric, window_seconds, subtree), group in groups.items():
        tenant_ids = sorted({rule.tenant_id for rule in group})
        if metric in RATES:
            counts = await alert_measures.rates(connection, tenant_ids, window_seconds, subtree)
            for rule in group:
                found = counts.get(rule.tenant_id, {})
                values[rule.alert_rule_id] = rate(metric, found, rule.settings.minimum_volume), ""
        elif metric in _NUMBERS:
            numbers = await _NUMBERS[metric](connection, tenant_ids)
            values |= {rule.alert_rule_id: (numbers.get(rule.tenant_id), "") for rule in group}
        else:
            names = await _faults(connection, metric, tenant_ids, window_seconds)
            for rule in group:
                listed = names.get(rule.tenant_id, [])
                values[rule.alert_rule_id] = float(len(listed)), ", ".join(listed)[:500]
    return values


async def _faults(
    connection: Connection, metric: Metric, tenant_ids: Sequence[str], window_seconds: int
) -> dict[str, list[str]]:
    """What is wrong with each tenant's things."""
    if metric is Metric.WEBHOOKS_FAILING:
        return await alert_measures.failing_webhooks(connection, tenant_ids, window_seconds)
    return await alert_measures.failing_domains(connection, tenant_ids) if metric is Metric.DOMAINS_FAILING else {}


_NUMBERS = {Metric.BALANCE: alert_measures.balances, Metric.DAILY_CAP_USED: alert_measures.daily_caps}
"""Metrics that are a number of each tenant."""
