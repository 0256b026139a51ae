"""SendPost: which contract applies, and the texts of errors and parameters."""

import itertools
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from api_bridge.dialects.sendpost import contract, decoding, errors
from api_bridge.dialects.sendpost.contract import Contract
from api_bridge.dialects.sendpost.errors import SendPostProblem
from api_bridge.dialects.sendpost.letter import TemplateMessage
from api_bridge.dialects.sendpost.operation import Kind, Parameter, read_query
from api_bridge.problems import Problem
from mta.runtime.refusals import RENDERINGS, Reason, Refusal

LETTER: dict[str, Any] = {"from": {"email": "a@b.test"}, "to": [{"email": "c@d.test"}]}


@pytest.mark.parametrize(
    ("wanted", "default", "applied"),
    [
        (None, Contract.V1, Contract.V1),
        (None, Contract.LEGACY, Contract.LEGACY),
        ("v1", Contract.LEGACY, Contract.V1),
        (" Legacy ", Contract.V1, Contract.LEGACY),
        ("v2", Contract.LEGACY, Contract.LEGACY),
        ("", Contract.V1, Contract.V1),
    ],
)
def test_the_contract_follows_from_the_header(wanted: str | None, default: Contract, applied: Contract) -> None:
    assert contract.applied(wanted, default) is applied


def test_answers_name_their_contract() -> None:
    assert contract.fields(Contract.V1, date(2028, 12, 31)) == {"x-sendpost-public-contract": "v1"}
    assert contract.fields(Contract.LEGACY, date(2028, 12, 31)) == {
        "x-sendpost-public-contract": "legacy",
        "deprecation": "true",
        "sunset": "Sun, 31 Dec 2028 23:59:59 GMT",
        "link": '</docs/sendpost>; rel="deprecation"',
    }


STATUSES = {
    Reason.UNAVAILABLE: 503,
    Reason.SPOOL_FULL: 503,
    Reason.NOT_STORED: 503,
    Reason.CREDITS_UNAVAILABLE: 503,
    Reason.INVALID_ARGUMENT: 422,
    Reason.MESSAGE_TOO_LARGE: 413,
    Reason.SENDER_NOT_ALLOWED: 403,
    Reason.RECIPIENT_SUPPRESSED: 422,
    Reason.INSUFFICIENT_CREDITS: 402,
    Reason.UNAUTHENTICATED: 401,
    Reason.PERMISSION_DENIED: 401,
    Reason.TENANT_SUSPENDED: 403,
    Reason.NOT_FOUND: 404,
    Reason.ALREADY_EXISTS: 403,
    Reason.REQUEST_ID_REUSED: 409,
    Reason.STALE_ETAG: 409,
    Reason.FAILED_PRECONDITION: 400,
    Reason.RATE_LIMITED: 429,
    Reason.INTERNAL: 500,
    Reason.MAIL_LOOP: 422,
    Reason.BAD_CONTENT: 422,
    Reason.POSITION_LOST: 400,
}


@pytest.mark.parametrize("reason", list(RENDERINGS))
def test_each_refusal_has_its_status(reason: Reason) -> None:
    problem = errors.problem(Refusal(reason, "text of control"), changing=True)
    assert problem.status == STATUSES[reason]
    assert ("retry-after" in problem.headers) == (problem.status in (429, 503))
    body = json.loads(bytes(errors.render(problem).body))
    assert set(body["error"]) <= {"code", "message", "type", "param", "details"}
    if problem.status in (401, 500, 503) and reason is not Reason.PERMISSION_DENIED:
        assert "control" not in body["error"]["message"]


def test_a_bad_parameter_is_no_bad_body() -> None:
    assert errors.problem(Refusal(Reason.INVALID_ARGUMENT, "x")).status == 400
    assert errors.problem(Refusal(Reason.NOT_FOUND, "x"), unknown_status=406).status == 406


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 406, 408, 409, 413, 415, 422, 429, 431, 500, 503])
def test_every_problem_has_a_body(status: int) -> None:
    answer = errors.render(Problem(status, "text", {"x-own": "1"}), {"x-more": "2"})
    error = json.loads(bytes(answer.body))["error"]
    assert (answer.status_code, error["message"], answer.headers["x-own"], answer.headers["x-more"]) == (
        status,
        "text",
        "1",
        "2",
    )
    assert error["type"].endswith("_error")


WRONG: list[tuple[str, Any, str]] = [
    ("from", None, "from must be an object."),
    ("from.email", 1, "from.email must be a string."),
    ("from.name", [], "from.name must be a string."),
    ("from.name", "x" * 257, "from.name must have at most 256 characters."),
    ("to", {}, "to must be an array."),
    ("to", "c@d.test", "to must be an array."),
    ("to", None, "to must be an array."),
    ("to[0]", None, "to[0] must be an object."),
    ("to[0].email", None, "to[0].email must be a string."),
    ("to[0].email", {}, "to[0].email must be a string."),
    ("to[0].name", 1.5, "to[0].name must be a string."),
    ("to[0].cc", {}, "to[0].cc must be an array."),
    ("to[0].cc[0]", 1, "to[0].cc[0] must be a string or an object."),
    ("to[0].cc", ["a@b.test"] * 51, "to[0].cc must have at most 50 items."),
    ("to[0].bcc", ["a@b.test"] * 51, "to[0].bcc must have at most 50 items."),
    ("to[0].customFields", [], "to[0].customFields must be an object."),
    ("replyTo", "a@b.test", "replyTo must be an object."),
    ("subject", 1, "subject must be a string."),
    ("subject", "x" * 999, "subject must have at most 998 characters."),
    ("preText", "x" * 201, "preText must have at most 200 characters."),
    ("htmlBody", {}, "htmlBody must be a string."),
    ("textBody", False, "textBody must be a string."),
    ("ampBody", 1, "ampBody must be a string."),
    ("template", [], "template must be a string."),
    ("ippool", 1, "ippool must be a string."),
    ("headers", [], "headers must be an object."),
    ("headers", {"X": 1}, "Each value of headers must be a string."),
    ("trackOpens", "true", "trackOpens must be true or false."),
    ("trackClicks", 1, "trackClicks must be true or false."),
    ("groups", "a", "groups must be an array."),
    ("groups[0]", 1, "groups[0] must be a string."),
    ("groups", ["a"] * 21, "groups must have at most 20 items."),
    ("attachments", {}, "attachments must be an array."),
    ("attachments[0].content", 1, "attachments[0].content must be a string."),
    ("attachments[0].filename", None, "attachments[0].filename must be a string."),
    ("attachments[0].filename", "x" * 256, "attachments[0].filename must have at most 255 characters."),
    ("webhookEndpoint", 1, "webhookEndpoint must be a string."),
    ("webhookEndpoint", "h" * 2049, "webhookEndpoint must have at most 2048 characters."),
    ("templateId", [], "templateId must be a whole number or a string."),
    ("templateVariables", [], "templateVariables must be an object."),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_every_field_of_a_send_has_its_type(field: str, value: Any, message: str) -> None:
    document = json.loads(json.dumps({**LETTER, "attachments": [{"content": "", "filename": "a"}]}))
    place: Any = document
    parts = field.replace("[0]", ".0").split(".")
    for part, after in itertools.pairwise(parts):
        place = place[0] if part == "0" else place.setdefault(part, [{}] if after == "0" else {})
    place[0 if parts[-1] == "0" else parts[-1]] = value
    with pytest.raises(SendPostProblem) as problem:
        decoding.decode(document, TemplateMessage)
    assert (problem.value.status, problem.value.message) == (422, message)
    assert problem.value.param == field


def test_null_is_as_good_as_nothing_for_what_is_optional() -> None:
    names = {field for field in TemplateMessage.__struct_encode_fields__ if field not in ("from", "to")}
    person = {"email": "a@b.test", "name": None, "cc": None, "bcc": None, "customFields": None}
    bare = {"email": "a@b.test"}
    letter = decoding.decode({**dict.fromkeys(names), "from": person, "to": [person]}, TemplateMessage)
    assert letter == decoding.decode({"from": bare, "to": [bare]}, TemplateMessage)


def test_parameters_are_read() -> None:
    parameters = (
        Parameter("limit", Kind.WHOLE, default=20, least=1, most=100),
        Parameter("on", Kind.FLAG),
        Parameter("from", Kind.DAY),
        Parameter("to", Kind.END),
        Parameter("type", choices=("a", "b")),
    )
    given = {"limit": "5", "on": "TRUE", "from": "2024-01-31", "to": "2024-01-31", "type": "a", "other": "x"}
    assert read_query(parameters, given) == {
        "limit": 5,
        "on": True,
        "from": date(2024, 1, 31),
        "to": datetime(2024, 2, 1, tzinfo=UTC),
        "type": "a",
    }
    assert read_query(parameters, {"limit": ""}) == {"limit": 20, "on": None, "from": None, "to": None, "type": None}
    for bad in ({"limit": "0"}, {"limit": "101"}, {"limit": "-1"}, {"limit": "1.0"}, {"limit": "\u0661"}, {"on": "yes"},
                {"from": "x"}, {"type": "c"}, {"limit": "9" * 40}):  # fmt: skip
        with pytest.raises(SendPostProblem) as problem:
            read_query(parameters, bad)
        assert problem.value.status == 400
        assert problem.value.param == next(iter(bad))
