"""The two methods of SuppressionService that are about what becomes a suppression by itself."""

import re
from dataclasses import replace
from typing import Any

from barua.control.v1 import suppression_pb2, suppression_service_pb2
from barua.control.v1.suppression_pb2 import SuppressionPolicy as PolicyProto

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, names
from control.model.bounces import LIMITS, AutoPolicy, EffectivePolicy, effective
from control.model.caller import acting_for_platform
from control.services.mutation import Mutations
from control.services.updates import check_etag, paths_of
from control.store import suppression_policies, tenants
from mta.runtime.options import SuppressionOptions

_NAME = re.compile(r"(tenants/[^/]*)/suppressionPolicy")
_SWITCHES = ("hard_bounces", "soft_bounces")
UPDATABLE = (*_SWITCHES, *LIMITS)
_FROM_SWITCH = {
    suppression_pb2.SWITCH_UNSPECIFIED: None,
    suppression_pb2.SWITCH_ON: True,
    suppression_pb2.SWITCH_OFF: False,
}
_TO_SWITCH = {value: switch for switch, value in _FROM_SWITCH.items()}


def default_policy(options: SuppressionOptions) -> EffectivePolicy:
    """What holds where no tenant says anything."""
    return EffectivePolicy(
        options.hard_bounces,
        options.soft_bounces,
        options.soft_bounce_count,
        options.soft_bounce_days,
        options.first_pause_days,
        options.pause_count,
    )


class SuppressionPolicies:
    """Gets and changes policies."""

    def __init__(self, database: Database, mutations: Mutations, options: SuppressionOptions) -> None:
        self._database = database
        self._mutations = mutations
        self._default = default_policy(options)

    async def get(
        self, request: suppression_service_pb2.GetSuppressionPolicyRequest
    ) -> suppression_service_pb2.GetSuppressionPolicyResponse:
        """What a tenant says, and what holds for it."""
        me = caller().tenant_id
        tenant_id = _tenant_of(request.name, me, "name")

        async def read(connection: Connection) -> tuple[AutoPolicy, int]:
            await tenants.visible(connection, me, tenant_id)
            return await suppression_policies.own(connection, tenant_id)

        own, version = await self._database.transact(read)
        with acting_for_platform():
            lines = await self._database.transact(lambda c: suppression_policies.lines(c, [tenant_id]))
        holds = effective(lines.get(tenant_id, []), self._default)
        return suppression_service_pb2.GetSuppressionPolicyResponse(
            policy=_to_proto(tenant_id, own, str(version)), effective_policy=_to_proto(tenant_id, holds, "")
        )

    async def update(self, request: suppression_service_pb2.UpdateSuppressionPolicyRequest) -> PolicyProto:
        """Change what a tenant says."""
        me = caller().tenant_id
        given = request.policy
        tenant_id = _tenant_of(given.name, me, "policy.name")
        changes = {path: _value(given, path) for path in paths_of(request.update_mask, given, "policy", UPDATABLE)}

        async def effect(connection: Connection) -> PolicyProto:
            # The tenant is locked, not the policy, which may not be there yet.
            await tenants.visible(connection, me, tenant_id, lock=True)
            own, version = await suppression_policies.own(connection, tenant_id)
            check_etag(given.etag, str(version), "policy.etag")
            changed = replace(own, **changes)
            version = await suppression_policies.put(connection, tenant_id, changed)
            return _to_proto(tenant_id, changed, str(version))

        return await self._mutations.run(request, PolicyProto, effect)


def _tenant_of(name: str, me: str, field: str) -> str:
    match = _NAME.fullmatch(name)
    if match is None:
        raise fields.invalid(field, f"{field} must have the form tenants/{{tenant}}/suppressionPolicy")
    return names.tenant(match[1], me, field)


def _value(given: Any, path: str) -> Any:
    """The new value of a field, checked; None: as above."""
    field = f"policy.{path}"
    if path in _SWITCHES:
        switch = getattr(given, path)
        if switch not in _FROM_SWITCH:
            raise fields.invalid(field, f"{field} {switch} is not known")
        return _FROM_SWITCH[switch]
    if not given.HasField(path):
        return None
    value: int = getattr(given, path)
    least, greatest = LIMITS[path]
    if not least <= value <= greatest:
        raise fields.invalid(field, f"{field} must be {least} to {greatest}; it is {value}")
    return value


def _to_proto(tenant_id: str, policy: AutoPolicy | EffectivePolicy, etag: str) -> PolicyProto:
    return PolicyProto(
        name=f"tenants/{tenant_id}/suppressionPolicy",
        hard_bounces=_TO_SWITCH[policy.hard_bounces],
        soft_bounces=_TO_SWITCH[policy.soft_bounces],
        soft_bounce_count=policy.soft_bounce_count,
        soft_bounce_days=policy.soft_bounce_days,
        first_pause_days=policy.first_pause_days,
        pause_count=policy.pause_count,
        etag=etag,
    )
