"""Alert rules, their firings, and mail about them that is not sent yet; ``alert_measures`` has what they measure."""

# ruff: noqa: S608 - the only text put into statements is the lists of columns below

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control.database import Connection, Row
from control.model.alerts import MAX_RULES, Metric
from control.model.selection import Selection
from control.store import selecting
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

_RULE = (
    "tenant_id, alert_rule_id, display_name, metric, threshold, hysteresis, window_seconds, minimum_volume,"
    " cooldown_seconds, include_subtree, notify_webhooks, emails, enabled, firing, state_since, last_value,"
    " evaluated_at, created_at, updated_at, version, number"
)
_TABLE = selecting.Table("alert_rule", _RULE, "alert_rule_id", ("alert_rule_id", "display_name"))
_ALERT = (
    "alert_id, tenant_id, alert_rule_id, display_name, metric, threshold, value, detail, started_at, ended_at,"
    " acknowledged_at, acknowledgement"
)


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """What somebody chose. Which of them count depends on the metric."""

    display_name: str
    metric: Metric
    threshold: float
    hysteresis: float
    window_seconds: int
    minimum_volume: int
    cooldown_seconds: int
    include_subtree: bool
    notify_webhooks: bool
    emails: tuple[str, ...]
    enabled: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. ``last_value`` None: there was too little to judge; ``state_since`` None: it never fired."""

    tenant_id: str
    alert_rule_id: str
    settings: RuleSettings
    firing: bool
    state_since: datetime | None
    last_value: float | None
    evaluated_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int
    number: int


@dataclass(frozen=True, slots=True)
class Alert:
    """A firing; ``alert_rule_id`` is empty for what control reports of its own, which begins and ends at once."""

    alert_id: int
    tenant_id: str
    alert_rule_id: str
    display_name: str
    metric: Metric
    threshold: float
    value: float
    detail: str
    started_at: datetime
    ended_at: datetime | None
    acknowledged_at: datetime | None
    acknowledgement: str

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant_id}/alerts/{self.alert_id}"

    @property
    def rule_name(self) -> str:
        """The resource name of its rule; empty if there is none."""
        return f"tenants/{self.tenant_id}/alertRules/{self.alert_rule_id}" if self.alert_rule_id else ""


@dataclass(frozen=True, slots=True)
class Mail:
    """Mail about an alert, to one recipient."""

    alert_mail_id: int
    recipient: str
    subject: str
    body: str
    attempts: int


async def create(connection: Connection, tenant_id: str, alert_rule_id: str, settings: RuleSettings) -> Rule:
    """Make a rule. FAILED_PRECONDITION for one too many."""
    await connection.execute("SELECT FROM tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
    if await connection.fetchval("SELECT count(*) FROM alert_rule WHERE tenant_id = $1", tenant_id) >= MAX_RULES:
        message = f'tenant "{tenant_id}" has {MAX_RULES} alert rules; delete one of them first'
        metadata = {"tenant": tenant_id, "maximum": str(MAX_RULES)}
        raise Refusal(Reason.FAILED_PRECONDITION, message, metadata=metadata)
    row = await connection.fetchrow(
        "INSERT INTO alert_rule (tenant_id, alert_rule_id, display_name, metric, threshold, hysteresis, window_seconds,"
        " minimum_volume, cooldown_seconds, include_subtree, notify_webhooks, emails, enabled)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING {_RULE}",
        tenant_id,
        alert_rule_id,
        *_values(settings),
    )
    assert row is not None, "INSERT RETURNING gives its row"
    return _rule(row)


async def get(connection: Connection, tenant_id: str, alert_rule_id: str, *, lock: bool = False) -> Rule:
    """A tenant's rule, locked against other changes if wanted. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_RULE} FROM alert_rule WHERE tenant_id = $1 AND alert_rule_id = $2"
        + (" FOR NO KEY UPDATE" if lock else ""),
        tenant_id,
        alert_rule_id,
    )
    if row is None:
        raise not_found("alert rule", alert_rule_id)
    return _rule(row)


async def page(connection: Connection, tenant_id: str, wanted: Selection) -> tuple[list[Rule], int]:
    """A tenant's own rules, and how many match."""
    rows, total = await selecting.select(connection, _TABLE, wanted, "tenant_id = $1", tenant_id)
    return [_rule(row) for row in rows], total


async def update(connection: Connection, rule: Rule, settings: RuleSettings) -> Rule:
    """Change what somebody chose."""
    row = await connection.fetchrow(
        "UPDATE alert_rule SET display_name = $2, metric = $3, threshold = $4, hysteresis = $5, window_seconds = $6,"
        " minimum_volume = $7, cooldown_seconds = $8, include_subtree = $9, notify_webhooks = $10, emails = $11,"
        f" enabled = $12, version = version + 1, updated_at = now() WHERE alert_rule_id = $1 RETURNING {_RULE}",
        rule.alert_rule_id,
        *_values(settings),
    )
    assert row is not None, "the row is locked"
    return _rule(row)


async def delete(connection: Connection, rule: Rule) -> None:
    """Remove a rule; what it fired stays."""
    await connection.execute("DELETE FROM alert_rule WHERE alert_rule_id = $1", rule.alert_rule_id)


async def not_owned(connection: Connection, tenant_id: str, emails: Sequence[str]) -> list[str]:
    """Those of the addresses that are neither of a tenant's verified domains nor its verified senders."""
    rows = await connection.fetch(
        "SELECT email FROM unnest($2::text[]) AS email WHERE NOT EXISTS (SELECT FROM domain"
        "  WHERE tenant_id = $1 AND domain.domain = split_part(email, '@', -1) AND verified)"
        " AND NOT EXISTS (SELECT FROM sender WHERE tenant_id = $1 AND address = email AND proof IS NOT NULL)",
        tenant_id,
        emails,
    )
    return [row["email"] for row in rows]


async def enabled(connection: Connection, after: str, limit: int) -> list[Rule]:
    """Enabled rules of all tenants, by id, locked against changes; those somebody else has locked are left out."""
    rows = await connection.fetch(
        f"SELECT {_RULE} FROM alert_rule WHERE enabled AND alert_rule_id > $1 ORDER BY alert_rule_id LIMIT $2"
        " FOR NO KEY UPDATE SKIP LOCKED",
        after,
        limit,
    )
    return [_rule(row) for row in rows]


async def evaluated(connection: Connection, values: Sequence[tuple[str, float | None]]) -> None:
    """Keep the values of rules."""
    await connection.execute(
        "UPDATE alert_rule SET last_value = outcome.value, evaluated_at = now()"
        " FROM unnest($1::text[], $2::float8[]) AS outcome (id, value) WHERE alert_rule_id = outcome.id",
        [alert_rule_id for alert_rule_id, _ in values],
        [value for _, value in values],
    )
    await connection.execute(
        "UPDATE alert SET value = outcome.value FROM unnest($1::text[], $2::float8[]) AS outcome (id, value)"
        " WHERE alert_rule_id = outcome.id AND alert_rule_id <> '' AND ended_at IS NULL AND outcome.value IS NOT NULL",
        [alert_rule_id for alert_rule_id, _ in values],
        [value for _, value in values],
    )


async def begin(connection: Connection, rule: Rule, value: float, detail: str) -> Alert:
    """A rule begins to fire."""
    await connection.execute(
        "UPDATE alert_rule SET firing = true, state_since = now() WHERE alert_rule_id = $1", rule.alert_rule_id
    )
    settings = rule.settings
    return await _insert(
        connection, rule.tenant_id, rule.alert_rule_id, settings.display_name, settings.metric, settings.threshold,
        value, detail, over=False,
    )  # fmt: skip


async def end(connection: Connection, rule: Rule) -> Alert | None:
    """A rule ceases to fire; what ends, if anything was open."""
    await connection.execute(
        "UPDATE alert_rule SET firing = false, state_since = now() WHERE alert_rule_id = $1 AND firing",
        rule.alert_rule_id,
    )
    row = await connection.fetchrow(
        f"UPDATE alert SET ended_at = now() WHERE alert_rule_id = $1 AND ended_at IS NULL RETURNING {_ALERT}",
        rule.alert_rule_id,
    )
    return _alert(row) if row is not None else None


async def report(connection: Connection, tenant_id: str, metric: Metric, detail: str) -> Alert:
    """Something that control tells without a rule."""
    return await _insert(connection, tenant_id, "", "", metric, 1.0, 1.0, detail, over=True)


async def firings(
    connection: Connection, tenant_id: str, alert_rule_id: str, open_only: bool, before: int, limit: int
) -> list[Alert]:
    """A tenant's firings with an id below ``before``, newest first; of one rule, or only open ones, if wanted."""
    rows = await connection.fetch(
        f"SELECT {_ALERT} FROM alert WHERE tenant_id = $1 AND alert_id < $2 AND ($3 = '' OR alert_rule_id = $3)"
        " AND (NOT $4 OR ended_at IS NULL) ORDER BY alert_id DESC LIMIT $5",
        tenant_id,
        before,
        alert_rule_id,
        open_only,
        limit,
    )
    return [_alert(row) for row in rows]


async def acknowledge(connection: Connection, tenant_id: str, alert_id: int, note: str) -> Alert:
    """Somebody has seen a firing. NOT_FOUND if there is none."""
    row = await connection.fetchrow(
        "UPDATE alert SET acknowledged_at = now(), acknowledgement = $3 WHERE tenant_id = $1 AND alert_id = $2"
        f" RETURNING {_ALERT}",
        tenant_id,
        alert_id,
        note,
    )
    if row is None:
        raise not_found("alert", str(alert_id))
    return _alert(row)


async def lock(connection: Connection) -> bool:
    """Whether this transaction is the one that evaluates now: of several control programs one does."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK))


_LOCK = 0x616C657274
"""Key of the advisory lock: "alert" in ASCII."""


async def post(connection: Connection, tenant_id: str, recipients: Sequence[str], subject: str, body: str) -> None:
    """Queue mail about an alert."""
    await connection.execute(
        "INSERT INTO alert_mail (tenant_id, recipient, subject, body) SELECT $1, unnest($2::text[]), $3, $4",
        tenant_id,
        recipients,
        subject,
        body,
    )


async def take_mail(connection: Connection, limit: int, seconds: float) -> list[Mail]:
    """Mail that is due, for so many seconds ours."""
    rows = await connection.fetch(
        "UPDATE alert_mail SET attempts = attempts + 1, due_at = now() + make_interval(secs => $2)"
        " WHERE alert_mail_id IN (SELECT alert_mail_id FROM alert_mail WHERE due_at <= now() ORDER BY due_at LIMIT $1"
        " FOR UPDATE SKIP LOCKED) RETURNING alert_mail_id, recipient, subject, body, attempts",
        limit,
        seconds,
    )
    return [Mail(*row.values()) for row in rows]


async def mailed(connection: Connection, alert_mail_id: int) -> None:
    """Mail went out, or is given up."""
    await connection.execute("DELETE FROM alert_mail WHERE alert_mail_id = $1", alert_mail_id)


async def forget(connection: Connection, counters_seconds: float, alerts_seconds: float) -> None:
    """Remove counters and ended firings that are older than this."""
    await connection.execute(
        "DELETE FROM event_minute WHERE minute < now() - make_interval(secs => $1)", counters_seconds
    )
    await connection.execute("DELETE FROM alert WHERE ended_at < now() - make_interval(secs => $1)", alerts_seconds)


async def _insert(
    connection: Connection, tenant_id: str, alert_rule_id: str, display_name: str, metric: Metric, threshold: float,
    value: float, detail: str, *, over: bool,
) -> Alert:  # fmt: skip
    row = await connection.fetchrow(
        "INSERT INTO alert (tenant_id, alert_rule_id, display_name, metric, threshold, value, detail, ended_at)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN now() END) RETURNING {_ALERT}",
        tenant_id,
        alert_rule_id,
        display_name,
        metric,
        threshold,
        value,
        detail,
        over,
    )
    assert row is not None, "INSERT RETURNING gives its row"
    return _alert(row)


def _values(settings: RuleSettings) -> tuple[object, ...]:
    return (
        settings.display_name,
        settings.metric,
        settings.threshold,
        settings.hysteresis,
        settings.window_seconds,
        settings.minimum_volume,
        settings.cooldown_seconds,
        settings.include_subtree,
        settings.notify_webhooks,
        settings.emails,
        settings.enabled,
    )


def _rule(row: Row) -> Rule:
    settings = RuleSettings(
        display_name=row["display_name"],
        metric=Metric(row["metric"]),
        threshold=row["threshold"],
        hysteresis=row["hysteresis"],
        window_seconds=row["window_seconds"],
        minimum_volume=row["minimum_volume"],
        cooldown_seconds=row["cooldown_seconds"],
        include_subtree=row["include_subtree"],
        notify_webhooks=row["notify_webhooks"],
        emails=tuple(row["emails"]),
        enabled=row["enabled"],
    )
    return Rule(
        tenant_id=row["tenant_id"],
        alert_rule_id=row["alert_rule_id"],
        settings=settings,
        firing=row["firing"],
        state_since=row["state_since"],
        last_value=row["last_value"],
        evaluated_at=row["evaluated_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
        number=row["number"],
    )


def _alert(row: Row) -> Alert:
    return Alert(
        alert_id=row["alert_id"],
        tenant_id=row["tenant_id"],
        alert_rule_id=row["alert_rule_id"],
        display_name=row["display_name"],
        metric=Metric(row["metric"]),
        threshold=row["threshold"],
        value=row["value"],
        detail=row["detail"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        acknowledged_at=row["acknowledged_at"],
        acknowledgement=row["acknowledgement"],
    )
