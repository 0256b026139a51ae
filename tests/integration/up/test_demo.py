"""`barua up --demo` as a stranger meets it: ready, credentials, a message that arrives signed, a clean stop.

One installation for the whole module, because a first start makes a database; the tests that stop it come last.
"""

import json
import os
import re
import signal
import smtplib
import ssl
import stat
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

from control.bootstrap.demo_accounts import ACCOUNT, ACCOUNT_CREDITS, RESELLER, RESELLER_CREDITS
from tests.support import memory
from tests.support.installation import BARUA, Installation
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def up() -> Iterator[Installation]:
    with memory.folder() as folder, Installation(folder) as installation:
        yield installation


def test_demo_json_is_there_when_it_is_ready(up: Installation) -> None:
    file = up.home / "demo.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {section: sorted(content) for section, content in up.demo.items()} == {
        "smtp": ["ca_file", "host", "password", "port", "port_implicit_tls", "username"],
        "mspace": ["api_key", "base_url", "password", "username"],
        "mailpass": ["api_key", "base_url"],
        "sendpost": ["account_api_key", "base_url", "subaccount_api_key"],
        "sendpulse": ["base_url", "client_id", "client_secret"],
        "grpc": ["control", "mta", "token"],
        "inbox": ["base_url"],
    }


def test_it_says_where_things_are(up: Installation) -> None:
    wait_until(lambda: "Ctrl-C stops it." in up.output.read_text(), "it is said where things are")
    text = up.output.read_text()
    for place in (up.options.bridge.listen, up.options.inbox.http_listen, str(up.home / "demo.json"), "barua send"):
        assert place in text


@pytest.mark.parametrize("sender", ["noreply@demo.test", "noreply@mspace.co.ke"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_message_arrives_with_two_good_signatures(up: Installation, sender: str, host: str) -> None:
    recipient = f"{sender.partition('@')[2]}.{host}@example.com"
    smtp = up.demo["smtp"]
    with smtplib.SMTP(host, smtp["port"], timeout=60) as client:
        client.starttls(context=ssl.create_default_context(cafile=smtp["ca_file"]))
        client.login(smtp["username"], smtp["password"])
        client.send_message(_mail(sender, recipient))
    (entry,) = up.inbox(recipient)
    assert (entry["from"], entry["to"], entry["subject"]) == (sender, [recipient], "Hello")
    assert sorted((result["algorithm"], result["result"]) for result in entry["dkim"]) == [
        ("ed25519-sha256", "pass"),
        ("rsa-sha256", "pass"),
    ]
    assert {result["domain"] for result in entry["dkim"]} == {sender.partition("@")[2]}


def test_implicit_tls(up: Installation) -> None:
    smtp = up.demo["smtp"]
    context = ssl.create_default_context(cafile=smtp["ca_file"])
    with smtplib.SMTP_SSL("localhost", smtp["port_implicit_tls"], context=context, timeout=60) as client:
        client.login(smtp["username"], smtp["password"])
        client.send_message(_mail("noreply@demo.test", "implicit@example.com"))
    assert len(up.inbox("implicit@example.com")) == 1


def test_the_resellers_login_sends_too(up: Installation) -> None:
    smtp, mspace = up.demo["smtp"], up.demo["mspace"]
    with smtplib.SMTP("127.0.0.1", smtp["port"], timeout=60) as client:
        client.login(mspace["username"], mspace["password"])
        client.send_message(_mail("noreply@demo.test", "reseller@example.com"))
    assert len(up.inbox("reseller@example.com")) == 1


def test_barua_send_needs_nothing_but_a_recipient(up: Installation) -> None:
    assert up.run("send", "--to", "first@example.com").startswith("accepted: ")
    assert len(up.inbox("first@example.com")) == 1


def test_a_sender_is_proved_with_the_code_that_is_mailed(up: Installation) -> None:
    """With the credentials of SendPulse's API, and a code that the platform sends."""
    account, sender = up.demo["sendpulse"], "proved@sender.example"
    grant = {"grant_type": "client_credentials"} | {name: account[name] for name in ("client_id", "client_secret")}
    with httpx.Client(base_url=account["base_url"], timeout=60) as client:
        token = client.post("/oauth/access_token", json=grant).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        assert client.post("/senders", json={"email": sender, "name": "Me"}).json() == {"result": True}
        (entry,) = up.inbox(sender)
        code = re.search(r"([0-9]{4} ?[0-9]{4}) confirms", entry["subject"])
        assert code is not None
        proved = client.post(f"/senders/{sender}/code", json={"code": code[1]})
        assert proved.json() == {"result": True, "email": sender}
        assert client.get("/smtp/senders").json() == [sender]


def test_operator_verbs(up: Installation) -> None:
    tenants = json.loads(up.run("tenant", "list", "--recursive", "--json"))
    assert {tenant["name"] for tenant in tenants} >= {f"tenants/{RESELLER}", f"tenants/{ACCOUNT}"}
    assert RESELLER in up.run("tenant", "list")
    shown = up.run("domain", "show", RESELLER, "demo.test")
    assert "v=DKIM1" in shown
    assert "verified" in shown
    lines = up.run("domain", "records", RESELLER, "demo.test").splitlines()
    assert len([line for line in lines if "_domainkey.demo.test. 3600 IN TXT" in line]) == 2
    assert all(line.startswith(";") or " IN TXT " in line for line in lines)
    up.run("suppression", "add", ACCOUNT, "blocked@example.com", "--note", "asked")
    assert "blocked@example.com" in up.run("suppression", "list", ACCOUNT)
    up.run("suppression", "remove", ACCOUNT, "blocked@example.com")
    assert "blocked@example.com" not in up.run("suppression", "list", ACCOUNT)
    key = up.run("key", "create", ACCOUNT, "--display-name", "shop").strip()
    assert key.startswith("bk_")
    assert key.split("_")[1] in up.run("key", "list", ACCOUNT)
    up.run("tenant", "create", "shop", "--parent", RESELLER, "--credits", "5")
    up.run("credits", "add", "shop", "7")
    assert json.loads(up.run("credits", "show", "shop", "--json"))["balance"] == "12"
    up.run("domain", "add", "shop", "shop.test", "--trusted")
    assert "shop.test" in up.run("domain", "list", "shop")
    assert "domain" in up.run("queue", "list")
    assert "recipient" in up.run("queue", "show", "example.com")


def test_history_tells_of_delivery(up: Installation) -> None:
    up.run("send", "--to", "history@example.com")
    up.inbox("history@example.com")

    def delivered() -> bool:
        records = json.loads(up.run("message", "list", ACCOUNT, "--to", "history@example.com", "--json"))
        return [record["state"] for record in records] == ["STATE_DELIVERED"]

    wait_until(delivered, "the history has the delivery")
    (record,) = json.loads(up.run("message", "list", ACCOUNT, "--to", "history@example.com", "--json"))
    shown = up.run("message", "show", ACCOUNT, record["name"].rpartition("/")[2])
    assert "delivered" in shown


def test_a_second_run_is_refused(up: Installation) -> None:
    done = subprocess.run(
        [*BARUA, "up", "--demo", "--config", str(up.config)],
        env=up.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "already running" in done.stderr


def test_children_take_no_secrets_on_their_command_lines(up: Installation) -> None:
    secrets = [up.demo["smtp"]["password"], up.demo["grpc"]["token"]]
    for pid in up.processes():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not any(secret in command for secret in secrets)


@pytest.mark.parametrize("name", ["mta\0worker", "mta\0node", "api_bridge", "control.demo.inbox", "control\0serve"])
def test_a_killed_program_comes_back(up: Installation, name: str) -> None:
    before = _find(up, name)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in up.processes() and _find(up, name) > 0, f"{name} is back")
    recipient = f"{name.partition(chr(0))[2] or name}.back@example.com"

    def accepted() -> bool:
        try:
            up.run("send", "--to", recipient)
        except AssertionError:
            return False
        return True

    wait_until(accepted, "a message is accepted")
    assert len(up.inbox(recipient)) >= 1
    up.wait_for_health()


def test_a_restart_goes_on_where_it_was(up: Installation) -> None:
    before = up.demo
    count = len(up.inbox("first@example.com"))
    assert up.stop(signal.SIGINT) == 0, up.output.read_text()
    assert up.processes() == []
    assert up.output.read_text().rstrip().endswith("stopped")
    up.start()
    assert up.demo == before
    assert len(up.inbox("first@example.com")) == count
    assert up.run("send", "--to", "second@example.com").startswith("accepted: ")
    assert len(up.inbox("second@example.com")) == 1


def test_balances_are_what_was_granted_less_what_was_sent(up: Installation) -> None:
    def balance(tenant: str) -> dict[str, int]:
        found = json.loads(up.run("credits", "show", tenant, "--json"))
        return {name: int(found[name]) for name in ("balance", "consumed")}

    reseller, account = balance(RESELLER), balance(ACCOUNT)
    assert reseller["balance"] + reseller["consumed"] == RESELLER_CREDITS - 5  # five went to "shop" above
    assert account["balance"] + account["consumed"] == ACCOUNT_CREDITS
    assert account["consumed"] > 0


def test_nothing_is_left_when_it_is_killed(up: Installation) -> None:
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    wait_until(lambda: up.processes() == [], "nothing runs")


def test_after_that_it_starts_again(up: Installation) -> None:
    up.start()
    assert up.run("send", "--to", "third@example.com").startswith("accepted: ")
    assert len(up.inbox("third@example.com")) == 1
    assert up.stop() == 0
    assert up.processes() == []


def _find(up: Installation, name: str) -> int:
    """A process with ``name`` in its command line; 0 if there is none."""
    for pid in up.processes():
        try:
            if f"\0{name}\0" in Path(f"/proc/{pid}/cmdline").read_bytes().decode():
                return pid
        except OSError:
            continue
    return 0


def _mail(sender: str, recipient: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = f"Sender Name <{sender}>", recipient, "Hello"
    message.set_content("Hello world?\n")
    return message
