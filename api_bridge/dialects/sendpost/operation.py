"""A call of the API as data (``Operation``), and what its handler gets (``Call``).

An operation says its method and path, which key it takes, its query parameters and body, its answer and its statuses.
Routes, the check of what comes in and the OpenAPI document are all made from that, so they cannot differ. A handler
gets a ``Call`` whose key has the right form and whose query is read, and returns the value of the answer (msgspec
structs, dicts, lists), which is written as JSON with the operation's status.

Errors: handlers raise ``Problem`` (of ``errors``) or let a ``Refusal`` pass. Loop rules: used on the bridge's loop.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from api_bridge.body import parse_object
from api_bridge.dialects.sendpost import decoding, errors, times
from api_bridge.dialects.sendpost.contract import Contract
from api_bridge.problems import Problem

if TYPE_CHECKING:
    from api_bridge.dialects.sendpost.routes import SendPost

RESOURCE_BYTES = 1_048_576
"""Size of the body of a call that is no send, unless the handler says otherwise."""
MAX_ID = 2**31 - 1
"""Ids are small numbers: some clients read them as 32-bit integers."""
MAX_SKIP = 1_000_000
"""Of ``offset``."""
MAX_SEARCH = 320
"""Characters of ``search``."""

_Shape = TypeVar("_Shape")
Handler = Callable[["Call"], Awaitable[Any]]
"""Gives the value of the answer, or a whole Response."""


class Key(StrEnum):
    """Which key a call takes, by the name of its header field."""

    ACCOUNT = "X-Account-ApiKey"
    SUB_ACCOUNT = "X-SubAccount-ApiKey"


class Kind(Enum):
    """What a parameter of the query is; what handlers get for it."""

    WHOLE = "int"
    TEXT = "str"
    DAY = "datetime.date"
    START = "datetime, the begin of a day"
    END = "datetime, exclusive: the end of a day"
    FLAG = "bool"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query. Absent and empty ones are ``default``."""

    name: str
    kind: Kind = Kind.TEXT
    description: str = ""
    required: bool = False
    default: Any = None
    least: int = 0
    most: int = MAX_ID
    choices: Sequence[str] = ()


def paging(default: int = 20, most: int = 1000) -> tuple[Parameter, Parameter]:
    """``limit`` and ``offset``."""
    return (
        Parameter("limit", Kind.WHOLE, "Items at most.", default=default, least=1, most=most),
        Parameter("offset", Kind.WHOLE, "Items to leave out before the first.", default=0, most=MAX_SKIP),
    )


SEARCH = Parameter("search", description="Only items with this text in them, whatever its case.", most=MAX_SEARCH)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; ``path`` is below ``/api/v1``, with ``{name}`` for a part and without a slash at the end.

    ``body`` and ``answer`` are types that msgspec knows, for the document; the handler reads the body itself with
    ``Call.body``. ``legacy_status`` is the success in the legacy contract, if it is another; ``unknown_status`` what
    NOT_FOUND of control becomes. ``failures`` are statuses beside those that any call can get.
    """

    method: str
    path: str
    name: str
    """Unique, such as "create_domain": the route in logs and metrics, and the operationId."""
    summary: str
    handler: Handler
    key: Key
    query: Sequence[Parameter] = ()
    body: Any = None
    answer: Any = None
    status: int = 200
    legacy_status: int | None = None
    unknown_status: int = 404
    failures: Sequence[int] = ()
    headers: Sequence[Parameter] = ()
    """Header fields that it reads, for the document."""
    body_required: bool = True
    media_type: str = "application/json"
    """Of the body."""
    answer_type: str = "application/json"
    """Media type of the answer."""
    tag: str = ""
    """Heading in the document; empty: the first part of the path after account or subaccount."""
    sends: bool = False
    """The MTA judges its key, not control."""

    def success(self, contract: Contract) -> int:
        """The status of a success."""
        return self.legacy_status if self.legacy_status and contract is Contract.LEGACY else self.status


@dataclass(slots=True)
class Call:
    """One request of an operation."""

    dialect: "SendPost"
    operation: Operation
    request: Request
    contract: Contract
    authorization: str
    """For the programs behind."""
    peer: str
    """The client's IP address."""
    query: Mapping[str, Any] = field(default_factory=dict)
    """All declared parameters, by name."""

    @property
    def legacy(self) -> bool:
        """Whether the answer is to be in the legacy contract."""
        return self.contract is Contract.LEGACY

    async def ask(self, service: str, method: str, request: Any) -> Any:
        """One call to control with the client's key; see ``Backend.ask``. Raises Refusal."""
        backend = self.dialect.parts.backend
        return await backend.ask(service, method, request, authorization=self.authorization, peer=self.peer)

    async def page(self, service: str, method: str, request: Any) -> list[Any]:
        """The items that ``limit`` and ``offset`` of the query ask for; ``request`` gets page_size and skip."""
        limit: int = self.query["limit"]
        request.page_size = limit
        request.skip = self.query["offset"]
        return await self.first(limit, service, method, request)

    async def first(self, count: int, service: str, method: str, request: Any) -> list[Any]:
        """The first ``count`` items of a List method. Raises Refusal."""
        items: list[Any] = []
        backend = self.dialect.parts.backend
        pages = backend.ask_pages(service, method, request, authorization=self.authorization, peer=self.peer)
        async for item in pages:
            items.append(item)
            if len(items) == count:
                break
        return items

    def number(self, name: str, what: str) -> int:
        """The id in the path; one that cannot be is unknown. ``what`` is as for ``unknown``. Raises Problem."""
        text = self.request.path_params[name]
        if not text.isascii() or not text.isdecimal() or not 0 < len(text) <= 10 or not 0 < int(text) <= MAX_ID:
            raise self.unknown(what)
        return int(text)

    def unknown(self, what: str) -> Problem:
        """That there is no such ``what``, such as "Domain", with this operation's status."""
        return errors.unknown(what, self.operation.unknown_status)

    async def body(self, shape: type[_Shape], limit: int = RESOURCE_BYTES) -> _Shape:
        """The JSON body as ``shape``. Raises Problem 413 or 422."""
        async with self.dialect.parts.received(self.request, limit) as data:
            return decoding.decode(self.document(data), shape)

    def document(self, data: bytes) -> dict[str, Any]:
        """The JSON object that the body ``data`` holds. Raises Problem 422."""
        try:
            return parse_object(data, self.request.headers.get("content-type", ""))
        except Problem as problem:
            raise errors.invalid_body(None, problem.message) from None


def read_query(parameters: Sequence[Parameter], given: Mapping[str, str]) -> dict[str, Any]:
    """The values of ``parameters``. Raises Problem 400."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        text = given.get(parameter.name, "").strip()
        if text:
            values[parameter.name] = _value(parameter, text)
        elif parameter.required:
            raise errors.invalid_query(parameter.name, f"{parameter.name} is required.")
        else:
            values[parameter.name] = parameter.default
    return values


def _value(parameter: Parameter, text: str) -> Any:
    name = parameter.name
    try:
        match parameter.kind:
            case Kind.WHOLE:
                return _whole(parameter, text)
            case Kind.DAY:
                return times.day(text)
            case Kind.START | Kind.END:
                return times.moment(text, end=parameter.kind is Kind.END)
            case Kind.FLAG:
                return _flag(text)
            case Kind.TEXT:
                return _text(parameter, text)
    except ValueError as error:
        raise errors.invalid_query(name, f"{name} {error}.") from None


def _whole(parameter: Parameter, text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 18 and parameter.least <= int(text) <= parameter.most:
        return int(text)
    raise ValueError(f"must be a whole number from {parameter.least} to {parameter.most}")


def _flag(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError("must be true or false")


def _text(parameter: Parameter, text: str) -> str:
    if parameter.choices and text not in parameter.choices:
        raise ValueError(f"must be one of {', '.join(parameter.choices)}")
    if len(text) > parameter.most:
        raise ValueError(f"must not be longer than {parameter.most} characters")
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text
