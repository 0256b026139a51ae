"""Ways out of a running installation, by the operator's verbs: smart hosts with their limits, sources, rules."""

import json
import smtplib
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from control.cli.main import app
from tests.integration.mta.accounts import Account, wait_for_policy
from tests.integration.mta.test_operator_verbs import run
from tests.support.sink import RecordingSink
from tests.support.smarthost import SmartHost
from tests.support.stack import Stack, mail
from tests.support.waiting import wait_until

PASSWORD = "hunter2-very-secret"
CONTENT = b"Subject: hello\r\n\r\nA line.\r\n"


def good(stack: Stack, *arguments: str) -> str:
    """What a verb prints, which must succeed; in this process, as a process of its own takes a second to start."""
    done = CliRunner().invoke(
        app, [*arguments, "--config", str(stack.config)], env={"BARUA_HOME": str(stack.home), "COLUMNS": "250"}
    )
    assert done.exception is None, (arguments, done.exception)
    return done.stdout


def told(stack: Stack, *arguments: str) -> Any:
    """What a verb prints as JSON."""
    return json.loads(good(stack, *arguments, "--json"))


def send(stack: Stack, account: Account, *recipients: str) -> None:
    """Submit a message by SMTP."""
    with stack.smtp(account.login) as client:
        client.send_message(mail(recipients[0], sender=account.sender), to_addrs=list(recipients))


def check_named(stack: Stack, account: Account, sink: RecordingSink) -> None:
    """A message by gRPC goes the way that it names; "smart" has nothing left of its limit."""
    with grpc.insecure_channel(stack.options.node.listen) as channel:
        inject = InjectionServiceStub(channel).SubmitMessage
        key = (("authorization", f"Bearer {account.api_key}"),)
        named = f"named-{account.tenant}@example.net"
        request = SubmitMessageRequest(recipients=[named], content=CONTENT, smtp_provider="builtin")
        inject(request, metadata=key, timeout=60)
        wait_until(lambda: named in sink.recipients, "it went out directly")
        request.smtp_provider = "smart"
        with pytest.raises(grpc.RpcError) as refused:
            inject(request, metadata=key, timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        request.smtp_provider = "none"
        with pytest.raises(grpc.RpcError) as refused:
            inject(request, metadata=key, timeout=60)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_tenant_sends_through_its_smart_host(
    stack: Stack, account: Account, sink: RecordingSink, tmp_path: Path
) -> None:
    tenant, secret = account.tenant, tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    context = stack.authority.issue("relay.test").server_context()
    with SmartHost({"user": PASSWORD}, tls=context) as host:
        options = ["--port", str(host.port), "--username", "user", "--password-file", str(secret), "--daily-limit", "4"]
        allowed = ["--allow-private", "--insecure", "--default"]
        made = good(stack, "provider", "add", tenant, "smart", "127.0.0.1", *options, *allowed)
        assert PASSWORD not in made
        assert "works" in good(stack, "provider", "check", tenant, "smart")
        wait_for_policy(stack)

        send(stack, account, "one@example.net", "two@example.net")
        (taken,) = host.wait(1)
        assert (taken.username, taken.tls, taken.recipients) == ("user", True, ("one@example.net", "two@example.net"))
        send(stack, account, "three@example.net")
        with pytest.raises(smtplib.SMTPDataError) as caught:
            send(stack, account, "four@example.net", "five@example.net")
        assert caught.value.smtp_code == 451
        assert b"daily limit" in caught.value.smtp_error
        send(stack, account, "four@example.net")
        host.wait(3)
        (listed,) = [one for one in told(stack, "provider", "list", tenant) if one["name"].endswith("/smart")]
        assert (listed["used_today"], listed["is_default"], listed["password"]) == ("4", True, "")

        check_named(stack, account, sink)

        secret.write_text("wrong-" + PASSWORD)
        good(stack, "provider", "update", tenant, "smart", "--password-file", str(secret), "--daily-limit", "0")
        failed = run(stack, "provider", "check", tenant, "smart")
        assert failed.returncode == 1
        assert "auth: 535" in failed.stderr
        wait_for_policy(stack)
        send(stack, account, "six@example.net")
        queued = wait_until(
            lambda: [item for item in stack.operator.queued(tenant) if item.attempt_count], "it was tried"
        )
        assert "refused the username or password" in queued[0].reason

        good(stack, "provider", "default", tenant, "builtin")
        wait_for_policy(stack)
        direct = f"direct-{tenant}@example.net"
        send(stack, account, direct)
        wait_until(lambda: direct in sink.recipients, "it went out directly")
        secret.write_text(PASSWORD)
        good(stack, "provider", "update", tenant, "smart", "--password-file", str(secret))
        wait_until(lambda: len(host.relayed) == 4, "what waited went out with the right password")
        assert host.relayed[3].recipients == ("six@example.net",)
    kept = [path for path in stack.home.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()]


def test_mail_goes_out_from_the_sources_of_its_pool(stack: Stack, account: Account, sink: RecordingSink) -> None:
    tenant = account.tenant
    good(stack, "source", "add", "west", "127.0.0.3", "west.example.com", "--warm-up", "2,1000")
    good(stack, "source", "add", "east", "127.0.0.4", "east.example.com")
    good(stack, "source", "add", "lost", "192.0.2.55", "lost.example.com", "--tenant", tenant)
    good(stack, "pool", "add", "bulk", "west=50", "east", "lost")
    assert "bulk" in good(stack, "pool", "assign", tenant, "bulk")
    wait_for_policy(stack)
    recipients = [f"pool-{number}-{tenant}@example.net" for number in range(12)]
    for recipient in recipients:
        send(stack, account, recipient)
    wait_until(lambda: set(recipients) <= set(sink.recipients), "all are out")
    names = [taken.helo for taken in sink.received if taken.recipients[0] in recipients]
    assert set(names) == {"west.example.com", "east.example.com"}
    assert names.count("west.example.com") == 2  # its first day allows two; the rest goes out from the other
    (west,) = [one for one in told(stack, "source", "list") if one["name"] == "sources/west"]
    assert (west["warm_up_day"], west["used_today"]) == (1, "2")
    assert "allotted" in good(stack, "source", "allot", "east", tenant)
    allotted = {one["name"]: one.get("tenant") for one in told(stack, "source", "list")}
    assert allotted["sources/east"] == allotted["sources/lost"] == f"tenants/{tenant}"
    good(stack, "source", "allot", "east", "")

    good(stack, "rule", "add", "hold", "--tenant", tenant, "--stream", "news", "--suspend", "--connections", "3")
    wait_for_policy(stack)
    free = told(stack, "egress", "explain", tenant, "example.net")
    assert (free["pool"], free["waits"], free["decided_by"]["way"]) == ("bulk", "", f"assignment of tenant {tenant}")
    assert free["hosts"] == [f"mx.example.net:{sink.port}"]
    held = told(stack, "egress", "explain", tenant, "example.net", "--stream", "news")
    assert (held["waits"], held["connections"], held["decided_by"]["connections"]) == ("suspended", 3, "rule hold")
    assert "192.0.2.55" in good(stack, "egress", "explain", tenant, "example.net")
    assert "no tenant" in run(stack, "egress", "explain", "nobody", "example.net").stderr
    message = mail(f"held-{tenant}@example.net", sender=account.sender)
    message["X-Barua-Stream"] = "news"
    with stack.smtp(account.login) as client:
        client.send_message(message)
    reasons = wait_until(
        lambda: [item.reason for item in stack.operator.queued(tenant) if "suspended" in item.reason], "it waits"
    )
    assert "rule hold" in reasons[0]
    good(stack, "rule", "remove", "hold")
    good(stack, "pool", "assign", tenant, "")
    good(stack, "pool", "remove", "bulk")
    for source in ("west", "east", "lost"):
        good(stack, "source", "remove", source)
