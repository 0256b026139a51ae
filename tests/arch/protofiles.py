"""The protos as data: descriptors with their comments, and the scripts beside them as modules."""

import importlib
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from google.protobuf import descriptor_pb2

from tests.arch.source import ROOT

PROTOS = ROOT / "protos"
# Numbers of descriptor.proto, by which source locations name what they are about.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM, ONEOF, VALUE, METHOD = 2, 3, 4, 8, 2, 2

Path_ = tuple[int, ...]


def script(name: str) -> ModuleType:
    """A script of ``protos``, such as "generate"."""
    sys.path.insert(0, str(PROTOS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PROTOS))


@cache
def files() -> tuple[descriptor_pb2.FileDescriptorProto, ...]:
    """Descriptors of our own files with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set"
        script("generate").compile_(f"--descriptor_set_out={target}", "--include_source_info")
        return tuple(descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file)


def comments(file: descriptor_pb2.FileDescriptorProto) -> dict[Path_, str]:
    """What is written before each thing of a file, by its path in the descriptor."""
    return {tuple(item.path): item.leading_comments for item in file.source_code_info.location}


@cache
def field_comments() -> dict[str, str]:
    """What is written before each field of each message, by full name."""
    found: dict[str, str] = {}
    for file in files():
        said = comments(file)
        for number, message in enumerate(file.message_type):
            for name, path in fields(message, (MESSAGE, number)):
                found[f"{file.package}.{name}"] = said.get(path, "")
    return found


def messages(file: descriptor_pb2.FileDescriptorProto) -> Iterator[descriptor_pb2.DescriptorProto]:
    """All messages of a file, nested ones too."""

    def walk(message: descriptor_pb2.DescriptorProto) -> Iterator[descriptor_pb2.DescriptorProto]:
        yield message
        for inner in message.nested_type:
            yield from walk(inner)

    for message in file.message_type:
        yield from walk(message)


def things(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Path_]]:
    """Everything of a file that needs a comment, with its path in the descriptor."""
    for number, service in enumerate(file.service):
        yield service.name, (SERVICE, number)
        for inner, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (SERVICE, number, METHOD, inner)
    for number, enum in enumerate(file.enum_type):
        yield from _values(enum, (ENUM, number))
    for number, message in enumerate(file.message_type):
        yield from fields(message, (MESSAGE, number))


def fields(message: descriptor_pb2.DescriptorProto, path: Path_) -> Iterator[tuple[str, Path_]]:
    """A message and everything inside it."""
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
            yield from fields(inner, (*path, NESTED, number))


def _values(enum: descriptor_pb2.EnumDescriptorProto, path: Path_) -> Iterator[tuple[str, Path_]]:
    yield enum.name, path
    for number, value in enumerate(enum.value):
        yield f"{enum.name}.{value.name}", (*path, VALUE, number)
