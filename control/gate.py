"""The gate of the gRPC server: a call is authenticated, authorised, timed and counted before its handler runs.

Permission is decided by method and role only, before anything is looked up: what exists is not told to those who may
not ask. Handlers learn the caller from ``control.authentication.caller()``.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
from prometheus_client import Counter, Histogram

from control.authentication import Authenticator, set_caller
from control.permissions import OPEN_SERVICES, PERMISSIONS
from mta.runtime.refusals import Reason, Refusal

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]

_calls = Counter("barua_control_calls_total", "gRPC calls by method and status code.", ["method", "code"])
_seconds = Histogram("barua_control_call_seconds", "Duration of unary gRPC calls.", ["method"])


class Gate(grpc.aio.ServerInterceptor):
    """Lets calls through to their handlers."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of the method, unless it is open to all."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path[1:].rpartition("/")[0] in OPEN_SERVICES:
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guarded_stream(path, cast(Any, handler.unary_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guarded_call(path, cast(Any, handler.unary_unary)),
            handler.request_deserializer,
            handler.response_serializer,
        )

    async def _admit(self, path: str, context: _Context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        who = await self._authenticator.authenticate(metadata.get("authorization"))
        permission = PERMISSIONS.get(path)
        if permission is None or not who.may(permission.access, permission.scope):
            raise Refusal(Reason.PERMISSION_DENIED, "these credentials do not allow this call")
        set_caller(who)

    def _guarded_call(self, path: str, behaviour: Callable[[Any, _Context], Awaitable[Any]]) -> Any:
        async def guarded(request: Any, context: _Context) -> Any:
            started = time.monotonic()
            code = "CANCELLED"
            try:
                await self._admit(path, context)
                answer = await behaviour(request, context)
                code = "OK"
                return answer
            except Exception as error:
                code = _code(error)
                raise
            finally:
                _calls.labels(path, code).inc()
                _seconds.labels(path).observe(time.monotonic() - started)

        return guarded

    def _guarded_stream(self, path: str, behaviour: Callable[[Any, _Context], AsyncIterator[Any]]) -> Any:
        async def guarded(request: Any, context: _Context) -> AsyncIterator[Any]:
            code = "CANCELLED"
            try:
                await self._admit(path, context)
                async for step in behaviour(request, context):
                    yield step
                code = "OK"
            except Exception as error:
                code = _code(error)
                raise
            finally:
                _calls.labels(path, code).inc()

        return guarded


def _code(error: Exception) -> str:
    return error.rendering.grpc if isinstance(error, Refusal) else "INTERNAL"
