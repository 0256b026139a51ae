"""The addresses that mail of a domain may leave from: what its SPF record has to allow."""

from dataclasses import dataclass

from control.database import Connection


@dataclass(frozen=True, slots=True)
class Ways:
    """``sources``: addresses of the sources that may be used. ``default``: the machines' own addresses are, too."""

    sources: tuple[str, ...] = ()
    default: bool = True


async def ways_of(connection: Connection, tenant_id: str, domain: str) -> Ways:
    """Where mail of a domain may leave from, by the pool of its tenant and the egress rules. Read for the platform.

    A rule counts whatever it asks of the recipient, since some recipient may be so. SMTP providers are left out: whose
    they are, they are not ours.
    """
    row = await connection.fetchrow(
        "WITH line AS (SELECT unnest(path) AS tenant_id, generate_subscripts(path, 1) AS depth FROM tenant"
        "              WHERE tenant.tenant_id = $1),"
        " assigned AS (SELECT pool_id FROM pool_assignment JOIN line USING (tenant_id) ORDER BY depth DESC LIMIT 1),"
        " pools AS (SELECT pool_id FROM assigned UNION SELECT pool_id FROM egress_rule WHERE pool_id IS NOT NULL"
        "           AND sender_domain IN ('', $2)"
        "           AND (tenant_id IS NULL OR tenant_id IN (SELECT tenant_id FROM line)))"
        " SELECT NOT EXISTS (SELECT FROM assigned) AS default,"
        " ARRAY(SELECT DISTINCT host(address) FROM source JOIN pool_member USING (source_id) JOIN pools USING (pool_id)"
        "       WHERE state <> 'disabled' ORDER BY 1) AS sources",
        tenant_id,
        domain,
    )
    assert row is not None, "it has no FROM"
    return Ways(tuple(row["sources"]), row["default"])
