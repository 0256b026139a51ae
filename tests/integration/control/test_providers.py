"""SMTP providers: what is kept and told of them, who may set what, their defaults and limits, and the check."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from barua.control.v1 import quota_service_pb2, tenant_service_pb2
from barua.control.v1 import smtp_provider_service_pb2 as pb
from barua.control.v1.smtp_provider_pb2 import SmtpProvider
from barua.policy.v1 import policy_service_pb2

from control.sealing import load
from mta.mailauth.sealing import open_for
from mta.runtime.keyring import KeyFile
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, Metadata, basic, new_id
from tests.support.certs import Authority
from tests.support.smarthost import SmartHost

SECRET = "hunter2-very-secret"
HOST = "smtp.example.com"
_numbers = itertools.count()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """An authority that is trusted as the system's are."""
    made = Authority(tmp_path / "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca_file))
    yield made


async def create(
    control: Control,
    provider_id: str = "ses",
    tenant: str = "acme",
    who: Metadata | None = None,
    default: bool = False,
    **fields: Any,
) -> SmtpProvider:
    """Make a provider."""
    values: dict[str, Any] = {"host": HOST, "username": "user", "password": SECRET} | fields
    request = pb.CreateSmtpProviderRequest(
        parent=f"tenants/{tenant}",
        smtp_provider_id=provider_id,
        smtp_provider=SmtpProvider(**values),
        make_default=default,
        request_id=new_id(),
    )
    made: SmtpProvider = await control.call(control.smtp_providers.CreateSmtpProvider, request, who)
    return made


async def update(control: Control, who: Metadata | None = None, paths: str = "", **fields: Any) -> SmtpProvider:
    """Change a provider."""
    request = pb.UpdateSmtpProviderRequest(smtp_provider=SmtpProvider(**fields))
    request.update_mask.paths.extend(paths.split())
    changed: SmtpProvider = await control.call(control.smtp_providers.UpdateSmtpProvider, request, who)
    return changed


@pytest.mark.each_postgres
async def test_a_password_is_kept_sealed_and_never_told(control: Control, database_url: str) -> None:
    await control.tenant("acme")
    made = await create(control, who=basic("acme"), daily_limit=5)
    assert (made.port, made.tls, made.password, made.password_set) == (
        587,
        SmtpProvider.TLS_STARTTLS_REQUIRED,
        "",
        True,
    )
    got = await control.call(control.smtp_providers.GetSmtpProvider, pb.GetSmtpProviderRequest(name=made.name))
    assert got == made
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for row in tables:
            for line in await connection.fetch(f"SELECT t::text AS line FROM {row['tablename']} AS t"):
                assert SECRET not in line["line"]
                assert SECRET.encode().hex() not in line["line"]
        sealed = await connection.fetchval("SELECT sealed_password FROM smtp_provider")
    finally:
        await connection.close()
    keys = KeyFile(control.options.path("secrets", "sealing.key")).keys()
    assert open_for(keys, sealed, "acme/smtpProviders/ses", "it").decode() == SECRET
    with pytest.raises(ValueError, match="cannot be opened"):
        load(control.options.path("secrets", "sealing.key")).open(sealed, "rival", "smtpProviders", "ses")


async def test_everybody_has_the_built_in_provider(control: Control) -> None:
    await control.tenant("acme")
    await create(control, "zoo")
    request = pb.ListSmtpProvidersRequest(parent="tenants/acme", page_size=1)
    first = await control.call(control.smtp_providers.ListSmtpProviders, request)
    request.page_token = first.next_page_token
    second = await control.call(control.smtp_providers.ListSmtpProviders, request)
    names = [provider.name for page in (first, second) for provider in page.smtp_providers]
    assert names == ["tenants/acme/smtpProviders/builtin", "tenants/acme/smtpProviders/zoo"]
    assert second.next_page_token == ""
    limited = await update(control, basic("acme"), name=names[0], hourly_limit=7)
    assert (limited.hourly_limit, limited.host, limited.is_default) == (7, "", False)
    delete = pb.DeleteSmtpProviderRequest(name=names[0])
    assert await control.refused(control.smtp_providers.DeleteSmtpProvider, delete) is Reason.FAILED_PRECONDITION
    with pytest.raises(Refusal, match="cannot be updated"):
        await update(control, paths="host", name=names[0], host=HOST)
    look = pb.CheckSmtpProviderRequest(name=names[0])
    assert await control.refused(control.smtp_providers.CheckSmtpProvider, look) is Reason.FAILED_PRECONDITION


async def test_one_default_at_most_and_inheritance_of_shared_ones(control: Control) -> None:
    await control.tenant("reseller")
    await control.tenant("acme", "reseller")
    await create(control, "a", "reseller", default=True, shared=True, display_name="Ours")
    await create(control, "b", "reseller", default=True)
    listed = await control.call(
        control.smtp_providers.ListSmtpProviders, pb.ListSmtpProvidersRequest(parent="tenants/reseller")
    )
    assert [provider.name[-1] for provider in listed.smtp_providers if provider.is_default] == ["b"]

    async def default(tenant: str, chosen: str, who: Metadata | None = None) -> str:
        request = pb.SetDefaultSmtpProviderRequest(parent=f"tenants/{tenant}", smtp_provider_id=chosen)
        answer = await control.call(control.smtp_providers.SetDefaultSmtpProvider, request, who)
        assert answer.host in ("", HOST)
        if answer.name.startswith("tenants/reseller") and tenant == "acme":
            assert answer.host == answer.username == ""  # of another's provider no more than the name
        return str(answer.name).removeprefix("tenants/")

    assert await default("acme", "", basic("acme")) == "acme/smtpProviders/builtin"  # "b" is not shared
    assert await default("reseller", "a") == "reseller/smtpProviders/a"
    assert await default("acme", "", basic("acme")) == "reseller/smtpProviders/a"
    assert await default("acme", "builtin", basic("acme")) == "acme/smtpProviders/builtin"
    missing = pb.SetDefaultSmtpProviderRequest(parent="tenants/acme", smtp_provider_id="a")
    assert await control.refused(control.smtp_providers.SetDefaultSmtpProvider, missing) is Reason.NOT_FOUND
    in_use = pb.DeleteSmtpProviderRequest(name="tenants/reseller/smtpProviders/a")
    assert await control.refused(control.smtp_providers.DeleteSmtpProvider, in_use) is Reason.FAILED_PRECONDITION
    await default("reseller", "")
    await control.call(control.smtp_providers.DeleteSmtpProvider, in_use)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"host": "127.0.0.1"}, "smtp_provider.host"),
    ({"host": "10.1.2.3"}, "smtp_provider.host"),
    ({"host": "::ffff:192.168.1.1"}, "smtp_provider.host"),
    ({"host": "[::1]"}, "smtp_provider.host"),
    ({"host": "localhost"}, "smtp_provider.host"),
    ({"host": ""}, "smtp_provider.host"),
    ({"port": 22}, "smtp_provider.port"),
    ({"port": -1}, "smtp_provider.port"),
    ({"password": ""}, "smtp_provider.password"),
    ({"username": ""}, "smtp_provider.username"),
    ({"username": "a\r\nb"}, "smtp_provider.username"),
    ({"password": "a\0b"}, "smtp_provider.password"),
    ({"hourly_limit": -1}, "smtp_provider.hourly_limit"),
    ({"daily_limit": 2**62}, "smtp_provider.daily_limit"),
    ({"display_name": "x" * 201}, "smtp_provider.display_name"),
]


async def test_bad_fields_are_named(control: Control) -> None:
    await control.tenant("acme")
    for fields, field in BAD:
        with pytest.raises(Refusal) as caught:
            await create(control, who=basic("acme"), **fields)
        assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, field), fields


async def test_what_only_the_operator_may_set(control: Control) -> None:
    await control.tenant("acme")
    for fields in (
        {"allow_private_addresses": True, "host": "127.0.0.1"},
        {"allow_invalid_certificate": True},
        {"tls": SmtpProvider.TLS_NONE},
    ):
        with pytest.raises(Refusal) as caught:
            await create(control, who=basic("acme"), **fields)
        assert caught.value.reason is Reason.PERMISSION_DENIED
    made = await create(control, allow_private_addresses=True, host="127.0.0.1", port=2600, tls=SmtpProvider.TLS_NONE)
    # The tenant goes on to change what is its own.
    changed = await update(control, basic("acme"), name=made.name, daily_limit=9)
    assert (changed.host, changed.port, changed.daily_limit) == ("127.0.0.1", 2600, 9)


async def test_what_the_operator_allowed_is_for_one_server(control: Control) -> None:
    await control.tenant("acme")
    none = SmtpProvider.TLS_NONE
    for provider_id, allowed in (
        ("private", {"allow_private_addresses": True, "host": "10.0.0.5", "port": 25}),
        ("invalid", {"allow_invalid_certificate": True}),
        ("clear", {"tls": none, "username": "", "password": ""}),
    ):
        made = await create(control, provider_id, **allowed)
        for change in ({"host": "10.0.0.6"}, {"host": "other.example.com"}, {"port": 2525}):
            with pytest.raises(Refusal) as caught:
                await update(
                    control, basic("acme"), name=made.name, password=SECRET, paths=next(iter(change)), **change
                )
            wanted = Reason.PERMISSION_DENIED
            if change == {"host": "10.0.0.6"} and provider_id != "private":
                wanted = Reason.INVALID_ARGUMENT
            assert caught.value.reason is wanted, (provider_id, change)
        assert (await update(control, basic("acme"), name=made.name, display_name="x")).display_name == "x"


async def test_updates_masks_and_etags(control: Control) -> None:
    await control.tenant("acme")
    made = await create(control, who=basic("acme"))
    with pytest.raises(Refusal) as caught:
        await update(control, basic("acme"), name=made.name, host="evil.example.net")
    assert (caught.value.field, SECRET in str(caught.value)) == ("smtp_provider.password", False)
    moved = await update(control, basic("acme"), name=made.name, host="other.example.net", password="another-secret")
    assert (moved.host, moved.username) == ("other.example.net", "user")
    with pytest.raises(Refusal) as caught:
        await update(control, name=made.name, etag=made.etag, display_name="x")
    assert caught.value.reason is Reason.STALE_ETAG
    renamed = await update(control, name=made.name, etag=moved.etag, display_name="x")
    assert (renamed.display_name, renamed.password_set) == ("x", True)
    open_ = await update(control, paths="username", name=made.name)
    assert (open_.username, open_.password_set) == ("", False)
    with pytest.raises(Refusal, match="cannot be updated"):
        await update(control, paths="is_default", name=made.name)
    stale = pb.DeleteSmtpProviderRequest(name=made.name, etag=made.etag)
    assert await control.refused(control.smtp_providers.DeleteSmtpProvider, stale) is Reason.STALE_ETAG
    await control.call(control.smtp_providers.DeleteSmtpProvider, pb.DeleteSmtpProviderRequest(name=made.name))
    get = pb.GetSmtpProviderRequest(name=made.name)
    assert await control.refused(control.smtp_providers.GetSmtpProvider, get) is Reason.NOT_FOUND


async def test_quotas_are_exact_and_say_when_to_come_back(control: Control) -> None:
    await control.tenant("acme")
    made = await create(control, hourly_limit=5, daily_limit=100)

    async def take(count: int, name: str = made.name) -> quota_service_pb2.TakeQuotaResponse:
        request = quota_service_pb2.TakeQuotaRequest(smtp_provider=name, count=count)
        answer: quota_service_pb2.TakeQuotaResponse = await control.call(
            control.quotas.TakeQuota, request, control.node
        )
        return answer

    taken = await take(3)
    assert (taken.granted_count, 0 < taken.valid_milliseconds <= 3_600_000) == (3, True)
    with pytest.raises(Refusal) as caught:
        await take(3)
    refused = caught.value
    assert refused.reason is Reason.RATE_LIMITED
    assert refused.metadata["window"] == "hour"
    assert refused.metadata["provider"] == "ses"
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 3600
    assert (await take(2)).granted_count == 2
    got = await control.call(control.smtp_providers.GetSmtpProvider, pb.GetSmtpProviderRequest(name=made.name))
    assert (got.used_this_hour, got.used_today) == (5, 5)
    await update(control, paths="hourly_limit", name=made.name)
    assert (await take(95)).granted_count == 95
    with pytest.raises(Refusal) as caught:
        await take(1)
    assert caught.value.metadata["window"] == "day"
    with pytest.raises(Refusal) as caught:
        await take(1, "tenants/acme/smtpProviders/none")
    assert caught.value.reason is Reason.NOT_FOUND
    assert (await take(1, "tenants/acme/smtpProviders/builtin")).granted_count >= 1


async def test_nodes_hear_of_providers(control: Control) -> None:
    await control.tenant("acme")
    await create(control, default=True, hourly_limit=3)
    request = policy_service_pb2.WatchPolicyRequest(node="n1")
    stream = control.policy.WatchPolicy(request, metadata=control.node, timeout=60)
    found: policy_service_pb2.SmtpProviderRecord | None = None
    async for step in stream:
        for change in step.changes.changes:
            if change.WhichOneof("record") == "smtp_provider" and not change.deleted:
                found = change.smtp_provider
        if step.WhichOneof("step") == "snapshot_end":
            break
    assert found is not None
    assert (found.tenant_id, found.provider_id, found.host, found.port) == ("acme", "ses", HOST, 587)
    assert (found.limited, found.waits, found.is_default, found.username) == (True, False, True, "user")
    await update(control, name="tenants/acme/smtpProviders/ses", daily_limit=3)
    async for step in stream:
        if step.WhichOneof("step") == "changes":
            assert step.changes.changes[0].smtp_provider.provider_id == "ses"
            break
    stream.cancel()


async def check(control: Control, **fields: Any) -> pb.CheckSmtpProviderResponse:
    """Make a provider on this machine and check it."""
    tenant = f"t{next(_numbers)}"
    await control.tenant(tenant)
    values: dict[str, Any] = {"host": "localhost", "allow_private_addresses": True} | fields
    made = await create(control, tenant=tenant, **values)
    request = pb.CheckSmtpProviderRequest(name=made.name)
    answer: pb.CheckSmtpProviderResponse = await control.call(
        control.smtp_providers.CheckSmtpProvider, request, basic(tenant)
    )
    assert SECRET not in str(answer)
    return answer


Answer = pb.CheckSmtpProviderResponse


async def test_checks_tell_how_far_a_delivery_would_get(control: Control, authority: Authority) -> None:
    context = authority.issue("localhost", "127.0.0.1").server_context()
    for implicit in (False, True):
        with SmartHost({"user": SECRET}, tls=context, implicit=implicit) as host:
            tls = SmtpProvider.TLS_IMPLICIT if implicit else SmtpProvider.TLS_STARTTLS_REQUIRED
            answer = await check(control, port=host.port, tls=tls)
        assert (answer.ok, answer.stage, answer.text) == (True, Answer.STAGE_READY, "")
        assert answer.tls_version.startswith("TLSv1.")
        assert list(answer.auth_mechanisms) == ["LOGIN", "PLAIN"]
    with SmartHost({"user": "another"}, tls=context) as host:
        answer = await check(control, port=host.port)
    assert (answer.ok, answer.stage, answer.code) == (False, Answer.STAGE_AUTH, 535)
    assert "credentials invalid" in answer.text
    with SmartHost({"user": SECRET}, tls=authority.issue("other.test").server_context()) as host:
        answer = await check(control, port=host.port)
        assert (answer.stage, host.logins) == (Answer.STAGE_TLS, [])
    assert "certificate" in answer.text
    with SmartHost({"user": SECRET}) as host:
        answer = await check(control, port=host.port)
        assert (answer.stage, answer.text) == (Answer.STAGE_TLS, "the server offers no STARTTLS")
        assert host.logins == []
    answer = await check(control, port=host.port)
    assert (answer.stage, answer.text) == (Answer.STAGE_CONNECT, "connection refused")


async def test_a_check_does_not_lead_into_our_network(control: Control, database_url: str) -> None:
    await control.tenant("acme")
    made = await create(control)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE smtp_provider SET host = 'localhost'")  # as a name that comes to mean it later
    await connection.close()
    answer = await control.call(
        control.smtp_providers.CheckSmtpProvider, pb.CheckSmtpProviderRequest(name=made.name), basic("acme")
    )
    assert (answer.stage, answer.remote_address) == (Answer.STAGE_RESOLVE, "")
    assert "private or loopback" in answer.text


async def test_a_check_shows_words_that_are_no_utf8(control: Control) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 Zugriff ung\xfcltig\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        found = await check(control, port=server.sockets[0].getsockname()[1])
    assert (found.stage, found.code, found.text) == (Answer.STAGE_CONNECT, 554, "Zugriff ung\ufffdltig")


async def test_the_passwords_of_a_tenant_that_is_deleted_go_with_it(control: Control, database_url: str) -> None:
    await control.tenant("acme")
    await create(control, default=True)
    await control.call(control.tenants.DeleteTenant, tenant_service_pb2.DeleteTenantRequest(name="tenants/acme"))
    connection = await asyncpg.connect(database_url)
    left = await connection.fetchval("SELECT count(*) FROM smtp_provider")
    logged = await connection.fetchval("SELECT count(*) FROM policy_change WHERE kind = 'smtp_provider'")
    await connection.close()
    assert (left, logged) == (0, 2)
