"""What no client should send, to every path of every dialect: the answer is the dialect's own, as its document says.

Nobody is behind the bridge, and it is told so at once: what gets through all checks ends in the dialect's temporary
error.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import pytest_asyncio

from api_bridge.backend import Backend
from api_bridge.endpoint import Dialect
from mta.runtime.options import DialectsOptions
from mta.runtime.refusals import Reason, Refusal

from .conftest import Bridge
from .test_documents import spoken

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "bk_" + "a" * 12 + "_" + "a" * 32
CREDENTIALS = {
    "basic": {"authorization": "Basic " + base64.b64encode(b"reseller:secret-password").decode()},
    "keys": {"authorization": f"Bearer {KEY}", "x-account-apikey": KEY, "x-subaccount-apikey": KEY},
    "wrong": {"authorization": "Bearer b'x'", "x-account-apikey": "bk_", "x-subaccount-apikey": "x" * 5000},
    "none": {},
}
DEEP = 100_000
REQUESTS = 100
"""Of each kind for each dialect, about, in the short suite."""
Sent = tuple[str, str, str, dict[str, Any]]
"""Path, method, query, and what httpx is to send."""
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "space": b" \r\n\t",
    "null": b"null",
    "number": b"5",
    "string": b'"text"',
    "true": b"true",
    "array": b"[]",
    "object": b"{}",
    "array of null": b"[null]",
    "half": b'{"to": ',
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "open arrays": b"[" * DEEP,
    "many values": b"[" + b"0," * 200_000 + b"0]",
    "twice": b'{"to": "a@b.example", "to": "c@d.example"}',
    "not a number": b'{"to": NaN, "limit": -Infinity}',
    "huge number": b'{"amount": 1e999, "to": 1e400}',
    "long number": b'{"amount": ' + b"9" * 10_000 + b"}",
    "surrogate": rb'{"to": "\ud800", "subject": "\udfff"}',
    "nul": rb'{"to": "a\u0000@b.example", "username": "\u0000"}',
    "not UTF-8": b'{"to": "\xff\xfe"}',
    "UTF-16": '{"to": "a@b.example"}'.encode("utf-16"),
    "binary": bytes(range(256)) * 4,
    "form": b"to=a%40b.example&email[to][0][email]=x&=&&%zz&a[b[c]]=1",
    "form, deep": b"email" + b"[a]" * 5000 + b"=1",
    "form, wide": b"&".join(b"a[]=1" for _ in range(10_000)),
    "multipart": b'--x\r\nContent-Disposition: form-data; name="to"\r\n\r\na@b.example\r\n--x--\r\n',
    "php": b'email=a:1:{s:2:"to";a:99999999:{}}',
    "php in JSON": json.dumps({"email": 'O:8:"stdClass":1:{s:1:"a";R:1;}', "emails": "a:1:{i:0;" * 3000}).encode(),
    "JSON in JSON": json.dumps({"email": "[" * 5000, "emails": '{"a":' * 5000}).encode(),
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    "newlines": b'{"to": "a@b.example\\r\\nBcc: c@d.example", "subject": "a\\r\\nb: c", "name": "x\\n"}',
}
KINDS = ["application/json; charset=utf-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
QUERIES = [
    "",
    "?",
    "?%7B%22limit%22%3A%200%7D",
    "?limit=-1&offset=x&from=99999-01-01&to=",
    "?limit=1e9&%00=%ff&from[]=1",
]
WRONG: list[Any] = [None, 0, -1, 1.5, True, "", "x" * 3000, [], [None], {}, {"email": {}}, [[]], "\r\n", 10**30]


async def nobody(*_: object, **__: object) -> None:
    raise Refusal(Reason.UNAVAILABLE, "the service cannot be reached", retry_after=5)


@pytest_asyncio.fixture(params=list(DialectsOptions().named()), loop_scope="session")
async def dialect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Dialect:
    monkeypatch.setattr(Backend, "_ask_control", nobody)
    monkeypatch.setattr(Backend, "submit", nobody)
    [found] = [dialect for dialect in await spoken() if dialect.name == request.param]
    return found


def credentials(operation: dict[str, Any]) -> dict[str, str]:
    """Those that the operation takes."""
    return CREDENTIALS["basic" if "login" in str(operation.get("security")) else "keys"]


class Checked:
    """Sends to one dialect and checks each answer against its document."""

    def __init__(self, bridge: Bridge, dialect: Dialect) -> None:
        self._bridge = bridge
        self._document = dialect.openapi()
        self._validators: dict[str, Any] = {}
        self.operations = [
            (path, method, operation)
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
        ]

    async def send(self, path: str, method: str, query: str = "", **keywords: Any) -> int:
        url = re.sub(r"\{[^}]+\}", "1", path) + query
        answer = await self._bridge.client.request(method.upper(), url, **keywords)
        said = (method, url, str(keywords)[:300], answer.status_code, answer.text[:500])
        assert answer.status_code != 500, said
        responses = self._document["paths"][path][method]["responses"]
        assert str(answer.status_code) in responses, said
        if answer.status_code == 204:
            return 204
        assert answer.headers["content-type"] == "application/json", said
        if answer.status_code >= 400:
            assert isinstance(answer.json(), dict), said
        assert "Traceback" not in answer.text, said
        schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
        assert self._validator(schema).is_valid(answer.json()), said
        return answer.status_code

    def _validator(self, schema: dict[str, Any]) -> Any:
        key = json.dumps(schema)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.validator_for(whole)
        return self._validators[key]


@pytest.fixture
def checked(bridge: Bridge, dialect: Dialect) -> Checked:
    return Checked(bridge, dialect)


def hostile_bodies(checked: Checked) -> Iterator[Sent]:
    """Each body to each path."""
    for number, (path, method, operation) in enumerate(checked.operations):
        for place, body in enumerate(BODIES.values()):
            kind = KINDS[(number + place) % len(KINDS)]
            headers = {**credentials(operation), **({"content-type": kind} if kind else {})}
            yield path, method, "", {"content": body, "headers": headers}


def hostile_heads(checked: Checked) -> Iterator[Sent]:
    """Each query and each kind of credentials to each path."""
    for path, method, _ in checked.operations:
        for query in QUERIES:
            yield path, method, query, {"headers": CREDENTIALS["keys"]}
        for headers in CREDENTIALS.values():
            yield path, method, "", {"headers": headers, "json": {}}


def mutations(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced, in turn, by something of a wrong type."""
    yield from WRONG
    if isinstance(value, dict):
        for name, part in value.items():
            for changed in mutations(part):
                yield {**value, name: changed}
            yield {other: kept for other, kept in value.items() if other != name}
    elif isinstance(value, list):
        for index, part in enumerate(value):
            for changed in mutations(part):
                yield [*value[:index], changed, *value[index + 1 :]]


def wrong_types(checked: Checked) -> Iterator[Sent]:
    """Each example with each of its parts replaced."""
    for path, method, operation in checked.operations:
        media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in media.get("examples", {}).values():
            for body in mutations(example["value"]):
                yield path, method, "", {"json": body, "headers": credentials(operation)}


KINDS_OF_REQUESTS = [hostile_bodies, hostile_heads, wrong_types]


@pytest.mark.parametrize("kind", KINDS_OF_REQUESTS)
async def test_some_of(checked: Checked, kind: Callable[[Checked], Iterator[Sent]]) -> None:
    """Evenly spread: with a step that has no factor in common with the number of bodies."""
    requests = list(kind(checked))
    step = max(1, len(requests) // REQUESTS)
    while step > 1 and math.gcd(step, len(BODIES) * (len(QUERIES) + len(CREDENTIALS))) > 1:
        step += 1
    for path, method, query, keywords in requests[::step]:
        await checked.send(path, method, query, **keywords)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS_OF_REQUESTS)
async def test_all_of(checked: Checked, kind: Callable[[Checked], Iterator[Sent]]) -> None:
    for path, method, query, keywords in kind(checked):
        await checked.send(path, method, query, **keywords)


@pytest.mark.parametrize("megabytes", [5, pytest.param(100, marks=pytest.mark.long)])
async def test_much_too_large(checked: Checked, megabytes: int) -> None:
    path, method, operation = next(one for one in checked.operations if "requestBody" in one[2])
    body = b" " * (megabytes * 1_000_000)
    assert await checked.send(path, method, content=body, headers=credentials(operation)) == 413


async def test_unknown_paths_and_methods(bridge: Bridge, checked: Checked) -> None:
    for path, _, _ in checked.operations:
        for method in ("PATCH", "TRACE"):
            answer = await bridge.client.request(method, re.sub(r"\{[^}]+\}", "1", path))
            assert answer.status_code in (200, 405)
            assert isinstance(answer.json(), dict)
            assert answer.headers["allow"]
        answer = await bridge.client.get(re.sub(r"\{[^}]+\}", "1", path) + "/none/there")
        assert answer.status_code == 404
        assert isinstance(answer.json(), dict)
