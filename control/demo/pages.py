"""The HTTP side of the demo inbox.

``GET /messages`` lists (newest first; ``limit``, ``to``), ``GET /messages/{id}`` is the raw message, ``DELETE
/messages`` empties the inbox, ``/`` is a page for people, ``/healthz`` says that it runs. Everything that came in a
message is escaped, and the pages forbid scripts (Content-Security-Policy); raw messages are sent as message/rfc822.

Errors: 400 for a bad ``limit``, 404 for an unknown message, both as ``{"error": text}``.
"""

import datetime
import html
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from control.demo.store import Entry, Store

PAGE_ENTRIES = 200
"""Messages on the page for people."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse;width:100%}"
    "td,th{border-bottom:1px solid #ddd;padding:.4em .8em;text-align:left;overflow-wrap:anywhere}"
    ".pass{color:#060}.fail{color:#900}"
)


def application(store: Store, verify: Callable[[list[Entry]], Awaitable[None]]) -> Starlette:
    """The ASGI application. ``verify`` adds the DKIM results that entries lack to the store."""

    async def fresh(limit: int | None, recipient: str | None) -> list[Entry]:
        entries = await run_in_threadpool(store.entries, limit, recipient)
        if all(entry.dkim is not None for entry in entries):
            return entries
        await verify([entry for entry in entries if entry.dkim is None])
        return await run_in_threadpool(store.entries, limit, recipient)

    async def listing(request: Request) -> Response:
        text = request.query_params.get("limit")
        if text is not None and not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 9 and int(text) > 0):
            return _error(400, "limit must be a number from 1")
        entries = await fresh(None if text is None else int(text), request.query_params.get("to"))
        return JSONResponse([as_json(entry) for entry in entries], headers=_HEADERS)

    async def raw(request: Request) -> Response:
        number = request.path_params["id"]
        content = await run_in_threadpool(store.content, number) if number < 2**63 else None
        if content is None:
            return _error(404, f"there is no message {number}")
        return Response(content, media_type="message/rfc822", headers=_HEADERS)

    async def clear(_: Request) -> Response:
        removed = await run_in_threadpool(store.clear)
        return JSONResponse({"removed": removed}, headers=_HEADERS)

    async def page(_: Request) -> Response:
        return HTMLResponse(render(await fresh(PAGE_ENTRIES, None)), headers=_HEADERS)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", healthz),
            Route("/messages", listing, methods=["GET"]),
            Route("/messages", clear, methods=["DELETE"]),
            Route("/messages/{id:int}", raw),
        ]
    )


def as_json(entry: Entry) -> dict[str, Any]:
    """An entry as it is listed. ``dkim`` is null while it has not been verified."""
    return {
        "id": entry.id,
        "from": entry.sender,
        "to": entry.recipients,
        "subject": entry.subject,
        "received_at": _time(entry),
        "dkim": entry.dkim,
    }


def render(entries: list[Entry]) -> str:
    """The page for people."""
    rows = "".join(_row(entry) for entry in entries) or '<tr><td colspan="5">No messages yet.</td></tr>'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Barua demo inbox</title>'
        f"<style>{_STYLE}</style></head><body><h1>Demo inbox</h1>"
        f"<table><tr><th>Received</th><th>From</th><th>To</th><th>Subject</th><th>DKIM</th></tr>{rows}</table>"
        "</body></html>"
    )


def _row(entry: Entry) -> str:
    subject = html.escape(entry.subject) or "(no subject)"
    cells = [
        _time(entry),
        html.escape(entry.sender) or "&lt;&gt;",
        html.escape(", ".join(entry.recipients)),
        f'<a href="/messages/{entry.id}">{subject}</a>',
        "<br>".join(_signature(result) for result in entry.dkim or []) or "none",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _signature(result: dict[str, str]) -> str:
    text = html.escape(f"{result['algorithm']} {result['domain']}: {result['result']}")
    return f'<span class="{"pass" if result["result"] == "pass" else "fail"}">{text}</span>'


def _time(entry: Entry) -> str:
    moment = datetime.datetime.fromtimestamp(entry.received_at, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=_HEADERS)
