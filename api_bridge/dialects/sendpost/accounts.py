"""The account of a key and its sub-accounts, which are tenants of control.

The account is the tenant that the account key belongs to; its sub-accounts are the default one, which is that tenant
itself, and the tenants directly below it. What is asked for on every call is remembered for a minute: the account of a
key, and the number of a tenant, which never changes. It gives no access by itself: every call shows the client's key.

Errors: ``Refusal``; ``Problem`` 401 for a key that is not an account's (it may not see tenants).
"""

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from barua.control.v1 import tenant_pb2, tenant_service_pb2

from api_bridge.dialects.sendpost import errors
from mta.runtime.refusals import Reason, Refusal

if TYPE_CHECKING:
    from api_bridge.dialects.sendpost.operation import Call

REMEMBERED = 10_000
"""Accounts and tenants, about 1 KB each."""
SECONDS = 60.0
"""How long an account is remembered: its name may change."""


class Accounts:
    """What is remembered of accounts."""

    def __init__(self) -> None:
        self._own: OrderedDict[str, tuple[float, tenant_pb2.Tenant]] = OrderedDict()
        self._numbers: OrderedDict[str, int] = OrderedDict()

    async def own(self, call: "Call") -> tenant_pb2.Tenant:
        """The account of the call's key. Raises Problem 401 if it is not an account key."""
        known = self._own.get(call.authorization)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        try:
            request = tenant_service_pb2.GetTenantRequest(name="tenants/me")
            tenant: tenant_pb2.Tenant = await call.ask("tenants", "GetTenant", request)
        except Refusal as refusal:
            if refusal.reason is Reason.PERMISSION_DENIED:
                raise errors.unauthorized() from None
            raise
        self._own[call.authorization] = (time.monotonic() + SECONDS, tenant)
        self._own.move_to_end(call.authorization)
        if len(self._own) > REMEMBERED:
            self._own.popitem(last=False)
        return tenant

    async def sub_account(self, call: "Call", number: int) -> tenant_pb2.Tenant:
        """The account's sub-account with this id. Raises Problem if there is none."""
        request = tenant_service_pb2.ListTenantsRequest(parent="tenants/me", number=number, include_parent=True)
        for tenant in await call.first(1, "tenants", "ListTenants", request):
            found: tenant_pb2.Tenant = tenant
            return found
        raise call.unknown("Sub-account")

    async def tenant(self, call: "Call", name: str) -> tenant_pb2.Tenant:
        """The tenant ``tenants/{tenant}``; one without anything set if the caller does not see it."""
        try:
            request = tenant_service_pb2.GetTenantRequest(name=name)
            tenant: tenant_pb2.Tenant = await call.ask("tenants", "GetTenant", request)
        except Refusal as refusal:
            if refusal.reason not in (Reason.PERMISSION_DENIED, Reason.NOT_FOUND):
                raise
            return tenant_pb2.Tenant(name=name)
        return tenant

    async def number(self, call: "Call", name: str) -> int:
        """The id of the tenant ``tenants/{tenant}``; 0 if the caller does not see it."""
        number = self._numbers.get(name)
        if number is None:
            number = (await self.tenant(call, name)).number
            if number:
                self._numbers[name] = number
            if len(self._numbers) > REMEMBERED:
                self._numbers.popitem(last=False)
        return number
