"""Callers that send too much, or too much at once: they are told so, and the others are served as before."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from barua.control.v1.suppression_service_pb2 import CreateSuppressionRequest
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from barua.control.v1.tenant_service_pb2 import GetTenantRequest
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.policy.v1.policy_service_pb2 import WatchPolicyRequest
from barua.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

from control.gate import MAX_AT_ONCE
from mta.runtime import rpc
from tests.integration.control.harness import CALL_SECONDS, Control, basic

MEGABYTE = 1024 * 1024
ROOT = GetTenantRequest(name="tenants/operator")
STREAMS_OF_A_CONNECTION = 400


@asynccontextmanager
async def unlimited(control: Control) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that sends whatever it is told to, over a connection of its own."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * MEGABYTE),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(control.options.control.listen, options=options) as channel:
        yield channel


NOTICED_SECONDS = 30.0
"""Who waits less, of the sixty seconds of a call, was not held up by another one's attack; some 0.1 s are usual."""


async def others_are_served(control: Control) -> float:
    """The longest that a tenant and a node waited just now, in seconds."""
    longest = 0.0
    for _ in range(5):
        started = time.monotonic()
        own = GetTenantRequest(name="tenants/quiet")
        await control.call(control.tenants.GetTenant, own, basic("quiet"))
        watching = control.policy.WatchPolicy(WatchPolicyRequest(node="quiet"), metadata=control.node, timeout=60)
        assert await watching.read() is not grpc.aio.EOF
        watching.cancel()
        longest = max(longest, time.monotonic() - started)
    return longest


async def test_a_message_of_100_megabytes_is_refused_and_nobody_else_notices(control: Control) -> None:
    await control.tenant("quiet")
    async with unlimited(control) as channel:
        request = CreateSuppressionRequest(parent="tenants/quiet")
        request.suppression.note = "x" * (100 * MEGABYTE)
        stub = SuppressionServiceStub(channel)
        calls = [
            asyncio.ensure_future(stub.CreateSuppression(request, metadata=control.operator, timeout=60))
            for _ in range(2)
        ]
        assert await others_are_served(control) < NOTICED_SECONDS
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in str(refused.value.details())
        # The connection goes on.
        await TenantServiceStub(channel).GetTenant(ROOT, metadata=control.operator, timeout=CALL_SECONDS)


async def test_metadata_of_a_megabyte_are_refused(control: Control) -> None:
    await control.tenant("quiet")
    async with unlimited(control) as channel:
        stub = TenantServiceStub(channel)
        for metadata in ((("x-large", "x" * MEGABYTE),), tuple((f"x-{number}", "x" * 100) for number in range(10_000))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetTenant(ROOT, metadata=(*control.operator, *metadata), timeout=CALL_SECONDS)
            assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
            assert await others_are_served(control) < NOTICED_SECONDS


@pytest.mark.parametrize("streams", [1200, pytest.param(10_000, marks=pytest.mark.long)])
async def test_streams_of_one_caller_are_bounded_and_leave_room(control: Control, streams: int) -> None:
    await control.tenant("quiet")
    await others_are_served(control)
    outcomes: Counter[str] = Counter()

    async def watch(stub: PolicyServiceStub, number: int) -> None:
        request = WatchPolicyRequest(node=f"n{number % 50}")
        stream: Any = stub.WatchPolicy(request, metadata=control.operator, timeout=120)
        state = ""
        try:
            async for _ in stream:
                outcomes["open"] += not state
                state = "open"
        except grpc.aio.AioRpcError as error:
            outcomes[state] -= bool(state)
            outcomes[error.code().name] += 1

    async with _connections(control, streams // STREAMS_OF_A_CONNECTION) as channels:
        tasks = [asyncio.create_task(watch(PolicyServiceStub(channels[n % len(channels)]), n)) for n in range(streams)]
        try:
            async with asyncio.timeout(60):
                while outcomes.total() < streams:  # noqa: ASYNC110 - outcomes are counted, not announced
                    await asyncio.sleep(0.1)
            # The others were refused by the gate, for want of a connection to the database, or by gRPC itself.
            assert 0 < outcomes["open"] <= MAX_AT_ONCE, outcomes
            assert set(outcomes) <= {"open", "", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED"}
            assert await others_are_served(control) < NOTICED_SECONDS
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert await others_are_served(control) < NOTICED_SECONDS
    await control.call(control.tenants.GetTenant, ROOT)


def test_one_caller_cannot_have_all_calls() -> None:
    assert MAX_AT_ONCE <= rpc.MAX_CONCURRENT // 2


@asynccontextmanager
async def _connections(control: Control, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(control.options.control.listen, options=options) for _ in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()
