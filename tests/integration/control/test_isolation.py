"""What belongs to others cannot be told from what does not exist: every method, requests made from the descriptors.

Names of resources are found by the patterns in the protos' comments, such as `tenants/{tenant}/logins/{username}`; the
other fields get values of their types. The same request is made with a tenant that exists beside the caller, with the
one above it, with the root, and with one that does not exist: all four must be refused alike, word for word.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor

from barua.control.v1.tenant_pb2 import Tenant

from control.permissions import PERMISSIONS
from mta.runtime import rpc
from mta.runtime.refusals import Refusal
from tests.arch.protofiles import field_comments
from tests.integration.control.harness import Control, basic
from tests.integration.control.test_access import TENANTS, methods

OTHERS = ("qq-other", "qq-reseller", "operator", "qq-nobody")
PATTERN = re.compile(r"`(tenants/\{[a-z_]+\}[^`]*)`")
TENANT = re.compile("|".join(OTHERS))
PLACEHOLDER = re.compile(r"\{[a-z_]+\}")
IDS = ("qq-other", "other.test", "a@other.test", "aaaaaaaaaaaa", "1", "00000000-0000-4000-8000-000000000000")
TEXTS = ("", "word", "other.test", "new.test", "a@other.test", "12345678", "https://other.test/x", "mail")
MAX_DEPTH = 3
ROUNDS = 4
"""Requests made of each method: with other values each time, and each time the same in every run."""

PATHS = sorted(path for path, permission in PERMISSIONS.items() if permission.access in TENANTS)


def pattern_of(field: FieldDescriptor) -> str | None:
    """The form of the resource name that a field holds, from its comment."""
    found = PATTERN.search(field_comments().get(field.full_name, ""))
    return found.group(1) if found and field.type == field.TYPE_STRING else None


Place = tuple[FieldDescriptor, ...]
"""Where a field is: the fields that lead to it from the request."""


def names_of(request: Any) -> list[Place]:
    """Where a request names a tenant or something of one: itself, or in the resource that it updates."""
    fields = request.DESCRIPTOR.fields
    own: list[Place] = [(field,) for field in fields if pattern_of(field)]
    if own or not request.DESCRIPTOR.name.startswith("Update"):
        return own
    return [(field, field.message_type.fields_by_name["name"]) for field in fields if _is_ours(field)]


def put(request: Any, place: Place, value: str) -> None:
    """Set the field at a place, or add to it if it is repeated."""
    for field in place[:-1]:
        request = getattr(request, field.name)
    if place[-1].is_repeated:
        getattr(request, place[-1].name).append(value)
    else:
        setattr(request, place[-1].name, value)


def fill(chance: random.Random, message: Any, depth: int) -> None:
    """Give fields other than names of resources values of their types."""
    for field in message.DESCRIPTOR.fields:
        if pattern_of(field) or field.name in ("request_id", "page_token") or field.message_type is not None:
            if _is_ours(field) and depth < MAX_DEPTH and chance.random() < 0.7:
                inner = getattr(message, field.name)
                inner.SetInParent()
                fill(chance, inner, depth + 1)
            continue
        value = chance.choice(_values(field))
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


def _is_ours(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and not field.is_repeated and not kind.full_name.startswith("google.")


def _values(field: FieldDescriptor) -> Sequence[Any]:
    match field.type:
        case field.TYPE_STRING:
            return TEXTS
        case field.TYPE_BYTES:
            return (b"x",)
        case field.TYPE_BOOL:
            return (False, True)
        case field.TYPE_ENUM:
            return [value.number for value in field.enum_type.values] if field.enum_type else ()
        case field.TYPE_DOUBLE | field.TYPE_FLOAT:
            return (0.0, 0.5)
        case _:
            return (0, 1, 1000)


async def answer_of(control: Control, path: str, request: Any) -> tuple[Any, ...]:
    """How a call is refused, with the tenants' ids taken out; ("answered",) if it is not."""
    method = methods()[path]
    codecs = (type(request).SerializeToString, message_factory.GetMessageClass(method.output_type).FromString)
    call: dict[str, Any] = {"metadata": basic("mine"), "timeout": 10}
    try:
        if method.client_streaming:

            async def once() -> Any:
                yield request

            await control.channel.stream_unary(path, *codecs)(once(), **call)
        elif method.server_streaming:
            stream = control.channel.unary_stream(path, *codecs)(request, **call)
            await stream.read()
            stream.cancel()
        else:
            await control.channel.unary_unary(path, *codecs)(request, **call)
    except grpc.aio.AioRpcError as error:
        return _shown(rpc.refusal_of(error))
    return ("answered",)


def _shown(refusal: Refusal) -> tuple[Any, ...]:
    hidden = sorted((key, TENANT.sub("*", value)) for key, value in refusal.metadata.items())
    return refusal.reason, refusal.field, TENANT.sub("*", refusal.message), hidden


def test_every_method_for_tenants_names_what_it_is_about() -> None:
    """Otherwise the test below would pass it over."""
    silent = [path for path in PATHS if not names_of(message_factory.GetMessageClass(methods()[path].input_type)())]
    assert silent == []


@pytest.fixture
async def neighbours(control: Control) -> Control:
    """A reseller with two tenants below it: the caller, who is a reseller too, and another."""
    await control.tenant("qq-reseller", credits=10)
    await control.tenant("mine", "qq-reseller", kind=Tenant.KIND_RESELLER)
    await control.tenant("qq-other", "qq-reseller", credits=10)
    return control


async def _compare(control: Control, chance: random.Random, path: str) -> None:
    kind = message_factory.GetMessageClass(methods()[path].input_type)
    template = kind()
    fill(chance, template, 0)
    named = names_of(template)
    target, ids = chance.choice(named), chance.choices(IDS, k=8)
    answers = {}
    for tenant in OTHERS:
        request = kind()
        request.CopyFrom(template)
        for place in named:
            parts = iter((tenant if place is target else "me", *ids))
            form = re.split(r"(\{[a-z_]+\})", pattern_of(place[-1]) or "")
            put(request, place, "".join(next(parts) if PLACEHOLDER.fullmatch(part) else part for part in form))
        answers[tenant] = await answer_of(control, path, request)
    assert ("answered",) not in answers.values(), (path, template, answers)
    assert len(set(map(str, answers.values()))) == 1, (path, template, answers)


async def test_others_and_nobody_look_alike(neighbours: Control) -> None:
    assert len(PATHS) > 20
    for path in PATHS:
        for number in range(ROUNDS):
            await _compare(neighbours, random.Random(f"{path} {number}"), path)
