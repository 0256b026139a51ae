"""The numbered log of policy changes: which record changed, in an order that readers can rely on.

``note`` gives the changes of a transaction their revisions. It locks the one row of ``policy_head`` until the commit,
so revisions become visible in order and without gaps; call it last. A reader looks records up as they are now, which
makes repeats and skipped steps harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from control.database import Connection

CHANNEL = "barua_policy"
"""NOTIFY channel; the payload is the new revision."""
KEPT_CHANGES = 100_000
"""A reader that is further behind takes a snapshot."""
TRIM_PIECE = 200_000
"""Changes forgotten in one transaction."""
ACTIVE_SECONDS = 60.0
"""A node that reported a revision within this time counts as one that follows."""


class Kind(StrEnum):
    """What changed."""

    TENANT = "tenant"
    LOGIN = "login"
    API_KEY = "api_key"
    OAUTH_CLIENT = "oauth_client"
    DOMAIN = "domain"
    SUPPRESSION = "suppression"
    SENDER = "sender"
    SMTP_PROVIDER = "smtp_provider"
    SOURCE = "source"
    POOL = "pool"
    EGRESS_RULE = "egress_rule"
    POOL_ASSIGNMENT = "pool_assignment"


_KINDS = {kind.value: kind for kind in Kind}  # several times as fast as Kind(text)


class Key(NamedTuple):
    """Which record. ``scope`` is the tenant of a suppression, whose ``key`` is its id; else empty."""

    kind: Kind
    key: str
    scope: str = ""


class LoggedChange(NamedTuple):
    """A change in the log."""

    revision: int
    key: Key


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log stands."""

    lineage: str
    revision: int
    trimmed_revision: int

    def can_continue(self, lineage: str, after_revision: int) -> bool:
        """Whether a reader at ``after_revision`` of ``lineage`` can go on from there."""
        return lineage == self.lineage and max(1, self.trimmed_revision) <= after_revision <= self.revision


async def note(connection: Connection, keys: Sequence[Key]) -> None:
    """Log that these records change with this transaction."""
    revision = await connection.fetchval(
        "UPDATE policy_head SET revision = revision + $1 RETURNING revision", len(keys)
    )
    await connection.execute(
        "INSERT INTO policy_change (revision, kind, scope, key)"
        " SELECT $1 + ordinality, kind, scope, key"
        " FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS change (kind, scope, key, ordinality)",
        revision - len(keys),
        [key.kind for key in keys],
        [key.scope for key in keys],
        [key.key for key in keys],
    )
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, str(revision))


async def head(connection: Connection) -> Head:
    """Where the log stands now."""
    row = await connection.fetchrow("SELECT lineage, revision, trimmed_revision FROM policy_head")
    assert row is not None, "the migration makes this row"
    return Head(str(row["lineage"]), row["revision"], row["trimmed_revision"])


async def changes_after(connection: Connection, revision: int, limit: int) -> list[LoggedChange]:
    """The next changes in order."""
    rows = await connection.fetch(
        "SELECT revision, kind, scope, key FROM policy_change WHERE revision > $1 ORDER BY revision LIMIT $2",
        revision,
        limit,
    )
    return [LoggedChange(row["revision"], Key(_KINDS[row["kind"]], row["key"], row["scope"])) for row in rows]


async def trim(connection: Connection, kept: int = KEPT_CHANGES) -> bool:
    """Forget old changes, ``TRIM_PIECE`` at once, until only the newest are left; whether there are more to forget."""
    row = await connection.fetchrow(
        "UPDATE policy_head SET trimmed_revision = least(revision - $1, trimmed_revision + $2)"
        " WHERE revision - $1 > trimmed_revision RETURNING trimmed_revision < revision - $1 AS more",
        kept,
        TRIM_PIECE,
    )
    await connection.execute("DELETE FROM policy_change WHERE revision <= (SELECT trimmed_revision FROM policy_head)")
    return row is not None and bool(row["more"])


async def nodes_behind(connection: Connection) -> int:
    """How many changes the slowest node lacks, of those that follow; 0 without any."""
    behind: int = await connection.fetchval(
        "SELECT coalesce(max(policy_head.revision - node.revision), 0) FROM policy_head, node"
        " WHERE node.reported_at > now() - make_interval(secs => $1)",
        ACTIVE_SECONDS,
    )
    return max(0, behind)


async def report_node(connection: Connection, node: str, revision: int) -> None:
    """Keep which revision a node has in force."""
    await connection.execute(
        "INSERT INTO node (name, revision, reported_at) VALUES ($1, $2, now())"
        " ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, reported_at = excluded.reported_at",
        node,
        revision,
    )
