"""What is told of messages, lists, templates and domains; and the mail that the dialect causes by itself."""

import base64
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest

from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from tests.integration.bridge.sendpulse.conftest import Account, address
from tests.support.dns import DnsServer
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until, wait_until_steady

ID = re.compile(r"[0-9a-z]{6}-[0-9a-z]{6}-[0-9a-z]{2}")
EMAIL_TYPES: dict[str, type] = {
    "id": str,
    "sender": str,
    "total_size": int,
    "sender_ip": str,
    "smtp_answer_code": int,
    "smtp_answer_code_explain": str,
    "smtp_answer_subcode": str,
    "smtp_answer_data": str,
    "used_ip": str,
    "recipient": str,
    "subject": str,
    "send_date": str,
    "tracking": dict,
}
LANGUAGES = {"ru": "снова", "en": "again", "ua": "знову", "tr": "yeniden", "es": "volver", "pt": "voltar"}


def send(client: httpx.Client, account: Account, **fields: Any) -> str:
    answer = client.post("/smtp/emails", json={"email": account.email(**fields)})
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"result", "id"}
    return str(answer.json()["id"])


def to(*recipients: str) -> list[dict[str, str]]:
    return [{"email": recipient} for recipient in recipients]


def rows(client: httpx.Client, count: int, path: str = "/smtp/emails", /, **query: Any) -> list[dict[str, Any]]:
    """The list, once it has so many rows."""

    def look() -> list[dict[str, Any]]:
        found = client.get(path, params=query).json()
        return found if len(found) == count else []

    return wait_until(look, f"{count} rows")


def finished(client: httpx.Client, id_: str) -> dict[str, Any]:
    """The record, once it is not waiting any more."""

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/smtp/emails/{id_}")
        return answer.json() if answer.status_code == 200 and answer.json()["smtp_answer_code"] else None

    return wait_until(look, f"{id_} is finished") or pytest.fail("unreachable")


def received_by(sink: RecordingSink, recipient: str, nth: int = 1) -> Received:
    return wait_until(
        lambda: [one for one in sink.received if recipient in one.recipients][nth - 1 :], f"{recipient} has mail"
    )[0]


def text_of(received: Received, kind: str = "plain") -> str:
    part = received.message.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content


def check_record(record: dict[str, Any]) -> None:
    assert {name: type(value) for name, value in record.items()} == EMAIL_TYPES
    assert ID.fullmatch(record["id"])
    datetime.strptime(record["send_date"], "%Y-%m-%d %H:%M:%S")
    assert isinstance(record["tracking"]["link"], list) and isinstance(record["tracking"]["client_info"], list)


def test_several_recipients_have_one_id(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    first, second, copy, blind = (address(word) for word in ("to1", "to2", "cc", "bcc"))
    subject = f"subject {uuid.uuid4().hex}"
    cc_in_two_alphabets = {"\u0441\u0441": to(copy), "cc": []}
    id_ = send(client, account, to=to(first, second), bcc=to(blind, first), subject=subject, **cc_in_two_alphabets)
    for recipient in (first, second, copy, blind):
        received = received_by(sink, recipient)
        assert (received.headers("To"), received.headers("Cc")) == ([f"{first}, {second}"], [copy])
        assert (blind.encode() in received.content) == (recipient == blind)
    found = [finished(client, id_)]
    found += [rows(client, 1, recipient=recipient)[0] for recipient in (second, copy, blind)]
    assert [row["recipient"] for row in found] == [first, second, copy, blind]
    assert len({row["id"] for row in found}) == 4 and found[0]["id"] == id_
    for row in found:
        check_record(row)
        assert (row["sender"], row["subject"], row["sender_ip"]) == (account.sender, subject, "127.0.0.1")


def test_a_suppressed_recipient_is_dropped_silently(
    make_account: Callable[..., Account], sink: RecordingSink, stack: Stack
) -> None:
    gone, here, account = address("gone"), address("here"), make_account()
    early: list[str] = []
    with httpx.Client(base_url=stack.bridge_url, timeout=60, headers=account.headers) as client:
        client.post("/smtp/unsubscribe", json={"emails": [{"email": gone, "comment": "left"}]})

        def dropped() -> bool:
            answer = client.post("/smtp/emails", json={"email": account.email(to=to(gone))})
            if answer.status_code != 200:
                return False
            if finished(client, answer.json()["id"])["smtp_answer_code"] != 550:
                early.append(answer.json()["id"])
                return False
            return True

        wait_until_steady(dropped, "the suppression is in force")
        id_ = send(client, account, to=to(gone, here))
        record = finished(client, id_)
        check_record(record)
        assert (record["recipient"], record["smtp_answer_code"], record["smtp_answer_subcode"]) == (gone, 550, "0")
        assert "unsubscribe list" in record["smtp_answer_code_explain"] and gone in record["smtp_answer_data"]
        received_by(sink, here)
        assert gone not in client.get("/smtp/bounces/day", params={"limit": 100}).text
    stack.wait_until_empty()
    consumed = len(early) + 1
    wait_until(lambda: stack.operator.balance(account.tenant).consumed == consumed, "one credit is consumed")


def test_bounces(client: httpx.Client, account: Account, stack: Stack) -> None:
    total = client.get("/smtp/bounces/day/total").json()["total"]
    recipient = address("reject-550")
    record = finished(client, send(client, account, to=to(recipient)))
    assert (record["smtp_answer_code"], record["smtp_answer_code_explain"]) == (550, "Bounced")
    # Its sender is told of it, who cannot be reached; that is none of the account's messages.
    wait_until(
        lambda: any(not one.sender and one.state > 1 for one in stack.operator.history(account.tenant)),
        "the notification has failed, too",
    )
    assert client.get("/smtp/bounces/day/total").json() == {"total": total + 1}
    assert all(row["sender"] for row in client.get("/smtp/emails").json())
    answer = client.get("/smtp/bounces/day", params={"limit": 0, "offset": 0}).json()
    assert (answer["total"], answer["request_limit"], answer["found"]) == (total + 1, 100, len(answer["emails"]))
    row = answer["emails"][0]
    assert row.pop("email_to") == recipient
    check_record(row)
    assert (row["id"], row["smtp_answer_subcode"]) == (record["id"], "5.1.1")
    now = datetime.now(UTC)
    days = {day: client.get("/smtp/bounces/day", params={"date": f"{now - timedelta(day):%Y-%m-%d}"}) for day in (0, 1)}
    assert sum(answer.json()["total"] for answer in days.values()) == total + 1
    empty = client.get("/smtp/bounces/day", params={"date": "2001-01-01"}).json()
    assert empty == {"total": 0, "emails": [], "request_limit": 100, "found": 0}


def test_lists_are_paged_newest_first(make_account: Callable[..., Account], stack: Stack) -> None:
    account = make_account()
    with httpx.Client(base_url=stack.bridge_url, timeout=60, headers=account.headers) as client:
        wait_until(
            lambda: client.post("/smtp/emails", json={"email": account.email()}).status_code == 200, "it can send"
        )
        ids = [send(client, account, subject=f"n{number}") for number in range(4)]
        found = rows(client, 5)
        assert [row["id"] for row in found[:4]] == ids[::-1]
        assert [row["id"] for row in client.get("/smtp/emails?limit=2&offset=1").json()] == ids[2:0:-1]
        assert client.get("/smtp/emails?limit=5&offset=100000").json() == []
        assert client.get("/smtp/emails/total").json() == {"total": 5}
        wanted = client.post("/smtp/emails/info", json={"emails": [ids[2], "unknown", ids[0], ids[2]]}).json()
        assert [row["id"] for row in wanted] == [ids[2], ids[0]]
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        dates = {"from": f"{datetime.now(UTC) - timedelta(1):%Y-%m-%d %H:%M:%S}", "to": today}
        assert len(client.get("/smtp/emails", params=dates).json()) == 5
        assert client.get("/smtp/emails", params={"to": "2001-01-01"}).json() == []
        assert len(client.get("/smtp/emails", params={"sender": account.sender.upper()}).json()) == 5
        for name, value in (("limit", "x"), ("offset", "-1"), ("from", "yesterday"), ("to", "2026-02-30")):
            answer = client.get("/smtp/emails", params={name: value})
            assert (answer.status_code, answer.json()["message"]) == (422, f"Argument {name} is invalid")


def test_tracking(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    one, two = address("one"), address("two")
    html = base64.b64encode(b'<p><a href="http://www.example.net/x?a=1&amp;b=2">link</a></p>').decode()
    id_ = send(client, account, html=html, to=to(one, two))
    bodies = [text_of(received_by(sink, recipient), "html") for recipient in (one, two)]
    link, other = (re.search(r'href="([^"]+/t/c/[^"]+)"', body) for body in bodies)
    picture = re.search(r'src="([^"]+/t/o/[^"]+)"', bodies[0])
    assert link and other and picture and link[1] != other[1], "each has links of its own"
    agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/29.0.1547.57 Safari/537.36"}
    assert httpx.get(picture[1], headers=agent).status_code == 200
    assert httpx.get(link[1], headers=agent).headers["location"] == "http://www.example.net/x?a=1&b=2"

    def tracked() -> Any:
        tracking = client.get(f"/smtp/emails/{id_}").json().get("tracking", {})
        return tracking if tracking.get("open") and tracking.get("click") else None

    tracking = wait_until(tracked, "both are told of")
    assert (tracking["open"], tracking["click"]) == (1, 1)
    (click,), (opened,) = tracking["link"], tracking["client_info"]
    assert (click["url"], click["browser"], click["os"]) == (
        "http://www.example.net/x?a=1&b=2",
        "Chrome 29.0.1547.57",
        "Linux",
    )
    assert click.keys() == {"url", "browser", "os", "screen_resolution", "ip", "country", "action_date"}
    assert opened.keys() == {"browser", "os", "ip", "country", "action_date"}
    without = client.get("/smtp/emails", params={"recipient": one, "country": "off"}).json()[0]["tracking"]
    assert "country" not in without["link"][0] and "country" not in without["client_info"][0]
    assert client.get("/smtp/emails", params={"recipient": two}).json()[0]["tracking"]["open"] == 0


def test_unsubscribing_by_link(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    """By the button of a mail program (RFC 8058), and by the link in the text."""
    button, link = address("button"), address("link")
    send(client, account, to=to(button, link), html=None, text="Enough? {{unsubscribe_url}}")
    urls = {recipient: received_by(sink, recipient).headers("List-Unsubscribe") for recipient in (button, link)}
    assert received_by(sink, button).headers("List-Unsubscribe-Post") == ["List-Unsubscribe=One-Click"]
    found = re.search(r"http\S+/t/u/\S+", text_of(received_by(sink, link)))
    assert found is not None and urls[link] == [f"<{found[0]}>"] != urls[button]
    assert httpx.get(found[0].replace("/t/u/", "/t/r/")).status_code == 400, "a token is good for one purpose"
    for url in (urls[button][0].strip("<>"), found[0]):
        assert httpx.post(url, data={"List-Unsubscribe": "One-Click"}).status_code == 200

    def listed() -> bool:
        rows = {row["email"]: row for row in client.get("/smtp/unsubscribe").json()}
        return all(rows.get(who, {}).get("unsubscribe_by_link") == 1 for who in (button, link))

    wait_until(listed, "both are on the list")


def test_plain_text_is_made_only_if_asked_for(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    recipients = [address() for _ in range(4)]
    for recipient, flag in zip(recipients, (None, False, True, "1"), strict=True):
        send(client, account, to=to(recipient), text=None, auto_plain_text=flag)
    kinds = [received_by(sink, recipient).message.get_content_type() for recipient in recipients]
    assert kinds == ["text/html", "text/html", "multipart/alternative", "multipart/alternative"]
    assert text_of(received_by(sink, recipients[2])).strip() == "Example text"


def test_bodies_and_files_as_clients_write_them(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    raw = address("raw")
    send(client, account, to=to(raw), html="<p>not encoded: ü</p>", text="")
    assert text_of(received_by(sink, raw), "html").startswith("<p>not encoded: ü</p>")
    large = address("large")
    send(client, account, to=to(large), html=base64.b64encode(b"<p>large</p>" * 10_000).decode())
    assert text_of(received_by(sink, large), "html").startswith("<p>large</p>")
    odd = address("odd")
    unpadded = base64.urlsafe_b64encode("<p>ÿþ~~?></p>".encode()).decode().rstrip("=")
    files = {"a.bin": "AAEC\r\n/w", "b.bin": "_-8"}
    send(client, account, to={"email": odd}, html=unpadded, attachments_binary=files, reply_to={"email": raw})
    received = received_by(sink, odd)
    assert text_of(received, "html").startswith("<p>ÿþ~~?></p>")
    parts = {part.get_filename(): part.get_payload(decode=True) for part in received.message.iter_attachments()}
    assert parts == {"a.bin": b"\x00\x01\x02\xff", "b.bin": b"\xff\xef"}
    assert received.headers("Reply-To") == [raw]


def test_templates(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    name, body = f"Welcome {uuid.uuid4().hex}", "<h1>{{ name }} {{name}}</h1>"
    made = client.post(
        "/template", json={"name": name, "body": base64.b64encode(body.encode()).decode(), "lang": "en"}
    ).json()
    assert made.keys() == {"result", "real_id"} and made["result"] is True
    listed = next(row for row in client.get("/templates").json() if row["real_id"] == made["real_id"])
    read = client.get(f"/template/{listed['id']}").json()
    assert read == {**listed, "body": body} == client.get(f"/template/{made['real_id']}").json()
    assert (read["name"], read["lang"], read["tags"], read["mark_count"]) == (name, "en", {}, 0)
    assert read["is_structured"] is False  # this, and an object and an address for the next two, another client needs
    assert read["category_info"].keys() == {"id", "name", "meta_description", "full_description", "code", "sort"}
    assert client.get(read["preview"]).json() == read
    datetime.strptime(read["created"], "%Y-%m-%d %H:%M:%S")
    changed = base64.b64encode(b'<p>{{code}}</p><a href="{{unsubscribe_url}}">x</a>').decode()
    assert client.post(f"/template/edit/{listed['id']}", json={"body": changed}).json()["result"] is True
    for id_ in (listed["id"], made["real_id"], str(made["real_id"])):
        recipient = address()
        template = {"id": id_, "variables": {"code": 123456}}
        send(client, account, to=to(recipient), html="", text=None, template=template)
        start = f'<p>123456</p><a href="{httpx.URL(str(client.base_url))}'.rstrip("/") + "/t/u/"
        assert text_of(received_by(sink, recipient), "html").startswith(start)
    assert client.get("/templates", params={"owner": "sendpulse"}).json() == []


def test_the_unsubscribe_list(client: httpx.Client, make_account: Callable[..., Account], stack: Stack) -> None:
    account = make_account()
    with httpx.Client(base_url=stack.bridge_url, timeout=60, headers=account.headers) as client:
        addresses = [address() for _ in range(4)]
        body = [{"email": addresses[0].upper(), "comment": 5}, addresses[1], {"email": addresses[2], "comment": "a\nb"}]
        assert client.post("/smtp/unsubscribe", json={"emails": body}).json() == {"result": True}
        stack.operator.suppress(account.tenant, addresses[3])
        found = rows(client, 4, "/smtp/unsubscribe")
        assert {row["email"] for row in found} == set(addresses) and found[3]["email"] == addresses[3]
        assert found[0] == {
            "email": found[0]["email"],
            "unsubscribe_by_link": 0,
            "unsubscribe_by_user": 1,
            "spam_complaint": 0,
            "date": found[0]["date"],
        }
        datetime.strptime(found[0]["date"], "%Y-%m-%d %H:%M:%S")
        assert client.get("/smtp/unsubscribe?limit=2&offset=1").json() == found[1:3]
        day = found[0]["date"][:10]
        assert client.get("/smtp/unsubscribe", params={"date": day}).json() == found
        assert client.get("/smtp/unsubscribe", params={"date": "2001-01-01"}).json() == []
        answer = client.request("DELETE", "/smtp/unsubscribe", params={"emails": f'["{addresses[0]}"]'})
        assert answer.json() == {"result": True}, "some proxies drop the body of a DELETE"
        assert {row["email"] for row in rows(client, 3, "/smtp/unsubscribe")} == set(addresses[1:])
        bad = client.post("/smtp/unsubscribe", json={"emails": [address(), "nobody"]})
        assert (bad.status_code, bad.json()["message"]) == (422, "Argument email is invalid")
        assert len(client.get("/smtp/unsubscribe").json()) == 3, "none or all"


def test_resubscribing(make_account: Callable[..., Account], stack: Stack, sink: RecordingSink) -> None:
    """In each language; the link of the text part takes the address off the list, once."""
    account = make_account()
    with httpx.Client(base_url=stack.bridge_url, timeout=60, headers=account.headers) as client:
        wait_until(
            lambda: client.post("/smtp/emails", json={"email": account.email()}).status_code == 200, "it can send"
        )
        languages = list(LANGUAGES)
        blocked = {language: address(language) for language in languages}
        client.post("/smtp/unsubscribe", json={"emails": list(blocked.values())})
        for language in languages[:5]:
            body = {"email": blocked[language], "sender": account.sender, "lang": language}
            wrong = client.post("/smtp/resubscribe", json={**body, "sender": "a@elsewhere.test"})
            assert wrong.json()["message"] == "Sender is not valid", "what fails does not count"
            answer = client.post("/smtp/resubscribe", json=body)
            assert answer.json().keys() == {"result", "id"}
            received = received_by(sink, blocked[language])
            assert received.headers("From") == [account.sender]
            assert LANGUAGES[language] in received.headers("Subject")[0]
            record = finished(client, answer.json()["id"])
            assert (record["recipient"], record["smtp_answer_code"]) == (blocked[language], 250)
            link = re.search(r"http\S+/t/r/\S+", text_of(received))
            assert link is not None
            assert httpx.head(link[0]).status_code == 200
            search = {"email": blocked[language]}
            assert client.get("/smtp/unsubscribe/search", params=search).json() == {"result": True}
            page = httpx.get(link[0])
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert client.get("/smtp/unsubscribe/search", params=search).json() == {"result": False}
            client.post("/smtp/unsubscribe", json={"emails": [blocked[language]]})
            assert httpx.get(link[0]).status_code == 200
            assert client.get("/smtp/unsubscribe/search", params=search).json() == {"result": True}, "once only"
            assert httpx.get(link[0][:-4] + "AAAA").status_code == 400
        last = client.post("/smtp/resubscribe", json={"email": blocked["pt"], "sender": account.sender, "lang": "pt"})
        assert last.json() == {"message": "No more than 5 are allowed per day", "error_code": 422}


def test_only_the_platform_sends_to_who_unsubscribed(stack: Stack, account: Account) -> None:
    request = injection_service_pb2.SubmitMessageRequest(
        sender=account.sender, recipients=[address()], content=b"Subject: x\r\n\r\nx\r\n", despite_suppression=True
    )
    with pytest.raises(grpc.RpcError) as caught:
        InjectionServiceStub(stack.operator.node).SubmitMessage(
            request, timeout=60, metadata=(("authorization", f"Bearer {account.key}"),)
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_sender_domains(client: httpx.Client, account: Account, stack: Stack, dns: DnsServer) -> None:
    name = f"{uuid.uuid4().hex[:8]}.example.test"
    path = "/v2/email-service/smtp/sender_domains"
    dns.set_text(f"_dmarc.{name}", "v=DMARC1; p=none")
    assert client.post(f"{path}/{name}").json() == {"data": {"result": True, "error": None}}
    own, added = (
        next(row for row in client.get(path).json()["data"]["data"] if row["service_value"] == wanted)
        for wanted in (account.domain, name)
    )
    assert (own["status"], own["is_default"], added["status"], added["is_default"]) == (1, True, 0, False)
    needed = added["checks"].pop("spf_txt_needed")
    assert needed.startswith("v=spf1 ")
    assert added["checks"] == {"check_dkim": False, "check_spf": False, "check_dmarc": True, "all_checks": False}
    assert (added["service_type"], added["expire_date"], added["ssl_type"]) == (3, None, 0)
    assert added["user_id"] == own["user_id"] > 0
    for record in stack.operator.domain(account.tenant, name).dns_records:
        if record.type == "TXT":
            dns.set_text(record.owner, record.data)
    again = client.post(f"{path}/{name}").json()
    assert again == {"data": {"result": False, "error": "The domain already exists"}}
    added = next(row for row in client.get(path).json()["data"]["data"] if row["service_value"] == name)
    assert (added["status"], added["checks"]["all_checks"]) == (1, True)
    bad = client.post(f"{path}/not a domain").json()
    assert bad == {"data": {"result": False, "error": "The domain name is invalid"}}
    assert f"@{name}" in client.get("/smtp/domains").json()


def test_a_repeated_send_with_a_key_is_sent_once(client: httpx.Client, account: Account, sink: RecordingSink) -> None:
    recipient = address()
    body, key = {"email": account.email(to=to(recipient))}, {"Idempotency-Key": uuid.uuid4().hex}
    answers = {client.post("/smtp/emails", json=body, headers=key).text for _ in range(3)}
    assert len(answers) == 1
    other = client.post("/smtp/emails", json={"email": account.email()}, headers=key)
    assert (other.status_code, other.json()["error_code"]) == (409, 409)
    received_by(sink, recipient)
    assert len(client.get("/smtp/emails", params={"recipient": recipient}).json()) <= 1
    assert sum(recipient in one.recipients for one in sink.received) == 1
