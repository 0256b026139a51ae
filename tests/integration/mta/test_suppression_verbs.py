"""`barua suppression` and `barua validate` against a running installation: lists in and out, checks, policies."""

import csv
import io
from pathlib import Path

from tests.integration.mta.accounts import Account
from tests.integration.mta.test_operator_verbs import run, told
from tests.support.stack import Stack
from tests.support.waiting import wait_until


def test_one_suppression_from_its_making_to_its_end(account: Account, stack: Stack) -> None:
    tenant = account.tenant
    made = run(stack, "suppression", "add", tenant, "Ann@Example.net", "--reason", "complaint", "--stream", "news")
    assert made.stdout == "suppressed news:ann@example.net\n", made.stderr
    run(stack, "suppression", "add", tenant, "bob@example.net", "--days", "3", "--evidence", "550 gone")
    shown = run(stack, "suppression", "show", tenant, "bob@example.net").stdout
    assert "550 gone" in shown and "operator" in shown and "ends      20" in shown
    listed = run(stack, "suppression", "list", tenant, "--stream", "news").stdout
    assert "ann@example.net" in listed and "complaint" in listed and "bob" not in listed
    table = run(stack, "suppression", "check", tenant, "ann@example.net", "bob@example.net", "nowhere").stdout
    assert "clear" in table and "no address" in table and "manual" in table
    gone = run(stack, "suppression", "remove", tenant, "ann@example.net", "--stream", "news")
    assert gone.stdout == "removed news:ann@example.net\n"


def test_a_list_goes_in_and_comes_out(account: Account, stack: Stack, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "Email,Reason,Note,Expire_Time\n"
        "ann@example.net,unsubscribe,,\n"
        "\n"
        "bob@example.net,,asked,2999-01-01T00:00:00\n"
        "nowhere,,,\n"
    )
    dry = run(stack, "suppression", "import", account.tenant, str(source), "--dry-run")
    assert dry.stdout.startswith("3 lines: 2 can be used, 1 cannot\nline 3: nowhere:"), dry.stderr
    done = told(stack, "suppression", "import", account.tenant, str(source), "--reason", "complaint")
    assert (done["created_count"], done["error_count"]) == ("2", "1")
    run(stack, "suppression", "export", account.tenant, str(target))
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [(row["address"], row["reason"], row["note"]) for row in rows] == [
        ("ann@example.net", "unsubscribe", ""),
        ("bob@example.net", "complaint", "asked"),
    ]
    back = run(stack, "suppression", "import", account.tenant, str(target))
    assert back.stdout.startswith("2 lines: 0 made, 0 replaced, 2 as before"), back.stderr
    source.write_text("address,reason\nann@example.net,boredom\n")
    wrong = run(stack, "suppression", "import", account.tenant, str(source))
    assert wrong.returncode == 1 and 'line 2: the reason "boredom" is not known' in wrong.stderr, wrong.stderr


def test_a_policy_is_shown_and_changed(account: Account, stack: Stack) -> None:
    table = run(stack, "suppression", "policy", account.tenant, "--hard-bounces", "off", "--soft-bounce-count", "5")
    assert table.returncode == 0, table.stderr
    lines = {line.split()[0]: line.split()[1:] for line in table.stdout.splitlines()}
    assert lines["hard-bounces"] == ["off", "off"]
    assert lines["soft-bounces"] == ["as", "above", "on"]
    assert lines["soft-bounce-count"] == ["5", "5"]


def test_addresses_and_lists_are_validated(account: Account, stack: Stack, tmp_path: Path) -> None:
    table = run(stack, "validate", "addresses", account.tenant, "ann@example.net", "nowhere").stdout
    assert "undeliverable" in table and "local@domain" in table
    source = tmp_path / "list.csv"
    source.write_text("email,name\nann@example.net,Ann\nnowhere,\nbob@no-such-domain.invalid,Bob\n")
    uploaded = told(stack, "validate", "upload", account.tenant, str(source), "--title", "spring")
    id_ = uploaded["name"].rpartition("/")[2]
    wait_until(lambda: told(stack, "validate", "show", account.tenant, id_)["state"] == "STATE_DONE", "it is done")
    results = told(stack, "validate", "results", account.tenant, id_)
    assert [result["address"] for result in results] == ["ann@example.net", "nowhere", "bob@no-such-domain.invalid"]
    assert "spring" in run(stack, "validate", "list", account.tenant).stdout
    assert run(stack, "validate", "remove", account.tenant, id_).stdout == f"removed {id_}\n"
