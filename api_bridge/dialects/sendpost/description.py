"""The OpenAPI document, made from the operations. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api_bridge import openapi
from api_bridge.dialects.sendpost import contract
from api_bridge.dialects.sendpost.operation import Key, Kind, Operation, Parameter

_SCHEMES = {Key.ACCOUNT: "accountAuth", Key.SUB_ACCOUNT: "subAccountAuth"}
_TEXT = """Mail for accounts and their sub-accounts. Paths below `/account` take the account's key, those below
`/subaccount` the sub-account's. Times are UNIX nanoseconds; a slash at the end of a path makes no difference."""
_ERROR = openapi.record(
    {
        "error": openapi.record(
            {
                "code": openapi.text("What went wrong."),
                "message": openapi.text("The same for people."),
                "type": openapi.text("Its kind."),
                "param": openapi.text("The field or parameter at fault."),
                "details": openapi.array(
                    openapi.record({"field": openapi.text(), "message": openapi.text()}, required=("field", "message"))
                ),
            },
            required=("code", "message", "type"),
        )
    },
    required=("error",),
)
_CONTRACT = openapi.in_header(
    "X-SendPost-Public-Contract",
    "The contract of the answer; otherwise the server's default.",
    openapi.text(enum=[one.value for one in contract.Contract]),
)


def document(base: str, operations: Sequence[Operation]) -> openapi.Document:
    """The document for ``operations``, whose paths are below ``base``."""
    types = [kind for one in operations for kind in (one.body, one.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, openapi.Operation]] = {}
    for one in operations:
        paths.setdefault(base + one.path, {})[one.method.lower()] = _operation(one, named)
    return openapi.document(
        "SendPost",
        _TEXT,
        paths=paths,
        schemas={**components, "Error": _ERROR},
        security_schemes={name: openapi.key_scheme(key.value) for key, name in _SCHEMES.items()},
    )


def _operation(one: Operation, schemas: Mapping[int, openapi.Schema]) -> openapi.Operation:
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    body = None
    if one.body is not None:
        content = {one.media_type: {"schema": schemas[id(one.body)]}}
        body = {"required": one.body_required, "content": content}
    successes = {one.status, one.legacy_status or one.status}
    schema = schemas[id(one.answer)] if one.answer is not None else {}
    wrong = {401, *one.failures, *((one.unknown_status,) if names else ()), *((422,) if body else ())}
    answers: dict[int, Mapping[str, Any]] = {
        status: {"description": "Done.", "content": {one.answer_type: {"schema": schema}}}
        for status in sorted(successes)
    }
    answers.update(openapi.failures("Error", *wrong))
    return openapi.operation(
        one.name,
        one.summary,
        parameters=[
            *(openapi.in_path(name) for name in names),
            *(_parameter(parameter, "query") for parameter in one.query),
            *(_parameter(parameter, "header") for parameter in one.headers),
            _CONTRACT,
        ],
        body=body,
        answers=answers,
        security=[{_SCHEMES[one.key]: []}],
        tag=one.tag or next((part for part in one.path.split("/")[2:] if not part.startswith("{")), ""),
    )


def _parameter(parameter: Parameter, place: str) -> Mapping[str, Any]:
    schema: openapi.Schema
    match parameter.kind:
        case Kind.WHOLE:
            schema = openapi.whole(minimum=parameter.least, maximum=parameter.most)
        case Kind.FLAG:
            schema = openapi.truth()
        case Kind.DAY:
            schema = openapi.text(format="date")
        case Kind.START | Kind.END:
            schema = openapi.either(openapi.text(format="date-time"), openapi.text(format="date"))
        case Kind.TEXT:
            schema = openapi.text(maxLength=parameter.most)
            if parameter.choices:
                schema = openapi.text(enum=list(parameter.choices))
    if parameter.default is not None:
        schema["default"] = parameter.default
    described = openapi.in_query if place == "query" else openapi.in_header
    value: Mapping[str, Any] = described(parameter.name, parameter.description, schema, required=parameter.required)
    return value
