"""Who gets in and who sees what: every method, by enumeration."""

from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from barua.control.v1 import credential_service_pb2, credit_service_pb2, tenant_service_pb2

from control.model.caller import Access
from control.permissions import OPEN_SERVICES, PERMISSIONS, check_complete
from control.services import catalogue
from mta.runtime import rpc
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, Metadata, basic, bearer, new_id

NODE_METHODS = {path for path, permission in PERMISSIONS.items() if permission.access is Access.NODE}
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
            stream = control.channel.unary_stream(path, *codecs)(request, metadata=metadata, timeout=10)
            await stream.read()
            stream.cancel()
        else:
            await control.channel.unary_unary(path, *codecs)(request, metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return rpc.refusal_of(error).reason
    return None


def empty_request(path: str) -> Any:
    return message_factory.GetMessageClass(methods()[path].input_type)()


async def test_every_method_asks_for_credentials(control: Control) -> None:
    wrong: list[Metadata | None] = [
        None,
        bearer("nonsense"),
        bearer(""),
        basic("nobody"),
        (("authorization", "Basic !!!"),),
        (("authorization", "Digest x"),),
    ]
    for path in methods():
        for metadata in wrong if path.endswith("GetTenant") else wrong[:2]:
            reason = await reason_of(control, path, empty_request(path), metadata)
            assert reason is Reason.UNAUTHENTICATED, (path, metadata)


async def test_every_method_is_closed_to_the_wrong_role(control: Control) -> None:
    await control.tenant("tenant")
    for path in methods():
        for metadata, allowed in (
            (control.node, path in NODE_METHODS),
            (basic("tenant"), PERMISSIONS[path].access in TENANTS),
            (bearer("bk_aaaaaaaaaaaa_bbbb"), False),
        ):
            reason = await reason_of(control, path, empty_request(path), metadata)
            assert (reason is not Reason.PERMISSION_DENIED) == allowed, (path, metadata, reason)


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
    "CredentialService/CreateLogin": {"parent": "tenants/{}", "username": "new", "password": "12345678"},
    "CredentialService/ListLogins": {"parent": "tenants/{}"},
    "CredentialService/DeleteLogin": {"name": "tenants/{}/logins/other"},
    "CredentialService/CreateApiKey": {"parent": "tenants/{}"},
    "CredentialService/ListApiKeys": {"parent": "tenants/{}"},
    "CredentialService/DeleteApiKey": {"name": "tenants/{}/apiKeys/aaaaaaaaaaaa"},
    "CreditService/GetBalance": {"tenant": "tenants/{}"},
    "CreditService/TransferCredits": {"source": "tenants/{}", "destination": "tenants/me", "amount": 1},
    "CreditService/ListLedgerEntries": {"tenant": "tenants/{}"},
    "DomainService/CreateDomain": {"parent": "tenants/{}", "domain": "new.test"},
    "DomainService/GetDomain": {"name": "tenants/{}/domains/x.test"},
    "DomainService/ListDomains": {"parent": "tenants/{}"},
    "DomainService/VerifyDomain": {"name": "tenants/{}/domains/x.test"},
    "DomainService/DeleteDomain": {"name": "tenants/{}/domains/x.test"},
    "SuppressionService/CreateSuppression": {"parent": "tenants/{}", "address": "a@x.test"},
    "SuppressionService/ListSuppressions": {"parent": "tenants/{}"},
    "SuppressionService/DeleteSuppression": {"name": "tenants/{}/suppressions/a@x.test"},
    "HistoryService/GetMessageRecord": {"name": "tenants/{}/messages/1"},
    "HistoryService/ListMessageRecords": {"parent": "tenants/{}"},
}


async def test_what_belongs_to_others_is_not_found(control: Control) -> None:
    await control.tenant("reseller", credits=10)
    await control.tenant("mine", "reseller")
    await control.tenant("other", "reseller", credits=10)
    open_to_tenants = {path for path, permission in PERMISSIONS.items() if permission.access in TENANTS}
    assert {path.removeprefix("/barua.control.v1.") for path in open_to_tenants} == FOREIGN.keys()
    for path, fields in FOREIGN.items():
        for tenant in ("other", "reseller", "operator", "no-such-tenant"):
            full_path = f"/barua.control.v1.{path}"
            request = empty_request(full_path)
            for name, value in fields.items():
                setattr(request, name, value.format(tenant) if isinstance(value, str) else value)
            reason = await reason_of(control, full_path, request, basic("mine"))
            assert reason is Reason.NOT_FOUND, (path, tenant)


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
