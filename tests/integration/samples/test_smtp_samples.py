"""Every sample that sends over SMTP, run against a live server with STARTTLS."""

import pathlib
import uuid
from typing import Any

import pytest

from tests.integration.samples import samples
from tests.support.languages import run
from tests.support.sink import RecordingSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

SMTP = [
    name
    for folder in ("mspace", "sendpost")
    for quick in (True, False)
    for name in samples.names(folder, quick=quick)
    if "/smtp." in name
]


def parameters() -> list[Any]:
    """The samples; those in languages that take long are marked."""
    return [
        pytest.param(name, marks=[] if samples.language(name) in samples.QUICK else [pytest.mark.long]) for name in SMTP
    ]


@pytest.mark.parametrize("name", parameters())
def test_mail_arrives(stack: Stack, sink: RecordingSink, tmp_path: pathlib.Path, name: str) -> None:
    mspace = name.startswith("mspace/")
    recipient = f"r{uuid.uuid4().hex[:10]}@{'example.com' if mspace else 'piedpiper.com'}"
    host = {"bulkemail.mspace.co.ke": "localhost", "smtp.sendpost.io": "localhost"}
    credentials = {
        "YOUR_USERNAME": stack.login.username, "YOUR_PASSWORD": stack.login.password,
        "<username>": stack.login.username, "<password>": stack.login.password,
    }  # fmt: skip
    recipients = {"recipient@example.com": recipient, "RECIPIENT": recipient, "gilfoyle@piedpiper.com": recipient}
    ports = {"2525": str(stack.smtp_port)} if mspace else {"587": str(stack.smtp_port)}
    # Comments of the samples have "587" in them, too: it does no harm there.
    changes = host | credentials | recipients | ports
    run(samples.language(name), samples.program(name, changes), tmp_path, stack.authority.ca_file)
    wait_until(lambda: recipient in sink.recipients, f"{recipient} has mail", 60)
    (received,) = [one for one in sink.received if recipient in one.recipients]
    for field in ("From", "Date", "Message-ID"):
        assert len(received.headers(field)) == 1, received.content
    assert len(received.headers("DKIM-Signature")) == 2
