"""Suppressions: addresses that get no mail of a sub-account."""

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from msgspec import Meta, Struct, field
from starlette.responses import Response, StreamingResponse

from barua.control.v1 import suppression_pb2
from barua.control.v1 import suppression_service_pb2 as service

from api_bridge import messageids
from api_bridge.dialects.sendpost import errors, times, upload
from api_bridge.dialects.sendpost.answers import Count
from api_bridge.dialects.sendpost.operation import SEARCH, Call, Key, Kind, Operation, Parameter, paging
from mta.runtime.refusals import Refusal

PATH = "/subaccount/suppression"
MOST_DAYS = 60
"""From the first to the last day of a range; both ends are included."""
MOST_ADDRESSES = 1000
"""Of one call, and of one of control's."""
UPLOAD_BYTES = 8 * 1024 * 1024
PAGE = 1000

Reason = suppression_pb2.Suppression.Reason

_TYPES: Mapping[str, Sequence[Reason.ValueType]] = MappingProxyType(
    {
        "manual": (Reason.REASON_MANUAL, Reason.REASON_UNSPECIFIED),
        "unsubscribe": (Reason.REASON_UNSUBSCRIBE,),
        "hardBounce": (Reason.REASON_HARD_BOUNCE, Reason.REASON_INVALID, Reason.REASON_SOFT_BOUNCE),
        "spamComplaint": (Reason.REASON_COMPLAINT,),
    }
)
"""The reasons of control by the names here; new ones get the first."""
_NUMBERS = {"manual": 0, "unsubscribe": 1, "hardBounce": 2, "spamComplaint": 3}
VALIDATION = 4
"""A hard bounce that a validation found."""

_RANGE = (
    Parameter("from", Kind.START, "Made on this day (UTC) or later."),
    Parameter("to", Kind.END, f"Made on this day (UTC) or before; at most {MOST_DAYS} days from the first."),
)
_TYPE = Parameter("type", description="Only of this type.", choices=tuple(_TYPES))


class Address(Struct):
    """One address."""

    email: Annotated[str, Meta(max_length=320)]


_Addresses = Annotated[list[Address], Meta(max_length=MOST_ADDRESSES)]


class NewSuppressions(Struct):
    """Addresses to suppress, by type."""

    hardBounce: _Addresses | None = None  # noqa: N815  # names in the JSON
    manual: _Addresses | None = None
    unsubscribe: _Addresses | None = None
    spamComplaint: _Addresses | None = None  # noqa: N815


class OldSuppressions(Struct):
    """Addresses to suppress no longer."""

    suppressions: _Addresses


class Suppression(Struct):
    """One that is kept."""

    id: int
    email: str
    reason: Annotated[int, Meta(ge=0, le=4)]
    reasonText: str  # noqa: N815
    smtpError: str  # noqa: N815
    smtp_error: str
    messageUUID: str  # noqa: N815
    created: int


class SuppressionsDeleted(Struct):
    """Answer of a deletion."""

    message: str


class SuppressionDeleted(Struct):
    """Answer of a deletion for one address, in the legacy contract."""

    id: int
    message: str


class SuppressionsTaken(Struct):
    """What became of a list."""

    count: int
    message: str
    rejected: list[int] = field(default_factory=list)
    """Numbers of the lines without an address."""


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    key = Key.SUB_ACCOUNT
    return [
        Operation(
            "GET",
            PATH,
            "list_suppressions",
            "Suppressed addresses, the newest first.",
            listed,
            key,
            (*_RANGE, *paging(most=100), SEARCH, _TYPE),
            answer=list[Suppression],
        ),
        Operation(
            "POST",
            PATH,
            "create_suppressions",
            f"Suppress up to {MOST_ADDRESSES} addresses, all or none.",
            create,
            key,
            body=NewSuppressions,
            answer=list[Suppression],
            failures=(406,),
        ),
        Operation(
            "DELETE",
            PATH,
            "delete_suppressions",
            "Take suppressions back, whatever their type; addresses without one are passed over.",
            delete,
            key,
            body=OldSuppressions,
            answer=SuppressionsDeleted | list[SuppressionDeleted],
            failures=(406,),
        ),
        Operation(
            "GET",
            f"{PATH}/count",
            "count_suppressions",
            "How many there are.",
            count,
            key,
            (*_RANGE, SEARCH, _TYPE),
            answer=Count,
        ),
        *_file_operations(key),
    ]


def _file_operations(key: Key) -> list[Operation]:
    """Those with whole lists."""
    return [
        Operation(
            "POST",
            f"{PATH}/bulk",
            "upload_suppressions",
            "Suppress the addresses of a file of lines, or of columns with commas; a column may be the type.",
            upload_file,
            key,
            (Parameter("type", description="Of lines without one.", default="manual", choices=tuple(_TYPES)),),
            body=upload.UploadForm,
            media_type="multipart/form-data",
            answer=SuppressionsTaken,
        ),
        *(
            Operation(
                method,
                f"{PATH}/export",
                name,
                "All of them, as columns with commas.",
                export,
                key,
                (*_RANGE, SEARCH, _TYPE),
                answer=str,
                answer_type="text/csv",
            )
            for method, name in (("GET", "export_suppressions"), ("POST", "export_suppressions_post"))
        ),
    ]


async def listed(call: Call) -> list[Suppression]:
    """A page of them."""
    request = service.ListSuppressionsRequest(
        parent="tenants/me", filter=_filter(call.query), order_by="create_time desc"
    )
    return [_shown(one) for one in await call.page("suppressions", "ListSuppressions", request)]


async def create(call: Call) -> list[Suppression]:
    """Make some."""
    body = await call.body(NewSuppressions)
    wanted: list[suppression_pb2.Suppression] = []
    places: list[str] = []
    for name, reasons in _TYPES.items():
        for index, one in enumerate(getattr(body, name) or ()):
            wanted.append(suppression_pb2.Suppression(address=one.email, reason=reasons[0]))
            places.append(f"{name}[{index}].email")
    if not wanted:
        raise errors.SendPostProblem(
            406,
            "Nothing to suppress: hardBounce, manual, unsubscribe or spamComplaint is needed.",
            code="invalid_request",
        )
    if len(wanted) > MOST_ADDRESSES:
        raise errors.invalid_body(None, f"At most {MOST_ADDRESSES} addresses are taken in one call.")
    return [_shown(one) for one in await _created(call, wanted, places)]


async def delete(call: Call) -> SuppressionsDeleted | list[SuppressionDeleted]:
    """Take some back."""
    body = await call.body(OldSuppressions)
    if not body.suppressions:
        raise errors.SendPostProblem(406, "Nothing to delete: suppressions is empty.", code="invalid_request")
    request = service.BatchDeleteSuppressionsRequest(
        parent="tenants/me", addresses=[one.email for one in body.suppressions], allow_missing=True
    )
    places = [f"suppressions[{index}].email" for index in range(len(body.suppressions))]
    try:
        answer = await call.ask("suppressions", "BatchDeleteSuppressions", request)
    except Refusal as refusal:
        raise _placed(refusal, "addresses", places) from None
    gone = [SuppressionDeleted(one.uid, "Suppression deleted successfully.") for one in answer.suppressions]
    return gone if call.legacy else SuppressionsDeleted("Suppressions deleted successfully.")


async def count(call: Call) -> Count:
    """How many there are."""
    request = service.CountSuppressionsRequest(parent="tenants/me", filter=_filter(call.query))
    answer: service.CountSuppressionsResponse = await call.ask("suppressions", "CountSuppressions", request)
    return Count(answer.count)


async def upload_file(call: Call) -> SuppressionsTaken:
    """Make those of a file; what is no address is told and passed over."""
    bulk = call.dialect.parts.bulk
    async with call.dialect.parts.received(call.request, UPLOAD_BYTES) as data:
        content_type = call.request.headers.get("content-type", "")
        lines = await bulk.compute(lambda: upload.addresses(upload.content(data, content_type)))
    rejected, taken = [], 0
    for start in range(0, len(lines), MOST_ADDRESSES):
        some = lines[start : start + MOST_ADDRESSES]
        addresses = [address for _, address, _ in some]
        check = service.CheckSuppressionsRequest(parent="tenants/me", addresses=addresses)
        results = (await call.ask("suppressions", "CheckSuppressions", check)).results
        wanted = []
        for (line, address, row), result in zip(some, results, strict=True):
            if result.invalid_reason:
                rejected.append(line)
            else:
                reason = _TYPES[next((cell.strip() for cell in row if cell.strip() in _TYPES), call.query["type"])][0]
                wanted.append(suppression_pb2.Suppression(address=address, reason=reason))
        if wanted:
            taken += len(await _created(call, wanted, []))
    return SuppressionsTaken(taken, f"{taken} addresses are suppressed.", rejected)


async def export(call: Call) -> Response:
    """All of them, as a file."""
    request = service.ListSuppressionsRequest(parent="tenants/me", filter=_filter(call.query), page_size=PAGE)
    parts = call.dialect.parts
    pages = parts.backend.ask_pages(
        "suppressions", "ListSuppressions", request, authorization=call.authorization, peer=call.peer
    )
    first = await anext(pages, None)  # what is refused, is refused before the answer begins

    async def lines() -> AsyncIterator[str]:
        yield _line(("email", "type", "smtpError", "messageUUID", "created"))
        if first is not None:
            yield _row(first)
            async for one in pages:
                yield _row(one)

    head = {"content-disposition": 'attachment; filename="suppressions.csv"'}
    return StreamingResponse(lines(), 200, head, "text/csv")


async def _created(
    call: Call, wanted: Sequence[suppression_pb2.Suppression], places: Sequence[str]
) -> Sequence[suppression_pb2.Suppression]:
    request = service.BatchCreateSuppressionsRequest(parent="tenants/me", suppressions=wanted)
    try:
        answer: service.BatchCreateSuppressionsResponse = await call.ask(
            "suppressions", "BatchCreateSuppressions", request
        )
    except Refusal as refusal:
        raise _placed(refusal, "suppressions", places) from None
    return answer.suppressions


def _placed(refusal: Refusal, stem: str, places: Sequence[str]) -> Refusal:
    """The refusal with the field as the client wrote it."""
    field_name = refusal.field or ""
    for index, place in enumerate(places):
        for theirs in (f"{stem}[{index}].address", f"{stem}[{index}]"):
            if field_name == theirs:
                text = refusal.message.replace(theirs, place)
                return Refusal(refusal.reason, text, field=place, metadata=refusal.metadata)
    return refusal


def _filter(query: Mapping[str, Any]) -> service.SuppressionFilter:
    start, end = query["from"], query["to"]
    if start is not None and end is not None:
        if end <= start:
            raise errors.invalid_query("from", "from must not be later than to.")
        if end - start > (MOST_DAYS + 1) * times.DAY:
            raise errors.invalid_query("to", f"to must not be more than {MOST_DAYS} days after from.")
    return service.SuppressionFilter(
        reasons=_TYPES.get(query["type"] or "", ()),
        start_time=times.stamp(start) if start is not None else None,
        end_time=times.stamp(end) if end is not None else None,
        search=query["search"] or "",
    )


def _shown(one: suppression_pb2.Suppression) -> Suppression:
    name = _name(one.reason)
    number = VALIDATION if one.reason == Reason.REASON_INVALID else _NUMBERS[name]
    about = messageids.uuid(one.source_message_id) if one.source_message_id else ""
    created = times.nanoseconds(one.create_time)
    return Suppression(one.uid, one.address, number, name, one.evidence, one.evidence, about, created)


def _name(reason: Reason.ValueType) -> str:
    return next((name for name, reasons in _TYPES.items() if reason in reasons), "manual")


def _row(one: suppression_pb2.Suppression) -> str:
    shown = _shown(one)
    cells = (shown.email, shown.reasonText, shown.smtpError, shown.messageUUID, str(shown.created))
    return _line([upload.marked(cell) for cell in cells])


def _line(cells: Sequence[str]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue()
