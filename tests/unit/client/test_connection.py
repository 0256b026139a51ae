"""The client against a real gRPC server: deadlines, credentials, request ids, repeats, failures."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from barua.control.v1 import credit_service_pb2 as credit_pb
from barua.control.v1 import tenant_pb2
from barua.control.v1 import tenant_service_pb2 as tenant_pb
from barua.control.v1.credit_service_pb2_grpc import CreditServiceServicer, add_CreditServiceServicer_to_server
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceServicer, add_TenantServiceServicer_to_server
from barua.mta.v1 import injection_service_pb2 as injection_pb
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceServicer, add_InjectionServiceServicer_to_server

from barua_client import ControlClient, MtaClient, Reason, Refusal, Unreachable, basic, bearer
from mta.runtime import rpc
from tests.arch.source import ROOT
from tests.support.ports import free_port

_Context = grpc.aio.ServicerContext[Any, Any]


class Control(TenantServiceServicer, CreditServiceServicer):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.failures: list[Refusal] = []
        self.delay = 0.0

    async def _seen(self, request: Any, context: _Context) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        await asyncio.sleep(self.delay)
        if self.failures:
            raise self.failures.pop(0)

    async def GetTenant(self, request: tenant_pb.GetTenantRequest, context: _Context) -> tenant_pb2.Tenant:
        await self._seen(request, context)
        return tenant_pb2.Tenant(name=request.name)

    async def ListTenants(
        self, request: tenant_pb.ListTenantsRequest, context: _Context
    ) -> tenant_pb.ListTenantsResponse:
        await self._seen(request, context)
        start = int(request.page_token or "0")
        found = [
            tenant_pb2.Tenant(name=f"tenants/t{n}") for n in range(start, min(start + min(request.page_size, 2), 5))
        ]
        end = start + len(found)
        return tenant_pb.ListTenantsResponse(tenants=found, next_page_token=str(end) if end < 5 else "")

    async def TransferCredits(
        self, request: credit_pb.TransferCreditsRequest, context: _Context
    ) -> credit_pb.TransferCreditsResponse:
        await self._seen(request, context)
        return credit_pb.TransferCreditsResponse()


@pytest.fixture
async def control() -> AsyncIterator[tuple[Control, str]]:
    """The server and its address."""
    # The other methods answer UNIMPLEMENTED.
    servicer = Control()  # type: ignore[abstract]
    server, address = rpc.new_server(), f"127.0.0.1:{free_port()}"
    add_TenantServiceServicer_to_server(servicer, server)
    add_CreditServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    yield servicer, address
    await server.stop(0)


def unavailable(retry_after: float | None = None) -> Refusal:
    return Refusal(Reason.UNAVAILABLE, "not now", retry_after=retry_after)


async def test_a_call_carries_credentials_and_has_the_types_of_the_proto(control: tuple[Control, str]) -> None:
    servicer, address = control
    async with ControlClient(address, bearer("secret")) as client:
        tenant = await client.tenants.GetTenant(tenant_pb.GetTenantRequest(name="tenants/x"))
    assert tenant.name == "tenants/x"
    assert servicer.metadata[0]["authorization"] == "Bearer secret"


def test_a_login_is_basic() -> None:
    assert basic("ann", "päss:word") == "Basic YW5uOnDDpHNzOndvcmQ="


async def test_a_change_gets_a_request_id_that_its_repeats_keep(control: tuple[Control, str]) -> None:
    servicer, address = control
    servicer.failures = [unavailable(), unavailable()]
    mine = credit_pb.TransferCreditsRequest(source="tenants/a", destination="tenants/b", amount=1)
    async with ControlClient(address) as client:
        await client.credits.TransferCredits(mine)
        await client.credits.TransferCredits(mine)
    ids = [request.request_id for request in servicer.requests]
    assert len(ids) == 4
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert uuid.UUID(ids[0]).version == 4
    assert mine.request_id == ""


async def test_a_given_request_id_stays(control: tuple[Control, str]) -> None:
    servicer, address = control
    async with ControlClient(address) as client:
        await client.credits.TransferCredits(credit_pb.TransferCreditsRequest(request_id="mine"))
    assert servicer.requests[0].request_id == "mine"


@pytest.mark.parametrize(
    "reason",
    [Reason.RATE_LIMITED, Reason.INSUFFICIENT_CREDITS, Reason.STALE_ETAG, Reason.INTERNAL, Reason.NOT_FOUND],
)
async def test_nothing_but_unavailable_is_repeated(control: tuple[Control, str], reason: Reason) -> None:
    servicer, address = control
    servicer.failures = [Refusal(reason, "no", field="name", metadata={"key": "value"})]
    async with ControlClient(address) as client:
        with pytest.raises(Refusal) as caught:
            await client.tenants.GetTenant(tenant_pb.GetTenantRequest())
    assert len(servicer.requests) == 1
    refusal = caught.value
    assert (refusal.reason, refusal.message, refusal.field, refusal.metadata) == (
        reason,
        "no",
        "name",
        {"key": "value"},
    )


async def test_repeats_end(control: tuple[Control, str]) -> None:
    servicer, address = control
    servicer.failures = [unavailable() for _ in range(10)]
    async with ControlClient(address) as client:
        with pytest.raises(Refusal, match="not now"):
            await client.tenants.GetTenant(tenant_pb.GetTenantRequest())
    assert len(servicer.requests) == 4


async def test_a_repeat_waits_as_the_server_asks_but_not_beyond_the_deadline(control: tuple[Control, str]) -> None:
    servicer, address = control
    async with ControlClient(address) as client:
        servicer.failures = [unavailable(0.5)]
        began = time.monotonic()
        await client.tenants.GetTenant(tenant_pb.GetTenantRequest())
        assert time.monotonic() - began >= 0.5
        servicer.failures = [unavailable(60.0)]
        began = time.monotonic()
        with pytest.raises(Refusal, match="not now"):
            await client.tenants.GetTenant(tenant_pb.GetTenantRequest(), timeout=20.0)
        assert time.monotonic() - began < 10.0


async def test_a_call_ends_at_its_deadline(control: tuple[Control, str]) -> None:
    servicer, address = control
    servicer.delay = 30.0
    async with ControlClient(address, deadline_seconds=0.2) as client:
        with pytest.raises(Unreachable) as caught:
            await client.tenants.GetTenant(tenant_pb.GetTenantRequest())
    assert caught.value.reason is Reason.UNAVAILABLE
    assert address in str(caught.value)
    assert len(servicer.requests) == 1


async def test_nobody_there_is_unreachable() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with ControlClient(address, attempts=2) as client:
        with pytest.raises(Unreachable, match=address):
            await client.tenants.GetTenant(tenant_pb.GetTenantRequest())


async def test_pages(control: tuple[Control, str]) -> None:
    servicer, address = control
    request = tenant_pb.ListTenantsRequest(parent="tenants/x")

    async with ControlClient(address) as client:
        every = [tenant.name async for tenant in client.pages(client.tenants.ListTenants, request)]
        some = [tenant.name async for tenant in client.pages(client.tenants.ListTenants, request, limit=3)]
    assert every == [f"tenants/t{n}" for n in range(5)]
    assert some == every[:3]
    assert all(seen.parent == "tenants/x" for seen in servicer.requests)
    assert request.page_token == ""


async def test_every_service_for_callers_is_an_attribute() -> None:
    """Leases are between nodes and control."""
    async with ControlClient("127.0.0.1:1") as control, MtaClient("127.0.0.1:1") as mta:
        have = {type(value).__name__.lower() for client in (control, mta) for value in vars(client).values()}
    wanted = {
        path.name.removesuffix("_pb2_grpc.py").replace("_", "") + "stub"
        for area in ("control", "mta")
        for path in (ROOT / f"protos/gen/barua/{area}/v1").glob("*_service_pb2_grpc.py")
    }
    assert wanted - have == {"leaseservicestub", "workerservicestub"}


class Injection(InjectionServiceServicer):
    """Fails once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[injection_pb.SubmitMessagesRequest] = []

    async def SubmitMessages(
        self, request: injection_pb.SubmitMessagesRequest, context: _Context
    ) -> injection_pb.SubmitMessagesResponse:
        self.requests.append(request)
        if len(self.requests) == 1:
            raise unavailable()
        return injection_pb.SubmitMessagesResponse()


@pytest.mark.parametrize("key", ["", "k"])
async def test_messages_are_sent_again_only_with_a_key(key: str) -> None:
    servicer = Injection()  # type: ignore[abstract]
    server, address = rpc.new_server(), f"127.0.0.1:{free_port()}"
    add_InjectionServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    request = injection_pb.SubmitMessagesRequest(idempotency_key=key)
    async with MtaClient(address, bearer("secret")) as client:
        if key:
            await client.injection.SubmitMessages(request)
        else:
            with pytest.raises(Refusal, match="not now"):
                await client.injection.SubmitMessages(request)
    assert len(servicer.requests) == (2 if key else 1)
    await server.stop(0)
