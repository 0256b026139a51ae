"""The dialect: from the operations of all resources to paths, checked calls and answers in the right contract."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api_bridge import credentials
from api_bridge.backend import UNFIT, UNKNOWN
from api_bridge.dialects.sendpost import contract as contracts
from api_bridge.dialects.sendpost import description, errors
from api_bridge.dialects.sendpost.accounts import Accounts
from api_bridge.dialects.sendpost.contract import Contract
from api_bridge.dialects.sendpost.operation import Call, Key, Operation, read_query
from api_bridge.dialects.sendpost.resources import operations
from api_bridge.endpoint import Endpoint, peer_of
from api_bridge.openapi import Document
from api_bridge.parts import Parts
from api_bridge.precedence import credentials_first
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

BASE = "/api/v1"
"""Before every path."""


class SendPost:
    """The dialect. ``accounts`` and ``parts`` are for the handlers."""

    name = "sendpost"

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.accounts = Accounts()
        self.options = parts.options.dialects.sendpost
        self._default = Contract(self.options.contract)
        self._views = {contract: _View(self, contract) for contract in Contract}

    def routes(self) -> Sequence[Route]:
        """One for each path."""
        paths: dict[str, list[Operation]] = {}
        for operation in operations():
            paths.setdefault(operation.path, []).append(operation)
        return [Route(BASE + path, _Negotiated(self._views, self._default, some)) for path, some in paths.items()]

    def problem(self, refusal: Refusal) -> Problem:
        """The status and text for a refusal."""
        return errors.problem(refusal)

    def render(self, problem: Problem) -> Response:
        """The error body, in the default contract."""
        return self._views[self._default].render(problem)

    def openapi(self) -> Document:
        """What is served, as an OpenAPI document."""
        return description.document(BASE, operations())


_HEADER = contracts.HEADER.encode()


class _View:
    """The dialect in one contract."""

    name = SendPost.name

    def __init__(self, dialect: SendPost, contract: Contract) -> None:
        self._dialect = dialect
        self.contract = contract
        self.fields: Mapping[str, str] = contracts.fields(contract, date.fromisoformat(dialect.options.legacy_sunset))

    def routes(self) -> Sequence[Route]:
        return self._dialect.routes()

    def problem(self, refusal: Refusal) -> Problem:
        return errors.problem(refusal)

    def render(self, problem: Problem) -> Response:
        return errors.render(problem, self.fields)

    def handler(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """What answers a request of ``operation``."""

        async def answer(request: Request) -> Response:
            call = Call(
                self._dialect, operation, request, self.contract, _authorization(request, operation), peer_of(request)
            )
            value = await self._value(call)
            if isinstance(value, Response):
                value.headers.update(self.fields)
                return value
            body = msgspec.json.encode(value)
            return Response(body, operation.success(self.contract), self.fields, "application/json")

        return answer

    async def _value(self, call: Call) -> Any:
        operation, dialect = call.operation, self._dialect
        dialect.parts.rates.admit(dialect.name, call.authorization)
        try:
            if operation.key is Key.ACCOUNT:
                await dialect.accounts.own(call)
            call.query = read_query(operation.query, call.request.query_params)
            return await operation.handler(call)
        except Refusal as refusal:
            changing = operation.body is not None
            raise errors.problem(refusal, changing=changing, unknown_status=operation.unknown_status) from None
        except Problem as problem:
            reasons = UNFIT if operation.sends else UNKNOWN
            await credentials_first(
                problem, dialect.parts.backend, call.authorization, call.peer, sends=operation.sends, reasons=reasons
            )
            raise


class _Negotiated(Endpoint):
    """One path in the default contract, and beside it in each that a request may ask for."""

    def __init__(self, views: Mapping[Contract, "_View"], default: Contract, operations: Sequence[Operation]) -> None:
        route = operations[0].path
        handlers = {view: {one.method: view.handler(one) for one in operations} for view in views.values()}
        super().__init__(views[default], route, handlers[views[default]])
        self._default = default
        self._contracts = {view.contract: Endpoint(view, route, handlers[view]) for view in views.values()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        wanted = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        contract = contracts.applied(wanted.decode("latin-1"), self._default)
        await self._contracts[contract](scope, receive, send)


def _authorization(request: Request, operation: Operation) -> str:
    """The key of the header field that the path wants. Raises Problem 401."""
    keys = request.headers.getlist(operation.key)
    authorization = credentials.api_key(keys[0].strip()) if len(keys) == 1 else None
    if authorization is None:
        raise errors.unauthorized()
    return authorization
