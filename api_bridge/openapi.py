"""Building blocks of OpenAPI 3.1 documents, as plain data.

A dialect writes its document in a module of its own, with these functions, and gives it in ``Dialect.openapi``:

    document("MSpace Bulk Email", "What it is.", paths={
        "/email/api/send": {"post": operation("send", "Queue a message", body=json_body(ref("Send")), answers={
            200: answer("Queued.", ref("Sent")), **failures("Error", 400, 401, 402)})}},
        schemas={"Send": record({"to": text(format="email")}, required=("to",))})

Schemas say what is true: what a client may send, and everything that an answer can hold, so that a tool may check
either. Paths are written as the routes are, with ``{name}`` for a part. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]
"""A JSON Schema (draft 2020-12)."""
Operation = dict[str, Any]
"""One method of one path."""
Document = dict[str, Any]
"""A whole document, ready for JSON."""

VERSION = "3.1.0"
"""Of OpenAPI."""
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key is done once within 24 hours, and gets the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
"""The parameter of every send (``idempotency``)."""
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
"""The header of 429 and 503."""

_MEANINGS = {
    400: "The request is malformed.",
    401: "The credentials are missing or wrong.",
    402: "There are not enough credits.",
    403: "Not allowed.",
    404: "Not found.",
    405: "Not this method.",
    406: "Not acceptable.",
    408: "The request did not arrive in time.",
    409: "In conflict with what exists.",
    413: "The request is too large.",
    415: "The body is compressed.",
    422: "The request cannot be done.",
    429: "Too many requests.",
    431: "The head of the request is too large.",
    500: "A mistake of the server.",
    503: "It cannot be done now.",
}
EVERYWHERE = (400, 408, 413, 415, 429, 500, 503)
"""Statuses that any request can get from the frame, beside 404, 405 and 431 of requests that no document describes."""


def text(description: str = "", **keywords: Any) -> Schema:
    """A string; ``keywords`` are those of JSON Schema: format, enum, minLength, maxLength, pattern, examples."""
    return _typed("string", description, keywords)


def whole(description: str = "", **keywords: Any) -> Schema:
    """A whole number; keywords such as minimum, maximum."""
    return _typed("integer", description, keywords)


def number(description: str = "", **keywords: Any) -> Schema:
    """A number."""
    return _typed("number", description, keywords)


def truth(description: str = "", **keywords: Any) -> Schema:
    """A boolean."""
    return _typed("boolean", description, keywords)


def array(items: Schema, description: str = "", **keywords: Any) -> Schema:
    """An array; keywords such as minItems, maxItems."""
    return _typed("array", description, {"items": items, **keywords})


def record(
    properties: Mapping[str, Schema], description: str = "", *, required: Iterable[str] = (), **keywords: Any
) -> Schema:
    """An object. Other properties may be there, too, unless ``additionalProperties`` says otherwise."""
    named = {"properties": dict(properties)} if properties else {}
    needed = {"required": sorted(required)} if required else {}
    return _typed("object", description, {**named, **needed, **keywords})


def ref(name: str) -> Schema:
    """The schema of this name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def either(*schemas: Schema, description: str = "") -> Schema:
    """One of several."""
    return {"anyOf": list(schemas), **({"description": description} if description else {})}


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def in_path(name: str, description: str = "", schema: Schema | None = None) -> dict[str, Any]:
    """A parameter that is part of the path."""
    return _parameter(name, "path", description, schema, True)


def in_query(name: str, description: str = "", schema: Schema | None = None, *, required: bool = False) -> Any:
    """A parameter of the query."""
    return _parameter(name, "query", description, schema, required)


def in_header(name: str, description: str = "", schema: Schema | None = None, *, required: bool = False) -> Any:
    """A header field. Credentials are no parameters: see ``document``."""
    return _parameter(name, "header", description, schema, required)


def json_body(
    schema: Schema, *, required: bool = True, examples: Sequence[Any] = (), forms: Sequence[str] = ()
) -> dict[str, Any]:
    """A request body; ``forms`` are media types beside JSON that it may have, with the same schema."""
    shown = {str(index): {"value": example} for index, example in enumerate(examples, 1)}
    media = {"schema": schema, **({"examples": shown} if shown else {})}
    return {"required": required, "content": dict.fromkeys((JSON, *forms), media)}


def answer(description: str, schema: Schema | None = None, headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An answer with a JSON body, or with none."""
    content = {"content": {JSON: {"schema": schema}}} if schema is not None else {}
    return {"description": description, **content, **({"headers": dict(headers)} if headers else {})}


def failures(schema: str, *statuses: int, everywhere: bool = True) -> dict[int, dict[str, Any]]:
    """The answers of these statuses, and of those that any request can get, with the error body ``schema``."""
    wanted = sorted({*statuses, *(EVERYWHERE if everywhere else ())})
    return {
        status: answer(_MEANINGS[status], ref(schema), RETRY_AFTER if status in (429, 503) else None)
        for status in wanted
    }


def operation(
    operation_id: str,
    summary: str,
    *,
    answers: Mapping[Any, Mapping[str, Any]],
    description: str = "",
    parameters: Sequence[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
    security: Sequence[Mapping[str, Sequence[str]]] | None = None,
    tag: str = "",
) -> Operation:
    """One method of one path. ``operation_id`` is unique in the document; ``security`` overrides the document's."""
    return {
        "operationId": operation_id,
        "summary": summary,
        **({"description": description} if description else {}),
        **({"tags": [tag]} if tag else {}),
        **({"parameters": list(parameters)} if parameters else {}),
        **({"requestBody": dict(body)} if body else {}),
        "responses": {str(status): dict(given) for status, given in answers.items()},
        **({"security": [dict(scheme) for scheme in security]} if security is not None else {}),
    }


def document(
    title: str,
    description: str,
    *,
    paths: Mapping[str, Mapping[str, Operation]],
    schemas: Mapping[str, Schema],
    security_schemes: Mapping[str, Mapping[str, Any]] | None = None,
    security: Sequence[Mapping[str, Sequence[str]]] = (),
    version: str = "1",
) -> Document:
    """A whole document. Methods are in small letters; ``security`` holds for every operation without its own."""
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version, "description": description},
        "servers": [{"url": "/"}],
        "paths": {path: dict(methods) for path, methods in paths.items()},
        "components": {
            "schemas": dict(schemas),
            **({"securitySchemes": {k: dict(v) for k, v in security_schemes.items()}} if security_schemes else {}),
        },
        "security": [dict(scheme) for scheme in security],
    }


BASIC_SCHEME = {"type": "http", "scheme": "basic"}
"""HTTP Basic."""
BEARER_SCHEME = {"type": "http", "scheme": "bearer"}
"""A token in Authorization."""


def key_scheme(header: str) -> dict[str, str]:
    """A key in a header field of its own."""
    return {"type": "apiKey", "in": "header", "name": header}


def _typed(kind: str, description: str, keywords: Mapping[str, Any]) -> Schema:
    return {"type": kind, **({"description": description} if description else {}), **keywords}


def _parameter(name: str, place: str, description: str, schema: Schema | None, required: bool) -> dict[str, Any]:
    described = {"description": description} if description else {}
    return {"name": name, "in": place, "required": required, **described, "schema": schema or {"type": "string"}}
