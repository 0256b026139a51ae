"""Refusals over a real gRPC connection, both ways, and what every server of ours has."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
import structlog
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from barua.journal.v1 import journal_service_pb2 as journal_pb
from barua.journal.v1 import journal_service_pb2_grpc as journal_services
from barua.policy.v1 import policy_service_pb2 as policy_pb
from barua.policy.v1 import policy_service_pb2_grpc as policy_services

from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import (
    MAX_MESSAGE_BYTES,
    add_health,
    channel,
    is_serving,
    new_server,
    refusal_in,
    refusal_of,
    set_serving,
    status_of,
)

FULL = Refusal(
    Reason.RECIPIENT_SUPPRESSED,
    "x@example.net is suppressed",
    field="recipients",
    retry_after=2.5,
    metadata={"scope": "account", "address": "x@example.net"},
)


class Journal(journal_services.JournalServiceServicer):
    """Does what it is told to: the holder names it."""

    async def PushEvents(self, request: journal_pb.PushEventsRequest, context: Any) -> journal_pb.PushEventsResponse:
        match request.holder:
            case "refuse":
                raise FULL
            case "break":
                raise RuntimeError("secret details")
            case "abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
            case "hang":
                await asyncio.sleep(60)
        return journal_pb.PushEventsResponse(recorded_sequence=len(request.node))


class Policy(policy_services.PolicyServiceServicer):
    """Streams two answers, then does what it is told to."""

    async def WatchPolicy(
        self, request: policy_pb.WatchPolicyRequest, context: Any
    ) -> AsyncIterator[policy_pb.WatchPolicyResponse]:
        for revision in (1, 2):
            yield policy_pb.WatchPolicyResponse(progress=policy_pb.Progress(revision=revision))
        if request.node == "refuse":
            raise FULL
        if request.node == "break":
            raise RuntimeError("secret details")

    async def ReportRevision(self, request: policy_pb.ReportRevisionRequest, context: Any) -> Any:
        return policy_pb.ReportRevisionResponse()


@pytest.fixture
def logs() -> Any:
    """What is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
async def open_channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with both services."""
    server = new_server()
    journal_services.add_JournalServiceServicer_to_server(Journal(), server)
    # What it lacks answers UNIMPLEMENTED.
    policy_services.add_PolicyServiceServicer_to_server(Policy(), server)  # type: ignore[abstract]
    servicer = add_health(server, ["barua.journal.v1.JournalService"])
    server.add_insecure_port(f"unix:{tmp_path / 'rpc.sock'}")
    await server.start()
    opened = channel(f"unix:{tmp_path / 'rpc.sock'}")
    opened.servicer = servicer  # type: ignore[attr-defined]
    yield opened
    await opened.close(None)
    await server.stop(None)


async def push(open_channel: grpc.aio.Channel, holder: str, node: str = "n", timeout: float = 5.0) -> Refusal:
    """The refusal that a push comes to."""
    stub: journal_services.JournalServiceAsyncStub = journal_services.JournalServiceStub(open_channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PushEvents(journal_pb.PushEventsRequest(holder=holder, node=node), timeout=timeout)
    return refusal_of(caught.value)


def same(refusal: Refusal, other: Refusal) -> bool:
    """Whether two refusals say the same."""
    fields = ("reason", "message", "field", "retry_after", "metadata")
    return all(getattr(refusal, name) == getattr(other, name) for name in fields)


async def test_a_refusal_arrives_as_it_was_raised(open_channel: grpc.aio.Channel) -> None:
    assert same(await push(open_channel, "refuse"), FULL)


async def test_a_mistake_arrives_as_a_number_to_quote(
    open_channel: grpc.aio.Channel, logs: list[dict[str, Any]]
) -> None:
    refusal = await push(open_channel, "break")
    assert refusal.reason is Reason.INTERNAL
    assert "secret" not in refusal.message
    (line,) = [line for line in logs if line["event"] == "call_failed"]
    assert line["quote"] == refusal.metadata["quote"]
    assert line["quote"] in refusal.message


async def test_an_abort_by_hand_stays_what_it_was(open_channel: grpc.aio.Channel) -> None:
    stub: journal_services.JournalServiceAsyncStub = journal_services.JournalServiceStub(open_channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PushEvents(journal_pb.PushEventsRequest(holder="abort"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert caught.value.details() == "by hand"
    assert refusal_of(caught.value).reason is Reason.INTERNAL


async def test_a_deadline_is_unavailable(open_channel: grpc.aio.Channel) -> None:
    assert (await push(open_channel, "hang", timeout=0.05)).reason is Reason.UNAVAILABLE


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    opened = channel(f"unix:{tmp_path / 'nobody.sock'}")
    refusal = await push(opened, "x", timeout=1)
    assert refusal.reason is Reason.UNAVAILABLE
    assert refusal.temporary
    await opened.close(None)


@pytest.mark.parametrize("node", ["refuse", "break", "end"])
async def test_a_stream_gives_what_came_before_the_refusal(
    open_channel: grpc.aio.Channel, logs: list[dict[str, Any]], node: str
) -> None:
    stub: policy_services.PolicyServiceAsyncStub = policy_services.PolicyServiceStub(open_channel)
    seen = []
    refusal = None
    try:
        async for answer in stub.WatchPolicy(policy_pb.WatchPolicyRequest(node=node), timeout=60):
            seen.append(answer.progress.revision)  # noqa: PERF401 (what came before the error counts)
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
    assert seen == [1, 2]
    if node == "refuse":
        assert refusal is not None
        assert same(refusal, FULL)
    elif node == "break":
        assert refusal is not None
        assert refusal.reason is Reason.INTERNAL
    else:
        assert refusal is None


async def test_health_is_what_was_said_last(open_channel: grpc.aio.Channel) -> None:
    servicer = open_channel.servicer  # type: ignore[attr-defined]
    await set_serving(servicer, False)
    assert not await is_serving(open_channel, 5)
    await set_serving(servicer, True)
    assert await is_serving(open_channel, 5)


async def test_health_can_be_watched(open_channel: grpc.aio.Channel) -> None:
    """A handler of somebody else's, in the style that writes to the context."""
    servicer = open_channel.servicer  # type: ignore[attr-defined]
    await set_serving(servicer, False)
    watch = health_pb2_grpc.HealthStub(open_channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await set_serving(servicer, True)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_nobody_there_does_not_serve(tmp_path: Path) -> None:
    opened = channel(f"unix:{tmp_path / 'nobody.sock'}")
    assert not await is_serving(opened, 0.2)
    await opened.close(None)


async def test_a_server_lists_its_services(open_channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(open_channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=60)
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"barua.journal.v1.JournalService", "grpc.health.v1.Health"}
    call.cancel()


async def test_a_large_message_fits_and_a_larger_one_does_not(open_channel: grpc.aio.Channel) -> None:
    stub: journal_services.JournalServiceAsyncStub = journal_services.JournalServiceStub(open_channel)
    octets = 40 * 1024 * 1024
    answer = await stub.PushEvents(journal_pb.PushEventsRequest(node="x" * octets), timeout=60)
    assert answer.recorded_sequence == octets
    refusal = await push(open_channel, "", "x" * (MAX_MESSAGE_BYTES + 1), timeout=60)
    assert refusal.reason is Reason.RATE_LIMITED


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_makes_the_round_trip(reason: Reason) -> None:
    refusal = Refusal(reason, "because", metadata={"a": "b"})
    status = status_of(refusal)
    assert code_pb2.Code.Name(status.code) == refusal.rendering.grpc
    assert same(refusal_in(status), refusal)
    assert len([detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]) == 1


@pytest.mark.parametrize("letter", ["x", "ü", "€", "\U0001f600"])
def test_a_refusal_fits_into_trailers_whatever_it_quotes(letter: str) -> None:
    text = letter * 20_000
    status = status_of(Refusal(Reason.RATE_LIMITED, text, field=text, metadata={"name": text, "cap": text}))
    assert len(quote(status.message)) + 4 / 3 * status.ByteSize() < 8192
    refusal = refusal_in(status)
    assert refusal.message.startswith(letter * 100)
    assert refusal.message.endswith("...")


def test_what_a_refusal_lacks_is_not_sent() -> None:
    assert len(status_of(Refusal(Reason.NOT_FOUND, "x")).details) == 1
    assert len(status_of(FULL).details) == 3
    limited = status_of(Refusal(Reason.RATE_LIMITED, "too much", metadata={"cap": "daily_recipients"}))
    quota = error_details_pb2.QuotaFailure()
    assert limited.details[1].Unpack(quota)
    assert [(violation.subject, violation.description) for violation in quota.violations] == [
        ("daily_recipients", "too much")
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (code_pb2.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT),
        (code_pb2.PERMISSION_DENIED, Reason.PERMISSION_DENIED),
        (code_pb2.CANCELLED, Reason.UNAVAILABLE),
        (code_pb2.DATA_LOSS, Reason.INTERNAL),
        (code_pb2.UNKNOWN, Reason.INTERNAL),
    ],
)
def test_a_status_of_others_is_read_by_its_code(code: int, reason: Reason) -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="SPOOL_FULL", domain="elsewhere.example"))
    refusal = refusal_in(status_pb2.Status(code=code, message="theirs", details=[info]))
    assert (refusal.reason, refusal.message) == (reason, "theirs")


def test_a_reason_of_a_later_version_is_read_by_its_code() -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="barua"))
    refusal = refusal_in(status_pb2.Status(code=code_pb2.NOT_FOUND, message="x", details=[info]))
    assert refusal.reason is Reason.NOT_FOUND
