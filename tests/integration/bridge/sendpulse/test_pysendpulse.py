"""PyPI's ``pysendpulse`` 0.1.8, unmodified, with only the host changed: every method it has, against a live server."""

import base64
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pysendpulse.pysendpulse import PySendPulse

from barua.control.v1 import domain_pb2, domain_service_pb2
from barua.control.v1.domain_service_pb2_grpc import DomainServiceStub

from tests.integration.bridge.sendpulse.conftest import Account, address
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore")  # it uses deprecated functions of its own

OTHER_PRODUCTS: dict[str, tuple[Any, ...]] = {
    "get_balance": ("USD",),
    "add_addressbook": ("book",),
    "edit_addressbook": (1, "name"),
    "delete_addressbook": (1,),
    "get_list_of_addressbooks": (),
    "get_addressbook_info": (1,),
    "get_addressbook_variables": (1,),
    "get_emails_from_addressbook": (1,),
    "add_emails_to_addressbook": (1, [{"email": "a@example.net"}]),
    "delete_emails_from_addressbook": (1, ["a@example.net"]),
    "get_emails_stat_by_campaigns": (["a@example.net"],),
    "set_variables_for_email": (1, "a@example.net", [{"name": "n", "value": "v"}]),
    "get_campaign_cost": (1,),
    "get_list_of_campaigns": (),
    "get_campaign_info": (1,),
    "get_campaign_stat_by_countries": (1,),
    "get_campaign_stat_by_referrals": (1,),
    "cancel_campaign": (1,),
    "get_email_info_from_one_addressbooks": (1, "a@example.net"),
    "get_email_info_from_all_addressbooks": ("a@example.net",),
    "delete_email_from_all_addressooks": ("a@example.net",),
    "get_email_statistic_by_campaigns": ("a@example.net",),
    "get_emails_in_blacklist": (),
    "push_get_tasks": (),
    "push_get_websites": (),
    "push_count_websites": (),
    "push_get_variables": (1,),
    "push_get_subscriptions": (1,),
    "push_count_subscriptions": (1,),
    "push_set_subscription_state": (1, 1),
    "push_create": ("title", 1, "body", 60),
    "sms_add_phones": (1, ["380000000000"]),
    "sms_add_phones_with_variables": (1, {"380000000000": []}),
    "sms_delete_phones": (1, ["380000000000"]),
    "sms_get_phone_info": (1, "380000000000"),
    "sms_update_phones_variables": (1, ["380000000000"], {"a": "b"}),
    "sms_get_blacklist": (),
    "sms_get_phones_info_from_blacklist": (["380000000000"],),
    "sms_add_phones_to_blacklist": (["380000000000"], "comment"),
    "sms_delete_phones_from_blacklist": (["380000000000"],),
    "sms_add_campaign": ("sender", 1, "body"),
    "sms_send": ("sender", ["380000000000"], "body"),
    "sms_add_campaign_by_addressbook_id": ("sender", 1, "body"),
    "sms_add_campaign_by_phones": ("sender", ["380000000000"], "body"),
    "sms_get_list_campaigns": ("2026-01-01", "2026-01-02"),
    "sms_get_campaign_info": (1,),
    "sms_cancel_campaign": (1,),
    "sms_get_campaign_cost": ("sender", "body", 1),
    "sms_delete_campaign": (1,),
    "send_event": ("name", {"email": "a@example.net"}),
}
"""Methods of products that are not mail sent one by one: there is nothing at their paths."""

BROKEN: dict[str, tuple[Any, ...]] = {
    "add_campaign": ("a@example.net", "name", "subject", "body", 1),
    "add_email_to_blacklist": ("a@example.net",),
    "delete_email_from_blacklist": ("a@example.net",),
}
"""Methods that raise TypeError under Python 3 before they send anything: they encode text as if it were octets."""

SERVED = {
    "get_list_of_senders",
    "add_sender",
    "delete_sender",
    "activate_sender",
    "send_sender_activation_email",
    "smtp_get_list_of_emails",
    "smtp_get_email_info_by_id",
    "smtp_add_emails_to_unsubscribe",
    "smtp_delete_emails_from_unsubscribe",
    "smtp_get_list_of_ip",
    "smtp_get_list_of_allowed_domains",
    "smtp_add_domain",
    "smtp_verify_domain",
    "smtp_send_mail",
    "smtp_send_mail_with_template",
}
"""Methods of ours, each called below."""


@pytest.fixture
def at(stack: Stack) -> Iterator[Callable[..., PySendPulse]]:
    """Makes clients of this server; nothing but the host is changed."""
    name = "_PySendPulse__api_url"
    original = getattr(PySendPulse, name)
    setattr(PySendPulse, name, stack.bridge_url)
    yield PySendPulse
    setattr(PySendPulse, name, original)


@pytest.fixture
def sendpulse(at: Callable[..., PySendPulse], account: Account, tmp_path: Path) -> PySendPulse:
    """A client with a fresh token."""
    return at(account.client_id, account.client_secret, "FILE", f"{tmp_path}/")


@pytest.fixture(scope="module", autouse=True)
def platform(stack: Stack) -> Iterator[None]:
    """A domain of the operator, for codes, and for the mail of senders that have none; other tests do without."""
    operator, stub = stack.operator, DomainServiceStub(stack.operator.control)
    request = domain_service_pb2.CreateDomainRequest(
        parent="tenants/operator",
        domain="platform.test",
        trusted=True,
        settings=domain_pb2.Domain(signs_for_senders=True),
    )
    made = operator.call(stub.CreateDomain, request)
    operator.grant("operator", 10_000)
    yield
    operator.call(stub.DeleteDomain, domain_service_pb2.DeleteDomainRequest(name=made.name))


def message(account: Account, recipient: str, **fields: Any) -> dict[str, Any]:
    """What ``smtp_send_mail`` takes: it encodes ``html`` itself."""
    return {**account.email(to=[{"name": "You", "email": recipient}]), "html": "<p>Привет, <b>you</b></p>", **fields}


def code_mailed_to(sink: RecordingSink, recipient: str, nth: int = 1) -> str:
    """The code in the text part of the ``nth`` message to an address."""
    mailed = wait_until(
        lambda: [one for one in sink.received if recipient in one.recipients][nth - 1 :], f"{recipient} has a code"
    )
    text = mailed[0].message.get_body(("plain",))
    assert text is not None
    found = re.search(r"code: ([\d ]+)", text.get_content())
    assert found is not None
    return found[1]


def test_every_method_is_known() -> None:
    methods = {name for name, _ in inspect.getmembers(PySendPulse, inspect.isfunction) if not name.startswith("_")}
    assert methods == SERVED | OTHER_PRODUCTS.keys() | BROKEN.keys()


def test_what_is_sent_arrives_and_is_told_of(sendpulse: PySendPulse, account: Account, sink: RecordingSink) -> None:
    recipient, other = address(), address("cc")
    sent = sendpulse.smtp_send_mail(
        message(account, recipient, cc=[{"email": other}], attachments={"räport.txt": "Text ü"})
    )
    assert sent.keys() == {"result", "id"} and sent["result"] is True
    assert re.fullmatch(r"[0-9a-z]{6}-[0-9a-z]{6}-[0-9a-z]{2}", sent["id"])
    (received,) = wait_until(lambda: [one for one in sink.received if recipient in one.recipients], "it arrives")
    html = received.message.get_body(("html",))
    assert html is not None and html.get_content().startswith("<p>Привет, <b>you</b></p>")
    assert received.headers("From") == [f"Example name <{account.sender}>"]
    assert (received.headers("To"), received.headers("Cc")) == ([f"You <{recipient}>"], [other])
    (file,) = received.message.iter_attachments()
    assert (file.get_filename(), file.get_content()) == ("räport.txt", "Text ü")

    record = wait_until(
        lambda: (found := sendpulse.smtp_get_email_info_by_id(sent["id"])).get("smtp_answer_code") == 250 and found,
        "the history has it",
    )
    assert (record["id"], record["recipient"], record["sender"]) == (sent["id"], recipient, account.sender)
    assert (record["subject"], record["smtp_answer_code_explain"]) == ("Example subject", "Delivered")
    listed = sendpulse.smtp_get_list_of_emails(limit=10, offset=0, recipient=other, sender=account.sender)
    assert [row["recipient"] for row in listed] == [other]
    assert sendpulse.smtp_get_list_of_emails(date_from="2001-01-01", date_to="2001-01-02") == []
    assert {recipient, other} <= {row["recipient"] for row in sendpulse.smtp_get_list_of_emails()}


def test_a_template_is_sent(
    sendpulse: PySendPulse, account: Account, client: httpx.Client, sink: RecordingSink
) -> None:
    body = base64.b64encode(b"<h1>Hello {{name}}</h1>").decode()
    real_id = client.post("/template", json={"name": f"hello {address()}", "body": body}).json()["real_id"]
    recipient = address()
    template = {"id": real_id, "variables": {"name": "<George>"}}
    sent = sendpulse.smtp_send_mail_with_template(message(account, recipient, template=template))
    assert sent["result"] is True
    (received,) = wait_until(lambda: [one for one in sink.received if recipient in one.recipients], "it arrives")
    assert received.message.get_content_type() == "text/html"
    assert received.message.get_content().startswith("<h1>Hello &lt;George&gt;</h1>")


def test_the_unsubscribe_list(sendpulse: PySendPulse, client: httpx.Client) -> None:
    one, two = address(), address()
    assert sendpulse.smtp_add_emails_to_unsubscribe([{"email": one, "comment": "комментарий"}, {"email": two}]) == {
        "result": True
    }
    assert client.get("/smtp/unsubscribe/search", params={"email": one.upper()}).json() == {"result": True}
    assert sendpulse.smtp_delete_emails_from_unsubscribe([one, two, address()]) == {"result": True}
    assert client.get("/smtp/unsubscribe/search", params={"email": one}).json() == {"result": False}


def test_senders(sendpulse: PySendPulse, account: Account, sink: RecordingSink) -> None:
    sender = address("sender")
    assert sendpulse.add_sender(sender, "Me") == {"result": True}
    code = code_mailed_to(sink, sender)
    row = next(row for row in sendpulse.get_list_of_senders() if row["email"] == sender)
    assert row == {"email": sender, "name": "Me", "status": "Not active", "is_allowed_for_smtp": False}
    assert sendpulse.activate_sender(sender, "00000000")["data"]["http_code"] == 422
    # The code was sent less than a minute ago, so it is not replaced.
    assert sendpulse.send_sender_activation_email(sender) == {"result": True, "email": sender}
    assert sendpulse.activate_sender(sender, code) == {"result": True, "email": sender}
    wait_until(
        lambda: sendpulse.smtp_send_mail(message(account, address()) | {"from": {"email": sender}}).get("result"),
        "it can be sent from",
    )
    assert sendpulse.delete_sender(sender) == {"result": True}
    assert sender not in [row["email"] for row in sendpulse.get_list_of_senders()]


def test_the_older_way_to_add_a_sender(sendpulse: PySendPulse, account: Account, sink: RecordingSink) -> None:
    assert f"@{account.domain}" in sendpulse.smtp_get_list_of_allowed_domains()
    sender = address("domain")
    assert sendpulse.smtp_add_domain(sender) == {"result": True}
    assert code_mailed_to(sink, sender)
    assert sendpulse.smtp_verify_domain(sender) == {"result": True}
    assert sendpulse.smtp_get_list_of_ip() == []


def test_methods_of_other_products_get_a_clean_404(sendpulse: PySendPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[Any] = []
    handle = sendpulse._PySendPulse__handle_result

    def keep(response: Any) -> Any:
        bodies.append(response.json())
        return handle(response)

    monkeypatch.setattr(sendpulse, "_PySendPulse__handle_result", keep)
    for name, arguments in OTHER_PRODUCTS.items():
        answer = getattr(sendpulse, name)(*arguments)
        assert (answer["data"]["is_error"], answer["data"]["http_code"]) == (True, 404), name
        assert isinstance(bodies[-1], dict) and bodies[-1]["message"] == "Not Found", name
    for name, arguments in BROKEN.items():
        with pytest.raises(TypeError):
            getattr(sendpulse, name)(*arguments)


def test_a_token_that_was_read_back_from_its_file(
    at: Callable[..., PySendPulse], account: Account, tmp_path: Path
) -> None:
    """A second process sends the token as ``b'...'``."""
    at(account.client_id, account.client_secret, "FILE", f"{tmp_path}/")
    (file,) = tmp_path.iterdir()
    written = file.read_text()
    second = at(account.client_id, account.client_secret, "FILE", f"{tmp_path}/")
    assert isinstance(second.smtp_get_list_of_emails(), list)
    assert file.read_text() == written, "it had to fetch another token"


def test_an_expired_token_is_replaced(at: Callable[..., PySendPulse], account: Account, tmp_path: Path) -> None:
    at(account.client_id, account.client_secret, "FILE", f"{tmp_path}/")
    (file,) = tmp_path.iterdir()
    file.write_text("bt_long.ago")
    client = at(account.client_id, account.client_secret, "FILE", f"{tmp_path}/")
    assert isinstance(client.smtp_get_list_of_emails(), list)


def test_a_wrong_secret_ends(at: Callable[..., PySendPulse], account: Account, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Could not connect to API"):
        at(account.client_id, "wrong", "FILE", f"{tmp_path}/")


def test_errors_reach_the_caller(sendpulse: PySendPulse, account: Account) -> None:
    answer = sendpulse.smtp_send_mail(message(account, address()) | {"from": {"email": "a@elsewhere.test"}})
    assert answer == {"data": {"is_error": True, "http_code": 422}}
    assert json.loads(json.dumps(sendpulse.smtp_get_email_info_by_id("nothing")))["data"]["http_code"] == 400
