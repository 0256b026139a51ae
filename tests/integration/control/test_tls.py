"""TLS of control's listener: who gets on, whom a certificate names, and files that change under way."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from barua.control.v1 import credit_service_pb2, tenant_service_pb2
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.policy.v1 import policy_service_pb2
from barua.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

from barua_client import ControlClient
from control import app
from control.listening import listen
from mta.runtime import rpc
from mta.runtime.lifecycle import Drain
from mta.runtime.options import (
    CertificateIdentity,
    ClientTlsOptions,
    ControlOptions,
    ControlTlsOptions,
    DatabaseOptions,
    Options,
    OptionsError,
)
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, guest, until_serving
from tests.support.certs import Authority, Certificate
from tests.support.ports import free_port

ME = tenant_service_pb2.GetTenantRequest(name="tenants/me")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues all certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass(frozen=True, slots=True)
class Secured:
    """A control program that speaks TLS, and a client that has the operator's certificate."""

    control: Control
    authority: Authority
    certificate: Certificate

    def channel(self, client: Certificate | None = None, address: str = "") -> grpc.aio.Channel:
        """A channel to it, with a client certificate or without."""
        return rpc.channel(address or self.control.options.control.listen, client_options(self.authority, client))

    async def asked(self, client: Certificate | None, metadata: Any = None, address: str = "") -> str | Reason:
        """Which tenant the caller is; why it is not let in."""
        channel = self.channel(client, address)
        try:
            return str((await TenantServiceStub(channel).GetTenant(ME, metadata=metadata, timeout=60)).name)
        except grpc.aio.AioRpcError as error:
            return rpc.refusal_of(error).reason
        finally:
            await channel.close()


def client_options(authority: Authority, client: Certificate | None) -> ClientTlsOptions:
    """How to connect."""
    return ClientTlsOptions(
        ca_file=str(authority.ca_file),
        certificate_file=str(client.certificate_file) if client else "",
        key_file=str(client.key_file) if client else "",
    )


@asynccontextmanager
async def secured(database_url: str, home: Path, authority: Authority, **tls: Any) -> AsyncIterator[Secured]:
    """A control program with TLS."""
    certificate = authority.issue("localhost", "127.0.0.1")
    files: dict[str, Any] = {
        "certificate_file": str(certificate.certificate_file),
        "key_file": str(certificate.key_file),
    }
    options = Options(
        home=str(home),
        database=DatabaseOptions(url=database_url, acquire_timeout_seconds=10.0),
        control=ControlOptions(
            listen=f"127.0.0.1:{free_port()}",
            metrics_listen=f"127.0.0.1:{free_port()}",
            tls=ControlTlsOptions(**files, **tls),
        ),
    )
    drain = Drain()
    client = authority.issue_client("operator", "barua:operator")
    with guest():
        serving = asyncio.create_task(app.serve(options, drain))
        channel = rpc.channel(options.control.listen, client_options(authority, client))
        try:
            await until_serving(channel, True, serving)
            yield Secured(Control(options, channel), authority, certificate)
        finally:
            await channel.close()
            drain.stop()
            await serving


async def test_a_certificate_says_who_calls(database_url: str, tmp_path: Path, authority: Authority) -> None:
    identities = [
        CertificateIdentity(common_name="old bridge", identity="tenant/shop"),
        CertificateIdentity(common_name="two", identity="operator"),
    ]
    async with secured(
        database_url, tmp_path, authority, client_ca_file=str(authority.ca_file), identities=identities
    ) as running:
        await running.control.tenant("shop", credits=5)
        tenant = authority.issue_client("shop", "https://shop.test/", "barua:tenant/shop")
        assert await running.asked(tenant) == "tenants/shop"
        # What a call says of itself goes before what its connection's certificate says.
        assert await running.asked(tenant, running.control.operator) == "tenants/operator"
        assert await running.asked(tenant, basic("shop", "wrong")) is Reason.UNAUTHENTICATED
        assert await running.asked(authority.issue_client("old bridge")) == "tenants/shop"
        assert await running.asked(authority.issue_client("gone", "barua:tenant/gone")) is Reason.UNAUTHENTICATED
        assert await running.asked(authority.issue_client("two", "barua:operator", "barua:node/x")) is (
            Reason.UNAUTHENTICATED
        )
        for stranger in "barua:tenant/", "barua:operator/x", "barua:root", "barua:tenant/Shop":
            assert await running.asked(authority.issue_client("stranger", stranger)) is Reason.UNAUTHENTICATED
        nobody = authority.issue_client("nobody")
        assert await running.asked(nobody) is Reason.UNAUTHENTICATED
        assert await running.asked(nobody, basic("shop")) == "tenants/shop"
        node = running.channel(authority.issue_client("node", "barua:node/node1"))
        report = policy_service_pb2.ReportRevisionRequest(node="node1", revision=1)
        await PolicyServiceStub(node).ReportRevision(report, timeout=60)
        await node.close()
        assert await running.asked(authority.issue_client("node", "barua:node/node1")) is Reason.PERMISSION_DENIED


async def test_where_certificates_are_required_nobody_is_without(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    second = f"127.0.0.1:{free_port()}"
    async with secured(
        database_url, tmp_path, authority, client_ca_file=str(authority.ca_file), client_listen=second
    ) as running:
        tenant = running.authority.issue_client("operator", "barua:operator")
        assert await running.asked(None, running.control.operator) == "tenants/operator"
        assert await running.asked(None) is Reason.UNAUTHENTICATED
        # The first address does not ask for certificates, so there they say nothing.
        assert await running.asked(tenant) is Reason.UNAUTHENTICATED
        assert await running.asked(tenant, address=second) == "tenants/operator"
        assert await running.asked(None, running.control.operator, second) is Reason.UNAVAILABLE
        other = Authority(tmp_path / "other").issue_client("operator", "barua:operator")
        assert await running.asked(other, address=second) is Reason.UNAVAILABLE


async def test_tokens_work_over_tls_and_plain_text_does_not(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    async with secured(database_url, tmp_path, authority) as running:
        address = running.control.options.control.listen
        assert await running.asked(None, running.control.operator) == "tenants/operator"
        channel = running.channel()
        async with ControlClient(address, running.control.operator[0][1], channel=channel) as client:
            grant = credit_service_pb2.GrantCreditsRequest(tenant="tenants/me", amount=3)
            assert (await client.credits.GrantCredits(grant)).balance == 3
        plain = rpc.channel(address)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await TenantServiceStub(plain).GetTenant(ME, metadata=running.control.operator, timeout=60)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await plain.close()
        assert await handshake(address, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(address, ssl.TLSVersion.TLSv1_1)


async def handshake(address: str, version: ssl.TLSVersion) -> str | None:
    """The version that a handshake with exactly this version ends with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that old versions are deprecated is the point
        context.maximum_version = version
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    spoken = writer.get_extra_info("ssl_object").version()
    writer.transport.abort()
    return str(spoken)


async def test_a_certificate_that_changes_is_used_for_the_next_connection(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    async with secured(database_url, tmp_path / "home", authority) as running:
        files = running.certificate
        other = Authority(tmp_path / "other")
        new = other.issue("localhost", "127.0.0.1")
        old_key = files.key_file.read_bytes()
        replace(new.key_file, files.key_file)
        # Half of a change: the key does not belong to the certificate yet, and the old pair stays.
        assert await running.asked(None, running.control.operator) == "tenants/operator"
        replace(new.certificate_file, files.certificate_file)
        assert await running.asked(None, running.control.operator) is Reason.UNAVAILABLE
        channel = rpc.channel(running.control.options.control.listen, client_options(other, None))
        assert await rpc.is_serving(channel, 10)
        await channel.close()
        assert old_key != files.key_file.read_bytes()


def replace(source: Path, target: Path) -> None:
    """Put a copy of a file in the place of another."""
    draft = target.with_suffix(".draft")
    draft.write_bytes(source.read_bytes())
    draft.replace(target)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"listen": "0.0.0.0:7070"}, "there is no TLS"),
        ({"listen": "[::]:7070"}, "there is no TLS"),
        ({"listen": "control.test:7070"}, "there is no TLS"),
        ({"tls": ControlTlsOptions(certificate_file="/nowhere.pem", key_file="/nowhere.key")}, r"/nowhere\.pem"),
    ],
)
async def test_what_cannot_be_listened_on_is_said(fields: dict[str, Any], text: str) -> None:
    server = rpc.new_server()
    with pytest.raises(OptionsError, match=text):
        listen(server, ControlOptions(**fields))


async def test_a_pair_that_does_not_belong_together_stops_the_start(authority: Authority) -> None:
    one, two = authority.issue("one.test"), authority.issue("two.test")
    tls = ControlTlsOptions(certificate_file=str(one.certificate_file), key_file=str(two.key_file))
    with pytest.raises(OptionsError, match="does not belong"):
        listen(rpc.new_server(), ControlOptions(listen=f"127.0.0.1:{free_port()}", tls=tls))


async def test_plain_text_elsewhere_is_for_those_who_say_so() -> None:
    listen(rpc.new_server(), ControlOptions(listen=f"0.0.0.0:{free_port()}", plaintext_anywhere=True))


def test_a_client_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"nowhere\.pem"):
        rpc.channel("127.0.0.1:1", ClientTlsOptions(ca_file=str(tmp_path / "nowhere.pem")))


async def test_the_refusal_of_a_call_keeps_its_details_over_tls(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    async with secured(database_url, tmp_path, authority) as running:
        channel = running.channel()
        async with ControlClient("x:1", running.control.operator[0][1], channel=channel) as client:
            with pytest.raises(Refusal) as refused:
                await client.tenants.GetTenant(tenant_service_pb2.GetTenantRequest(name="nonsense"))
            assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, "name")
