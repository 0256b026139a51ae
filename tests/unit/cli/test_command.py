"""The command's errors: one line on standard error, the right exit status, and the way to mend it."""

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from msgspec.structs import replace

from barua.control.v1 import domain_pb2

from control.bootstrap import demo_accounts
from control.cli import output
from control.cli.domains import record_line
from control.cli.main import main
from control.cli.up import welcome
from control.supervisor import effective
from control.supervisor.lock import HomeLock
from mta.runtime.options import InboxOptions, Options, reference


@pytest.fixture
def home(free: Options) -> Path:
    path = free.home_path
    (path / "secrets").mkdir(parents=True)
    (path / "secrets" / "operator.token").write_text("ab" * 32 + "\n")
    effective.write(free)
    return path


def test_nobody_there_says_how_to_start_it(home: Path) -> None:
    status, printed, error = barua(home, "tenant", "list")
    assert (status, printed) == (1, "")
    assert error.count("\n") == 1
    assert "no server answers at 127.0.0.1:" in error
    assert "`barua up` starts it" in error


@pytest.mark.parametrize(
    "verb",
    [
        ["tenant", "create", "shop"],
        ["credits", "add", "shop", "5"],
        ["credits", "show", "shop"],
        ["domain", "add", "shop", "shop.test"],
        ["domain", "list", "shop"],
        ["domain", "show", "shop", "shop.test"],
        ["domain", "verify", "shop", "shop.test"],
        ["domain", "check", "shop", "shop.test"],
        ["domain", "set", "shop", "shop.test", "--no-signing", "--return-path", "b.shop.test", "--rotate-days", "30"],
        ["domain", "remove", "shop", "shop.test"],
        ["domain", "keys", "shop", "shop.test"],
        ["domain", "rotate", "shop", "shop.test"],
        ["domain", "key-make", "shop", "shop.test", "--algorithm", "ed25519", "--selector", "s1"],
        ["domain", "key-import", "shop", "shop.test", "s1", "/dev/null"],
        ["domain", "key-activate", "shop", "shop.test", "s1", "--trusted"],
        ["domain", "key-retire", "shop", "shop.test", "s1"],
        ["domain", "key-remove", "shop", "shop.test", "s1"],
        ["sender", "add", "shop", "ann@example.com", "--name", "Ann", "--trusted"],
        ["sender", "code", "shop", "ann@example.com"],
        ["sender", "verify", "shop", "ann@example.com", "12345678"],
        ["sender", "list", "shop"],
        ["sender", "remove", "shop", "ann@example.com"],
        ["template", "put", "shop", "welcome", "--subject", "Hello", "--html", "/dev/null"],
        ["template", "list", "shop"],
        ["template", "show", "shop", "welcome"],
        ["template", "render", "shop", "welcome", "name=Ann"],
        ["template", "remove", "shop", "welcome"],
        ["key", "create", "shop"],
        ["key", "list", "shop"],
        ["key", "create", "shop", "--scope", "domains:read", "--network", "192.0.2.0/24", "--expires-in-days", "90"],
        ["key", "rotate", "shop", "abc", "--grace-hours", "1.5"],
        ["key", "delete", "shop", "abc"],
        ["login", "list", "shop"],
        ["login", "update", "shop", "ann", "--role", "read-only", "--disable", "--any-network", "--never-expires"],
        ["login", "delete", "shop", "ann"],
        ["oauth", "create", "shop", "--scope", "mail", "--display-name", "x"],
        ["oauth", "list", "shop"],
        ["oauth", "rotate", "shop", "abc"],
        ["oauth", "delete", "shop", "abc"],
        ["suppression", "add", "shop", "a@example.com"],
        ["suppression", "remove", "shop", "a@example.com"],
        ["suppression", "list", "shop"],
        ["queue", "list"],
        ["queue", "show", "example.com"],
        ["message", "show", "shop", "msg_1"],
        ["message", "list", "shop"],
        ["message", "search", "shop", "--to", "a@x.test", "--state", "bounced", "--since", "2026-11-01", "--below"],
        ["statistics", "days", "shop", "--by", "recipient-domain", "--since", "2026-11-01", "--until", "2026-11-02"],
        ["message", "watch", "shop", "--kind", "bounced", "--kind", "expired"],
        ["statistics", "summary", "shop", "--by", "tenant"],
    ],
)
def test_every_verb_parses_and_fails_with_one_line(home: Path, verb: list[str]) -> None:
    status, _, error = barua(home, *verb, "--json")
    assert status == 1
    assert error.startswith("barua: no server answers at ")
    assert error.count("\n") == 1


def test_no_token_says_which_file(tmp_path: Path) -> None:
    status, _, error = barua(tmp_path, "queue", "list")
    assert status == 1
    assert str(tmp_path / "secrets" / "operator.token") in error
    assert "--token-file" in error


def test_a_bad_address_is_explained(home: Path) -> None:
    status, _, error = barua(home, "tenant", "list", "--address", "nowhere")
    assert status == 1
    assert '"nowhere" is not an address: write host:port' in error


def test_a_wrong_command_line_is_status_2(home: Path) -> None:
    assert barua(home, "tenant", "destroy")[0] == 2
    assert barua(home, "credits", "add", "shop", "0")[0] == 2


def test_options_prints_the_reference(home: Path) -> None:
    assert barua(home, "options") == (0, reference(), "")


def test_send_without_a_server_is_explained(home: Path) -> None:
    status, _, error = barua(home, "send", "--from", "a@demo.test", "--to", "b@example.com", "--port", "1")
    assert status == 1
    assert "cannot send through 127.0.0.1:1" in error


def test_send_needs_a_sender(home: Path) -> None:
    assert "--from" in barua(home, "send", "--to", "b@example.com")[2]


def test_send_refuses_header_injection(home: Path) -> None:
    status, _, error = barua(home, "send", "--from", "a@demo.test", "--to", "b@example.com", "--subject", "x\ny: z")
    assert status == 1
    assert "malformed" in error


def test_up_refuses_a_home_in_use(home: Path) -> None:
    with HomeLock(home, 0):
        status, _, error = barua(home, "up")
    assert status == 1
    assert "already running" in error


def test_up_refuses_a_bad_configuration(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "barua.toml"
    file.write_text("[bridge]\nlistn = '127.0.0.1:1'\n")
    status, _, error = barua(home, "up", "--config", str(file))
    assert status == 1
    assert "listn" in error


def test_the_welcome_names_every_address(free: Options) -> None:
    text = "\n".join(welcome(replace(free, demo=True)))
    for address in (free.bridge.listen, free.control.listen, free.node.listen, free.inbox.http_listen):
        assert address in text
    assert "demo.json" in text
    assert "barua send" in text


def test_demo_json_has_the_promised_structure(free: Options) -> None:
    keys = dict.fromkeys(demo_accounts.KEYS, f"bk_{'a' * 12}_{'b' * 32}")
    keys |= {("sendpulse", "client_id"): "a" * 12, ("sendpulse", "client_secret"): "b" * 32}
    passwords = {demo_accounts.RESELLER: "one", demo_accounts.ACCOUNT: "two"}
    found = demo_accounts.document(free, passwords, keys, "token")
    assert {section: set(content) for section, content in found.items()} == {
        "smtp": {"host", "port", "port_implicit_tls", "username", "password", "ca_file"},
        "mspace": {"base_url", "username", "password", "api_key"},
        "mailpass": {"base_url", "api_key"},
        "sendpost": {"base_url", "account_api_key", "subaccount_api_key"},
        "sendpulse": {"base_url", "client_id", "client_secret"},
        "grpc": {"control", "mta", "token"},
        "inbox": {"base_url"},
    }
    assert found["smtp"]["host"] == "127.0.0.1"
    assert f"127.0.0.1:{found['smtp']['port']}" == free.mta.listeners[0].listen
    assert f"127.0.0.1:{found['smtp']['port_implicit_tls']}" == free.mta.listeners[1].listen
    assert found["sendpulse"]["client_id"] == "a" * 12


def test_wildcard_addresses_are_reachable_in_demo_json(free: Options) -> None:
    options = replace(free, inbox=InboxOptions(http_listen="[::]:8025"))
    keys = dict.fromkeys([*demo_accounts.KEYS, ("sendpulse", "client_id"), ("sendpulse", "client_secret")], "bk_a_b")
    passwords = {demo_accounts.RESELLER: "one", demo_accounts.ACCOUNT: "two"}
    assert demo_accounts.document(options, passwords, keys, "t")["inbox"]["base_url"] == "http://[::1]:8025"


def test_long_txt_records_are_printed_in_pieces() -> None:
    record = domain_pb2.DnsRecord(owner="s._domainkey.demo.test", type="TXT", data="v=DKIM1; p=" + "A" * 400)
    line = record_line(record)
    pieces = line.split('"')[1::2]
    assert line.startswith("s._domainkey.demo.test. 3600 IN TXT ")
    assert "".join(pieces) == record.data
    assert max(map(len, pieces)) == 255


def test_a_terminal_is_not_obeyed() -> None:
    assert output.clean("a\x1b[2Jb\n") == "a�[2Jb�"


def barua(home: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; one more process per verb would take most of a second each."""
    out, error = io.StringIO(), io.StringIO()
    environment = {**os.environ, "BARUA_HOME": str(home), "COLUMNS": "200"}
    environment.pop("BARUA_SMTP_PASSWORD", None)
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "argv", ["barua", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    status = ended.value.code
    return status if isinstance(status, int) else 0, out.getvalue(), error.getvalue()
