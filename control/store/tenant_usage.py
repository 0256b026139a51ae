"""What a tenant and those below it have and did, in figures: one statement over the tables that know.

Reads rows of the whole subtree; the counts of suppressions and domains grow with their number.
"""

from dataclasses import dataclass
from datetime import date

from control.database import Connection
from control.model.statistics import Dimension


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a subtree; those of the month are of the days asked for."""

    month_recipients: int
    day_recipients: int
    tenants: int
    domains: int
    verified_domains: int
    api_keys: int
    webhooks: int
    suppressions: int
    month_validations: int


_FIGURES = """
    WITH subtree AS MATERIALIZED (SELECT tenant_id FROM tenant WHERE path @> ARRAY[$1]::text[]),
    part AS MATERIALIZED (SELECT tenant_id FROM tenant WHERE path @> ARRAY[$1]::text[] AND deleted_at IS NULL),
    counted AS (SELECT coalesce(sum(accepted), 0)::bigint AS month_recipients,
                       coalesce(sum(accepted) FILTER (WHERE day = (now() AT TIME ZONE 'UTC')::date), 0)::bigint
                           AS day_recipients
                  FROM daily_counter JOIN subtree USING (tenant_id)
                 WHERE dimension = $4 AND day >= $2 AND day < $3)
    SELECT month_recipients, day_recipients,
           (SELECT count(*) FROM part) - 1 AS tenants,
           (SELECT count(*) FROM domain JOIN part USING (tenant_id)) AS domains,
           (SELECT count(*) FROM domain JOIN part USING (tenant_id) WHERE verified) AS verified_domains,
           (SELECT count(*) FROM api_key JOIN part USING (tenant_id) WHERE expires_at IS NULL OR expires_at > now())
               AS api_keys,
           (SELECT count(*) FROM webhook JOIN part USING (tenant_id) WHERE endpoint IS NULL) AS webhooks,
           (SELECT count(*) FROM suppression JOIN part USING (tenant_id)
             WHERE expires_at IS NULL OR expires_at > now()) AS suppressions,
           (SELECT coalesce(sum(checked_count), 0)::bigint FROM list_validation JOIN part USING (tenant_id)
             WHERE finished_at >= $2::date::timestamp AT TIME ZONE 'UTC'
               AND finished_at < $3::date::timestamp AT TIME ZONE 'UTC') AS month_validations
      FROM counted
"""


async def today(connection: Connection) -> date:
    """The day it is (UTC), by the clock of the database."""
    day: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return day


async def figures(connection: Connection, tenant_id: str, start: date, end: date) -> Figures:
    """The figures of a tenant with all below it; those by month of the days from ``start`` on and before ``end``."""
    row = await connection.fetchrow(_FIGURES, tenant_id, start, end, Dimension.TOTAL)
    assert row is not None, "an aggregate gives a row"
    return Figures(**dict(row))
