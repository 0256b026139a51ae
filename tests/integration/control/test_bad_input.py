"""Every field of every request with values that no sound client sends: refused by name, or taken, never a fault."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from control.permissions import PERMISSIONS
from mta.runtime.refusals import Reason
from tests.integration.control.harness import Control, basic
from tests.integration.control.test_access import FOREIGN, empty_request, methods, reason_of, set_field

TEXTS = ("a\0b", "x" * 20_000, "\U0001f600", "9" * 30)
TIMES = ((2**62, 0), (-62_135_596_800, 0), (253_402_300_800, 0), (5, -(2**31)))
NUMBERS: dict[int, tuple[float, ...]] = {
    FieldDescriptor.TYPE_INT32: (-1, 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (2**32 - 1,),
    FieldDescriptor.TYPE_UINT64: (2**64 - 1,),
    FieldDescriptor.TYPE_ENUM: (99, -5),
    FieldDescriptor.TYPE_DOUBLE: (float("nan"), float("inf"), -1e308),
}
SETUP = (
    "DomainService/CreateDomain",
    "TemplateService/CreateTemplate",
    "SuppressionService/CreateSuppression",
    "SmtpProviderService/CreateSmtpProvider",
    "AlertService/CreateAlertRule",
)
FAULTS = {Reason.INTERNAL, Reason.UNAVAILABLE, Reason.RATE_LIMITED}
"""The last is what a refusal becomes whose texts do not fit into the trailers."""


def request_of(path: str, **more: Any) -> Any:
    """A sound request of a method, of tenant acme."""
    request = empty_request(f"/barua.control.v1.{path}")
    for name, value in (FOREIGN[path] | more).items():
        set_field(request, name, value.format("acme") if isinstance(value, str) else value)
    if "validate_only" in request.DESCRIPTOR.fields_by_name and path not in SETUP:
        request.validate_only = True
    return request


def places(message: Descriptor, outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldDescriptor]]:
    """The fields of a request, and of the messages in it."""
    for field in message.fields:
        inner = field.message_type
        if inner is not None and inner.full_name not in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            if not field.is_repeated and len(outer) < 2:
                yield from places(inner, (*outer, field.name))
        elif field.name != "validate_only":
            yield outer, field


def spoiled(path: str) -> Iterator[tuple[str, Any]]:
    """Requests of a method with one field that is wrong, and which."""
    for outer, field in places(methods()[f"/barua.control.v1.{path}"].input_type):
        if field.message_type is not None:
            values: tuple[Any, ...] = TIMES
        elif field.type == FieldDescriptor.TYPE_STRING:
            sound = FOREIGN[path].get(".".join((*outer, field.name)), "")
            values = (*TEXTS, *(f"{sound.format('acme')}{text}" for text in TEXTS if isinstance(sound, str) and sound))
        else:
            values = NUMBERS.get(field.type, ())
        for value in values:
            request = request_of(path)
            message = request
            for name in outer:
                message = getattr(message, name)
            target = getattr(message, field.name)
            if field.message_type is not None:
                place = target.add() if field.is_repeated else target
                place.seconds, place.nanos = value
            elif field.is_repeated:
                target[:] = [value]
            else:
                setattr(message, field.name, value)
            yield f"{path} {'.'.join((*outer, field.name))} {str(value)[:20]!r}", request


async def test_no_field_is_a_fault(control: Control) -> None:
    await control.tenant("acme", credits=10)
    who = basic("acme")
    for path in SETUP:
        assert await reason_of(control, f"/barua.control.v1.{path}", request_of(path), who) is None, path
    tried = 0
    for path in FOREIGN:
        full_path = f"/barua.control.v1.{path}"
        method = methods()[full_path]
        waits = path in ("EventService/WatchEvents", "WebhookService/TestWebhook") or method.client_streaming
        changes = PERMISSIONS[full_path].access.value != "read"
        if waits or (changes and "validate_only" not in method.input_type.fields_by_name):
            continue
        for what, request in spoiled(path):
            if changes:
                request.validate_only = True
            tried += 1
            assert await reason_of(control, full_path, request, who) not in FAULTS, what
    assert tried > 1000
