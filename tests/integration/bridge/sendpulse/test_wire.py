"""What the client libraries put on the wire, octet by octet, each in its own encoding: all of it is understood."""

import base64
import http.client
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import httpx
import pytest

from mta.message.ids import from_sendpulse
from tests.integration.bridge.sendpulse.conftest import Account, address
from tests.support.received import Received
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

FORM = "application/x-www-form-urlencoded"
NAME = "Ünïcode 😀"
"""Its length is 10 characters, 11 UTF-16 units and 14 octets."""


def octets(text: str) -> int:
    return len(text.encode())


def utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def php(value: Any, length: Callable[[str], int] = octets) -> str:
    """PHP's ``serialize``; ``length`` is how the client's language counts."""
    match value:
        case None:
            return "N;"
        case bool():
            return f"b:{int(value)};"
        case int():
            return f"i:{value};"
        case float():
            return f"d:{value};"
        case str():
            return f's:{length(value)}:"{value}";'
        case list():
            return php(dict(enumerate(value)), length)
        case _:
            items = "".join(php(key, length) + php(item, length) for key, item in value.items())
            return f"a:{len(value)}:{{{items}}}"


class Wire:
    """Requests as octets."""

    def __init__(self, stack: Stack, account: Account) -> None:
        self.host, _, port = stack.options.bridge.listen.rpartition(":")
        self.port = int(port)
        self.account = account

    def exchange(self, method: str, target: str, body: bytes | str = b"", *fields: str) -> tuple[int, Any]:
        """The status and the JSON of the answer. Fields of the head are as given, and those that each request needs."""
        content = body.encode() if isinstance(body, str) else body
        head = [f"{method} {target} HTTP/1.1", f"Host: {self.host}:{self.port}", *fields]
        if not any(field.lower().startswith("authorization") for field in fields):
            head.append(f"Authorization: Bearer {self.account.key}")
        if content or method == "POST":
            head.append(f"Content-Length: {len(content)}")
        waits = any(field.lower().startswith("expect") for field in fields)
        with socket.create_connection((self.host, self.port), timeout=60) as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            if waits:
                assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            connection.sendall(content)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            return response.status, json.loads(response.read())

    def form(self, method: str, target: str, *fields: str, **values: str) -> tuple[int, Any]:
        """The same with a form."""
        return self.exchange(method, target, urlencode(values), f"Content-Type: {FORM}", *fields)


@pytest.fixture
def wire(stack: Stack, account: Account) -> Wire:
    """To this server, as the account."""
    return Wire(stack, account)


@pytest.fixture
def delivered(sink: RecordingSink) -> Callable[[tuple[int, Any], str], Received]:
    """Checks the answer to a send, and gives what arrived."""

    def check(answer: tuple[int, Any], recipient: str) -> Received:
        status, body = answer
        assert (status, body.get("result")) == (200, True), body
        found = wait_until(lambda: [one for one in sink.received if recipient in one.recipients], "it arrives")
        assert found[0].headers("To") == [f"{NAME} <{recipient}>"]
        assert found[0].headers("Subject") == [f"Betreff: {NAME}"]
        return found[0]

    return check


def email(account: Account, recipient: str, **fields: Any) -> dict[str, Any]:
    return account.email(subject=f"Betreff: {NAME}", to=[{"name": NAME, "email": recipient}], **fields)


Delivered = Callable[[tuple[int, Any], str], Received]


def test_python(wire: Wire, delivered: Delivered) -> None:
    """JSON text in JSON; a GET whose query is JSON text, also with the characters that ``requests`` leaves alone."""
    recipient = address("a+b")
    body = json.dumps({"email": json.dumps(email(wire.account, recipient))})
    delivered(wire.exchange("POST", "/smtp/emails", body, "Content-Type: application/json"), recipient)
    query = json.dumps({"limit": 0, "offset": 0, "from": None, "to": None, "sender": None, "recipient": recipient})
    target = "/smtp/emails?" + quote(query, safe="!#$%&'()*+,/:;=?@[]~")
    wait_until(lambda: wire.exchange("GET", target)[1], "it is listed")
    status, rows = wire.exchange("GET", target, "", "Content-Type: application/json")
    assert (status, [row["recipient"] for row in rows]) == (200, [recipient])
    assert wire.exchange("GET", "/smtp/senders?%7B%7D")[0] == 200


def test_npm(wire: Wire, delivered: Delivered) -> None:
    """PHP text in JSON, and JSON bodies on GET and DELETE."""
    recipient, unwanted = address(), address()
    body = json.dumps({"email": php(email(wire.account, recipient))})
    delivered(wire.exchange("POST", "/smtp/emails", body, "Content-Type: application/json"), recipient)
    wanted = {"limit": 1, "offset": 0, "recipient": recipient, "from": "", "to": ""}
    rows = wait_until(lambda: wire.exchange("GET", "/smtp/emails", json.dumps(wanted))[1], "it is listed")
    assert [row["recipient"] for row in rows] == [recipient]
    assert wire.exchange("GET", "/smtp/senders", "{}")[0] == 200
    added = json.dumps({"emails": php([{"email": unwanted, "comment": "no 😀"}])})
    assert wire.exchange("POST", "/smtp/unsubscribe", added) == (200, {"result": True})
    assert wire.exchange("GET", "/smtp/unsubscribe/search", json.dumps({"email": unwanted})) == (200, {"result": True})
    removed = json.dumps({"emails": php([unwanted])})
    assert wire.exchange("DELETE", "/smtp/unsubscribe", removed) == (200, {"result": True})
    assert wire.exchange("GET", f"/smtp/unsubscribe/search?email={unwanted}") == (200, {"result": False})


def test_php_1(wire: Wire, delivered: Delivered) -> None:
    """Forms with PHP text, and double slashes."""
    recipient, unwanted = address(), address()
    given = email(wire.account, recipient, attachments={"a.txt": "ä"}, auto_plain_text=False)
    received = delivered(wire.form("POST", "//smtp/emails", email=php(given)), recipient)
    assert [file.get_content() for file in received.message.iter_attachments()] == ["ä"]
    assert wire.form("POST", "//smtp/unsubscribe", emails=php([{"email": unwanted}]))[0] == 200
    assert wire.exchange("GET", "//smtp/unsubscribe?limit=0&offset=0")[0] == 200
    assert wire.form("DELETE", "//smtp/unsubscribe", emails=php([unwanted])) == (200, {"result": True})
    credentials = {"client_id": wire.account.client_id, "client_secret": wire.account.client_secret}
    status, token = wire.form(
        "POST", "//oauth/access_token", "Authorization: Bearer old", grant_type="client_credentials", **credentials
    )
    assert (status, token["token_type"], token["expires_in"]) == (200, "Bearer", 3600)
    assert wire.exchange("GET", "//smtp/emails/total", "", f"Authorization: Bearer {token['access_token']}")[0] == 200


def test_php_2(wire: Wire, delivered: Delivered) -> None:
    """Objects, and an empty array where there are no parameters; no attachments are an empty array, too."""
    recipient = address()
    given = email(wire.account, recipient, attachments=[], attachments_binary=[])
    delivered(wire.exchange("POST", "/smtp/emails", json.dumps({"email": given})), recipient)
    domain = "//v2/email-service/smtp/sender_domains/php2.example.test"
    assert wire.exchange("POST", domain, "[]", "Content-Type: application/json")[0] == 200
    assert wire.exchange("GET", "/smtp/emails?limit=0&offset=0&country=off")[0] == 200


def test_php_3(wire: Wire) -> None:
    """A bare array as the body, and a POST with an empty chunked one."""
    unwanted = address()
    assert wire.exchange("POST", "/smtp/unsubscribe", json.dumps([{"email": unwanted}])) == (200, {"result": True})
    assert wire.exchange("DELETE", "/smtp/unsubscribe", json.dumps([unwanted])) == (200, {"result": True})
    assert wire.exchange("POST", "/smtp/emails/info", '{"emails":["pzkic9-0afezp-fc"]}')[0] == 400
    domain = "/v2/email-service/smtp/sender_domains/php3.example.test"
    with socket.create_connection((wire.host, wire.port), timeout=60) as connection:
        head = f"POST {domain} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {wire.account.key}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        assert json.loads(response.read()) == {"data": {"result": True, "error": None}}


def test_go(wire: Wire, delivered: Delivered) -> None:
    """Objects with a final newline; what is not used is null. A message can be asked for by its number only."""
    recipient = address()
    given = {**email(wire.account, recipient), "template": None, "cc": None, "bcc": None, "attachments": None}
    body = json.dumps({"email": given}) + "\n"
    delivered(answer := wire.exchange("POST", "/smtp/emails", body, "Content-Type: application/json"), recipient)

    def look() -> dict[str, Any]:
        status, found = wire.exchange("GET", f"/smtp/emails/{answer[1]['id']}")
        return found if status == 200 else {}

    found = wait_until(look, "it is known")
    number = from_sendpulse(found["id"])
    assert wire.exchange("GET", f"/smtp/emails/{number}")[1]["id"] == found["id"]
    assert wire.exchange("POST", "/smtp/emails/info", json.dumps({"emails": [number]}))[1][0]["id"] == found["id"]


def test_ruby(wire: Wire, delivered: Delivered) -> None:
    """Forms with JSON text; Base64 in lines of 60 characters."""
    recipient, unwanted = address(), address()
    html = base64.b64encode(b"<p>Example text that is longer than a line of sixty characters.</p>").decode()
    lines = "".join(f"{html[at : at + 60]}\n" for at in range(0, len(html), 60))
    given = email(wire.account, recipient, html=lines)
    received = delivered(wire.form("POST", "/smtp/emails", email=json.dumps(given)), recipient)
    part = received.message.get_body(("html",))
    assert part is not None and "sixty characters.</p>" in part.get_content()
    assert isinstance(wire.exchange("GET", "//smtp/emails")[1], list)
    assert wire.form("POST", "/smtp/unsubscribe", emails=json.dumps([{"email": unwanted}])) == (200, {"result": True})
    assert wire.form("DELETE", "/smtp/unsubscribe", emails=json.dumps([unwanted])) == (200, {"result": True})


def test_java(wire: Wire, delivered: Delivered) -> None:
    """Forms with PHP text; other names of dates; an empty query; an offer of HTTP/2."""
    recipient = address()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    answer = wire.form("POST", "/smtp/emails", *offer, email=php(email(wire.account, recipient)))
    delivered(answer, recipient)
    assert wire.exchange("GET", "/smtp/emails?")[0] == 200
    dates = "/smtp/emails?limit=5&offset=0&fromDate=2001-01-01&toDate=2001-01-02&sender=&recipient="
    assert wire.exchange("GET", dates) == (200, [])
    assert wire.exchange("GET", "/smtp/emails?from_date=2001-01-01&to_date=2001-01-02") == (200, [])


def test_csharp(wire: Wire, delivered: Delivered) -> None:
    """Forms with JSON text, which wait for 100 Continue."""
    recipient = address()
    given = json.dumps(email(wire.account, recipient))
    delivered(wire.form("POST", "/smtp/emails", "Expect: 100-continue", email=given), recipient)
    today = "/smtp/emails?limit=5&offset=0&from=2001-01-01&to=2001-01-01"
    assert wire.exchange("GET", today) == (200, [])


def test_objective_c(wire: Wire, delivered: Delivered) -> None:
    """Forms with PHP text whose lengths are UTF-16 units, as ``NSString`` counts."""
    recipient, unwanted = address(), address()
    given = php(email(wire.account, recipient), utf16_units)
    assert given != php(email(wire.account, recipient))
    delivered(wire.form("POST", "/smtp/emails", email=given), recipient)
    added = php([{"email": unwanted, "comment": NAME}], utf16_units)
    assert wire.form("POST", "/smtp/unsubscribe", emails=added) == (200, {"result": True})


def test_form_brackets_and_other_forms(wire: Wire, delivered: Delivered) -> None:
    recipient = address()
    given = email(wire.account, recipient)
    fields = {f"email[{name}]": given[name] for name in ("html", "text", "subject")}
    fields |= {"email[from][email]": given["from"]["email"], "email[from][name]": "n"}
    fields |= {"email[to][0][name]": NAME, "email[to][0][email]": recipient, "email[auto_plain_text]": "false"}
    delivered(wire.form("POST", "/smtp/emails", **fields), recipient)
    boundary = "------------------------d74496d66958873e"
    parts = {"grant_type": "client_credentials", "client_id": wire.account.client_id}
    parts["client_secret"] = wire.account.client_secret
    body = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    )
    kind = f"Content-Type: multipart/form-data; boundary={boundary}"
    status, answer = wire.exchange("POST", "/oauth/access_token", f"{body}--{boundary}--\r\n", kind)
    assert (status, answer["token_type"]) == (200, "Bearer")


def test_json_whatever_it_is_called(wire: Wire, delivered: Delivered) -> None:
    for kind in (FORM, "text/plain", "application/json; charset=utf-8", "multipart/form-data; boundary=x"):
        recipient = address()
        body = "\n " + json.dumps({"email": email(wire.account, recipient)})
        delivered(wire.exchange("POST", "/smtp/emails", body, f"Content-Type: {kind}"), recipient)


def test_addresses_in_paths_may_be_encoded(wire: Wire) -> None:
    for name in ("bücher.example.test", quote("bücher2.example.test"), quote_plus("{{braces.example.test}}")):
        target = f"/v2/email-service/smtp/sender_domains/{name}".encode()
        answer = httpx.post(
            f"http://{wire.host}:{wire.port}{target.decode()}", headers=wire.account.headers, timeout=60
        )
        assert answer.json() == {"data": {"result": True, "error": None}}, name
