"""MSpace's JSON to protos and back."""

import base64
import email
import email.policy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barua.control.v1 import credit_service_pb2
from barua.mta.v1 import injection_service_pb2

from api_bridge.dialects.mspace import shapes
from api_bridge.problems import Problem
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal

SUB_USER = {
    "username": "developer",
    "password": "developer123",
    "firstname": "Dev",
    "surname": "Loper",
    "organization": "Winsy",
    "mobile": "254729651022",
    "credits": 50,
}
TRANSFER = {"sub_username": "developer", "action": "ADD", "amount": 100}
SEND = {
    "apiKey": "YOUR_API_KEY",
    "to": "recipient@example.com",
    "subject": "Hello from MSpace",
    "body": "<h1>HTML Content</h1>",
    "fromName": "MSpace System",
}


def tenant(**changes: Any) -> Any:
    return shapes.tenant_request(shapes.decode({**SUB_USER, **changes}, shapes.CreateSubUser), "id")


def transfer(**changes: Any) -> Any:
    return shapes.transfer_request(shapes.decode({**TRANSFER, **changes}, shapes.ManageCredits), "id")


def message(**changes: Any) -> Any:
    return shapes.message_request(shapes.decode({**SEND, **changes}, shapes.Send))


def test_create_sub_user() -> None:
    request = tenant()
    assert request.parent == "tenants/me"
    assert (request.initial_login.username, request.initial_login.password) == ("developer", "developer123")
    assert request.initial_credits == 50
    assert request.request_id == "id"
    contact = request.tenant.contact
    assert (contact.first_name, contact.surname, contact.organization) == ("Dev", "Loper", "Winsy")
    assert contact.phone == "254729651022"
    assert request.tenant.display_name == "Winsy"


@pytest.mark.parametrize(
    ("given_credits", "credits_"), [(0, 0), ("50", 50), (" +7 ", 7), (None, 0), ("", 0), (10**15, 10**15)]
)
def test_credits_that_are_taken(given_credits: Any, credits_: int) -> None:
    assert tenant(credits=given_credits).initial_credits == credits_


def test_only_username_and_password_are_required() -> None:
    body = shapes.decode({"username": "u", "password": "12345678"}, shapes.CreateSubUser)
    request = shapes.tenant_request(body, "id")
    assert request.initial_credits == 0
    assert request.tenant.display_name == "u"


@pytest.mark.parametrize(
    ("number", "phone"), [(254729651022, "254729651022"), ("+254 (729) 651-022", "+254729651022"), (None, ""), ("", "")]
)
def test_telephone_numbers(number: Any, phone: str) -> None:
    assert tenant(mobile=number).tenant.contact.phone == phone


MOBILE = "mobile must be a telephone number in international form, such as 254729651022"
BAD_COUNTS = [-1, 1.5, 50.0, True, False, "1.5", "-1", "x", "0x10", "1e3", "٣", 10**15 + 1, "9" * 30, [], {}, 10**400]


@pytest.mark.parametrize("count", BAD_COUNTS)
def test_counts_that_are_refused(count: Any) -> None:
    for build, field, least in ((tenant, "credits", 0), (transfer, "amount", 1)):
        with pytest.raises(Problem) as caught:
            build(**{field: count})
        assert caught.value.status == 400
        assert caught.value.message == f"{field} must be a whole number from {least} to 1000000000000000"


@pytest.mark.parametrize(
    ("build", "changes", "text"),
    [
        (tenant, {"username": None}, "username is required"),
        (tenant, {"username": ""}, "username is required"),
        (tenant, {"username": 5}, "username must be a string"),
        (tenant, {"password": "1234567"}, "password must be at least 8 characters long"),
        (tenant, {"firstname": []}, "firstname must be a string"),
        (tenant, {"mobile": "call me"}, MOBILE),
        (tenant, {"mobile": 1.5}, "mobile must be a whole number or a string"),
        (transfer, {"sub_username": ""}, "sub_username is required"),
        (transfer, {"action": "GIVE"}, "action must be ADD or DEDUCT"),
        (transfer, {"action": 1}, "action must be a string"),
        (transfer, {"amount": None}, "amount is required"),
        (transfer, {"amount": ""}, "amount is required"),
        (transfer, {"amount": 0}, "amount must be a whole number from 1 to 1000000000000000"),
        (message, {"to": None}, "to is required"),
        (message, {"to": ""}, "to is required"),
        (message, {"to": " , "}, "to is required"),
        (message, {"to": []}, "to is required"),
        (message, {"to": {}}, "to must be a string or an array"),
        (message, {"to": ["a@b.example", 5]}, "to[1] must be a string"),
        (message, {"to": "nobody"}, 'to has "nobody", which is not an email address such as name@example.com'),
        (message, {"to": "a,"  * 250_001}, "to must not be longer than 500000 characters"),
        (message, {"to": [f"a{n}@b.example" for n in range(1001)]}, "to has more than 1000 addresses"),
        (message, {"subject": ""}, "subject is required"),
        (message, {"subject": "a\r\nBcc: b"}, "subject must not contain line breaks or other control characters"),
        (message, {"fromName": "a\nb"}, "fromName must not contain line breaks or other control characters"),
        (message, {"body": ""}, "body is required"),
        (message, {"body": 5}, "body must be a string"),
        (message, {"apiKey": ""}, "apiKey is required"),
        (message, {"attachments": "x"}, "attachments must be an array"),
        (message, {"attachments": [{}]}, "attachments[0].filename is required"),
        (message, {"attachments": [{"filename": "f"}]}, "attachments[0].content is required"),
        (message, {"attachments": [{"filename": "f", "content": 1}]}, "attachments[0].content must be a string"),
        (message, {"attachments": [{"filename": "", "content": ""}]}, "attachments[0].filename is required"),
        (message, {"attachments": [{"filename": "f", "content": "é"}]}, "attachments[0].content is not valid Base64"),
        (message, {"attachments": [{"filename": "f", "content": "YQ="}]}, "attachments[0].content is not valid Base64"),
        (
            message,
            {"attachments": [{"filename": "f\r\nX: y", "content": ""}]},
            "attachments[0] filename must not contain line breaks or other control characters",
        ),
        (message, {"attachments": [{"filename": "f", "content": ""}] * 101}, "attachments has more than 100 files"),
    ],
)  # fmt: skip
def test_errors_name_the_field(build: Any, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(Problem) as caught:
        build(**changes)
    assert caught.value.status == 400
    assert caught.value.message == text


@pytest.mark.parametrize("shape", [shapes.CreateSubUser, shapes.ManageCredits, shapes.Send])
def test_each_missing_field_is_named(shape: Any) -> None:
    samples: dict[Any, dict[str, Any]] = {shapes.CreateSubUser: SUB_USER, shapes.ManageCredits: TRANSFER}
    sample = samples.get(shape, SEND)
    required = {
        shapes.CreateSubUser: ["username", "password"],
        shapes.ManageCredits: ["sub_username", "action", "amount"],
        shapes.Send: ["apiKey", "to", "subject", "body"],
    }[shape]
    for field in required:
        with pytest.raises(Problem) as caught:
            shapes.decode({name: value for name, value in sample.items() if name != field}, shape)
        assert caught.value.message == f"{field} is required"


@pytest.mark.parametrize("action", ["ADD", "add", " Add "])
def test_add_moves_credits_down(action: str) -> None:
    adds, request = transfer(action=action, amount="100")
    assert adds
    assert (request.source, request.destination, request.amount) == ("tenants/me", "logins/developer", 100)
    assert request.request_id == "id"


def test_deduct_moves_credits_up() -> None:
    adds, request = transfer(action="deduct")
    assert not adds
    assert (request.source, request.destination) == ("logins/developer", "tenants/me")


@pytest.mark.parametrize("adds", [True, False])
def test_balances_are_told_by_owner(adds: bool) -> None:
    reseller, sub_user = credit_service_pb2.Balance(balance=1015), credit_service_pb2.Balance(balance=20)
    answer = credit_service_pb2.TransferCreditsResponse(
        source=reseller if adds else sub_user, destination=sub_user if adds else reseller
    )
    assert json.dumps(shapes.transferred(adds, answer)) == (
        '{"status": "success", "message": "Credits updated", "reseller_balance": 1015, "subuser_balance": 20}'
    )


def test_send() -> None:
    request = message()
    assert list(request.recipients) == ["recipient@example.com"]
    assert request.sender == ""
    assert request.from_display_name == "MSpace System"
    parsed = email.message_from_bytes(request.content, policy=email.policy.default)
    assert parsed["Subject"] == "Hello from MSpace"
    assert parsed["To"] == "recipient@example.com"
    assert "From" not in parsed
    assert parsed.get_content_type() == "multipart/alternative"


def test_a_body_without_tags_is_plain_text() -> None:
    parsed = email.message_from_bytes(message(body="1 < 2, <a@b.example>").content, policy=email.policy.default)
    assert parsed.get_content_type() == "text/plain"


@pytest.mark.parametrize(
    ("to", "recipients"),
    [
        ("a@x.example", ["a@x.example"]),
        (" a@x.example , b@x.example,", ["a@x.example", "b@x.example"]),
        (["a@x.example", "b@x.example,c@x.example", "a@x.example"], ["a@x.example", "b@x.example", "c@x.example"]),
        ('"a,b"@x.example,c@x.example', ['"a,b"@x.example', "c@x.example"]),
        ("a@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", ["a@xn--bcher-kva.example"]),
    ],
)
def test_recipients(to: Any, recipients: list[str]) -> None:
    assert list(message(to=to).recipients) == recipients


def test_attachments_are_an_extension() -> None:
    content = base64.b64encode(b"hello").decode()
    files = [
        {"filename": "a.txt", "content": content[:4] + "\r\n" + content[4:]},
        {"filename": "b", "content": "", "contentType": "image/png"},
    ]
    parsed = email.message_from_bytes(message(attachments=files).content, policy=email.policy.default)
    assert isinstance(parsed, email.message.EmailMessage)
    found = list(parsed.iter_attachments())
    assert [(part.get_filename(), part.get_content_type()) for part in found] == [
        ("a.txt", "text/plain"),
        ("b", "image/png"),
    ]
    assert found[0].get_payload(decode=True) == b"hello"


def test_optional_fields_may_be_null_and_unknown_ones_are_ignored() -> None:
    assert message(fromName=None, attachments=None, whatever={"x": [1]}).from_display_name == ""


def test_the_answer_of_send() -> None:
    answer = injection_service_pb2.SubmitMessageResponse(
        message_id=123456789,
        results=[injection_service_pb2.RecipientResult(recipient="a@b.example", recipient_id=123456789)],
    )
    assert json.dumps(shapes.sent(answer)) == (
        '{"status": "success", "message": "Email queued successfully", "messageId": "msg_123456789"}'
    )


def test_refused_recipients_among_others_are_listed() -> None:
    refused = rpc.status_of(Refusal(Reason.RECIPIENT_SUPPRESSED, "c@d.example is suppressed for this account"))
    answer = injection_service_pb2.SubmitMessageResponse(
        message_id=7,
        results=[
            injection_service_pb2.RecipientResult(recipient="a@b.example", recipient_id=7),
            injection_service_pb2.RecipientResult(recipient="c@d.example", status=refused),
        ],
    )
    assert shapes.sent(answer)["failed"] == [
        {"to": "c@d.example", "message": "c@d.example is suppressed for this account"}
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_any_document_gives_a_request_or_a_400(data: st.DataObject) -> None:
    with_files = {**SEND, "attachments": [{"filename": "f", "content": ""}]}
    sample, build = data.draw(st.sampled_from([(SUB_USER, tenant), (TRANSFER, transfer), (with_files, message)]))
    document = dict(sample)
    for field in data.draw(st.sets(st.sampled_from(sorted(sample)), max_size=3)):
        document[field] = data.draw(VALUES)
    try:
        build(**document)
    except Problem as problem:
        assert problem.status == 400
        assert re.match("|".join(map(re.escape, sample)), problem.message)
