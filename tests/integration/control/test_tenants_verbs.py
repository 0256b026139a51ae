"""The verbs of `barua tenant` and `barua credits` against a running control."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from control.cli.main import app
from control.cli.output import CliError
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, new_id
from tests.integration.control.test_leases import Spool

_LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[")


async def run(control: Control, *words: str) -> str:
    """What a verb prints. Raises what it fails with."""
    token = str(control.options.path("secrets", "operator.token"))
    line = [*words, "--address", control.options.control.listen, "--token-file", token]
    result = await asyncio.to_thread(CliRunner().invoke, app, line)
    if result.exception is not None:
        raise result.exception
    # The control of this test logs to the same place.
    return "".join(line for line in result.stdout.splitlines(keepends=True) if not _LOGGED.match(line))


async def told(control: Control, *words: str) -> Any:
    """What a verb prints as JSON."""
    return json.loads(await run(control, *words, "--json"))


@pytest.mark.each_postgres
async def test_a_tenant_from_its_making_to_its_end(control: Control) -> None:
    assert await run(control, "tenant", "create", "shop") == "made tenants/shop below tenants/operator\n"
    made = await told(control, "tenant", "create", "branch", "--parent", "shop", "--kind", "reseller")
    assert made["kind"] == "KIND_RESELLER"
    changes = ("--hourly", "10", "--spend", "12.50", "--price", "eur 0.25", "--refund", "bounced,expired")
    await run(control, "tenant", "update", "shop", *changes, "--display-name", "The shop")
    shown = await run(control, "tenant", "show", "branch")
    assert "hourly_recipients     10 (from shop, 0 used)" in shown
    assert "monthly_spend_micros  12500000 (from shop, 0 used)" in shown
    assert "EUR 0.25 for 1,000 credits (from shop)" in shown
    assert "bounced, expired" in shown
    undone = ("--hourly", "none", "--spend", "none", "--price", "inherit", "--refund", "inherit")
    terms = (await told(control, "tenant", "update", "shop", *undone))["effective_terms"]
    assert (terms["limits"], "price" in terms, terms["refund_policy"]["outcomes"]) == ([], False, [])
    assert "unpaid" in await run(control, "tenant", "suspend", "shop", "--reason", "unpaid")
    quiet = await told(control, "tenant", "list", "-r", "--state", "suspended")
    assert [tenant["name"] for tenant in quiet] == ["tenants/branch", "tenants/shop"]
    assert "(above it): unpaid" in await run(control, "tenant", "show", "branch")
    assert "active" in await run(control, "tenant", "resume", "shop")
    for name in ("branch", "shop"):
        assert await run(control, "tenant", "delete", name) == f"deleted tenants/{name}\n"
    assert await told(control, "tenant", "list") == []


async def test_credits_from_their_grant_to_the_audit(control: Control) -> None:
    for words in (("shop",), ("branch", "--parent", "shop")):
        await run(control, "tenant", "create", *words)
    assert await run(control, "credits", "grant", "shop", "100", "--note", "paid") == "shop has 100 credits\n"
    day = datetime.now(UTC) + timedelta(days=2)
    await run(control, "credits", "grant", "shop", "50", "--expires", f"{day:%Y-%m-%d}")
    moved = await run(control, "credits", "transfer", "shop", "branch", "70")
    assert moved == "shop has 80 credits\nbranch has 70 credits\n"
    assert await run(control, "credits", "add", "branch", "5", "--from", "shop") == "branch has 75 credits\n"
    assert f"{day:%Y-%m-%d} 00:00:00       50" in await run(control, "credits", "expiry", "branch")
    statement = await run(control, "credits", "statement", "branch", "--entries", "9", "--kind", "transfer")
    assert "transferred_in   75" in statement
    assert statement.count("shop") == 3
    later = await told(control, "credits", "statement", "branch", "--from", f"{day:%Y-%m-%d}")
    assert (later["opening"], later["transferred_in"], later["closing"]) == ("75", "0", "75")
    assert "75" in await run(control, "credits", "show", "branch", "--entries", "1")
    assert "tenant_count     3" in await run(control, "credits", "audit")
    spool = Spool(control)
    await spool.open()
    await spool.acquire(spool.wish("branch", 75))
    assert spool.holder in await run(control, "credits", "holders")
    lost = ("credits", "write-off", spool.holder, "--credits", "return", "--note", "disk lost")
    assert await run(control, *lost) == "closed 1 leases with 75 credits\n"


async def test_what_cannot_be_meant_is_said(control: Control) -> None:
    for words in (
        (),
        ("--hourly", "many"),
        ("--spend", "1.0000001"),
        ("--spend", "NaN"),
        ("--price", "0.5"),
        ("--refund", "lost"),
    ):
        with pytest.raises(CliError):
            await run(control, "tenant", "update", "shop", *words)
    lost = ("credits", "write-off", new_id(), "--credits", "consume", "--note", "disk lost")
    with pytest.raises(Refusal) as refused:
        await run(control, *lost)
    assert refused.value.reason is Reason.NOT_FOUND


async def test_a_balance_is_shared_and_its_usage_shown(control: Control) -> None:
    await run(control, "tenant", "create", "shop")
    await run(control, "credits", "grant", "shop", "50")
    await run(control, "tenant", "create", "branch", "--parent", "shop", "--shares-balance", "--display-name", "Süd")
    assert "paid by         shop" in await run(control, "tenant", "show", "branch")
    (found,) = await told(control, "tenant", "list", "--parent", "shop", "--search", "SÜ")
    assert found["paying_tenant"] == "tenants/shop"
    usage = await run(control, "tenant", "usage", "branch")
    assert re.search(r"credits left +50\n", usage)
    assert re.search(r"paid by +shop\n", usage)
    assert (await told(control, "tenant", "usage", "shop"))["tenant_count"] == 1
    await run(control, "tenant", "update", "branch", "--own-balance")
    assert "paid by" not in await run(control, "tenant", "show", "branch")
