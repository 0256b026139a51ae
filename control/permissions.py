"""Who may call what: every method of every service, by name.

``check_complete`` holds the table against the methods that are served, so that a method without an entry stops the
start instead of being open, or closed, by accident. Health and reflection are open to all and not in the table.
"""

from collections.abc import Collection

from control.model.caller import Access

OPEN_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
"""Served without credentials."""

_SERVICES: dict[str, tuple[Access, tuple[str, ...]]] = {
    "barua.control.v1.TenantService": (Access.TENANT, ("CreateTenant", "GetTenant", "ListTenants")),
    "barua.control.v1.CredentialService": (
        Access.TENANT,
        ("CreateLogin", "ListLogins", "DeleteLogin", "CreateApiKey", "ListApiKeys", "DeleteApiKey"),
    ),
    "barua.control.v1.CreditService": (Access.TENANT, ("GetBalance", "TransferCredits", "ListLedgerEntries")),
    "barua.control.v1.DomainService": (
        Access.TENANT,
        ("CreateDomain", "GetDomain", "ListDomains", "VerifyDomain", "DeleteDomain"),
    ),
    "barua.control.v1.SuppressionService": (
        Access.TENANT,
        ("CreateSuppression", "ListSuppressions", "DeleteSuppression"),
    ),
    "barua.control.v1.HistoryService": (Access.TENANT, ("GetMessageRecord", "ListMessageRecords")),
    "barua.control.v1.LeaseService": (Access.NODE, ("OpenHolder", "AcquireLease")),
    "barua.journal.v1.JournalService": (Access.NODE, ("PushEvents",)),
    "barua.policy.v1.PolicyService": (Access.NODE, ("WatchPolicy", "ReportRevision")),
}

PERMISSIONS: dict[str, Access] = {
    f"/{service}/{method}": access for service, (access, methods) in _SERVICES.items() for method in methods
} | {
    "/barua.control.v1.CreditService/GrantCredits": Access.OPERATOR,
}
"""Access that each method asks for, by its path."""


def check_complete(served: Collection[str]) -> None:
    """Raise RuntimeError unless the table names exactly the served methods."""
    missing = sorted(set(served) - PERMISSIONS.keys())
    surplus = sorted(PERMISSIONS.keys() - set(served))
    if missing or surplus:
        raise RuntimeError(f"the permission table lacks {missing} and has {surplus}, which are not served")
