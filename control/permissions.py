"""Who may call what: every method of every service, by name.

``check_complete`` holds the table against the methods that are served, so that a method without an entry stops the
start instead of being open, or closed, by accident. Health and reflection are open to all and not in the table. The
methods in the table that are open, ``OAuthService.IssueToken`` and ``EngagementService.RecordEngagements``, have their
proof within the request.
"""

from collections.abc import Collection
from dataclasses import dataclass

from control.model.caller import Access
from control.model.fields import MAIL_SCOPE

OPEN_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
"""Served without credentials: whether we serve is asked by load balancers, and what we serve is public."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a method asks for. ``scope`` is what a limited key or token must have for the service; ``also`` will do."""

    access: Access
    scope: str
    also: str = ""


@dataclass(frozen=True, slots=True)
class _Service:
    scope: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    resell: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    inspect: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    """Of the others: those that a key that may send mail can call, too."""

    def methods(self) -> dict[str, Permission]:
        """The permission of each method."""
        return {
            method: Permission(access, self.scope, MAIL_SCOPE if method in self.senders else "")
            for access, methods in (
                (Access.READ, self.read),
                (Access.WRITE, self.write),
                (Access.RESELL, self.resell),
                (Access.OPERATOR, self.operator),
                (Access.INSPECT, self.inspect),
                (Access.NODE, self.node),
                (Access.OPEN, self.open),
            )
            for method in methods
        }


_SERVICES: dict[str, _Service] = {
    "barua.control.v1.TenantService": _Service(
        "tenants",
        read=("GetTenant", "ListTenants", "GetTenantUsage"),
        write=("UpdateTenant",),
        resell=("CreateTenant", "SuspendTenant", "ResumeTenant", "DeleteTenant"),
    ),
    "barua.control.v1.CredentialService": _Service(
        "credentials",
        read=("GetLogin", "ListLogins", "GetApiKey", "ListApiKeys"),
        write=(
            "CreateLogin",
            "UpdateLogin",
            "DeleteLogin",
            "CreateApiKey",
            "UpdateApiKey",
            "RotateApiKey",
            "DeleteApiKey",
        ),
    ),
    "barua.control.v1.OAuthService": _Service(
        "credentials",
        read=("GetOAuthClient", "ListOAuthClients"),
        write=("CreateOAuthClient", "UpdateOAuthClient", "RotateOAuthClient", "DeleteOAuthClient"),
        # The exception beside health and reflection: its credentials are in the request (RFC 6749 §4.4.2).
        open=("IssueToken",),
    ),
    "barua.control.v1.CreditService": _Service(
        "credits",
        read=("GetBalance", "ListLedgerEntries", "GetStatement", "AuditCredits"),
        resell=("TransferCredits",),
        operator=("GrantCredits", "WriteOffHolder"),
        inspect=("ListHolders",),
    ),
    "barua.control.v1.DomainService": _Service(
        "domains",
        read=("GetDomain", "ListDomains"),
        write=("CreateDomain", "UpdateDomain", "VerifyDomain", "CheckDomain", "DeleteDomain"),
    ),
    "barua.control.v1.DkimKeyService": _Service(
        "domains",
        read=("GetDkimKey", "ListDkimKeys"),
        write=(
            "GenerateDkimKey",
            "ImportDkimKey",
            "ActivateDkimKey",
            "RetireDkimKey",
            "RotateDkimKeys",
            "DeleteDkimKey",
        ),
    ),
    "barua.control.v1.SenderService": _Service(
        "senders",
        read=("GetSender", "ListSenders"),
        write=("CreateSender", "UpdateSender", "VerifySender", "SendSenderCode", "DeleteSender"),
    ),
    "barua.control.v1.TemplateService": _Service(
        "templates",
        read=("GetTemplate", "ListTemplates", "FindTemplate", "RenderTemplate"),
        write=("CreateTemplate", "UpdateTemplate", "DeleteTemplate"),
    ),
    "barua.control.v1.ListValidationService": _Service(
        "validation",
        read=("ValidateAddresses", "GetListValidation", "ListListValidations", "ListAddressValidations"),
        write=("CreateListValidation", "UploadListValidation", "CancelListValidation", "DeleteListValidation"),
    ),
    "barua.control.v1.SuppressionService": _Service(
        "suppressions",
        read=(
            "GetSuppression",
            "ListSuppressions",
            "CountSuppressions",
            "ExportSuppressions",
            "CheckSuppressions",
            "GetSuppressionPolicy",
        ),
        write=(
            "CreateSuppression",
            "UpdateSuppression",
            "DeleteSuppression",
            "BatchCreateSuppressions",
            "BatchDeleteSuppressions",
            "ImportSuppressions",
            "UpdateSuppressionPolicy",
        ),
    ),
    "barua.control.v1.ResubscriptionService": _Service(
        "suppressions",
        write=("RequestResubscription",),
        open=("ConfirmResubscription",),
    ),
    "barua.control.v1.SmtpProviderService": _Service(
        "smtp_providers",
        read=("GetSmtpProvider", "ListSmtpProviders", "CheckSmtpProvider"),
        write=("CreateSmtpProvider", "UpdateSmtpProvider", "DeleteSmtpProvider", "SetDefaultSmtpProvider"),
    ),
    "barua.control.v1.EgressService": _Service(
        "egress",
        read=("ListOutgoingAddresses",),
        operator=(
            *(
                f"{verb}{thing}"
                for thing in ("Source", "Pool", "EgressRule")
                for verb in ("Create", "Update", "Delete")
            ),
            "SetSourceState",
            "AssignPool",
        ),
        inspect=(
            *(f"Get{thing}" for thing in ("Source", "Pool", "EgressRule", "PoolAssignment")),
            *(f"List{things}" for things in ("Sources", "Pools", "EgressRules")),
        ),
    ),
    "barua.control.v1.PoolService": _Service(
        "egress",
        read=("GetTenantSource", "ListTenantSources", "GetTenantPool", "ListTenantPools"),
        write=(
            "UpdateTenantSource",
            "AllocateTenantSources",
            "ReleaseTenantSource",
            "CreateTenantPool",
            "UpdateTenantPool",
            "DeleteTenantPool",
        ),
    ),
    "barua.control.v1.QuotaService": _Service("nodes", node=("TakeQuota",)),
    "barua.control.v1.HistoryService": _Service(
        "messages",
        read=(
            "GetMessageRecord",
            "ListMessageRecords",
            "BatchGetMessageRecords",
            "CountMessageRecords",
            "GetMessageTimeline",
        ),
        # Who sends may ask what became of a message whose id it was told.
        senders=("GetMessageRecord",),
    ),
    "barua.control.v1.EngagementService": _Service(
        "messages",
        write=("RecordComplaint",),
        # Its proof are the signed tokens in the request.
        open=("RecordEngagements",),
    ),
    "barua.control.v1.StatisticsService": _Service(
        "statistics",
        read=("ListDailyCounters", "SummarizeCounters"),
    ),
    "barua.control.v1.EventService": _Service("messages", read=("WatchEvents",)),
    "barua.control.v1.WebhookService": _Service(
        "webhooks",
        read=("GetWebhook", "ListWebhooks", "ListWebhookDeliveries"),
        write=(
            "CreateWebhook",
            "UpdateWebhook",
            "DeleteWebhook",
            "RotateWebhookSecret",
            "TestWebhook",
            "ReplayWebhookDeliveries",
        ),
    ),
    "barua.control.v1.AlertService": _Service(
        "alerts",
        read=("GetAlertRule", "ListAlertRules", "ListAlerts"),
        write=("CreateAlertRule", "UpdateAlertRule", "DeleteAlertRule", "AcknowledgeAlert"),
    ),
    "barua.control.v1.LeaseService": _Service("nodes", node=("OpenHolder", "AcquireLease")),
    "barua.journal.v1.JournalService": _Service("nodes", node=("PushEvents",)),
    "barua.policy.v1.PolicyService": _Service("nodes", node=("WatchPolicy", "ReportRevision", "ReportCredentialUses")),
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
