"""What the dialects serve, for programs and for people: ``/openapi/{dialect}.json`` and ``/docs/{dialect}``.

Both come from ``Dialect.openapi`` and are made when they are first asked for. ``/openapi`` lists the documents,
``/docs`` the pages. The pages hold no scripts and load nothing; their Content-Security-Policy allows their own style
alone, so that nothing in a document can become more than text. A dialect that is bound to host names shows its pages
under every name: they are no secret.

Loop rules: used on one loop. Limits: one page of each kind for each dialect is kept.
"""

from collections.abc import Sequence
from functools import cached_property

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_bridge import docpage
from api_bridge.endpoint import Dialect, Endpoint, json_answer, plain_error
from api_bridge.problems import Problem
from mta.runtime.refusals import Refusal

CACHE = {"cache-control": "public, max-age=300"}
"""The pages change with the program alone."""


class Documentation:
    """The pages, for the dialects that are switched on."""

    name = "documentation"

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._shown = {dialect.name: _Shown(dialect) for dialect in dialects}

    def routes(self) -> Sequence[Route]:
        """All four paths."""
        pages = {
            "/openapi": self._documents,
            "/openapi/{file}": self._document,
            "/docs": self._overview,
            "/docs/{dialect}": self._page,
        }
        return [Route(path, Endpoint(self, path.split("/")[1], {"GET": page})) for path, page in pages.items()]

    def problem(self, refusal: Refusal) -> Problem:
        """No refusal reaches these pages."""
        return Problem(refusal.rendering.http, refusal.message)

    def render(self, problem: Problem) -> Response:
        """The neutral error body."""
        return plain_error(problem)

    async def _documents(self, _: Request) -> Response:
        return json_answer(200, {"documents": [f"/openapi/{name}.json" for name in self._shown]}, CACHE)

    async def _document(self, request: Request) -> Response:
        shown = self._find(request.path_params["file"], ".json")
        return Response(shown.json, 200, {**CACHE, "access-control-allow-origin": "*"}, "application/json")

    async def _overview(self, _: Request) -> Response:
        titles = {name: shown.title for name, shown in self._shown.items()}
        return Response(docpage.overview(titles), 200, {**CACHE, **docpage.HEADERS}, "text/html")

    async def _page(self, request: Request) -> Response:
        shown = self._find(request.path_params["dialect"], "")
        return Response(shown.html, 200, {**CACHE, **docpage.HEADERS}, "text/html")

    def _find(self, name: str, ending: str) -> "_Shown":
        shown = self._shown.get(name.removesuffix(ending)) if name.endswith(ending) else None
        if shown is None:
            raise Problem(404, "There is nothing at this path.")
        return shown


class _Shown:
    """One dialect's document in both forms."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    @cached_property
    def json(self) -> bytes:
        """For programs."""
        return msgspec.json.encode(self._dialect.openapi())

    @cached_property
    def html(self) -> bytes:
        """For people."""
        return docpage.page(self._dialect.name, self._dialect.openapi())

    @property
    def title(self) -> str:
        """What the API is called."""
        return str(self._dialect.openapi()["info"]["title"])
