"""All operations of the API: one module per resource."""

from collections.abc import Sequence
from types import ModuleType

from api_bridge.dialects.sendpost import (
    alerts,
    domains,
    email,
    ips,
    messages,
    pools,
    senders,
    statistics,
    subaccounts,
    suppressions,
    templates,
    validation,
    webhooks,
)
from api_bridge.dialects.sendpost.operation import Operation

_MODULES: Sequence[ModuleType] = (
    email,
    messages,
    statistics,
    suppressions,
    domains,
    subaccounts,
    ips,
    pools,
    webhooks,
    templates,
    senders,
    validation,
    alerts,
)


def operations() -> Sequence[Operation]:
    """All of them."""
    return [operation for module in _MODULES for operation in module.operations()]
