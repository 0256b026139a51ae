"""Content that is made to cost much, or to become other parts than those asked for: composing it stays linear."""

import base64
import email
import email.policy
import time
from email.message import EmailMessage

import pytest

from api_bridge.dialects.mspace import shapes
from api_bridge.problems import Problem

BASE = {"apiKey": "k", "to": "a@example.com", "subject": "s"}
NESTED = "".join(f"Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n" for level in range(10_000))
BOUNDARIES = "\r\n".join(["--=_", "--=_" + "0" * 30, "--=_" + "0" * 30 + "--", "--", ".", "From x"] * 1000)


def composed(**fields: object) -> EmailMessage:
    request = shapes.message_request(shapes.decode({**BASE, **fields}, shapes.Send))
    message = email.message_from_bytes(request.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.mark.parametrize("body", [NESTED, BOUNDARIES, "<p>" + NESTED + BOUNDARIES])
def test_text_cannot_become_parts(body: str) -> None:
    files = [{"filename": "a.txt", "content": base64.b64encode(body.encode()).decode()}]
    message = composed(body=body, attachments=files)
    kinds = [part.get_content_type() for part in message.walk() if not part.is_multipart()]
    assert kinds == (["text/plain"] if not body.startswith("<p>") else ["text/plain", "text/html"]) + ["text/plain"]
    attachment = next(message.iter_attachments())
    assert attachment.get_payload(decode=True) == body.encode()


@pytest.mark.parametrize("kind", ["message/rfc822", "multipart/mixed; boundary=x", "multipart/digest"])
def test_files_are_never_parsed_as_messages(kind: str) -> None:
    content = base64.b64encode(("Subject: inner\r\n" + NESTED).encode()).decode()
    files = [{"filename": "a.eml", "content": content, "contentType": kind}]
    try:
        message = composed(body="text", attachments=files)
    except Problem as problem:
        assert problem.status == 400
        assert "attachments[0]" in problem.message
    else:
        assert str(message["Subject"]) == "s"
        assert len(list(message.iter_attachments())) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain" + "; a=b" * 100_000,
        "text/plain" + "".join(f"; name*{number}*=utf-8''x" for number in range(10_000)),
        "text/plain; name=\"" + "\\\"" * 100_000 + "\"",
        "a" * 1_000_000 + "/b",
    ],
)  # fmt: skip
def test_parameters_have_a_limit(kind: str) -> None:
    begun = time.process_time()
    with pytest.raises(Problem, match=r"attachments\[0\]"):
        composed(body="text", attachments=[{"filename": "a", "content": "", "contentType": kind}])
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("unit", ["<a>", "<", "&#", "<!--", "<b ", '"', "&amp;", "</p>", "<![CDATA["])
def test_composing_takes_linear_time(unit: str) -> None:
    begun = time.process_time()
    composed(body="<p>" + unit * (900_000 // len(unit)))
    assert time.process_time() - begun < 10
