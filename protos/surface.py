"""Holds the protos to their promise that nothing within a version is removed, renumbered, renamed or retyped.

``surface.txt`` beside this script lists everything that a caller can depend on, a line each: packages' files, services,
methods, messages, fields, enumerations, values. ``python protos/surface.py`` adds what is new to it and names what is
gone or different; ``--check`` only compares. Both end with status 1 when something is gone or different. A line is
deleted by hand, in a commit that says why nobody can depend on it.

With ``--lint`` the protos are also put through buf's standard rules (``buf.yaml``), where buf is installed.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from generate import ROOT, compile_
from google.protobuf import descriptor_pb2

SURFACE = ROOT / "surface.txt"
LINT = {
    "version": "v2",
    "lint": {
        "use": ["STANDARD", "COMMENTS"],
        # Get, Create and Update return the resource and Delete returns Empty (AIP-131 to AIP-135); the others differ.
        # A oneof's fields are explained; so is the oneof, where its name does not say it all.
        "except": ["RPC_REQUEST_RESPONSE_UNIQUE", "RPC_RESPONSE_STANDARD_NAME", "COMMENT_ONEOF"],
        "ignore": ["google"],
    },
}

_FIELD_TYPES = {
    number: name.removeprefix("TYPE_").lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}
_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def lines(files: Iterator[descriptor_pb2.FileDescriptorProto]) -> Iterator[str]:
    """What callers can depend on."""
    for file in files:
        for message in file.message_type:
            yield from _message(f"{file.package}.{message.name}", message, file.name)
        for enum in file.enum_type:
            yield from _enum(f"{file.package}.{enum.name}", enum)
        for service in file.service:
            for method in service.method:
                asked = ("stream " if method.client_streaming else "") + method.input_type.lstrip(".")
                answered = ("stream " if method.server_streaming else "") + method.output_type.lstrip(".")
                yield f"rpc {file.package}.{service.name}.{method.name}: {asked} -> {answered}"


def _message(name: str, message: descriptor_pb2.DescriptorProto, file: str) -> Iterator[str]:
    yield f"message {name}: {file}"
    for field in message.field:
        kind = field.type_name.lstrip(".") or _FIELD_TYPES[field.type]
        many = "repeated " if field.label == _REPEATED else "optional " if field.proto3_optional else ""
        inside = field.HasField("oneof_index") and not field.proto3_optional
        group = f" in {message.oneof_decl[field.oneof_index].name}" if inside else ""
        yield f"field {name}.{field.name}: {field.number} {many}{kind}{group}"
    for inner in message.nested_type:
        yield from _message(f"{name}.{inner.name}", inner, file)
    for enum in message.enum_type:
        yield from _enum(f"{name}.{enum.name}", enum)


def _enum(name: str, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    for value in enum.value:
        yield f"value {name}.{value.name}: {value.number}"


def image(folder: Path) -> Path:
    """The compiled protos with comments and imports, as one file in ``folder``."""
    target = folder / "image.binpb"
    compile_(f"--descriptor_set_out={target}", "--include_imports", "--include_source_info")
    return target


def lint(target: Path) -> int:
    """Run buf on an image; its exit status, or 0 where it is not installed."""
    buf = shutil.which("buf")
    if buf is None:
        print("buf is not installed: its lint is left out")
        return 0
    return subprocess.run([buf, "lint", str(target), "--config", json.dumps(LINT)], check=False).returncode


def main(arguments: list[str]) -> int:
    """Do what the command line asks for; the exit status."""
    with tempfile.TemporaryDirectory() as name:
        target = image(Path(name))
        status = lint(target) if "--lint" in arguments else 0
        files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    have = set(lines(file for file in files if file.package.startswith("barua.")))
    known = set(SURFACE.read_text().splitlines()) if SURFACE.exists() else set()
    gone, new = sorted(known - have), sorted(have - known)
    for line in gone:
        print(f"breaking: gone or different: {line}")
    if "--check" not in arguments:
        SURFACE.write_text("".join(f"{line}\n" for line in sorted(known | have)))
    elif new:
        print(f"{len(new)} new lines, such as {new[0]!r}: run `make protos` and commit protos/surface.txt")
    return 1 if status or gone or (new and "--check" in arguments) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
