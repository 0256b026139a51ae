"""The caps that hold where credits are leased: read from the tenants on the way to the root, and refused in words."""

from collections.abc import Sequence
from datetime import datetime

from control.database import Connection
from control.model import limits
from control.model.limits import Cap, Counted, Level, Window
from control.model.prices import nearest
from control.store import windows
from control.store.tenants import Tenant
from mta.runtime.refusals import Reason, Refusal

_ADVERBS = {Window.HOUR: "hourly", Window.DAY: "daily", Window.MONTH: "monthly"}


def counted_path(line: Sequence[Tenant]) -> list[str]:
    """The tenants of a line (nearest first) for which leases are counted: below the root, from the top downwards."""
    return [tenant.tenant_id for tenant in reversed(line[:-1])]


async def held(connection: Connection, line: Sequence[Tenant]) -> tuple[list[Cap], Refusal | None]:
    """The caps that hold for the first tenant of a line, and the refusal if one of them is reached.

    What is counted for them stays as it is until the transaction ends. Nothing is read where there are no caps.
    """
    if all(tenant.limits == limits.NO_LIMITS for tenant in line):
        return [], None
    counted, now = await windows.locked(connection, counted_path(line))
    found = limits.caps(_level(line[index:], counted.get(tenant.tenant_id)) for index, tenant in enumerate(line[:-1]))
    full = limits.reached(found)
    return found, None if full is None else _refusal(full, full.tenant_id == line[0].tenant_id, now)


def _level(line: Sequence[Tenant], counted: Counted | None) -> Level:
    price = nearest((tenant.tenant_id, tenant.price) for tenant in line)
    return Level(line[0].tenant_id, line[0].limits, price[1] if price else None, counted or Counted())


def _refusal(cap: Cap, own: bool, now: datetime) -> Refusal:
    """What a sender hears. Which tenant above it has the cap, and how large that is, is none of its business."""
    until = cap.window.end(now)
    what = "spending" if cap.name == "monthly_spend_micros" else "recipients"
    whose = "" if own else " of the account above"
    metadata = {"cap": cap.name, "scope": "own" if own else "above", "until": until.isoformat()}
    if own:
        metadata["limit"] = str(cap.credits)
    return Refusal(
        Reason.RATE_LIMITED,
        f"the {_ADVERBS[cap.window]} limit on {what}{whose} is reached; send again after {until:%Y-%m-%d %H:%M} UTC",
        retry_after=max(1.0, (until - now).total_seconds()),
        metadata=metadata,
    )
