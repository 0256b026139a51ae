"""Which endpoint answers a path: a tree of path segments, for each host name that dialects are bound to.

The cost of a look-up is that of the path's segments, however many paths there are. A literal segment goes before a
parameter (``/account/ip/allocate`` before ``/account/ip/{id}``), so the order of routes means nothing. Empty segments
count for nothing: several client libraries double slashes or end a path with one. A parameter is one segment, decoded;
an encoded slash (``%2F``) is part of it.

A path below which only one dialect has any is answered 404 in that dialect's shape, others in the neutral one.

Errors: ``ValueError`` when two pages have the same path, when the tables are built.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api_bridge.endpoint import RECORD, Answering, Pages, Record
from api_bridge.problems import Problem


@dataclass(slots=True)
class _Node:
    """A place in the tree."""

    literals: dict[str, "_Node"] = field(default_factory=dict)
    parameter: "_Node | None" = None
    endpoint: Answering | None = None
    names: tuple[str, ...] = ()
    """Of the parameters on the way to ``endpoint``."""
    owners: list[Pages] = field(default_factory=list)
    """Dialects with paths here or below."""


@dataclass(frozen=True, slots=True)
class _Planting:
    """Pages, their paths, and the host names they are bound to."""

    pages: Pages
    routes: Sequence[Route]
    hosts: frozenset[str]


class Paths:
    """The ASGI application that finds the endpoint. Build it with ``add``, once, before it is used."""

    def __init__(self) -> None:
        self._everywhere = _Node()
        self._by_host: dict[str, _Node] = {}
        self._pages: list[_Planting] = []

    def add(self, pages: Pages, hosts: Iterable[str] = ()) -> None:
        """Serve ``pages`` under these host names; none: under every name. Raises ValueError."""
        self._pages.append(_Planting(pages, pages.routes(), frozenset(_host(host) for host in hosts)))
        self._everywhere = self._table(None)
        self._by_host = {name: self._table(name) for planting in self._pages for name in planting.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        table = self._by_host.get(_host_of(scope), self._everywhere) if self._by_host else self._everywhere
        segments = _segments(scope)
        values: list[str] = []
        found = _find(table, segments, 0, values)
        if found is None or found.endpoint is None:
            await _nothing(table, segments, scope, receive, send)
            return
        scope["path_params"] = dict(zip(found.names, values, strict=True))
        await found.endpoint(scope, receive, send)

    def _table(self, host: str | None) -> _Node:
        root = _Node()
        for planting in self._pages:
            if not planting.hosts or host in planting.hosts:
                _plant(root, planting)
            if host in planting.hosts:
                root.owners.append(planting.pages)
        return root


def _plant(root: _Node, planting: _Planting) -> None:
    pages = planting.pages
    for route in planting.routes:
        node, names = root, []
        for segment in filter(None, route.path.split("/")):
            if segment.startswith("{"):
                names.append(segment.strip("{}"))
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
            if pages not in node.owners:
                node.owners.append(pages)
        if node.endpoint is not None:
            raise ValueError(f"{pages.name} has a path that is there already: {route.path}")
        node.endpoint, node.names = cast(Answering, route.endpoint), tuple(names)


def _find(node: _Node, segments: Sequence[str], at: int, values: list[str]) -> _Node | None:
    """The node with an endpoint for the segments from ``at`` on; the parameters' values are added to ``values``."""
    if at == len(segments):
        return node if node.endpoint is not None else None
    literal = node.literals.get(segments[at])
    if literal is not None:
        found = _find(literal, segments, at + 1, values)
        if found is not None:
            return found
    if node.parameter is None:
        return None
    values.append(segments[at])
    found = _find(node.parameter, segments, at + 1, values)
    if found is None:
        values.pop()
    return found


async def _nothing(table: _Node, segments: Sequence[str], scope: Scope, receive: Receive, send: Send) -> None:
    node, owners = table, table.owners
    for segment in segments:
        below = node.literals.get(segment) or node.parameter
        if below is None:
            break
        node, owners = below, below.owners
    record: Record = scope[RECORD]
    if len(owners) == 1:
        record.dialect, record.render = owners[0].name, owners[0].render
    await record.render(Problem(404, "Not Found"))(scope, receive, send)


def _segments(scope: Scope) -> list[str]:
    raw: bytes = scope.get("raw_path") or b""
    if b"%2" in raw and b"%2f" in raw.lower():
        return [unquote(segment) for segment in raw.decode("latin-1").split("/") if segment]
    path: str = scope["path"]
    return [segment for segment in path.split("/") if segment]


def _host_of(scope: Any) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            return _host(value.decode("latin-1"))
    return ""


def _host(text: str) -> str:
    """A host name without port and final dot, in small letters."""
    name, colon, port = text.rpartition(":")
    if not colon or (port and not port.isdecimal()) or (name.count(":") and not name.endswith("]")):
        name = text
    return name.strip().rstrip(".").lower()
