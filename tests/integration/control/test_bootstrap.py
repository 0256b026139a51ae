"""First starts: what the bootstrap makes, once."""

import asyncio

from barua_client import Connection, bearer
from control.bootstrap import tenants
from control.bootstrap.tenants import TenantPlan
from tests.integration.control.harness import Control


async def test_two_first_starts_at_once_grant_once(control: Control) -> None:
    plan = TenantPlan("acme", "operator", 1000, "", "", "", [])
    token = control.options.path("secrets", "operator.token").read_text().strip()
    async with Connection(control.options.control.listen, bearer(token)) as operator:
        await asyncio.gather(*(tenants.ensure(operator, plan) for _ in range(6)))
    assert (await control.balance("tenants/acme")).balance == 1000
