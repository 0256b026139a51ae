"""Who gets in and who sees what: every method, by enumeration."""

import secrets
import string
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    credit_service_pb2,
    oauth_client_pb2,
    oauth_service_pb2,
    suppression_pb2,
    tenant_pb2,
    tenant_service_pb2,
)

from control.model.caller import Access
from control.permissions import OPEN_SERVICES, PERMISSIONS, SCOPES, check_complete
from control.services import catalogue
from mta.runtime import rpc
from mta.runtime.refusals import Reason
from tests.integration.control.harness import PASSWORD, Control, Metadata, basic, bearer, new_id

TENANTS = (Access.READ, Access.WRITE, Access.RESELL)


def methods() -> dict[str, MethodDescriptor]:
    """All methods that are served, by path."""
    return {
        f"/{service.full_name}/{method.name}": method
        for file in catalogue._FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }


async def reason_of(control: Control, path: str, request: Any, metadata: Metadata | None) -> Reason | None:
    """Why a call of any method is refused; None: it is not."""
    method = methods()[path]
    answer_type = message_factory.GetMessageClass(method.output_type)
    codecs = (type(request).SerializeToString, answer_type.FromString)
    try:
        if method.server_streaming:
            stream = control.channel.unary_stream(path, *codecs)(request, metadata=metadata, timeout=60)
            await stream.read()
            stream.cancel()
        elif method.client_streaming:
            await control.channel.stream_unary(path, *codecs)(iter([request]), metadata=metadata, timeout=60)
        else:
            await control.channel.unary_unary(path, *codecs)(request, metadata=metadata, timeout=60)
    except grpc.aio.AioRpcError as error:
        return rpc.refusal_of(error).reason
    return None


def empty_request(path: str) -> Any:
    return message_factory.GetMessageClass(methods()[path].input_type)()


@pytest.mark.each_postgres
async def test_every_method_asks_for_credentials(control: Control) -> None:
    wrong: list[Metadata | None] = [
        None,
        bearer("nonsense"),
        bearer(""),
        basic("nobody"),
        (("authorization", "Basic !!!"),),
        (("authorization", "Digest x"),),
    ]
    for number, path in enumerate(methods()):
        # Each method from an address of its own, or the calls were too many wrong ones of one peer.
        where = (("x-barua-peer", f"192.0.2.{number % 250}"),)
        for metadata in wrong if path.endswith("GetTenant") else wrong[:2]:
            reason = await reason_of(control, path, empty_request(path), (metadata or ()) + where)
            # Open methods get as far as to judge what their requests say.
            assert (PERMISSIONS[path].access is Access.OPEN) == (path in OPEN_METHODS)
            assert reason is OPEN_METHODS.get(path, Reason.UNAUTHENTICATED), (path, metadata)


# The documented exceptions beside health and reflection.
OPEN_METHODS = {
    "/barua.control.v1.OAuthService/IssueToken": Reason.UNAUTHENTICATED,
    "/barua.control.v1.EngagementService/RecordEngagements": Reason.INVALID_ARGUMENT,
    "/barua.control.v1.ResubscriptionService/ConfirmResubscription": Reason.NOT_FOUND,
}

READ, WRITE, RESELL = {Access.READ}, {Access.READ, Access.WRITE}, {Access.READ, Access.WRITE, Access.RESELL}
ALLOWED: dict[str, set[Access]] = {
    "operator token": set(Access),
    "node token": {Access.NODE},
    "admin of the root": set(Access),
    "admin of a reseller": RESELL,
    "admin of an account": WRITE,
    "read-only of the root": READ,
    "read-only of an account": READ,
    "sender of a reseller": set(),
    "key of the root": RESELL,
    "key of a reseller": RESELL,
    "key of an account": WRITE,
    "reading key of a reseller": READ,
    "mail key of the root": set(),
    "token of a reseller": RESELL,
    "token of an account": WRITE,
}
"""What each kind of credentials may call, told apart from the code that decides it."""


async def every_role(control: Control) -> dict[str, Metadata]:
    """Credentials of every kind, as in ALLOWED."""
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    roles: dict[str, Metadata] = {"operator token": control.operator, "node token": control.node}
    for whose, tenant in ("the root", "operator"), ("a reseller", "reseller"), ("an account", "account"):
        for kind, role in LOGIN_ROLES.items():
            username = f"{tenant}-{kind}"
            request = credential_service_pb2.CreateLoginRequest(
                parent=f"tenants/{tenant}",
                username=username,
                password=PASSWORD,
                login=credential_pb2.Login(role=role),
            )
            await control.call(control.credentials.CreateLogin, request)
            roles[f"{kind} of {whose}"] = basic(username)
        reading = [scope for scope in SCOPES if scope.endswith(":read")]
        for kind, scopes in ("key", list(SCOPES)), ("reading key", reading), ("mail key", ["mail"]):
            roles[f"{kind} of {whose}"] = bearer(await new_key(control, tenant, scopes))
        client = await control.call(
            control.oauth.CreateOAuthClient,
            oauth_service_pb2.CreateOAuthClientRequest(
                parent=f"tenants/{tenant}", oauth_client=oauth_client_pb2.OAuthClient(scopes=list(SCOPES))
            ),
        )
        token = await control.oauth.IssueToken(
            oauth_service_pb2.IssueTokenRequest(client_id=client.client_id, client_secret=client.client_secret)
        )
        roles[f"token of {whose}"] = bearer(token.access_token)
    return roles


LOGIN_ROLES = {
    "admin": credential_pb2.Login.ROLE_ADMIN,
    "read-only": credential_pb2.Login.ROLE_READ_ONLY,
    "sender": credential_pb2.Login.ROLE_SENDER,
}


async def new_key(control: Control, tenant: str, scopes: list[str]) -> str:
    """An API key with these scopes."""
    request = credential_service_pb2.CreateApiKeyRequest(
        parent=f"tenants/{tenant}", api_key=credential_pb2.ApiKey(scopes=scopes)
    )
    key = await control.call(control.credentials.CreateApiKey, request)
    return str(key.secret_key)


async def test_every_method_for_every_role(control: Control) -> None:
    roles = await every_role(control)
    for path in methods():
        access = PERMISSIONS[path].access
        for role, allowed in ALLOWED.items():
            reason = await reason_of(control, path, empty_request(path), roles[role])
            if access is Access.OPEN:
                assert reason is OPEN_METHODS[path]
                continue
            assert reason is not Reason.UNAUTHENTICATED, (path, role)
            # Some methods refuse keys for another reason: those of logins (see test_credentials).
            if access in allowed and "key" not in role and "token of" not in role:
                assert reason is not Reason.PERMISSION_DENIED, (path, role)
            if access not in allowed and not (PERMISSIONS[path].also and "mail key" in role):
                assert reason is Reason.PERMISSION_DENIED, (path, role, reason)


async def test_a_key_of_one_scope_calls_its_service_alone(control: Control) -> None:
    await control.tenant("reseller")
    unary = [path for path in methods() if PERMISSIONS[path].access in TENANTS and not streams(path)]
    for scope in ("credits:read", "domains", "credentials", "mail"):
        key = bearer(await new_key(control, "reseller", [scope]))
        for path in unary:
            if path.endswith(("CreateLogin", "UpdateLogin", "DeleteLogin")):
                continue  # for no key, whatever its scope: see test_credentials
            permission = PERMISSIONS[path]
            wanted = {permission.scope, f"{permission.scope}:read"} if path in READING else {permission.scope}
            wanted.add(permission.also)
            reason = await reason_of(control, path, empty_request(path), key)
            assert (reason is not Reason.PERMISSION_DENIED) == (scope in wanted), (path, scope, reason)


def streams(path: str) -> bool:
    """Whether a method takes or gives a stream."""
    return methods()[path].server_streaming or methods()[path].client_streaming


READING = {path for path, permission in PERMISSIONS.items() if permission.access is Access.READ}


def test_the_table_names_every_method() -> None:
    check_complete(catalogue.method_paths())
    with pytest.raises(RuntimeError, match=r"lacks.*New"):
        check_complete([*catalogue.method_paths(), "/x/New"])
    with pytest.raises(RuntimeError, match="not served"):
        check_complete(catalogue.method_paths()[1:])


# A request of each method that names something of another tenant, or a tenant that is not there at all.
FOREIGN: dict[str, dict[str, Any]] = {
    "TenantService/CreateTenant": {"parent": "tenants/{}"},
    "TenantService/GetTenant": {"name": "tenants/{}"},
    "TenantService/ListTenants": {"parent": "tenants/{}"},
    "TenantService/GetTenantUsage": {"name": "tenants/{}/usage"},
    "TenantService/UpdateTenant": {"tenant.name": "tenants/{}", "tenant.display_name": "x"},
    "TenantService/SuspendTenant": {"name": "tenants/{}", "reason": "x"},
    "TenantService/ResumeTenant": {"name": "tenants/{}"},
    "TenantService/DeleteTenant": {"name": "tenants/{}"},
    "CredentialService/CreateLogin": {"parent": "tenants/{}", "username": "new", "password": "12345678"},
    "CredentialService/GetLogin": {"name": "tenants/{}/logins/other"},
    "CredentialService/ListLogins": {"parent": "tenants/{}"},
    "CredentialService/UpdateLogin": {"login.name": "tenants/{}/logins/other", "login.disabled": True},
    "CredentialService/DeleteLogin": {"name": "tenants/{}/logins/other"},
    "CredentialService/CreateApiKey": {"parent": "tenants/{}"},
    "CredentialService/GetApiKey": {"name": "tenants/{}/apiKeys/aaaaaaaaaaaa"},
    "CredentialService/ListApiKeys": {"parent": "tenants/{}"},
    "CredentialService/UpdateApiKey": {"api_key.name": "tenants/{}/apiKeys/aaaaaaaaaaaa", "api_key.display_name": "x"},
    "CredentialService/RotateApiKey": {"name": "tenants/{}/apiKeys/aaaaaaaaaaaa"},
    "CredentialService/DeleteApiKey": {"name": "tenants/{}/apiKeys/aaaaaaaaaaaa"},
    "OAuthService/CreateOAuthClient": {"parent": "tenants/{}"},
    "OAuthService/GetOAuthClient": {"name": "tenants/{}/oauthClients/aaaaaaaaaaaa"},
    "OAuthService/ListOAuthClients": {"parent": "tenants/{}"},
    "OAuthService/UpdateOAuthClient": {
        "oauth_client.name": "tenants/{}/oauthClients/aaaaaaaaaaaa",
        "oauth_client.display_name": "x",
    },
    "OAuthService/RotateOAuthClient": {"name": "tenants/{}/oauthClients/aaaaaaaaaaaa"},
    "OAuthService/DeleteOAuthClient": {"name": "tenants/{}/oauthClients/aaaaaaaaaaaa"},
    "CreditService/GetBalance": {"tenant": "tenants/{}"},
    "CreditService/TransferCredits": {"source": "tenants/{}", "destination": "tenants/me", "amount": 1},
    "CreditService/ListLedgerEntries": {"tenant": "tenants/{}"},
    "CreditService/GetStatement": {"tenant": "tenants/{}"},
    "CreditService/AuditCredits": {"tenant": "tenants/{}"},
    "DomainService/CreateDomain": {"parent": "tenants/{}", "domain": "new.test"},
    "DomainService/GetDomain": {"name": "tenants/{}/domains/x.test"},
    "DomainService/ListDomains": {"parent": "tenants/{}"},
    "DomainService/VerifyDomain": {"name": "tenants/{}/domains/x.test"},
    "DomainService/DeleteDomain": {"name": "tenants/{}/domains/x.test"},
    "DomainService/UpdateDomain": {"domain.name": "tenants/{}/domains/x.test", "domain.tracking_host": "t.x.test"},
    "DomainService/CheckDomain": {"name": "tenants/{}/domains/x.test"},
    "DkimKeyService/GetDkimKey": {"name": "tenants/{}/domains/x.test/dkimKeys/s1"},
    "DkimKeyService/ListDkimKeys": {"parent": "tenants/{}/domains/x.test"},
    "DkimKeyService/GenerateDkimKey": {"parent": "tenants/{}/domains/x.test"},
    "DkimKeyService/ImportDkimKey": {"parent": "tenants/{}/domains/x.test", "selector": "s1"},
    "DkimKeyService/ActivateDkimKey": {"name": "tenants/{}/domains/x.test/dkimKeys/s1"},
    "DkimKeyService/RetireDkimKey": {"name": "tenants/{}/domains/x.test/dkimKeys/s1"},
    "DkimKeyService/RotateDkimKeys": {"name": "tenants/{}/domains/x.test"},
    "DkimKeyService/DeleteDkimKey": {"name": "tenants/{}/domains/x.test/dkimKeys/s1"},
    "SenderService/CreateSender": {"parent": "tenants/{}", "address": "a@x.test"},
    "SenderService/GetSender": {"name": "tenants/{}/senders/a@x.test"},
    "SenderService/ListSenders": {"parent": "tenants/{}"},
    "SenderService/UpdateSender": {"sender.name": "tenants/{}/senders/a@x.test", "sender.display_name": "x"},
    "SenderService/VerifySender": {"name": "tenants/{}/senders/a@x.test", "code": "12345678"},
    "SenderService/SendSenderCode": {"name": "tenants/{}/senders/a@x.test"},
    "SenderService/DeleteSender": {"name": "tenants/{}/senders/a@x.test"},
    "TemplateService/CreateTemplate": {"parent": "tenants/{}", "template.html": "x"},
    "TemplateService/GetTemplate": {"name": "tenants/{}/templates/x"},
    "TemplateService/ListTemplates": {"parent": "tenants/{}"},
    "TemplateService/FindTemplate": {"parent": "tenants/{}", "display_name": "x"},
    "TemplateService/UpdateTemplate": {"template.name": "tenants/{}/templates/x", "template.html": "x"},
    "TemplateService/DeleteTemplate": {"name": "tenants/{}/templates/x"},
    "TemplateService/RenderTemplate": {"name": "tenants/{}/templates/x"},
    "SuppressionService/CreateSuppression": {"parent": "tenants/{}", "address": "a@x.test"},
    "SuppressionService/ListSuppressions": {"parent": "tenants/{}"},
    "ListValidationService/ValidateAddresses": {"parent": "tenants/{}", "addresses": ["a@x.test"]},
    "ListValidationService/CreateListValidation": {"parent": "tenants/{}", "addresses": ["a@x.test"]},
    "ListValidationService/UploadListValidation": {"parent": "tenants/{}", "addresses": ["a@x.test"]},
    "ListValidationService/GetListValidation": {"name": "tenants/{}/listValidations/1"},
    "ListValidationService/ListListValidations": {"parent": "tenants/{}"},
    "ListValidationService/ListAddressValidations": {"parent": "tenants/{}/listValidations/1"},
    "ListValidationService/CancelListValidation": {"name": "tenants/{}/listValidations/1"},
    "ListValidationService/DeleteListValidation": {"name": "tenants/{}/listValidations/1"},
    "SuppressionService/GetSuppression": {"name": "tenants/{}/suppressions/a@x.test"},
    "SuppressionService/UpdateSuppression": {
        "suppression.name": "tenants/{}/suppressions/a@x.test",
        "suppression.note": "x",
    },
    "SuppressionService/BatchCreateSuppressions": {
        "parent": "tenants/{}",
        "suppressions": [suppression_pb2.Suppression(address="a@x.test")],
    },
    "SuppressionService/BatchDeleteSuppressions": {"parent": "tenants/{}", "addresses": ["a@x.test"]},
    "SuppressionService/CountSuppressions": {"parent": "tenants/{}"},
    "SuppressionService/ImportSuppressions": {"parent": "tenants/{}"},
    "SuppressionService/ExportSuppressions": {"parent": "tenants/{}"},
    "SuppressionService/CheckSuppressions": {"parent": "tenants/{}", "addresses": ["a@x.test"]},
    "SuppressionService/GetSuppressionPolicy": {"name": "tenants/{}/suppressionPolicy"},
    "SuppressionService/UpdateSuppressionPolicy": {
        "policy.name": "tenants/{}/suppressionPolicy",
        "policy.hard_bounces": suppression_pb2.SWITCH_OFF,
    },
    "SuppressionService/DeleteSuppression": {"name": "tenants/{}/suppressions/a@x.test"},
    "WebhookService/CreateWebhook": {
        "parent": "tenants/{}",
        "webhook.url": "https://example.com/",
        "webhook.event_kinds": [1],
    },
    "WebhookService/GetWebhook": {"name": "tenants/{}/webhooks/x"},
    "WebhookService/ListWebhooks": {"parent": "tenants/{}"},
    "WebhookService/UpdateWebhook": {"webhook.name": "tenants/{}/webhooks/x", "webhook.display_name": "x"},
    "WebhookService/DeleteWebhook": {"name": "tenants/{}/webhooks/x"},
    "WebhookService/RotateWebhookSecret": {"name": "tenants/{}/webhooks/x"},
    "WebhookService/TestWebhook": {"name": "tenants/{}/webhooks/x"},
    "WebhookService/ListWebhookDeliveries": {"parent": "tenants/{}/webhooks/x"},
    "WebhookService/ReplayWebhookDeliveries": {
        "name": "tenants/{}/webhooks/x",
        "start_time.seconds": 1,
        "end_time.seconds": 2,
    },
    "AlertService/CreateAlertRule": {"parent": "tenants/{}", "alert_rule.metric": 5, "alert_rule.threshold": 1.0},
    "AlertService/GetAlertRule": {"name": "tenants/{}/alertRules/x"},
    "AlertService/ListAlertRules": {"parent": "tenants/{}"},
    "AlertService/UpdateAlertRule": {"alert_rule.name": "tenants/{}/alertRules/x", "alert_rule.display_name": "x"},
    "AlertService/DeleteAlertRule": {"name": "tenants/{}/alertRules/x"},
    "AlertService/ListAlerts": {"parent": "tenants/{}"},
    "AlertService/AcknowledgeAlert": {"name": "tenants/{}/alerts/1"},
    "ResubscriptionService/RequestResubscription": {
        "parent": "tenants/{}",
        "address": "a@example.net",
        "sender": "b@x.test",
    },
    "SmtpProviderService/CreateSmtpProvider": {
        "parent": "tenants/{}",
        "smtp_provider_id": "x",
        "smtp_provider.host": "smtp.x.test",
    },
    "SmtpProviderService/GetSmtpProvider": {"name": "tenants/{}/smtpProviders/builtin"},
    "SmtpProviderService/ListSmtpProviders": {"parent": "tenants/{}"},
    "SmtpProviderService/UpdateSmtpProvider": {
        "smtp_provider.name": "tenants/{}/smtpProviders/builtin",
        "smtp_provider.display_name": "x",
    },
    "SmtpProviderService/DeleteSmtpProvider": {"name": "tenants/{}/smtpProviders/x"},
    "SmtpProviderService/SetDefaultSmtpProvider": {"parent": "tenants/{}"},
    "SmtpProviderService/CheckSmtpProvider": {"name": "tenants/{}/smtpProviders/builtin"},
    "EgressService/ListOutgoingAddresses": {"parent": "tenants/{}"},
    "PoolService/GetTenantSource": {"name": "tenants/{}/sources/1"},
    "PoolService/ListTenantSources": {"parent": "tenants/{}"},
    "PoolService/UpdateTenantSource": {"source.name": "tenants/{}/sources/1", "source.auto_warm_up": True},
    "PoolService/AllocateTenantSources": {"parent": "tenants/{}", "addresses": ["192.0.2.1"]},
    "PoolService/ReleaseTenantSource": {"name": "tenants/{}/sources/1"},
    "PoolService/CreateTenantPool": {"parent": "tenants/{}", "pool.display_name": "x"},
    "PoolService/GetTenantPool": {"name": "tenants/{}/pools/1"},
    "PoolService/ListTenantPools": {"parent": "tenants/{}"},
    "PoolService/UpdateTenantPool": {"pool.name": "tenants/{}/pools/1", "pool.display_name": "x"},
    "PoolService/DeleteTenantPool": {"name": "tenants/{}/pools/1"},
    "HistoryService/GetMessageRecord": {"name": "tenants/{}/messages/1"},
    "HistoryService/ListMessageRecords": {"parent": "tenants/{}"},
    "HistoryService/GetMessageTimeline": {"name": "tenants/{}/messages/1"},
    "HistoryService/BatchGetMessageRecords": {"parent": "tenants/{}", "names": ["tenants/{}/messages/1"]},
    "HistoryService/CountMessageRecords": {"parent": "tenants/{}"},
    "EngagementService/RecordComplaint": {"name": "tenants/{}/messages/1"},
    "StatisticsService/ListDailyCounters": {
        "parent": "tenants/{}",
        "start_date": "2026-11-01",
        "end_date": "2026-11-30",
    },
    "StatisticsService/SummarizeCounters": {
        "parent": "tenants/{}",
        "start_date": "2026-11-01",
        "end_date": "2026-11-30",
    },
    "EventService/WatchEvents": {"parent": "tenants/{}"},
}


def set_field(message: Any, path: str, value: Any) -> None:
    """Set a field that may lie in inner messages: "login.name"."""
    *outer, last = path.split(".")
    for name in outer:
        message = getattr(message, name)
    if isinstance(value, list):
        getattr(message, last).extend(value)
    else:
        setattr(message, last, value)


def generated_ids(count: int) -> list[str]:
    """Tenant ids as anybody may make them up."""
    alphabet = string.ascii_lowercase + string.digits
    random = secrets.SystemRandom()
    return [
        random.choice(alphabet) + "".join(random.choices(alphabet + "-", k=random.randint(0, 62))) for _ in range(count)
    ]


def naming_fields(message: Descriptor) -> set[str]:
    """The fields of a request that name a resource, by its descriptor: its own, and the name of a resource in it."""
    texts = [field.name for field in message.fields if field.type == FieldDescriptor.TYPE_STRING]
    found = {"name", "parent", "tenant"} & set(texts)
    for field in message.fields:
        if field.message_type and not field.is_repeated and "etag" in field.message_type.fields_by_name:
            found.add(f"{field.name}.name")
    return found


def test_every_field_that_names_a_resource_is_tried() -> None:
    for path, fields in FOREIGN.items():
        message = methods()[f"/barua.control.v1.{path}"].input_type
        expected = naming_fields(message)
        if path.rpartition("/")[2].startswith(("Create", "BatchCreate", "Generate", "Import")):
            expected = {field for field in expected if "." not in field}  # what is made has no name yet
        assert expected <= fields.keys(), path
        assert any("{}" in value for value in fields.values() if isinstance(value, str)), path


async def test_what_belongs_to_others_is_not_found(control: Control) -> None:
    await control.tenant("reseller", credits=10)
    await control.tenant("mine", "reseller", kind=tenant_pb2.Tenant.KIND_RESELLER)
    await control.tenant("other", "reseller", credits=10)
    open_to_tenants = {path for path, permission in PERMISSIONS.items() if permission.access in TENANTS}
    assert {path.removeprefix("/barua.control.v1.") for path in open_to_tenants} == FOREIGN.keys()
    for path, fields in FOREIGN.items():
        for tenant in ("other", "reseller", "operator", "no-such-tenant", *generated_ids(2)):
            full_path = f"/barua.control.v1.{path}"
            request = empty_request(full_path)
            for name, value in fields.items():
                set_field(request, name, named(value, tenant))
            reason = await reason_of(control, full_path, request, basic("mine"))
            assert reason is Reason.NOT_FOUND, (path, tenant)


def named(value: Any, tenant: str) -> Any:
    """A value of FOREIGN with the tenant in it."""
    if isinstance(value, list):
        return [named(item, tenant) for item in value]
    return value.format(tenant) if isinstance(value, str) else value


async def test_a_caller_sees_the_whole_of_its_subtree(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("account", "reseller")
    get = tenant_service_pb2.GetTenantRequest(name="tenants/account")
    assert (await control.call(control.tenants.GetTenant, get, basic("reseller"))).parent == "tenants/reseller"
    me = tenant_service_pb2.GetTenantRequest(name="tenants/me")
    assert (await control.call(control.tenants.GetTenant, me, basic("account"))).name == "tenants/account"
    balance = credit_service_pb2.GetBalanceRequest(tenant="logins/account")
    assert (await control.call(control.credits.GetBalance, balance, basic("reseller"))).tenant == "tenants/account"
    stranger = credit_service_pb2.GetBalanceRequest(tenant="logins/reseller")
    assert await control.refused(control.credits.GetBalance, stranger, basic("account")) is Reason.NOT_FOUND


async def test_a_login_ends_with_its_deletion_and_its_old_password(control: Control) -> None:
    tenant = await control.tenant("tenant")
    me = tenant_service_pb2.GetTenantRequest(name="tenants/me")
    await control.call(control.tenants.GetTenant, me, basic("tenant"))
    delete = credential_service_pb2.DeleteLoginRequest(name=f"{tenant}/logins/tenant", request_id=new_id())
    await control.call(control.credentials.DeleteLogin, delete)
    await control.call(control.credentials.DeleteLogin, delete)
    assert await control.refused(control.tenants.GetTenant, me, basic("tenant")) is Reason.UNAUTHENTICATED
    request = credential_service_pb2.CreateLoginRequest(parent=tenant, username="tenant", password="new password")
    await control.call(control.credentials.CreateLogin, request)
    assert await control.refused(control.tenants.GetTenant, me, basic("tenant")) is Reason.UNAUTHENTICATED
    await control.call(control.tenants.GetTenant, me, basic("tenant", "new password"))


async def test_a_login_of_the_root_tenant_is_an_operator(control: Control) -> None:
    await control.login("tenants/operator", "admin")
    grant = credit_service_pb2.GrantCreditsRequest(tenant="tenants/me", amount=5)
    assert (await control.call(control.credits.GrantCredits, grant, basic("admin"))).balance == 5


async def test_health_and_reflection_are_open(control: Control) -> None:
    assert await rpc.is_serving(control.channel, 5)
    stub = reflection_pb2_grpc.ServerReflectionStub(control.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([question])):
        listed = {service.name for service in answer.list_services_response.service}
        assert listed == {*catalogue.service_names(), *OPEN_SERVICES}
        break
