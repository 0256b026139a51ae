"""SendPost: what is made of a send, and what is refused of it."""

import base64
import json
import random
from collections.abc import Sequence
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest

from api_bridge import mime
from api_bridge.dialects.sendpost import composing
from api_bridge.dialects.sendpost.composing import Batch, Sending, Stored
from api_bridge.dialects.sendpost.decoding import decode
from api_bridge.dialects.sendpost.errors import SendPostProblem
from api_bridge.dialects.sendpost.letter import TemplateMessage
from api_bridge.tracking.tracker import Tracker
from mta.runtime.keyring import KeyFile

INJECTIONS = ["a\r\nBcc: x@y.test", "a\nb", "a\rb", "a\0b", "a\u2028b", "a\u2029b", "a\x85b", "a\x1bb"]
"""What could end a header line, for one reader or another."""
HARMLESS = ["%0d%0aBcc: x@y.test", "=?utf-8?q?=0d=0aBcc:_x@y.test?=", "{{ ''.__class__ }}", "é漢字"]
"""What must arrive as it is."""


def letter(**changes: Any) -> TemplateMessage:
    """A send; ``...`` takes a field away."""
    body = {
        "from": {"email": "news@acme.test"},
        "to": [{"email": "ann@example.net"}],
        "subject": "Hello",
        "htmlBody": "<p>Hello</p>",
        **changes,
    }
    return decode({name: value for name, value in body.items() if value is not ...}, TemplateMessage)


def batch(stored: Stored | None = None, tracker: Tracker | None = None, mock: str = "", **changes: Any) -> Batch:
    """All copies of a send."""
    return Batch(letter(**changes), stored, Sending(tracker or Tracker("", None), mock_domain=mock))


def copies(made: Batch) -> list[EmailMessage]:
    """The messages of all copies."""
    parser = BytesParser(policy=policy.default)
    return [parser.parsebytes(copy.content) for chunk in made.chunks() for _, copy in chunk]


def refused(**changes: Any) -> SendPostProblem:
    """Why a send is refused."""
    with pytest.raises(SendPostProblem) as problem:
        list(batch(**changes).chunks())
    return problem.value


def body_of(message: EmailMessage, kind: str) -> str:
    """The text of a version of a message."""
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def tracker_of(tmp_path: Any) -> Tracker:
    """One that tracks."""
    path = tmp_path / "tracking.key"
    path.write_text("11" * 32 + "\n")
    path.chmod(0o600)
    return Tracker("https://mail.acme.test", KeyFile(path))


@pytest.mark.parametrize("bad", INJECTIONS)
@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("from.email", {"from": {"email": "{}"}}),
        ("from.name", {"from": {"email": "a@acme.test", "name": "{}"}}),
        ("replyTo.email", {"replyTo": {"email": "{}"}}),
        ("replyTo.name", {"replyTo": {"email": "a@acme.test", "name": "{}"}}),
        ("to[0].name", {"to": [{"email": "a@acme.test", "name": "{}"}]}),
        ("to[0].cc[0].name", {"to": [{"email": "a@acme.test", "cc": [{"email": "b@acme.test", "name": "{}"}]}]}),
        ("subject", {"subject": "{}"}),
        ("to[0].customFields.x", {"subject": "Hi {{x}}", "to": [{"email": "a@b.test", "customFields": {"x": "{}"}}]}),
        ("templateVariables.x", {"subject": "Hi {{x}}", "templateVariables": {"x": "{}"}}),
        ("headers", {"headers": {"X-Own": "{}"}}),
        ("headers", {"headers": {"{}": "x"}}),
        ("attachments[0].filename", {"attachments": [{"filename": "{}", "content": ""}]}),
        ("groups[0]", {"groups": ["{}"]}),
        ("webhookEndpoint", {"webhookEndpoint": "https://acme.test/{}"}),
    ],
)
def test_nothing_ends_a_header_line(bad: str, param: str, changes: dict[str, Any]) -> None:
    filled = json.loads(json.dumps(changes).replace("{}", json.dumps(bad)[1:-1]))
    problem = refused(**filled)
    assert (problem.status, problem.param) == (422, param)
    assert problem.message.startswith((param, "header "))
    assert [name for name, _ in problem.details] == [param]


@pytest.mark.parametrize("bad", [*INJECTIONS, "", "a", "a@", "@b.test", "a b@c.test", "a@b..test" * 40, "<a@b.test>"])
def test_a_recipient_that_is_no_address_is_told_and_passed_over(bad: str) -> None:
    good = {"email": "good@example.net"}
    to = [{"email": bad}, {**good, "cc": [bad]}, {**good, "bcc": [{"email": bad}]}, good]
    made = batch(to=to)
    assert set(made.rejected) == {0, 1, 2}
    assert [made.rejected[index].split(" ")[0] for index in range(3)] == [
        "to[0].email",
        "to[1].cc[0].email",
        "to[2].bcc[0].email",
    ]
    assert [index for chunk in made.chunks() for index, _ in chunk] == [3]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_dangerous_arrives_as_it_is(text: str) -> None:
    to = [{"email": "a@example.net", "name": text, "customFields": {"x": text}}]
    headers = {"X-Own": text}
    (made,) = copies(batch(to=to, subject="{{x}}", headers=headers, htmlBody="<p>{{{x}}}</p>", textBody="{{x}}"))
    assert (made["Subject"], made["X-Own"]) == (text, text)
    assert made["To"].addresses[0].display_name == text
    assert body_of(made, "plain").strip() == text
    assert body_of(made, "html").strip() == f"<p>{text}</p>"
    assert sorted(made.keys()) == ["Content-Type", "From", "MIME-Version", "Subject", "To", "X-Own"]


@pytest.mark.parametrize("name", ["Received", "bcc", "Return-Path", "DKIM-Signature", "Content-Type", "Message-ID"])
def test_header_fields_of_the_server_are_refused(name: str) -> None:
    assert refused(headers={name: "x"}).param == "headers"


def test_header_fields_that_have_no_effect_have_none() -> None:
    headers = {"From": "x@y.test", "TO": "x@y.test", "Subject": "other", "List-Unsubscribe": "<a:b>"}
    (made,) = copies(batch(headers=headers))
    assert (made["From"], made["To"], made["Subject"]) == ("news@acme.test", "ann@example.net", "Hello")
    assert made["List-Unsubscribe"] == "<a:b>"


def test_bodies_without_places_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[mime.Message] = []
    original = mime.body

    def body(message: mime.Message, attached: Sequence[bytes] | None = None) -> bytes:
        made.append(message)
        return original(message, attached)

    monkeypatch.setattr(mime, "body", body)
    to = [{"email": f"a{n}@example.net", "customFields": {"n": n}} for n in range(50)]
    subjects = [copy["Subject"] for copy in copies(batch(to=to, subject="Number {{n}}"))]
    assert subjects == [f"Number {n}" for n in range(50)]
    assert len(made) == 1


def test_a_copy_with_links_of_its_own(tmp_path: Any) -> None:
    tracker = tracker_of(tmp_path)
    html = '<p>{{n}}</p><a href="https://example.org/{{n}}">a</a><a href="{{unsubscribe}}">b</a></body>'
    to = [{"email": f"a{n}@example.net", "customFields": {"n": f"{n}&"}} for n in (1, 2)]
    made = batch(tracker=tracker, htmlBody=html, to=to)
    (chunk,) = made.chunks()
    references = {copy.reference for _, copy in chunk}
    assert len(references) == 2
    pages = [body_of(copy, "html") for copy in copies(batch(tracker=tracker, htmlBody=html, to=to))]
    assert "<p>1&amp;</p>" in pages[0]
    assert pages[0].count("https://mail.acme.test/t/c/") == 1
    assert pages[0].count("https://mail.acme.test/t/u/") == 1
    assert pages[0].count("https://mail.acme.test/t/o/") == 1
    plain = [
        body_of(copy, "html").strip() for copy in copies(batch(tracker=tracker, trackOpens=False, trackClicks=False))
    ]
    assert plain == ["<p>Hello</p>"]


def test_a_value_makes_no_tracked_link_of_another_place(tmp_path: Any) -> None:
    tracker = tracker_of(tmp_path)
    to = [{"email": "a@example.net", "customFields": {"x": '<a href="https://evil.test">', "y": "{{z}}", "z": "no"}}]
    (made,) = copies(batch(tracker=tracker, htmlBody="<p>{{x}}{{y}}</p>", trackOpens=False, to=to))
    assert body_of(made, "html").strip() == "<p>&lt;a href=&quot;https://evil.test&quot;&gt;{{z}}</p>"
    (made,) = copies(batch(tracker=tracker, htmlBody="<p>{{{x}}}</p>", trackOpens=False, to=to))
    assert "https://mail.acme.test/t/c/" in body_of(made, "html")


def test_values_of_the_recipient_go_before_those_for_all() -> None:
    stored = Stored("name", "From {{a}}", "<p>{{a}}{{b}}{{c}}</p>", "{{a}}")
    changes: dict[str, Any] = {"subject": ..., "htmlBody": "<p>mine</p>", "templateVariables": {"a": "all", "b": 2}}
    to = [{"email": "a@example.net", "customFields": {"a": "own", "c": None}}, {"email": "b@example.net"}]
    made = copies(batch(stored, to=to, **changes))
    assert [one["Subject"] for one in made] == ["From own", "From all"]
    assert [body_of(one, "html").strip() for one in made] == ["<p>own2</p>", "<p>all2</p>"]


def test_what_is_kept_of_a_message() -> None:
    to = [
        {
            "email": "a@example.net",
            "name": "A",
            "cc": ["c@example.net"],
            "bcc": [{"email": "d@example.net", "name": "D"}],
            "customFields": {"n": 1},
        }
    ]
    given: dict[str, Any] = {
        "groups": ["g", "g"],
        "headers": {"X-Own": "1"},
        "ippool": "p",
        "preText": "pre",
        "trackOpens": False,
    }
    ((_, copy),) = next(iter(batch(to=to, **given).chunks()))
    assert (copy.sender, list(copy.recipients)) == (
        "news@acme.test",
        ["a@example.net", "c@example.net", "d@example.net"],
    )
    assert (list(copy.tags), copy.record_suppressed) == (["g"], True)
    assert json.loads(copy.properties) == {
        "dialect": "sendpost",
        "from": {"email": "news@acme.test", "name": None},
        "pool": "p",
        "groups": ["g"],
        "pre_text": "pre",
        "track_opens": False,
        "track_clicks": True,
        "headers": {"X-Own": "1"},
        "to": {
            "email": "a@example.net",
            "name": "A",
            "cc": [{"email": "c@example.net"}],
            "bcc": [{"email": "d@example.net", "name": "D"}],
            "custom_fields": {"n": 1},
        },
    }
    assert b"d@example.net" not in copy.content


def test_custom_fields_that_are_too_long_to_be_kept_still_fill_places() -> None:
    to = [{"email": "a@example.net", "customFields": {"x": "y" * 40_000}}]
    ((_, copy),) = next(iter(batch(to=to, textBody="{{x}}").chunks()))
    assert len(copy.properties) < composing.MAX_PROPERTIES
    assert json.loads(copy.properties)["to"] == {"email": "a@example.net"}
    assert copy.content.count(b"y") > 40_000


def test_mocked_mail_goes_to_addresses_of_the_mock_domain() -> None:
    to = [{"email": "first.last+tag@example.net", "cc": ['"odd name"@example.org']}]
    ((_, copy),) = next(iter(batch(to=to, mock="play.test").chunks()))
    assert list(copy.recipients) == ["first.last-tag-example.net@play.test", "-odd-name--example.org@play.test"]
    assert b"first.last+tag@example.net" in copy.content


def test_a_send_too_large_for_one_call_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(composing, "TOTAL_BYTES", 60_000)
    to = [{"email": f"a{n}@example.net", "customFields": {"s": f"S{n}"}} for n in range(10)]
    file = {"filename": "a.bin", "content": base64.b64encode(random.Random(1).randbytes(3000)).decode()}
    sizes = [len(chunk) for chunk in batch(to=to, attachments=[file], subject="{{s}}").chunks()]
    assert (sum(sizes), max(sizes)) == (10, 4)
    to[9]["customFields"] = {"s": "a\nb"}
    problem = refused(to=to, attachments=[file], subject="{{s}}")
    assert problem.param == "to[9].customFields.s", "nothing is sent before all are looked at"
    problem = refused(to=to * 2, attachments=[file])
    assert (problem.status, problem.message[:40]) == (413, "The message is too large for 20 recipien")


def test_attachments_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    file = {"filename": "a", "content": "aGVsbG8="}
    assert refused(attachments=[file] * 101).message == "attachments must have at most 100 items."
    monkeypatch.setattr(composing, "ATTACHMENT_BYTES", 9)
    assert refused(attachments=[file] * 2).param == "attachments"
    for bad in ("aGVsbG8", "aGVs\u00e9", "%%%", "data:text/plain;base64,aGVsbG8="):
        assert refused(attachments=[{"filename": "a", "content": bad}]).param == "attachments[0].content"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"groups": [""]}, "groups[0]"),
        ({"groups": ["x" * 129]}, "groups[0]"),
        ({"webhookEndpoint": "ftp://acme.test"}, "webhookEndpoint"),
        ({"webhookEndpoint": "https://"}, "webhookEndpoint"),
        ({"webhookEndpoint": "https://[::1"}, "webhookEndpoint"),
        ({"from": {"email": "nobody"}}, "from.email"),
        ({"replyTo": {"email": "a@b@c"}}, "replyTo.email"),
        ({"subject": ""}, "subject"),
        ({"htmlBody": ""}, "htmlBody"),
        ({"headers": {"X": "y" * 999}}, "headers"),
        ({"preText": "a\0b"}, "preText"),
        ({"ippool": "a\0b"}, "ippool"),
        ({"to": [{"email": "a@b.test", "customFields": {"a": [{"b": "\0"}]}}]}, "to[0].customFields.a"),
        ({"to": [{"email": "a@b.test"}, {"email": "c@d.test", "customFields": {"\0": 1}}]}, "to[1].customFields"),
        ({"to": [{"email": "a@b.test", "bcc": [{"email": "c@d.test", "name": "\0"}]}]}, "to[0].bcc[0].name"),
        ({"headers": {f"X-{n}": "y" * 900 for n in range(30)}}, "headers"),
    ],
)
def test_other_values_that_cannot_be(changes: dict[str, Any], param: str) -> None:
    problem = refused(**changes)
    assert (problem.status, problem.param) == (422, param)


def test_an_address_in_another_alphabet_is_written_as_it_travels() -> None:
    ((_, copy),) = next(iter(batch(to=[{"email": "ann@bücher.example"}]).chunks()))
    assert list(copy.recipients) == ["ann@xn--bcher-kva.example"]


def test_who_gets_a_copy_with_links_has_links_of_their_own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "MAX_CHUNK", 3)
    to = [{"email": "a@example.net", "cc": ["c@example.net"], "bcc": ["d@example.net"]}, {"email": "b@example.net"}]
    made = [one for chunk in batch(tracker=tracker_of(tmp_path), to=to).chunks() for one in chunk]
    assert [(place, list(copy.recipients)) for place, copy in made] == [
        (0, ["a@example.net"]),
        (1, ["b@example.net"]),
        (-1, ["c@example.net"]),
        (-2, ["d@example.net"]),
    ]
    assert len({copy.reference for _, copy in made}) == 4
    shown = BytesParser(policy=policy.default).parsebytes(made[3][1].content)
    assert (shown["To"], shown["Cc"]) == ("a@example.net", "c@example.net")
    untracked = batch(tracker=tracker_of(tmp_path), to=to, trackOpens=False, trackClicks=False)
    assert [len(copy.recipients) for chunk in untracked.chunks() for _, copy in chunk] == [3, 1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.pdf", "application/pdf"), ("a", "application/octet-stream"), ("a.eml", "application/octet-stream")],
)
def test_the_type_of_a_file_follows_from_its_name(name: str, kind: str) -> None:
    (made,) = copies(batch(attachments=[{"filename": name, "content": "aGVsbG8="}]))
    assert [(one.get_filename(), one.get_content_type()) for one in made.iter_attachments()] == [(name, kind)]
