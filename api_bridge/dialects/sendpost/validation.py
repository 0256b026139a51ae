"""List validation: how likely mail to addresses arrives, by syntax, DNS, lists and earlier mail.

A list is a job; its id is a number, like all ids. Results can be asked for while it runs. Some of the original's paths
take the sub-account's key and some the account's; here all take the account's.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from barua.control.v1 import list_validation_pb2, list_validation_service_pb2

from api_bridge import idempotency
from api_bridge.dialects.sendpost import answers, errors, times, upload
from api_bridge.dialects.sendpost.answers import IDEMPOTENCY_KEY, Count, Deleted
from api_bridge.dialects.sendpost.operation import (
    MAX_ID,
    MAX_SEARCH,
    SEARCH,
    Call,
    Key,
    Kind,
    Operation,
    Parameter,
    paging,
)
from mta.runtime.refusals import Reason, Refusal

PATH = "/account/validation"
WHAT = "Validation"
MAX_ADDRESSES = 10_000
"""Of one list; as control takes them."""
LIST_BYTES = 4 * 1024 * 1024
"""Of a body with that many addresses."""

_VERDICTS: Mapping["list_validation_pb2.Verdict.ValueType", str] = {
    list_validation_pb2.VERDICT_DELIVERABLE: "deliverable",
    list_validation_pb2.VERDICT_RISKY: "risky",
    list_validation_pb2.VERDICT_UNDELIVERABLE: "undeliverable",
    list_validation_pb2.VERDICT_UNKNOWN: "unknown",
}
_STATUSES = {text: verdict for verdict, text in _VERDICTS.items()}
_STATES = {
    list_validation_pb2.ListValidation.STATE_RECEIVING: "receiving",
    list_validation_pb2.ListValidation.STATE_QUEUED: "queued",
    list_validation_pb2.ListValidation.STATE_RUNNING: "running",
    list_validation_pb2.ListValidation.STATE_DONE: "done",
    list_validation_pb2.ListValidation.STATE_CANCELLED: "cancelled",
}
_FIELDS = {"addresses": "emailIds", "list_validation.display_name": "tag"}
_JOB = (
    Parameter("jobId", Kind.WHOLE, "Id of the list; either this or tag.", least=1, most=MAX_ID),
    Parameter("tag", description="Name of the list; of several the newest.", most=MAX_SEARCH),
)
_STATUS = Parameter("status", description="Only addresses with this verdict.", choices=tuple(_STATUSES))


class NewList(Struct):
    """Body of a list. ``tag`` names it; ``headers`` are columns of an upload, and without effect."""

    emailIds: Annotated[list[str], Meta(min_length=1, max_length=MAX_ADDRESSES)]  # noqa: N815  # the name in the JSON
    headers: Any = None
    tag: Annotated[str, Meta(max_length=200)] | None = None


class Queued(Struct):
    """Answer to a new list."""

    jobId: int  # noqa: N815
    message: str


class Validation(Struct):
    """A list and how far it is."""

    id: int
    jobId: int  # noqa: N815
    tag: str
    status: str
    total: int
    processed: int
    deliverable: int
    risky: int
    undeliverable: int
    unknown: int
    created: int
    completed: int


class Result(Struct):
    """What was found out about an address."""

    email: str
    status: str
    reason: str
    suggestion: str
    freeEmail: bool  # noqa: N815
    disposable: bool
    role: bool


class Results(Struct):
    """A list with its results so far."""

    jobId: int  # noqa: N815
    status: str
    total: int
    processed: int
    results: list[Result]


def operations() -> Sequence[Operation]:
    """The calls of this resource."""
    return [*_list_operations(), *_new_list_operations(), *_result_operations()]


def _list_operations() -> Sequence[Operation]:
    key = Key.ACCOUNT
    return [
        Operation(
            "GET",
            PATH,
            "list_validations",
            "Lists of the account, the newest first.",
            _list,
            key,
            query=(*paging(), SEARCH),
            answer=list[Validation],
        ),
        Operation(
            "DELETE",
            PATH,
            "delete_validation",
            "Delete a list and its results.",
            _delete,
            key,
            query=_JOB,
            answer=Deleted,
            failures=(404,),
        ),
        Operation("GET", f"{PATH}/count", "count_validations", "Count the lists.", _count, key, answer=Count),
    ]


def _new_list_operations() -> Sequence[Operation]:
    key = Key.ACCOUNT
    return [
        Operation(
            "POST",
            f"{PATH}/list/bulk",
            "create_validation",
            "Have a list of addresses validated.",
            _create,
            key,
            body=NewList,
            answer=Queued,
            failures=(409,),
            headers=(IDEMPOTENCY_KEY,),
        ),
        Operation(
            "POST",
            f"{PATH}/bulk",
            "upload_validation",
            "Have a file of lines, or of columns with commas, validated.",
            _upload,
            key,
            query=(Parameter("tag", description="Name of the list.", most=200),),
            body=upload.UploadForm,
            media_type="multipart/form-data",
            answer=Queued,
            failures=(409,),
            headers=(IDEMPOTENCY_KEY,),
        ),
    ]


def _result_operations() -> Sequence[Operation]:
    key = Key.ACCOUNT
    return [
        Operation(
            "GET",
            f"{PATH}/results",
            "get_validation_results",
            "A list with its results so far.",
            _results,
            key,
            query=(*_JOB, *paging(1000)),
            answer=Results,
            failures=(404,),
        ),
        Operation(
            "GET",
            f"{PATH}/emails",
            "list_validated_emails",
            "Results of a list, of one verdict if wanted.",
            _emails,
            key,
            query=(*_JOB, _STATUS, *paging()),
            answer=list[Result],
            failures=(404,),
        ),
        Operation(
            "GET",
            f"{PATH}/emails/count",
            "count_validated_emails",
            "Count the results of a list, of one verdict if wanted.",
            _count_emails,
            key,
            query=(*_JOB, _STATUS),
            answer=Count,
            failures=(404,),
        ),
    ]


async def _list(call: Call) -> list[Validation]:
    request = list_validation_service_pb2.ListListValidationsRequest(
        parent="tenants/me", search=call.query["search"] or ""
    )
    return [_validation(found) for found in await call.page("list_validation", "ListListValidations", request)]


async def _count(call: Call) -> Count:
    request = list_validation_service_pb2.ListListValidationsRequest(parent="tenants/me")
    return await answers.total(call, "list_validation", "ListListValidations", request)


async def _create(call: Call) -> Queued:
    body = await call.body(NewList, LIST_BYTES)
    return await _queued(call, body.emailIds, body.tag or "", _FIELDS)


async def _upload(call: Call) -> Queued:
    async with call.dialect.parts.received(call.request, LIST_BYTES) as data:
        content_type = call.request.headers.get("content-type", "")
        lines = await call.dialect.parts.bulk.compute(lambda: upload.addresses(upload.content(data, content_type)))
    addresses = [address for _, address, _ in lines]
    if not 1 <= len(addresses) <= MAX_ADDRESSES:
        raise errors.invalid_body(upload.FIELD, f"{upload.FIELD} must have 1 to {MAX_ADDRESSES} lines.")
    return await _queued(call, addresses, call.query["tag"] or "", _FIELDS | {"addresses": upload.FIELD})


async def _queued(call: Call, addresses: list[str], tag: str, fields: Mapping[str, str]) -> Queued:
    request = list_validation_service_pb2.CreateListValidationRequest(
        parent="tenants/me",
        list_validation=list_validation_pb2.ListValidation(display_name=tag),
        addresses=addresses,
        request_id=idempotency.request_id(call.request),
    )
    made = await answers.ask(call, "list_validation", "CreateListValidation", request, fields)
    return Queued(made.number, "The list is being validated.")


async def _delete(call: Call) -> Deleted:
    found = await _job(call)
    request = list_validation_service_pb2.DeleteListValidationRequest(name=found.name)
    await call.ask("list_validation", "DeleteListValidation", request)
    return Deleted(found.number, "Validation deleted.")


async def _results(call: Call) -> Results:
    found = await _job(call)
    return Results(
        jobId=found.number,
        status=_STATES.get(found.state, "queued"),
        total=found.address_count,
        processed=found.checked_count,
        results=await _page(call, found, list_validation_pb2.VERDICT_UNSPECIFIED),
    )


async def _emails(call: Call) -> list[Result]:
    return await _page(call, await _job(call), _wanted(call))


async def _count_emails(call: Call) -> Count:
    found = await _job(call)
    counts = {
        list_validation_pb2.VERDICT_UNSPECIFIED: found.checked_count,
        list_validation_pb2.VERDICT_DELIVERABLE: found.deliverable_count,
        list_validation_pb2.VERDICT_RISKY: found.risky_count,
        list_validation_pb2.VERDICT_UNDELIVERABLE: found.undeliverable_count,
        list_validation_pb2.VERDICT_UNKNOWN: found.unknown_count,
    }
    return Count(counts[_wanted(call)])


def _wanted(call: Call) -> "list_validation_pb2.Verdict.ValueType":
    return _STATUSES.get(call.query["status"] or "", list_validation_pb2.VERDICT_UNSPECIFIED)


async def _job(call: Call) -> list_validation_pb2.ListValidation:
    """The list that the query names. Raises Problem 400, 404."""
    number, tag = call.query["jobId"], call.query["tag"]
    request = list_validation_service_pb2.ListListValidationsRequest(parent="tenants/me")
    if number:
        request.number = number
    elif tag:
        request.search = tag
    else:
        raise errors.invalid_query("jobId", "jobId is required.")
    found: list_validation_pb2.ListValidation
    for found in await call.first(1000 if tag and not number else 1, "list_validation", "ListListValidations", request):
        if number or found.display_name == tag:
            return found
    raise call.unknown(WHAT)


async def _page(
    call: Call, found: list_validation_pb2.ListValidation, verdict: "list_validation_pb2.Verdict.ValueType"
) -> list[Result]:
    request = list_validation_service_pb2.ListAddressValidationsRequest(parent=found.name, verdict=verdict)
    try:
        results = await call.page("list_validation", "ListAddressValidations", request)
    except Refusal as refusal:
        raise (call.unknown(WHAT) if refusal.reason is Reason.NOT_FOUND else refusal) from None
    return [_result(result) for result in results]


def _result(found: list_validation_pb2.AddressValidation) -> Result:
    kinds = list_validation_pb2.AddressValidation
    return Result(
        email=found.address,
        status=_VERDICTS.get(found.verdict, "unknown"),
        reason=found.explanation,
        suggestion=found.suggestion,
        freeEmail=found.free_mail,
        disposable=kinds.FINDING_DISPOSABLE in found.findings,
        role=kinds.FINDING_ROLE_ACCOUNT in found.findings,
    )


def _validation(found: list_validation_pb2.ListValidation) -> Validation:
    return Validation(
        id=found.number,
        jobId=found.number,
        tag=found.display_name,
        status=_STATES.get(found.state, "queued"),
        total=found.address_count,
        processed=found.checked_count,
        deliverable=found.deliverable_count,
        risky=found.risky_count,
        undeliverable=found.undeliverable_count,
        unknown=found.unknown_count,
        created=times.nanoseconds(found.create_time),
        completed=times.nanoseconds(found.finish_time),
    )
