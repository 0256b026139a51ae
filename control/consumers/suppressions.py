"""Makes suppressions of bounces: for good of hard ones, step by step of soft ones, as each tenant's policy says.

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

_FINAL = frozenset({EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED})


class SuppressionConsumer:
    """A ``Consumer``. ``default`` is what holds for tenants where nobody says anything."""

    name = "suppressions"

    def __init__(self, default: EffectivePolicy) -> None:
        self._default = default

    async def consume(self, connection: Connection, events: Sequence[PastEvent]) -> None:
        """Deal with a batch."""
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
