"""When control switches a webhook off by itself, and tells its owner.

An endpoint that has failed every attempt for ``after_seconds`` is switched off, with the reason in the webhook; so is
one that answers 410 Gone, at once. That is an alert of its own, without a rule: it is in the tenant's list of alerts,
and goes to the other webhooks that asked for alerts.
"""

from datetime import UTC, datetime

from control.database import Connection
from control.model.alerts import Metric
from control.store import alerts, webhooks
from control.store.webhook_deliveries import Attempt
from control.store.webhooks import Webhook
from control.webhooks import fanout
from mta.runtime.log import get_logger

log = get_logger(__name__)

MIN_FAILURES = 5
"""Failures in a row before time counts: an endpoint that is seldom asked is not judged by one of them."""
_GONE = 410


class Disabling:
    """The rule."""

    def __init__(self, after_seconds: float) -> None:
        self._after_seconds = after_seconds

    async def consider(self, connection: Connection, webhook: Webhook, attempt: Attempt) -> None:
        """Switch a webhook off that has just failed, if it is time."""
        reason = self._reason(webhook, attempt)
        if not reason or not await webhooks.disable(connection, webhook.webhook_id, reason):
            return
        log.warning("webhook_disabled", webhook=webhook.name, reason=reason)
        detail = f"{webhook.name} was disabled: {reason}"
        alert = await alerts.report(connection, webhook.tenant_id, Metric.WEBHOOKS_FAILING, detail)
        await fanout.tell_alert(connection, alert, firing=True)

    def _reason(self, webhook: Webhook, attempt: Attempt) -> str:
        if attempt.status_code == _GONE:
            return "the endpoint answered 410 Gone"
        if webhook.failing_since is None or webhook.failures < MIN_FAILURES:
            return ""
        failing = (datetime.now(UTC) - webhook.failing_since).total_seconds()
        if failing < self._after_seconds:
            return ""
        last = attempt.error or f"status {attempt.status_code}"
        return f"every attempt failed since {webhook.failing_since:%Y-%m-%d %H:%M} UTC, the last with: {last}"[:500]
