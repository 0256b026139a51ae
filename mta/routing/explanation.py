"""Which way a message would take and why, as told to operators. Values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Inquiry(NamedTuple):
    """A message that is asked about; ``provider``: the id it names, empty for the default."""

    tenant_id: str
    stream: str
    sender_domain: str
    domain: str
    provider: str


@dataclass(frozen=True, slots=True)
class SourceCondition:
    """A source of the pool, and why it is not used now; empty: it is."""

    source_id: str
    address: str
    ehlo_name: str
    weight: int
    unusable: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The way of a message."""

    provider: str = ""
    pool: str = ""
    sources: tuple[SourceCondition, ...] = ()
    waits: str = ""
    """Why it would not be tried at once."""
    site: str = ""
    hosts: tuple[str, ...] = ()
    connections: int = 0
    messages_per_connection: int = 0
    messages_per_minute: int = 0
    decided_by: Mapping[str, str] = field(default_factory=dict)


class RouteExplainer(Protocol):
    """Says which way a message would take."""

    async def explain(self, inquiry: Inquiry) -> Explanation:
        """The way of a message by the policy in force. Raises Refusal."""
