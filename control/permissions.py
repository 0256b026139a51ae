"""Who may call what: every method of every service, by name.

``check_complete`` holds the table against the methods that are served, so that a method without an entry stops the
start instead of being open, or closed, by accident. Health and reflection are open to all and not in the table.
"""

from collections.abc import Collection
from dataclasses import dataclass

from control.model.caller import Access

OPEN_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
"""Served without credentials."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a method asks for. ``scope`` is what a limited key or token must have for the service."""

    access: Access
    scope: str


@dataclass(frozen=True, slots=True)
class _Service:
    scope: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    resell: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    node: tuple[str, ...] = ()

    def methods(self) -> dict[str, Permission]:
        """The permission of each method."""
        return {
            method: Permission(access, self.scope)
            for access, methods in (
                (Access.READ, self.read),
                (Access.WRITE, self.write),
                (Access.RESELL, self.resell),
                (Access.OPERATOR, self.operator),
                (Access.NODE, self.node),
            )
            for method in methods
        }


_SERVICES: dict[str, _Service] = {
    "barua.control.v1.TenantService": _Service(
        "tenants",
        read=("GetTenant", "ListTenants"),
        resell=("CreateTenant",),
    ),
    "barua.control.v1.CredentialService": _Service(
        "credentials",
        read=("ListLogins", "ListApiKeys"),
        write=("CreateLogin", "DeleteLogin", "CreateApiKey", "DeleteApiKey"),
    ),
    "barua.control.v1.CreditService": _Service(
        "credits",
        read=("GetBalance", "ListLedgerEntries"),
        resell=("TransferCredits",),
        operator=("GrantCredits",),
    ),
    "barua.control.v1.DomainService": _Service(
        "domains",
        read=("GetDomain", "ListDomains"),
        write=("CreateDomain", "VerifyDomain", "DeleteDomain"),
    ),
    "barua.control.v1.SuppressionService": _Service(
        "suppressions",
        read=("ListSuppressions",),
        write=("CreateSuppression", "DeleteSuppression"),
    ),
    "barua.control.v1.HistoryService": _Service(
        "messages",
        read=("GetMessageRecord", "ListMessageRecords"),
    ),
    "barua.control.v1.LeaseService": _Service("nodes", node=("OpenHolder", "AcquireLease")),
    "barua.journal.v1.JournalService": _Service("nodes", node=("PushEvents",)),
    "barua.policy.v1.PolicyService": _Service("nodes", node=("WatchPolicy", "ReportRevision")),
}

PERMISSIONS: dict[str, Permission] = {
    f"/{name}/{method}": permission
    for name, service in _SERVICES.items()
    for method, permission in service.methods().items()
}
"""What each method asks for, by its path."""

SCOPES: frozenset[str] = frozenset(
    scope for service in _SERVICES.values() if not service.node for scope in (service.scope, f"{service.scope}:read")
)
"""Scopes that keys and tokens for this API can have."""


def check_complete(served: Collection[str]) -> None:
    """Raise RuntimeError unless the table names exactly the served methods."""
    missing = sorted(set(served) - PERMISSIONS.keys())
    surplus = sorted(PERMISSIONS.keys() - set(served))
    if missing or surplus:
        raise RuntimeError(f"the permission table lacks {missing} and has {surplus}, which are not served")
