"""An OpenAPI document as a page of HTML: no scripts, nothing from elsewhere. Pure.

``HEADERS`` go with each page: their Content-Security-Policy names the digest of the one style sheet, which is part of
the page, and forbids everything else. All text of the document is escaped.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from api_bridge.openapi import Document, Operation, Schema

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:1rem;color:#1b1f24;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem;margin:.8rem 0 .2rem}
code,pre{font:13px/1.45 ui-monospace,monospace;background:#f3f5f7;border-radius:3px}code{padding:.1em .3em}
pre{padding:.6rem;overflow:auto}table{border-collapse:collapse;width:100%}
td,th{border:1px solid #d5dae0;padding:.25rem .5rem;text-align:left;vertical-align:top}
details{border:1px solid #d5dae0;border-radius:4px;margin:.4rem 0;padding:.4rem .7rem}summary{cursor:pointer}
summary b{display:inline-block;min-width:4.5rem}.need{color:#a40000}
@media(prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea}code,pre{background:#222930}
td,th,details{border-color:#3a434d}a{color:#7db7ff}.need{color:#ff8f8f}}
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def overview(titles: Mapping[str, str]) -> bytes:
    """The page with a link to each dialect's; ``titles`` by name."""
    links = (
        f'<li><a href="/docs/{escape(name)}">{escape(title)}</a> '
        f'(<a href="/openapi/{escape(name)}.json">OpenAPI</a>)</li>'
        for name, title in titles.items()
    )
    return _whole("APIs of this server", f"<h1>APIs of this server</h1><ul>{''.join(links)}</ul>")


def page(name: str, document: Document) -> bytes:
    """The page of one dialect."""
    return _whole(document["info"]["title"], "".join(_body(name, document)))


def _body(name: str, document: Document) -> Iterator[str]:
    info = document["info"]
    yield f"<h1>{escape(info['title'])}</h1>{_paragraphs(info['description'])}"
    yield f'<p><a href="/openapi/{escape(name)}.json">OpenAPI document</a> · <a href="/docs">all APIs</a></p>'
    yield "<h2>Calls</h2>"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield _operation(path, method, operation)
    yield "<h2>Objects</h2>"
    for title, schema in document["components"]["schemas"].items():
        yield f'<h3 id="{escape(title)}">{escape(title)}</h3>{_schema(schema)}'


def _operation(path: str, method: str, operation: Operation) -> str:
    parts = [
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code> "
        f"{escape(operation['summary'])}</summary>",
        _paragraphs(operation.get("description", "")),
        _parameters(operation.get("parameters", ())),
    ]
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        media = next(iter(content.values()))
        parts.append(f"<h3>Body: {escape(', '.join(content))}</h3>{_schema(media['schema'])}")
        parts += [_example(example["value"]) for example in media.get("examples", {}).values()]
    parts.append("<h3>Answers</h3><table>")
    parts += [_answer(status, answer) for status, answer in operation["responses"].items()]
    return "".join(parts) + "</table></details>"


def _answer(status: str, answer: Mapping[str, Any]) -> str:
    content = answer.get("content", {})
    kind = "".join(_kind(media.get("schema", {})) for media in content.values())
    return f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])}</td><td>{kind}</td></tr>"


def _parameters(parameters: Any) -> str:
    rows = [
        f"<tr><td><code>{escape(one['name'])}</code>{_mark(one.get('required'))}</td><td>{escape(one['in'])}</td>"
        f"<td>{_kind(one['schema'])}</td><td>{escape(one.get('description', ''))}</td></tr>"
        for one in parameters
    ]
    return f"<h3>Parameters</h3><table>{''.join(rows)}</table>" if rows else ""


def _schema(schema: Schema) -> str:
    if "properties" not in schema:
        return f"<p>{_kind(schema)} {escape(schema.get('description', ''))}</p>"
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code>{_mark(name in required)}</td><td>{_kind(part)}</td>"
        f"<td>{escape(part.get('description', ''))}</td></tr>"
        for name, part in schema["properties"].items()
    ]
    return f"{_paragraphs(schema.get('description', ''))}<table>{''.join(rows)}</table>"


def _kind(schema: Schema) -> str:
    """What a value is, in a few words."""
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for words in ("anyOf", "oneOf"):
        if words in schema:
            return " or ".join(_kind(one) for one in schema[words])
    kind = schema.get("type", "any")
    if kind == "array" or (isinstance(kind, list) and "array" in kind):
        return f"array of {_kind(schema.get('items', {}))}{' or null' if isinstance(kind, list) else ''}"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    return escape(" or ".join(kind) if isinstance(kind, list) else str(kind))


def _mark(required: object) -> str:
    return ' <span class="need" title="required">*</span>' if required else ""


def _example(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip())


def _whole(title: str, body: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{body}</body></html>'
    ).encode()
