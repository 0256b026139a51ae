"""Makes suppressions of bounces: for good of hard ones, step by step of soft ones, as each tenant's policy says; and of
what recipients ask for, whatever the policy: who unsubscribes gets no more mail of the message's stream (of no stream
if the message has none), who calls it spam none at all.

Only what says something about the recipient counts: see ``control.model.bounces``. Messages with the null sender never
count: those are bounces and other notifications, whose recipients nobody put on a list. What people have said about an
address stays; only a temporary suppression for soft bounces is replaced by a stronger one, and taken back when mail
gets through after all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from control.database import Connection
from control.model.bounces import EffectivePolicy, Judgement, Ladder, climb, effective, judge
from control.model.events import EventKind, PastEvent
from control.model.suppressions import MAX_EVIDENCE, Draft, Place, Reason
from control.store import bounce_ladder, suppression_policies, suppressions
from control.store.bounce_ladder import Key
from control.store.suppressions import Existing

WHO = "control"
"""Who made the suppressions that follow from events."""

_ASKED = {
    EventKind.UNSUBSCRIBED: (Reason.UNSUBSCRIBE, "unsubscribed by the link in the message"),
    EventKind.COMPLAINED: (Reason.COMPLAINT, "called the message spam"),
}
_FINAL = frozenset({EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED})


class SuppressionConsumer:
    """A ``Consumer``. ``default`` is what holds for tenants where nobody says anything.

    Nothing follows for recipients at ``mock_domain``: what they do is played, and is to be played again.
    """

    name = "suppressions"

    def __init__(self, default: EffectivePolicy, mock_domain: str = "") -> None:
        self._default = default
        self._played = f"@{mock_domain.lower()}" if mock_domain else ""

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Deal with a batch."""
        if self._played:
            events = [event for event in events if not event.recipient_key.endswith(self._played)]
        await _heed(connection, events)
        told = [event for event in events if event.kind in _FINAL and event.sender and event.recipient_key]
        if not told:
            return
        ladders = await bounce_ladder.load(connection, sorted({_key(event) for event in told}))
        # Mail that got through says nothing new where nothing had bounced, which is so for nearly all of it.
        tenants = {event.tenant_id for event in told if event.kind is not EventKind.DELIVERED}
        tenants.update(tenant_id for tenant_id, _ in ladders)
        if not tenants:
            return
        lines = await suppression_policies.lines(connection, sorted(tenants))
        policies = {tenant_id: effective(line, self._default) for tenant_id, line in lines.items()}
        told = [event for event in told if event.tenant_id in policies]  # a tenant that is gone needs none
        outcome = _Outcome(policies, ladders)
        outcome.follow(told)
        await _write(connection, outcome)


async def _heed(connection: Connection, events: Sequence[PastEvent]) -> None:
    """Suppress who asked for it."""
    drafts: dict[tuple[str, str, str], Draft] = {}
    for event in events:
        if event.kind in _ASKED and event.recipient_key:
            reason, words = _ASKED[event.kind]
            stream = event.stream if reason is Reason.UNSUBSCRIBE else ""
            key = (event.tenant_id, event.recipient_key, stream)
            if key not in drafts or reason is Reason.COMPLAINT:
                drafts[key] = _asked(event, stream, reason, words)
    tenants = sorted({tenant_id for tenant_id, _, _ in drafts})
    known = await suppression_policies.lines(connection, tenants) if tenants else {}
    for tenant_id in filter(known.__contains__, tenants):  # one that is gone needs none
        of_tenant = [draft for (owner, *_), draft in sorted(drafts.items()) if owner == tenant_id]
        await suppressions.put(connection, tenant_id, of_tenant, WHO, Existing.STRENGTHEN)


def _asked(event: PastEvent, stream: str, reason: Reason, words: str) -> Draft:
    where = f" from {event.ip_address}" if event.ip_address else ""
    return Draft(
        address=event.recipient_key,
        stream=stream,
        reason=reason,
        evidence=f"{words}{where}{f': {event.reply}' if event.reply else ''}"[:MAX_EVIDENCE],
        source_message_id=event.recipient_id,
        created_at=event.occurred_at,
    )


@dataclass(slots=True)
class _Outcome:
    """What a batch leads to."""

    policies: dict[str, EffectivePolicy]
    ladders: dict[Key, Ladder]
    changed: dict[Key, Ladder] = field(default_factory=dict)
    delivered: dict[Key, None] = field(default_factory=dict)
    """Keys of ladders that mail got through to."""
    drafts: dict[Key, Draft] = field(default_factory=dict)

    def follow(self, events: Iterable[PastEvent]) -> None:
        """Deal with events in order."""
        for event in events:
            if event.kind is EventKind.DELIVERED:
                self._got_through(_key(event))
                continue
            judgement, policy = judge(event.kind, event.enhanced_code, event.reply), self.policies[event.tenant_id]
            if judgement is Judgement.HARD and policy.hard_bounces:
                self.drafts[_key(event)] = _draft(event, Reason.HARD_BOUNCE, None)
            elif judgement is not Judgement.NONE and policy.soft_bounces:
                self._climb(event, policy)

    def _got_through(self, key: Key) -> None:
        if self.ladders.pop(key, None) is None:
            return
        self.changed.pop(key, None)
        self.delivered[key] = None
        draft = self.drafts.get(key)
        if draft is not None and draft.reason is Reason.SOFT_BOUNCE:
            del self.drafts[key]

    def _climb(self, event: PastEvent, policy: EffectivePolicy) -> None:
        key = _key(event)
        ladder, pause = climb(self.ladders.get(key), event.occurred_at.date(), policy)
        self.ladders[key] = self.changed[key] = ladder
        draft = self.drafts.get(key)
        if pause is not None and (draft is None or draft.reason is Reason.SOFT_BOUNCE):
            self.drafts[key] = _draft(event, Reason.SOFT_BOUNCE, pause.length)


async def _write(connection: Connection, outcome: _Outcome) -> None:
    """Write it, tenant by tenant in one order, so that two writers cannot wait for each other."""
    if outcome.delivered:
        await bounce_ladder.remove(connection, sorted(outcome.delivered))
    if outcome.changed:
        await bounce_ladder.store(connection, outcome.changed)
    for tenant_id in sorted({tenant_id for tenant_id, _ in (*outcome.delivered, *outcome.drafts)}):
        through = [Place(address, "") for owner, address in sorted(outcome.delivered) if owner == tenant_id]
        if through:
            held = await suppressions.held(connection, tenant_id, through)
            over = [entry.place for entry in held if entry.reason is Reason.SOFT_BOUNCE and entry.created_by == WHO]
            if over:
                await suppressions.delete(connection, tenant_id, over)
        drafts = [draft for (owner, _), draft in sorted(outcome.drafts.items()) if owner == tenant_id]
        if drafts:
            await suppressions.put(connection, tenant_id, drafts, WHO, Existing.STRENGTHEN)


def _key(event: PastEvent) -> Key:
    return event.tenant_id, event.recipient_key


def _draft(event: PastEvent, reason: Reason, length: timedelta | None) -> Draft:
    words = " ".join(part for part in (str(event.code or ""), event.enhanced_code, event.reply) if part)
    evidence = f"{event.remote_host} said: {words}" if event.remote_host else words
    return Draft(
        address=event.recipient_key,
        stream="",
        reason=reason,
        evidence=" ".join(evidence.split())[:MAX_EVIDENCE],
        source_message_id=event.recipient_id,
        expires_at=event.occurred_at + length if length is not None else None,
    )
