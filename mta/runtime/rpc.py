"""gRPC plumbing: servers with health, reflection and limits; refusals to and from ``google.rpc.Status``.

``new_server`` builds a server whose handlers may raise ``Refusal``: an interceptor turns it into a status with one
ErrorInfo and the standard details that apply, and anything else into INTERNAL with an id that the log has too.
``refusal_of`` is the way back on the client side. ``channel`` opens a client channel with keepalive.

Limits: messages of ``MAX_MESSAGE_BYTES``, ``MAX_CONCURRENT`` calls at once.
"""

import inspect
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from mta.runtime.log import get_logger
from mta.runtime.options import ClientTlsOptions, OptionsError
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

DOMAIN = "barua"
"""The ``domain`` of every ErrorInfo of ours."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""One request or answer: the largest message plus room for its envelope."""
MAX_CONCURRENT = 2000
"""Calls at once per server; more get RESOURCE_EXHAUSTED at once instead of queueing without bound."""

MAX_TOLD = 1200
"""Octets of the message of a refusal, which trailers hold up to four times; a field's name gets a quarter of it."""
MAX_METADATA = 1500
"""Octets of the metadata of a refusal, such as a DNS record that is wanted; with more, each value is cut."""

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
    """A server whose handlers may raise Refusal. ``interceptors`` run inside that translation.

    They are asked once for each method, so what differs from call to call is for the handlers that they give.
    """
    server = grpc.aio.server(
        interceptors=[RefusalInterceptor(), *interceptors],
        options=[
            *_LIMITS,
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.max_concurrent_streams", 1000),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT,
    )
    # The generated code offers every method twice: in a table by name, which serves all of them, and "registered", for
    # which the server waits on each method by itself, all of them anew with each call. With 140 methods that took a
    # tenth of a millisecond of every call.
    setattr(server, "add_registered_method_handlers", lambda service, handlers: None)  # noqa: B010 - mypy would refuse
    return server


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


def channel(target: str, tls: ClientTlsOptions | None = None) -> grpc.aio.Channel:
    """A client channel to ``host:port`` or ``unix:path``; with TLS if ``tls`` names authorities.

    Raises OptionsError if a file that ``tls`` names cannot be read.
    """
    options = [*_LIMITS, *_KEEPALIVE, ("grpc.enable_retries", 0)]
    if tls is None or not tls.ca_file or target.startswith("unix:"):
        return grpc.aio.insecure_channel(target, options=options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    key, chain = (_pem(tls.key_file), _pem(tls.certificate_file)) if tls.certificate_file else (None, None)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(_pem(tls.ca_file), key, chain), options=options)


def _pem(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OptionsError(f"cannot read {path}: {error.strerror}") from error


def status_of(refusal: Refusal) -> status_pb2.Status:
    """The google.rpc.Status of a refusal, its texts cut to what fits into the trailers of an answer."""
    message = _cut(refusal.message, MAX_TOLD)
    metadata = refusal.metadata
    if sum(len(value.encode("utf-8", "replace")) for value in metadata.values()) > MAX_METADATA:
        metadata = {key: _cut(value, MAX_TOLD // 4) for key, value in metadata.items()}
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=refusal.reason.value, domain=DOMAIN, metadata=metadata)]
    if refusal.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(refusal.field, MAX_TOLD // 4), description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.reason is Reason.RATE_LIMITED:
        quota = error_details_pb2.QuotaFailure.Violation(subject=metadata.get("cap", "rate"), description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(refusal.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(refusal.rendering.grpc), message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str, octets: int) -> str:
    """A text of at most so many octets, or of a third as many beyond ASCII, where HTTP/2 takes three for each."""
    kept = octets if text.isascii() else octets // 3
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= kept else encoded[:kept].decode("utf-8", "ignore") + "..."


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
    status = _status_in(error)
    if status is not None:
        return refusal_in(status)
    reason = _BY_CODE.get(error.code().name, Reason.INTERNAL)
    return Refusal(reason, error.details() or error.code().name)


def is_considered(error: grpc.aio.AioRpcError) -> bool:
    """Whether the program itself said no, and not the connection to it: its answer has a reason of ours then."""
    status, info = _status_in(error), error_details_pb2.ErrorInfo()
    return status is not None and any(
        detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__ for detail in status.details
    )


def _status_in(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:  # the connection failed, with a code of its own, while the status was on its way
        return None


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
    "OUT_OF_RANGE": Reason.POSITION_LOST,
}

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raised with the status that belongs to it.

    Being the outermost, it keeps what the others made of the handler of each method, which is the same for every call.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler, whichever side of it streams."""
        method = handler_call_details.method
        if method not in self._kept:
            handler = _wrapped(await continuation(handler_call_details))
            if handler is None:  # anybody may ask for methods that are not there
                return handler
            self._kept[method] = handler
        return self._kept[method]


def _wrapped(handler: _Handler) -> _Handler:
    if handler is None:
        return handler
    codecs = (handler.request_deserializer, handler.response_serializer)
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler(_guard_unary(cast(Any, handler.unary_unary)), *codecs)
        case False, True:
            return grpc.unary_stream_rpc_method_handler(_guard_stream(cast(Any, handler.unary_stream)), *codecs)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(_guard_unary(cast(Any, handler.stream_unary)), *codecs)
        case _:  # such as reflection, whose handlers judge for themselves
            return handler


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
