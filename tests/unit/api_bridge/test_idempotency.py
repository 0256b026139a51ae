"""``Idempotency-Key``: which values are keys, and what belongs to a request."""

import uuid

import pytest
from starlette.requests import Request

from api_bridge import idempotency
from api_bridge.problems import Problem


def request(*keys: bytes, path: str = "/email/api/send", method: str = "POST") -> Request:
    fields = [(b"idempotency-key", key) for key in keys]
    return Request({"type": "http", "method": method, "path": path, "headers": fields, "query_string": b""})


def test_without_a_key() -> None:
    assert idempotency.key_of(request(), b"{}") is None
    assert idempotency.request_id(request()) != idempotency.request_id(request())


@pytest.mark.parametrize("key", [b"a", b"x" * 200, b"with space", "Auftrag № 7".encode(), b"caf\xe9", b'"quoted"'])
def test_keys(key: bytes) -> None:
    found = idempotency.key_of(request(key), b"{}")
    assert found is not None
    assert found.text == {b"caf\xe9": "café"}.get(key) or found.text.encode() == key
    assert idempotency.key_of(request(key), b"{}") == found
    assert uuid.UUID(idempotency.request_id(request(key))).version == 5
    assert idempotency.request_id(request(key)) == idempotency.request_id(request(key))


@pytest.mark.parametrize("keys", [[b""], [b"x" * 201], [b"a", b"a"], [b"a\tb"], [b"a\x7f"], [b"\xc2\x85"]])
def test_what_is_no_key(keys: list[bytes]) -> None:
    for function in (lambda: idempotency.key_of(request(*keys), b""), lambda: idempotency.request_id(request(*keys))):
        with pytest.raises(Problem, match="Idempotency-Key must be given once") as caught:
            function()
        assert caught.value.status == 400


def test_the_fingerprint_is_of_all_that_matters() -> None:
    asked = [
        idempotency.key_of(request(b"k"), b"{}"),
        idempotency.key_of(request(b"k"), b"{ }"),
        idempotency.key_of(request(b"k", path="/api/send"), b"{}"),
        idempotency.key_of(request(b"k", method="PUT"), b"{}"),
    ]
    assert len({key.fingerprint for key in asked if key}) == 4
    assert all(key and len(key.fingerprint) == 32 for key in asked)


def test_slashes_more_or_less_are_the_same_request() -> None:
    paths = ("/email/api/send", "/email/api/send/", "//email/api/send")
    assert len({idempotency.key_of(request(b"k", path=path), b"{}") for path in paths}) == 1
