"""The verbs of `barua login`, `barua key` and `barua oauth` against a running control."""

from pathlib import Path

import pytest

from barua.control.v1 import oauth_service_pb2, tenant_service_pb2

from control.cli.output import CliError
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, Metadata, basic, bearer
from tests.integration.control.test_tenants_verbs import run, told

ME = tenant_service_pb2.GetTenantRequest(name="tenants/me")


async def knows(control: Control, metadata: Metadata) -> bool:
    """Whether credentials are let in."""
    try:
        await control.call(control.tenants.GetTenant, ME, metadata)
    except Refusal as refusal:
        assert refusal.reason is Reason.UNAUTHENTICATED
        return False
    return True


@pytest.mark.each_postgres
async def test_a_login_from_its_making_to_its_end(control: Control, tmp_path: Path) -> None:
    await control.tenant("shop")
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("the first one\n")
    second.write_text("the second one\n")
    networks = ("--network", "127.0.0.0/8", "--network", "2001:db8::1")
    made = await run(
        control, "login", "create", "shop", "ann", "--password-file", str(first), "--role", "read-only", *networks
    )
    assert made == "made tenants/shop/logins/ann\n"
    assert await knows(control, basic("ann", "the first one"))
    (_, listed) = sorted((await run(control, "login", "list", "shop")).splitlines()[1:], reverse=True)
    assert "read-only" in listed
    assert "127.0.0.0/8 2001:db8::1/128" in listed
    update = ("login", "update", "shop", "ann")
    await run(control, *update, "--password-file", str(second), "--role", "admin", "--any-network")
    assert not await knows(control, basic("ann", "the first one"))
    assert await knows(control, basic("ann", "the second one"))
    await run(control, *update, "--disable", "--expires-in-days", "1.5")
    assert not await knows(control, basic("ann", "the second one"))
    await run(control, *update, "--enable", "--never-expires")
    (ann, _) = await told(control, "login", "list", "shop")
    assert (ann["role"], ann["disabled"], ann["allowed_networks"], "expire_time" in ann) == (
        "ROLE_ADMIN",
        False,
        [],
        False,
    )
    with pytest.raises(CliError, match="nothing to change"):
        await run(control, *update)
    assert await run(control, "login", "delete", "shop", "ann") == "removed ann\n"
    assert not await knows(control, basic("ann", "the second one"))


async def test_a_key_from_its_making_to_its_end(control: Control) -> None:
    await control.tenant("shop")
    create = ("key", "create", "shop", "--display-name", "CI", "--scope", "tenants:read", "--expires-in-days", "90")
    key = (await run(control, *create)).strip()
    key_id = key.split("_")[1]
    assert await knows(control, bearer(key))
    assert "tenants:read" in await run(control, "key", "list", "shop")
    rotated = (await run(control, "key", "rotate", "shop", key_id, "--grace-hours", "1")).strip()
    assert await knows(control, bearer(key))
    assert await knows(control, bearer(rotated))
    assert (await told(control, "key", "list", "shop"))[0]["previous_expire_time"]
    await run(control, "key", "rotate", "shop", key_id)
    assert not await knows(control, bearer(rotated))
    assert await run(control, "key", "delete", "shop", key_id) == f"revoked {key_id}\n"


async def test_a_client_from_its_making_to_its_end(control: Control) -> None:
    await control.tenant("shop")
    shown = (await run(control, "oauth", "create", "shop", "--scope", "tenants")).splitlines()
    client_id, secret = (line.split()[-1] for line in shown)
    request = oauth_service_pb2.IssueTokenRequest(client_id=client_id, client_secret=secret)
    token = bearer((await control.oauth.IssueToken(request)).access_token)
    assert await knows(control, token)
    assert client_id in await run(control, "oauth", "list", "shop")
    rotated = await told(control, "oauth", "rotate", "shop", client_id)
    assert rotated["client_secret"] not in ("", secret)
    assert not await knows(control, token)
    assert await run(control, "oauth", "delete", "shop", client_id) == f"revoked {client_id}\n"
    assert await told(control, "oauth", "list", "shop") == []


async def test_a_recoverable_key_is_printed_again(control: Control) -> None:
    await control.tenant("shop")
    key = await run(control, "key", "create", "shop", "--recoverable")
    assert await run(control, "key", "show", "shop", key.split("_")[1]) == key
    plain = await run(control, "key", "create", "shop")
    with pytest.raises(CliError, match="only a hash of it is kept"):
        await run(control, "key", "show", "shop", plain.split("_")[1])
