"""What a client writes stays where it belongs: no field of a request makes a header, a part or a recipient."""

import base64
from collections.abc import Iterator
from email import message_from_bytes, policy
from typing import Any

import pytest

from api_bridge import mime
from api_bridge.dialects.sendpulse import sending
from api_bridge.dialects.sendpulse.decoder import Parameters, Undecodable
from api_bridge.fieldtext import FieldError
from api_bridge.problems import Problem

HTML = base64.b64encode(b"<p>x</p>").decode()
EMAIL: dict[str, Any] = {
    "subject": "subject",
    "from": {"name": "name", "email": "a@example.com"},
    "to": [{"name": "name", "email": "to@example.com"}],
    "cc": [{"name": "name", "email": "cc@example.com"}],
    "\u0441\u0441": [{"name": "name", "email": "cc2@example.com"}],
    "bcc": [{"name": "name", "email": "bcc@example.com"}],
    "reply_to": {"name": "name", "email": "reply@example.com"},
    "html": HTML,
    "text": "text",
    "attachments": {"a.txt": "text"},
    "attachments_binary": {"b.bin": HTML},
    "auto_plain_text": False,
}
EVIL = [
    "x\r\nX-Evil: 1",
    "x\nX-Evil: 1",
    "x\rX-Evil: 1",
    "x\u2028X-Evil: 1",
    "x\x85X-Evil: 1",
    "x\x00",
    "x\x0b",
    "\r\n\r\n--=_\r\nX-Evil: 1",
    "=?utf-8?q?x=0D=0AX-Evil:_1?=",
    'x" <evil@example.org>, "y',
    "evil@example.org, to@example.com",
    "<evil@example.org>",
    "to@example.com>\r\nRCPT TO:<evil@example.org",
    "\ufeffx",
    "x" * 1_000,
    "ü" * 500,
    "\u202egnp.exe",
    "; filename=evil.exe",
    '"',
    "\\",
    "a b",
    "../../x",
    "b",
]
TYPES: list[Any] = [None, True, 0, 1.5, [], {}, [[]], [{}], {"email": []}, {"email": {}}, [None], "", " ", "[]", 10**30]
KNOWN = {"from", "subject", "to", "cc", "reply-to", "mime-version", "content-type", "content-transfer-encoding"}
WANTED = {"to@example.com", "cc@example.com", "cc2@example.com", "bcc@example.com"}


def variants(values: list[Any]) -> Iterator[dict[str, Any]]:
    """The message with each of its parts, and each name of a file, replaced in turn."""
    for name, value in EMAIL.items():
        for evil in values:
            yield {**EMAIL, name: evil}
            if isinstance(value, dict):
                for key in value:
                    yield {**EMAIL, name: {**value, key: evil}}
                    if isinstance(evil, str):
                        yield {**EMAIL, name: {**value, evil: value[key]}}
            if isinstance(value, list):
                for key in value[0]:
                    yield {**EMAIL, name: [*value, {**value[0], key: evil}]}


def composed(email: Any) -> tuple[bytes, list[str]] | None:
    """The message and its recipients; None: it is refused as the original would."""
    try:
        draft = sending.draft(Parameters({"email": email}), raw_html=True)
        mail = sending.finish(draft, draft.html, draft.text)
        sending.shown(mail.properties).encode()
        return mime.compose(mail.message), mail.recipients
    except (Undecodable, FieldError):
        return None
    except Problem as problem:
        assert problem.status == 422 and problem.message.isprintable()
        return None


def test_the_whole_message_is_taken() -> None:
    found = composed(EMAIL)
    assert found is not None and set(found[1]) == WANTED


@pytest.mark.parametrize("values", [EVIL, TYPES], ids=["evil", "types"])
def test_nothing_leaks_into_the_message(values: list[Any]) -> None:
    taken = 0
    for email in variants(values):
        found = composed(email)
        if found is None:
            continue
        taken += 1
        content, recipients = found
        message = message_from_bytes(content, policy=policy.default)
        assert {name.lower() for name in message.keys()} <= KNOWN, email  # noqa: SIM118 - it is no dict
        assert b"\nX-Evil" not in content.partition(b"\r\n\r\n")[0], email
        assert all(max(map(len, part.split(b"\r\n"))) <= 998 for part in [content]), email
        assert set(recipients) <= WANTED | {"a@example.com", "reply@example.com"}, email
        files = [part for part in message.walk() if part.get_content_disposition()]
        assert len(files) <= 3, email
    assert taken > 20


def test_deep_and_wide_values() -> None:
    deep: Any = "x"
    for _ in range(60):
        deep = [deep]
    for name in EMAIL:
        assert composed({**EMAIL, name: deep}) is None or name == "auto_plain_text"
    people = [{"email": f"r{number}@example.com"} for number in range(1000)]
    found = composed({**EMAIL, "to": people, "cc": None, "\u0441\u0441": None, "bcc": None})
    assert found is not None and len(found[1]) == 1000
    assert composed({**EMAIL, "to": [*people, {"email": "one@example.com"}]}) is None
    assert composed({**EMAIL, "attachments": {f"{number}.txt": "" for number in range(101)}}) is None


def test_nobody_gets_it_twice() -> None:
    people = [{"email": address} for address in ("a@example.com", "a@EXAMPLE.com", "A@example.com")]
    found = composed({**EMAIL, "to": people, "cc": people, "\u0441\u0441": None, "bcc": people})
    assert found is not None and found[1] == ["a@example.com", "A@example.com"]


def test_an_empty_object_is_nobody() -> None:
    found = composed({**EMAIL, "cc": {}, "\u0441\u0441": {}, "bcc": {}, "reply_to": {}})
    assert found is not None and found[1] == ["to@example.com"] and b"Reply-To" not in found[0]
    with pytest.raises(Problem, match=r"email\.to"):
        sending.draft(Parameters({"email": {**EMAIL, "to": {}}}), raw_html=True)


@pytest.mark.parametrize(
    ("given", "decoded"),
    [
        ("", b""),
        ("YQ==", b"a"),
        ("YQ", b"a"),
        ("Y\r\nQ = =", b"a"),
        ("_-8", b"\xff\xef"),
        ("/+8=", b"\xff\xef"),
    ],
)
def test_base64(given: str, decoded: bytes) -> None:
    assert sending.decoded(given) == decoded


@pytest.mark.parametrize("given", ["Y", "***", "Yü==", "Y=Q=", "YQ==YQ=="])
def test_not_base64(given: str) -> None:
    with pytest.raises(ValueError, match=r"Base64|ASCII"):
        sending.decoded(given)


def test_the_switch_for_html_that_is_not_encoded() -> None:
    given = Parameters({"email": {**EMAIL, "html": "<p>ü</p>"}})
    assert sending.draft(given, raw_html=True).html == "<p>ü</p>"
    with pytest.raises(Undecodable):
        sending.draft(given, raw_html=False)
