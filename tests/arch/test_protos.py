"""The protos: stubs in step, everything explained, lists paged, enumerations safe."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from barua.errors.v1 import reason_pb2

from control.model.caller import Access
from control.permissions import PERMISSIONS
from mta.runtime.refusals import RENDERINGS, Reason
from tests.arch.protofiles import ENUM, VALUE, comments, files, messages, script, things


def test_stubs_are_in_step() -> None:
    assert script("generate").differences() == []


def test_nothing_of_a_version_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("surface").main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        ("name: 1 string", "name: 2 string"),
        ("name: 1 string", "name: 1 bytes"),
        ("name: 1 string", "name: 1 repeated string"),
        ("Tenant.name", "Tenant.title"),
        ("-> barua.control.v1.Tenant", "-> google.protobuf.Empty"),
    ],
)
def test_a_change_of_the_surface_is_found(
    change: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    surface = script("surface")
    released = surface.SURFACE.read_text()
    assert change[0] in released
    monkeypatch.setattr(surface, "SURFACE", tmp_path / "surface.txt")
    surface.SURFACE.write_text(released.replace(*change))
    assert surface.main(["--check"]) == 1
    assert "breaking: gone or different" in capsys.readouterr().out


def test_everything_is_explained() -> None:
    silent: list[str] = []
    for file in files():
        explained = {path for path, text in comments(file).items() if text.strip()}
        silent += [f"{file.name}: {name}" for name, path in things(file) if path not in explained]
    assert silent == []


def test_every_list_is_paged() -> None:
    by_name = {message.name: message for file in files() for message in messages(file)}
    methods = [method for file in files() for service in file.service for method in service.method]
    lists = [method for method in methods if method.name.startswith("List")]
    assert lists
    for method in lists:
        request = {field.name for field in by_name[f"{method.name}Request"].field}
        answer = by_name[f"{method.name}Response"].field
        repeated = [field.name for field in answer if field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED]
        assert {"page_size", "page_token"} <= request, method.name
        assert "next_page_token" in {field.name for field in answer}, method.name
        assert len(repeated) == 1, method.name


def test_enumerations_begin_with_unspecified_and_prefix_their_values() -> None:
    enums = [enum for file in files() for enum in (*file.enum_type, *(e for m in messages(file) for e in m.enum_type))]
    assert enums
    for enum in enums:
        prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).strip("_").upper()
        assert enum.value[0].number == 0, enum.name
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value), enum.name


def test_packages_are_versioned_and_follow_their_folders() -> None:
    for file in files():
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
    (file,) = [file for file in files() if file.name.endswith("errors/v1/reason.proto")]
    numbers = {value.name: index for index, value in enumerate(file.enum_type[0].value)}
    path = (ENUM, 0, VALUE, numbers[f"REASON_{reason}"])
    said = " ".join(comments(file)[path].split())
    # Some are never heard over SMTP, and the comment names no reply.
    reply = f"{rendering.smtp_code} {rendering.smtp_enhanced}"
    assert said.endswith((f" {rendering.grpc}.", f" {rendering.grpc}, {reply}."))


def test_changes_can_be_repeated_and_tried() -> None:
    """Every method that changes something takes a request id and can be a dry run."""
    requests = {f"{file.package}.{message.name}": message for file in files() for message in file.message_type}
    lacking: list[str] = []
    for file in files():
        for service in file.service:
            for method in service.method:
                path = f"/{file.package}.{service.name}/{method.name}"
                permission = PERMISSIONS.get(path)
                keeps_nothing = (Access.READ, Access.INSPECT, Access.NODE, Access.OPEN)
                if permission is None or permission.access in keeps_nothing or method.client_streaming:
                    continue
                have = {field.name for field in requests[method.input_type.lstrip(".")].field}
                lacking += [f"{path}: {name}" for name in ("request_id", "validate_only") if name not in have]
    assert lacking == []


def test_updates_take_a_mask_and_the_resource_has_an_etag() -> None:
    by_name = {f".{file.package}.{message.name}": message for file in files() for message in file.message_type}
    updates = [
        method
        for file in files()
        if file.package == "barua.control.v1"
        for service in file.service
        for method in service.method
        if method.name.startswith("Update")
    ]
    for method in updates:
        assert "update_mask" in {field.name for field in by_name[method.input_type].field}, method.name
        assert "etag" in {field.name for field in by_name[method.output_type].field}, method.name
