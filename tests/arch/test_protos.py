"""The protos: stubs in step, everything explained, lists paged, enumerations safe."""

import importlib.util
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2
from google.rpc import status_pb2
from grpc_tools import protoc

from barua.errors.v1 import reason_pb2

from mta.runtime.refusals import RENDERINGS, Reason
from tests.arch.source import ROOT

PROTOS = ROOT / "protos"
# Numbers of descriptor.proto, by which source locations name what they are about.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM, ONEOF, VALUE, METHOD = 2, 3, 4, 8, 2, 2


def test_stubs_are_in_step() -> None:
    assert _generator().differences() == []


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _files() -> tuple[descriptor_pb2.FileDescriptorProto, ...]:
    """Descriptors of our own files with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set"
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTOS}",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--proto_path={Path(status_pb2.__file__).parents[2]}",
                "--include_source_info",
                f"--descriptor_set_out={target}",
                *(str(path.relative_to(PROTOS)) for path in sorted((PROTOS / "barua").rglob("*.proto"))),
            ]
        )
        assert status == 0
        return tuple(descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file)


def _messages(file: descriptor_pb2.FileDescriptorProto) -> Iterator[descriptor_pb2.DescriptorProto]:
    def walk(message: descriptor_pb2.DescriptorProto) -> Iterator[descriptor_pb2.DescriptorProto]:
        yield message
        for inner in message.nested_type:
            yield from walk(inner)

    for message in file.message_type:
        yield from walk(message)


def test_everything_is_explained() -> None:
    silent: list[str] = []
    for file in _files():
        explained = {tuple(item.path) for item in file.source_code_info.location if item.leading_comments.strip()}
        silent += [f"{file.name}: {name}" for name, path in _things(file) if path not in explained]
    assert silent == []


def _things(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    for number, service in enumerate(file.service):
        yield service.name, (SERVICE, number)
        for inner, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (SERVICE, number, METHOD, inner)
    for number, enum in enumerate(file.enum_type):
        yield from _values(enum, (ENUM, number))
    for number, message in enumerate(file.message_type):
        yield from _fields(message, (MESSAGE, number))


def _values(enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield enum.name, path
    for number, value in enumerate(enum.value):
        yield f"{enum.name}.{value.name}", (*path, VALUE, number)


def _fields(message: descriptor_pb2.DescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield message.name, path
    for number, field in enumerate(message.field):
        yield f"{message.name}.{field.name}", (*path, FIELD, number)
    for number, oneof in enumerate(message.oneof_decl):
        if not oneof.name.startswith("_"):
            yield f"{message.name}.{oneof.name}", (*path, ONEOF, number)
    for number, enum in enumerate(message.enum_type):
        yield from _values(enum, (*path, NESTED_ENUM, number))
    for number, inner in enumerate(message.nested_type):
        if not inner.options.map_entry:
            yield from _fields(inner, (*path, NESTED, number))


def test_every_list_is_paged() -> None:
    messages = {message.name: message for file in _files() for message in _messages(file)}
    methods = [method for file in _files() for service in file.service for method in service.method]
    lists = [method for method in methods if method.name.startswith("List")]
    assert lists
    for method in lists:
        request = {field.name for field in messages[f"{method.name}Request"].field}
        answer = messages[f"{method.name}Response"].field
        repeated = [field.name for field in answer if field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED]
        assert {"page_size", "page_token"} <= request, method.name
        assert "next_page_token" in {field.name for field in answer}, method.name
        assert len(repeated) == 1, method.name


def test_enumerations_begin_with_unspecified_and_prefix_their_values() -> None:
    enums = [
        enum for file in _files() for enum in (*file.enum_type, *(e for m in _messages(file) for e in m.enum_type))
    ]
    assert enums
    for enum in enums:
        prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).strip("_").upper()
        assert enum.value[0].number == 0, enum.name
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value), enum.name


def test_packages_are_versioned_and_follow_their_folders() -> None:
    for file in _files():
        assert file.package == str(Path(file.name).parent).replace("/", ".")
        assert file.package.startswith("barua.")
        assert file.package.endswith(".v1")


def test_reasons_are_those_of_the_code() -> None:
    prefix = "REASON_"
    wire = {name.removeprefix(prefix) for name in reason_pb2.Reason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - no dict
    assert wire == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_three_renderings_as_the_proto_says(reason: Reason) -> None:
    rendering = RENDERINGS[reason]
    (file,) = [file for file in _files() if file.name.endswith("errors/v1/reason.proto")]
    numbers = {value.name: index for index, value in enumerate(file.enum_type[0].value)}
    path = (ENUM, 0, VALUE, numbers[f"REASON_{reason}"])
    comments = {tuple(item.path): item.leading_comments for item in file.source_code_info.location}
    said = " ".join(comments[path].split())
    # Some are never heard over SMTP, and the comment names no reply.
    reply = f"{rendering.smtp_code} {rendering.smtp_enhanced}"
    assert said.endswith((f" {rendering.grpc}.", f" {rendering.grpc}, {reply}."))
