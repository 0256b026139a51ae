"""The operator's command against a running installation: what is queued and why, and mistakes that are told plainly."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.mta.accounts import Account
from tests.support.stack import Stack, mail
from tests.support.waiting import wait_until


def run(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`barua` with some arguments, for an installation found by its configuration."""
    environment = {**os.environ, "BARUA_HOME": str(stack.home), "COLUMNS": "250"}
    command = [sys.executable, "-m", "control.cli.main", *arguments, "--config", str(stack.config)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def told(stack: Stack, *arguments: str) -> Any:
    """What a verb prints as JSON."""
    done = run(stack, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_queue_says_who_waits_where_and_why(account: Account, stack: Stack) -> None:
    recipient = f"defer-451-{account.tenant}@example.net"
    with stack.smtp(account.login) as client:
        client.send_message(mail(recipient, sender=account.sender))
    wait_until(lambda: [item for item in stack.operator.queued(account.tenant) if item.attempt_count], "it was tried")

    (queue,) = [queue for queue in told(stack, "queue", "list") if queue["domain"] == "example.net"]
    assert int(queue["recipient_count"]) >= 1
    (entry,) = told(stack, "queue", "show", "example.net", "--tenant", account.tenant)
    assert (entry["recipient"], entry["sender"], entry["tenant_id"]) == (recipient, account.sender, account.tenant)
    assert entry["reason"].startswith("451 4.7.0 scripted") and entry["attempt_count"] >= 1
    assert entry["next_attempt_time"] > entry["receive_time"]
    (same,) = told(stack, "queue", "show", "--id", entry["message_id"])
    assert same["recipient_id"] == entry["recipient_id"]
    assert told(stack, "queue", "show", "example.org", "--tenant", account.tenant) == []
    table = run(stack, "queue", "show", "example.net", "--tenant", account.tenant).stdout
    assert recipient in table and "451 4.7.0" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("credits", "show", "no-such-tenant"), "no-such-tenant"),
        (("credits", "add", "reseller", "-5"), "-5"),
        (("tenant", "create", "Not An Id"), "tenant"),
        (("tenant", "create", "reseller"), "reseller"),
        (("domain", "add", "reseller", "not a domain"), "domain"),
        (("suppression", "add", "reseller", "not-an-address"), "address"),
        (("queue", "list", "--limit", "0"), "limit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_that_names_it(stack: Stack, arguments: tuple[str, ...], said: str) -> None:
    done = run(stack, *arguments)
    assert done.returncode != 0
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
