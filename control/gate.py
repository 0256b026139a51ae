"""The gate of the gRPC server: a call is authenticated, authorised, timed, counted and logged around its handler.

Permission is decided by method, role and scope only, before anything is looked up: what exists is not told to those who
may not ask. Handlers learn the caller from ``control.authentication.caller()``. Methods that are open to all
(``Access.OPEN``) run without a caller and see where the call comes from (``peer()``).

A stream that lasts asks again who its caller is, at most once in ``RECHECK_SECONDS`` and before it sends the next step
or takes the next message: a login that was disabled hears nothing more, and writes nothing more.

No credentials can take all the room: half of the calls that the server takes at once are the most for one tenant in one
role, so that a flood of streams from one leaves the other half to the others.

Every change, and every refusal of one, is a line of the log (``call_handled``): method, caller, role, tenant, address,
resource, request id and status; no other field of the request, since some hold secrets.
"""

import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from prometheus_client import Counter as Metric
from prometheus_client import Histogram

from control.authentication import Authenticator, set_caller, set_peer
from control.model.caller import Access, Caller
from control.peers import Peers
from control.permissions import OPEN_SERVICES, PERMISSIONS
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import MAX_CONCURRENT

log = get_logger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]

RECHECK_SECONDS = 1.0
"""A stream's caller is believed for so long."""

MAX_AT_ONCE = MAX_CONCURRENT // 2
"""Calls at once of one tenant in one role; of an address for methods that are open to all."""

MAX_LOGGED = 300
"""Characters of a field of a request in the log, which names that are refused are in, too."""

_LOGGED = frozenset({Access.WRITE, Access.RESELL, Access.OPERATOR, Access.OPEN})
"""Methods whose calls are logged: those that change something. Nodes call too often for that."""

_CHANGES = frozenset({Access.WRITE, Access.RESELL})
"""Methods that the credentials of a suspended tenant are refused."""

_calls = Metric("barua_control_calls_total", "gRPC calls by method and status code.", ["method", "code"])
_seconds = Histogram("barua_control_call_seconds", "Duration of unary gRPC calls.", ["method"])
_refusals = Metric("barua_control_authentication_refusals_total", "Calls refused for their credentials.", ["reason"])


class Gate(grpc.aio.ServerInterceptor):
    """Lets calls through to their handlers."""

    def __init__(self, authenticator: Authenticator, peers: Peers) -> None:
        self._authenticator = authenticator
        self._peers = peers
        self._at_once: Counter[tuple[str, str]] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of the method, unless its service is open to all."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path[1:].rpartition("/")[0] in OPEN_SERVICES:
            return handler
        codecs = (handler.request_deserializer, handler.response_serializer)
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(self._unary(path, handler.unary_unary), *codecs)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(self._stream(path, handler.unary_stream), *codecs)
            case True, False:
                behaviour = self._unary(path, handler.stream_unary, pieces=True)
                return grpc.stream_unary_rpc_method_handler(behaviour, *codecs)
            case _:
                return grpc.stream_stream_rpc_method_handler(self._stream(path, handler.stream_stream), *codecs)

    async def _admit(self, call: "_Call", context: _Context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        where = self._peers.of(context, metadata)
        call.address = where.address or "local"
        set_peer(where)
        permission = PERMISSIONS.get(call.path)
        if permission is None:
            raise Refusal(Reason.PERMISSION_DENIED, "these credentials do not allow this call")
        call.access = permission.access
        if permission.access is Access.OPEN:
            return
        authorization = metadata.get("authorization")
        try:
            call.who = await self._authenticator.authenticate(authorization, where)
        except Refusal as refusal:
            _refusals.labels(refusal.reason).inc()
            if authorization:
                log.warning("authentication_failed", method=call.path, peer=call.address, reason=refusal.reason)
            raise
        if not any(call.who.may(permission.access, scope) for scope in (permission.scope, permission.also) if scope):
            raise Refusal(Reason.PERMISSION_DENIED, "these credentials do not allow this call")
        if permission.access in _CHANGES:
            await self._authenticator.check_standing(call.who)
        set_caller(call.who)

    @contextmanager
    def _room(self, call: "_Call") -> Iterator[None]:
        """Count a call while it runs. Raises RATE_LIMITED if its caller has too many."""
        whose = (call.who.role, call.who.tenant_id) if call.who else ("", call.address)
        if self._at_once[whose] >= MAX_AT_ONCE:
            message = f"{MAX_AT_ONCE} calls with these credentials are open; let some of them end first"
            raise Refusal(Reason.RATE_LIMITED, message, retry_after=1.0)
        self._at_once[whose] += 1
        try:
            yield
        finally:
            self._at_once[whose] -= 1
            if not self._at_once[whose]:
                del self._at_once[whose]

    def _unary(self, path: str, behaviour: Any, *, pieces: bool = False) -> Any:
        handle = cast(Callable[[Any, _Context], Awaitable[Any]], behaviour)

        async def guarded(request: Any, context: _Context) -> Any:
            call = _Call(path)
            try:
                await self._admit(call, context)
                with self._room(call):
                    answer = await handle(self._rechecked(call, request, context) if pieces else request, context)
                call.code = "OK"
                return answer
            except Exception as error:
                call.failed(error)
                raise
            finally:
                call.account(request)
                _seconds.labels(path).observe(time.monotonic() - call.started)

        return guarded

    async def _rechecked(self, call: "_Call", pieces: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
        """The messages of a stream, as long as its caller may send them."""
        checked = time.monotonic()
        async for piece in pieces:
            if time.monotonic() - checked > RECHECK_SECONDS:
                await self._admit(call, context)
                checked = time.monotonic()
            yield piece

    def _stream(self, path: str, behaviour: Any) -> Any:
        handle = cast(Callable[[Any, _Context], AsyncIterator[Any]], behaviour)

        async def guarded(request: Any, context: _Context) -> AsyncIterator[Any]:
            call = _Call(path)
            try:
                await self._admit(call, context)
                checked = time.monotonic()
                with self._room(call):
                    async for step in handle(request, context):
                        if time.monotonic() - checked > RECHECK_SECONDS:
                            await self._admit(call, context)
                            checked = time.monotonic()
                        yield step
                call.code = "OK"
            except Exception as error:
                call.failed(error)
                raise
            finally:
                call.account(request)

        return guarded


class _Call:
    """What is told of one call."""

    __slots__ = ("access", "address", "code", "path", "started", "who")

    def __init__(self, path: str) -> None:
        self.path = path
        self.started = time.monotonic()
        self.address = ""
        self.access: Access | None = None
        self.who: Caller | None = None
        self.code = "CANCELLED"

    def failed(self, error: Exception) -> None:
        """It ended with an error."""
        self.code = error.rendering.grpc if isinstance(error, Refusal) else "INTERNAL"

    def account(self, request: Any) -> None:
        """Count and log it."""
        _calls.labels(self.path, self.code).inc()
        if self.access not in _LOGGED or (self.who is None and self.access is not Access.OPEN):
            return
        log.info(
            "call_handled",
            method=self.path,
            caller=self.who.name if self.who else "",
            role=self.who.role if self.who else "",
            tenant=self.who.tenant_id if self.who else "",
            peer=self.address,
            resource=_resource(request),
            request_id=_text(request, "request_id"),
            dry=bool(getattr(request, "validate_only", False)),
            code=self.code,
            milliseconds=round((time.monotonic() - self.started) * 1000, 1),
        )


def _resource(request: Any) -> str:
    """The name of what a request is about: its own field, or that of the resource in it."""
    if not isinstance(request, Message):  # a stream of them
        return ""
    for path in _places(request.DESCRIPTOR):
        value: Any = request
        for field in path:
            value = getattr(value, field)
        if value:
            return str(value)[:MAX_LOGGED]
    return ""


@functools.cache
def _places(descriptor: Descriptor) -> tuple[tuple[str, ...], ...]:
    """Where requests of a type may name a resource: the ways to these fields."""
    places: list[tuple[str, ...]] = [(name,) for name in _names(descriptor)]
    for field in descriptor.fields:
        if field.message_type is not None and not field.is_repeated:
            places += [(field.name, name) for name in _names(field.message_type)]
    return tuple(places)


def _names(descriptor: Descriptor) -> list[str]:
    found = (descriptor.fields_by_name.get(name) for name in ("name", "parent"))
    return [field.name for field in found if field is not None and field.type == field.TYPE_STRING]


def _text(request: Any, field: str) -> str:
    value = getattr(request, field, "")
    return value[:MAX_LOGGED] if isinstance(value, str) else ""
