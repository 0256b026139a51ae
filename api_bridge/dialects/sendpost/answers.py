"""What several resources have: answers, and calls to control in the words of this API."""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from api_bridge.dialects.sendpost.operation import Call, Parameter
from mta.runtime.refusals import Reason, Refusal

IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", description="The same request with the same key is done once within 24 hours.", most=200
)
"""Header field of calls that make something."""


class Count(Struct):
    """How many there are."""

    count: int


class Deleted(Struct):
    """What is gone: exactly these two, since some clients refuse others."""

    id: int
    message: str


class Label(Struct):
    """A label; there are none here."""

    id: int
    name: str
    color: str
    type: int
    created: int


async def ask(call: Call, service: str, method: str, request: Any, fields: Mapping[str, str]) -> Any:
    """One call to control, whose refusals name a field as the client wrote it. ``fields``: by control's names."""
    try:
        return await call.ask(service, method, request)
    except Refusal as refusal:
        raise _in_json_names(refusal, fields) from None


def of_path(call: Call, what: str, refusal: Refusal) -> Exception:
    """A refusal of a call that names a thing by the id in the path: one that is not there is unknown."""
    nowhere = refusal.reason is Reason.INVALID_ARGUMENT and refusal.field == "name"
    return call.unknown(what) if nowhere or refusal.reason is Reason.NOT_FOUND else refusal


async def found(call: Call, what: str, service: str, method: str, request: Any) -> Any:
    """The thing whose number the request of a List method has. ``what`` is as for ``Call.unknown``. Raises Problem."""
    for item in await call.first(1, service, method, request):
        return item
    raise call.unknown(what)


async def total(call: Call, service: str, method: str, request: Any) -> Count:
    """How many things a List method that counts would list."""
    request.count_total, request.page_size = True, 1
    answer = await call.ask(service, method, request)
    return Count(answer.total_size)


def _in_json_names(refusal: Refusal, fields: Mapping[str, str]) -> Refusal:
    """The refusal with the name of its field, and an index behind that, as in the JSON."""
    field = refusal.field or ""
    stem, index = re.fullmatch(r"(.*?)((?:\[\d+\])?)", field, re.DOTALL).groups()  # type: ignore[union-attr]
    name = fields.get(stem)
    if name is None:
        return refusal
    text = refusal.message
    for theirs, ours in sorted(fields.items(), key=lambda pair: -len(pair[0])):
        # A short name may be a word of the text as well, unless it begins it.
        begin = r"(?<![\w.])" if "." in theirs else r"\A"
        text = re.sub(rf"{begin}{re.escape(theirs)}(?![\w.])", ours, text)
    return Refusal(refusal.reason, text, field=name + index, retry_after=refusal.retry_after, metadata=refusal.metadata)
