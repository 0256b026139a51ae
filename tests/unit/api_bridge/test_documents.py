"""The OpenAPI documents say what is served, no more and no less, and the pages show them."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import jsonschema_rs
import pytest
import pytest_asyncio

from api_bridge import app, docpage, openapi
from api_bridge.backend import Backend
from api_bridge.endpoint import Answering, Dialect
from mta.runtime.options import DialectsOptions, MSpaceOptions, Options

from .conftest import Bridge, Start

pytestmark = pytest.mark.asyncio(loop_scope="session")
Value = dict[str, Any]


async def spoken() -> list[Dialect]:
    options = Options()
    return list(app.dialects(app.parts(options, Backend(options))))


@pytest_asyncio.fixture(params=list(DialectsOptions().named()), loop_scope="session")
async def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each of the dialects."""
    [found] = [dialect for dialect in await spoken() if dialect.name == request.param]
    return found


def parts_of(value: Any) -> Iterator[Value]:
    """All objects in a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts_of(item)


async def test_documents_and_routes_agree(dialect: Dialect) -> None:
    served: set[tuple[str, str]] = set()
    for route in dialect.routes():
        endpoint: Answering = route.endpoint  # type: ignore[assignment]
        served |= {(route.path.rstrip("/"), method) for method in endpoint.methods}
    described = {
        (path.rstrip("/"), method.upper()) for path, methods in dialect.openapi()["paths"].items() for method in methods
    }
    assert described == served, dialect.name


async def test_documents_are_whole(dialect: Dialect) -> None:
    document = dialect.openapi()
    assert document["openapi"] == openapi.VERSION
    assert document["info"]["title"]
    schemas = document["components"]["schemas"]
    referred = {part["$ref"].rpartition("/")[2] for part in parts_of(document) if "$ref" in part}
    assert referred <= set(schemas), f"{dialect.name} refers to what is not there"
    assert set(schemas) <= referred, f"{dialect.name} has schemas that nothing refers to"
    operations = [(path, one) for path, methods in document["paths"].items() for one in methods.values()]
    ids = [one["operationId"] for _, one in operations]
    assert len(ids) == len(set(ids)), dialect.name
    for path, one in operations:
        named = {parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "path"}
        assert named == set(re.findall(r"\{([^}]+)\}", path)), path
        assert one["summary"], path
        assert all(answer["description"] for answer in one["responses"].values()), path
        for requirement in [*one.get("security", ()), *document["security"]]:
            assert set(requirement) <= set(document["components"].get("securitySchemes", {})), path


async def test_schemas_are_valid(dialect: Dialect) -> None:
    document = dialect.openapi()
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.validator_for({**schema, "components": document["components"]})
        assert jsonschema_rs.meta.is_valid(schema), (dialect.name, name)


async def test_examples_are_valid(dialect: Dialect) -> None:
    document = dialect.openapi()
    for methods in document["paths"].values():
        for operation in methods.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                schema = {**media["schema"], "components": document["components"]}
                for example in media.get("examples", {}).values():
                    jsonschema_rs.validate(schema, example["value"])


async def test_documents_are_served(bridge: Bridge, dialect: Dialect) -> None:
    answer = await bridge.client.get(f"/openapi/{dialect.name}.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == dialect.openapi()
    assert f"/openapi/{dialect.name}.json" in (await bridge.client.get("/openapi/")).json()["documents"]


@pytest.mark.parametrize("path", ["/openapi/none.json", "/openapi/mspace", "/docs/none", "/docs/mspace.json"])
async def test_other_documents_are_not_there(bridge: Bridge, path: str) -> None:
    answer = await bridge.client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (404, "error")


async def test_pages_are_text_alone(bridge: Bridge, dialect: Dialect) -> None:
    answer = await bridge.client.get(f"/docs/{dialect.name}")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    for path in dialect.openapi()["paths"]:
        assert path in unescape(answer.text)


async def test_an_overview_leads_to_each_page(bridge: Bridge) -> None:
    answer = await bridge.client.get("/docs")
    for dialect in await spoken():
        assert f'href="/docs/{dialect.name}"' in answer.text


async def test_pages_escape_everything() -> None:
    evil = '<img src=x onerror="x">'
    document = openapi.document(
        evil,
        evil,
        paths={
            "/" + evil: {
                "post": openapi.operation(
                    evil,
                    evil,
                    description=evil,
                    parameters=[openapi.in_query(evil, evil, openapi.text(enum=[evil]))],
                    body=openapi.json_body(openapi.ref(evil), examples=[{evil: evil}], forms=[evil]),
                    answers={200: openapi.answer(evil, openapi.array(openapi.ref(evil)))},
                )
            }
        },
        schemas={evil: openapi.record({evil: openapi.text(evil)}, evil, required=[evil])},
    )
    assert b"<img" not in docpage.page(evil, document)
    assert b"<img" not in docpage.overview({evil: evil})


async def test_dialects_can_be_switched_off_or_bound_to_a_host(start: Start) -> None:
    bridge = await start(dialects=DialectsOptions(mspace=MSpaceOptions(enabled=False)))
    assert (await bridge.client.post("/email/api/send", json={})).status_code == 404
    assert (await bridge.client.get("/openapi/mspace.json")).status_code == 404
    assert "/openapi/mspace.json" not in (await bridge.client.get("/openapi")).json()["documents"]


async def test_dialects_can_be_bound_to_a_host(start: Start) -> None:
    bridge = await start(dialects=DialectsOptions(mspace=MSpaceOptions(hosts=["mail.example.com"])))
    assert (await bridge.client.post("/email/api/send", json={})).status_code == 404
    host = {"host": "mail.example.com:8080"}
    assert (await bridge.client.post("/email/api/send", json={}, headers=host)).status_code == 400
    assert (await bridge.client.get("/healthz", headers=host)).status_code == 503


async def test_the_document_knows_that_errors_are_200(start: Start) -> None:
    bridge = await start(dialects=DialectsOptions(mspace=MSpaceOptions(errors_as_200=True)))
    document = (await bridge.client.get("/openapi/mspace.json")).json()
    for path in document["paths"]:
        responses = document["paths"][path]["post"]["responses"]
        assert list(responses) == ["200"]
        schema = {**responses["200"]["content"]["application/json"]["schema"], "components": document["components"]}
        answer = await bridge.client.post(path, json={})
        assert (answer.status_code, answer.json()["status"]) == (200, "error")
        jsonschema_rs.validate(schema, answer.json())
