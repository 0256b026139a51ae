"""Counters as the API writes them, and which days a range has. Pure.

Names that pages and older clients use stand beside the current ones: ``opens``, ``clicks``, ``spams``; entries of days
carry their counters as ``stat``, as ``stats`` and flat, since clients read them in all three places.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from barua.control.v1 import statistics_service_pb2 as statistics

from api_bridge.dialects.sendpost import errors
from api_bridge.dialects.sendpost.operation import Kind, Parameter

DAILY_DAYS = 31
"""From the first to the last day of a range that is told day by day; both ends are included."""
AGGREGATE_DAYS = 366
"""The same of one that is added up."""
UNASKED_DAYS = 30
"""Days until today, where a range may be left out."""

RANGE = (
    Parameter("from", Kind.DAY, "First day (UTC).", required=True),
    Parameter("to", Kind.DAY, "Last day (UTC), included.", required=True),
)
OPTIONAL_RANGE = (
    Parameter("from", Kind.DAY, f"First day (UTC); without it the range has {UNASKED_DAYS} days."),
    Parameter("to", Kind.DAY, "Last day (UTC), included; without it today."),
)
GROUP = Parameter("group", description="Group of messages.", required=True, most=128)


class Counters(Struct):
    """How often each thing happened."""

    processed: int = 0
    sent: int = 0
    dropped: int = 0
    smtpDropped: int = 0  # noqa: N815  # names in the JSON
    delivered: int = 0
    softBounced: int = 0  # noqa: N815
    hardBounced: int = 0  # noqa: N815
    opened: int = 0
    clicked: int = 0
    unsubscribed: int = 0
    spam: int = 0
    opens: int = 0
    clicks: int = 0
    spams: int = 0


class DailyCounters(Counters):
    """Counters of one day, three times."""

    date: str = ""
    stat: Counters | None = None
    stats: Counters | None = None


class GroupCounters(Counters):
    """Counters of one group."""

    group: str = ""


class DomainCounters(Counters):
    """Counters of one sender domain."""

    domain: str = ""


class IpCounters(Counters):
    """Counters of one source."""

    publicIp: str = ""  # noqa: N815


class ProviderCounters(Counters):
    """Counters of the mailboxes of one provider."""

    provider: str = ""


class TpspCounters(Counters):
    """Counters of one provider that mail is given to."""

    name: str = ""


class SubAccountCounters(Counters):
    """Counters of one sub-account."""

    subAccountId: int = 0  # noqa: N815
    subAccountName: str = ""  # noqa: N815


def fields(counts: statistics.Counts) -> Mapping[str, int]:
    """Control's counts by the names here."""
    opened, clicked, spam = counts.opened_count, counts.clicked_count, counts.complained_count
    return {
        "processed": counts.processed_count,
        "sent": counts.sent_count,
        "dropped": counts.dropped_count,
        "smtpDropped": counts.smtp_dropped_count,
        "delivered": counts.delivered_count,
        "softBounced": counts.soft_bounced_count,
        "hardBounced": counts.hard_bounced_count,
        "opened": opened,
        "clicked": clicked,
        "unsubscribed": counts.unsubscribed_count,
        "spam": spam,
        "opens": opened,
        "clicks": clicked,
        "spams": spam,
    }


def days(query: Mapping[str, Any], most: int, today: date) -> tuple[date, date]:
    """First and last day that a query asks for. Raises Problem 400."""
    last: date = query["to"] or max(today, query["from"] or today)
    first: date = query["from"] or last - timedelta(days=UNASKED_DAYS - 1)
    if first > last:
        raise errors.invalid_query("from", "from must not be later than to.")
    if (last - first).days > most:
        raise errors.invalid_query("to", f"to must not be more than {most} days after from.")
    return first, last


def daily(first: date, last: date, found: Sequence[statistics.DailyCounter]) -> list[DailyCounters]:
    """An entry for each day of a range, also for those without mail."""
    by_day = {counter.day: counter.counts for counter in found}
    entries = []
    for offset in range((last - first).days + 1):
        day = (first + timedelta(days=offset)).isoformat()
        values = fields(by_day.get(day, _NOTHING))
        counters = Counters(**values)
        entries.append(DailyCounters(date=day, stat=counters, stats=counters, **values))
    return entries


_NOTHING = statistics.Counts()

_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("gmail.com", "googlemail.com"), "gmail"),
        **dict.fromkeys(("yahoo.com", "ymail.com", "rocketmail.com", "aol.com"), "yahoo"),
        **dict.fromkeys(("outlook.com", "hotmail.com", "live.com", "msn.com"), "microsoft"),
    }
)
"""Classes of recipients by their domain, the same as in webhooks; all others are "default"."""


def provider(domain: str) -> str:
    """Whose mailboxes the addresses of a domain are."""
    return _PROVIDERS.get(domain.lower(), "default")
