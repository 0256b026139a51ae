"""gRPC plumbing: servers with health, reflection and limits; refusals to and from ``google.rpc.Status``.

``new_server`` builds a server whose handlers may raise ``Refusal``: an interceptor turns it into a status with one
ErrorInfo and the standard details that apply, and anything else into INTERNAL with an id that the log has too.
``refusal_of`` is the way back on the client side. ``channel`` opens a client channel with keepalive.

Limits: messages of ``MAX_MESSAGE_BYTES``, ``MAX_CONCURRENT`` calls at once.
"""

import inspect
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

DOMAIN = "barua"
"""The ``domain`` of every ErrorInfo of ours."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""One request or answer: the largest message plus room for its envelope."""
MAX_CONCURRENT = 2000
"""Calls at once per server; more get RESOURCE_EXHAUSTED at once instead of queueing without bound."""

_LIMITS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
]
_KEEPALIVE: list[tuple[str, int | str]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
]


def new_server(interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> grpc.aio.Server:
    """A server whose handlers may raise Refusal. ``interceptors`` run inside that translation."""
    return grpc.aio.server(
        interceptors=[RefusalInterceptor(), *interceptors],
        options=[
            *_LIMITS,
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.max_concurrent_streams", 1000),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT,
    )


def add_health(server: grpc.aio.Server, services: Sequence[str]) -> health.aio.HealthServicer:
    """Add the standard health and reflection services; set "" on the answer to SERVING when ready."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return servicer


async def set_serving(servicer: health.aio.HealthServicer, serving: bool) -> None:
    """Say through the health service whether this program can do its work."""
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    await servicer.set("", status)


async def is_serving(channel_: grpc.aio.Channel, timeout_seconds: float) -> bool:
    """Whether the program behind a channel says that it serves."""
    stub = health_pb2_grpc.HealthStub(channel_)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def channel(target: str) -> grpc.aio.Channel:
    """A client channel to ``host:port`` or ``unix:path``."""
    return grpc.aio.insecure_channel(target, options=[*_LIMITS, *_KEEPALIVE, ("grpc.enable_retries", 0)])


def status_of(refusal: Refusal) -> status_pb2.Status:
    """The google.rpc.Status of a refusal."""
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason.value, domain=DOMAIN, metadata=refusal.metadata)
    ]
    if refusal.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=refusal.field, description=refusal.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(refusal.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(refusal.rendering.grpc), message=refusal.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def refusal_in(status: status_pb2.Status) -> Refusal:
    """The refusal that a google.rpc.Status carries."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    field, delay, reason, metadata = None, None, None, {}
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            reason, metadata = Reason(info.reason), dict(info.metadata)
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            delay = retry.retry_delay.ToMilliseconds() / 1000
    if reason is None:
        reason = _BY_CODE.get(code_pb2.Code.Name(status.code), Reason.INTERNAL)
    return Refusal(reason, status.message, field=field, retry_after=delay, metadata=metadata)


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """The refusal behind a failed call; a call that reached nobody in time is UNAVAILABLE."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    if status is not None:
        return refusal_in(status)
    reason = _BY_CODE.get(error.code().name, Reason.INTERNAL)
    return Refusal(reason, error.details() or error.code().name)


def is_considered(error: grpc.aio.AioRpcError) -> bool:
    """Whether the program itself said no, and not the connection to it: its answer has a reason of ours then."""
    status, info = rpc_status.from_call(cast(grpc.Call, error)), error_details_pb2.ErrorInfo()
    return status is not None and any(
        detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__ for detail in status.details
    )


_BY_CODE = {
    "UNAVAILABLE": Reason.UNAVAILABLE,
    "DEADLINE_EXCEEDED": Reason.UNAVAILABLE,
    "CANCELLED": Reason.UNAVAILABLE,
    "RESOURCE_EXHAUSTED": Reason.RATE_LIMITED,
    "INVALID_ARGUMENT": Reason.INVALID_ARGUMENT,
    "NOT_FOUND": Reason.NOT_FOUND,
    "ALREADY_EXISTS": Reason.ALREADY_EXISTS,
    "PERMISSION_DENIED": Reason.PERMISSION_DENIED,
    "UNAUTHENTICATED": Reason.UNAUTHENTICATED,
    "FAILED_PRECONDITION": Reason.FAILED_PRECONDITION,
    "ABORTED": Reason.STALE_ETAG,
}

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raised with the status that belongs to it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap unary and server-streaming handlers; others pass."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(cast(Any, handler.unary_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _guard_unary(cast(Any, handler.unary_unary)), handler.request_deserializer, handler.response_serializer
        )


def _guard_unary(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except Exception as error:
            await _abort(context, error)

    return guarded


def _guard_stream(behaviour: Callable[[Any, Any], Any]) -> Any:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            answers = behaviour(request, context)
            if inspect.isawaitable(answers):  # a handler that writes to the context instead of yielding
                await answers
                return
            async for answer in answers:
                yield answer
        except Exception as error:
            await _abort(context, error)

    return guarded


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, Refusal):
        quote = uuid.uuid4().hex[:12]
        log.error("call_failed", quote=quote, exc_info=error)
        error = Refusal(Reason.INTERNAL, f"internal error; quote {quote}", metadata={"quote": quote})
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
