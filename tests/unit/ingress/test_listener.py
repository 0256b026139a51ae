"""Limits on connections, who has to prove who they are, and stopping in order."""

import asyncio
import base64
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mta.ingress import listener
from mta.ingress.budget import ReceiveBudget
from mta.ingress.listener import Listener, ListenerRules
from mta.policy.records import Login
from mta.runtime.options import OptionsError
from mta.smtp.serverconfig import AuthenticationOffer
from tests.unit.ingress.service import CONTENT, MAIL, PASSWORD, RCPT, Service, plain, serving, untrusted
from tests.unit.spool.rows import counts

BOTH_LOOPS = False


@pytest.fixture
async def login_service(tmp_path: Path) -> AsyncIterator[Service]:
    """A listener that wants AUTH, and takes it in clear text on loopback."""
    async with serving(tmp_path, change=lambda rules: replace(rules, trusted=[], plaintext_auth=True)) as running:
        yield running


async def test_a_login_may_send(login_service: Service) -> None:
    client = await login_service.greeted()
    assert (await client.ask(MAIL)).startswith("530")
    assert (await client.ask(plain("acme", PASSWORD))) == "235 2.7.0 Authentication successful"
    assert (await client.delivered()).startswith("250")
    assert (await client.ask(plain("acme", PASSWORD))).startswith("503")


async def test_three_wrong_passwords_end_the_connection(login_service: Service) -> None:
    client = await login_service.greeted()
    for _ in range(2):
        assert (await client.ask(plain("acme", "wrong"))).startswith("535 5.7.8")
    assert (await client.ask(plain("acme", "wrong"))).startswith("421 4.7.0")
    assert await client.ended()


async def test_nothing_is_read_while_a_password_is_checked(login_service: Service) -> None:
    client = await login_service.greeted()
    client.send(plain("acme", PASSWORD) + MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n")
    assert [(await client.reply())[:3] for _ in range(5)] == ["235", "250", "250", "354", "250"]


async def test_a_wrong_password_gives_no_right_to_what_follows(login_service: Service) -> None:
    client = await login_service.greeted()
    client.send(plain("acme", "wrong") + MAIL + RCPT)
    assert [(await client.reply())[:3] for _ in range(3)] == ["535", "530", "503"]


async def test_a_session_ends_with_its_login(login_service: Service) -> None:
    client = await login_service.greeted()
    await client.ask(plain("acme", PASSWORD))
    assert (await client.delivered()).startswith("250")
    login_service.parts.change_policy(Login("acme", "acme", "another"))
    assert (await client.ask(MAIL)) == "421 4.7.0 The login is no longer valid, closing the connection"
    assert await client.ended()


async def test_no_message_is_taken_after_its_login_has_ended(login_service: Service) -> None:
    client = await login_service.greeted()
    await client.ask(plain("acme", PASSWORD))
    await client.ask(MAIL)
    await client.ask(RCPT)
    await client.ask(b"DATA\r\n")
    login_service.parts.change_policy(Login("acme", "acme", ""), deleted=True)
    assert (await client.ask(CONTENT + b".\r\n")).startswith("421 4.7.0")
    assert await client.ended()
    assert counts(login_service.parts.path)["message"] == 0


async def test_nobody_acts_for_another(login_service: Service) -> None:
    client = await login_service.greeted()
    token = base64.b64encode(f"rival\0acme\0{PASSWORD}".encode())
    assert (await client.ask(b"AUTH PLAIN " + token + b"\r\n")).startswith("535")
    token = base64.b64encode(f"acme\0acme\0{PASSWORD}".encode())
    assert (await client.ask(b"AUTH PLAIN " + token + b"\r\n")).startswith("235")


async def test_a_peer_that_leaves_during_auth_is_forgotten(login_service: Service) -> None:
    client = await login_service.greeted()
    client.send(plain("acme", PASSWORD))
    await client.writer.drain()
    client.writer.transport.abort()
    await login_service.until(lambda: login_service.open_connections == 0, "the connection is forgotten")


async def test_a_login_that_cannot_be_checked_now_is_a_454(login_service: Service) -> None:
    client = await login_service.greeted()
    login_service.listener.authenticator._waiting = 1000
    assert (await client.ask(plain("acme", PASSWORD))).startswith("454")
    login_service.listener.authenticator._waiting = 0
    assert (await client.ask(plain("acme", PASSWORD))).startswith("235")


async def test_a_suspended_tenant_may_log_in_but_not_send(login_service: Service) -> None:
    client = await login_service.greeted()
    assert (await client.ask(plain("acme", PASSWORD))).startswith("235")
    reseller = login_service.parts.policy.tenant("reseller")
    assert reseller is not None
    login_service.parts.change_policy(replace(reseller, suspended=True))
    answer = await client.ask(MAIL)
    assert answer.startswith("550 5.7.1")
    assert "suspended" in answer


async def test_without_tls_nobody_elsewhere_may_log_in(tmp_path: Path) -> None:
    async with serving(tmp_path, change=lambda rules: replace(rules, plaintext_auth=True)) as service:
        offers = {
            peer: service.listener.peer_policy(peer).authentication
            for peer in ("127.0.0.1", "::1", "192.0.2.1", "10.0.0.1", "unknown")
        }
    always, tls_only = AuthenticationOffer.ALWAYS, AuthenticationOffer.TLS_ONLY
    assert offers == {
        "127.0.0.1": always,
        "::1": always,
        "192.0.2.1": tls_only,
        "10.0.0.1": tls_only,
        "unknown": tls_only,
    }


async def test_trust_belongs_to_a_network(tmp_path: Path) -> None:
    networks = [(ipaddress.ip_network("10.1.0.0/16"), "acme"), (ipaddress.ip_network("2001:db8::/32"), "rival")]
    async with serving(tmp_path, change=lambda rules: replace(rules, trusted=networks)) as service:
        tenants = {
            peer: service.listener.peer_policy(peer).trusted_tenant
            for peer in ("10.1.2.3", "10.2.0.1", "2001:db8::1", "::1", "unknown", "127.0.0.1")
        }
        assert tenants == {
            "10.1.2.3": "acme", "10.2.0.1": "", "2001:db8::1": "rival", "::1": "", "unknown": "", "127.0.0.1": "",
        }  # fmt: skip
        client = await service.greeted()
        assert (await client.ask(MAIL)).startswith("530")


async def test_too_many_connections_of_one_address_are_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path, change=lambda rules: replace(rules, connections_per_address=2)) as service:
        kept = [await service.greeted() for _ in range(2)]
        refused = await service.connect()
        assert (await refused.reply()).startswith("421 4.3.2 too many connections from your address")
        assert await refused.ended()
        await kept[0].ask(b"QUIT\r\n")
        await service.until(lambda: service.open_connections == 1, "one is gone")
        await service.greeted()


async def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path, change=lambda rules: replace(rules, connections=1)) as service:
        await service.greeted()
        refused = await service.connect()
        assert (await refused.reply()).startswith("421")
        assert await refused.ended()


async def test_nobody_is_greeted_while_mail_cannot_be_stored(service: Service) -> None:
    service.parts.free_bytes[0] = 0
    client = await service.connect()
    assert (await client.reply()).startswith("421 4.3.2 there is no room")
    assert await client.ended()


async def test_a_silent_peer_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SWEEP_SECONDS", 0.02)
    async with serving(tmp_path, change=lambda rules: replace(rules, idle_seconds=1.0)) as service:
        client = await service.greeted()
        assert (await client.reply()).startswith("421 4.4.2")
        assert await client.ended()


async def test_a_drain_tells_everybody_and_takes_nobody(service: Service) -> None:
    idle, in_transaction = await service.greeted(), await service.greeted()
    assert (await in_transaction.ask(MAIL)).startswith("250")
    service.listener.drain()
    for client in (idle, in_transaction):
        assert await client.reply() == "421 4.3.2 Service is shutting down, closing the connection"
        assert await client.ended()
    with pytest.raises(ConnectionError):
        await service.connect()


async def test_a_drain_waits_for_the_answer_that_is_owed(service: Service) -> None:
    service.parts.bank.open.clear()
    client = await service.greeted()
    client.send(MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n")
    for _ in range(3):
        await client.reply()
    await service.until(lambda: service.parts.bank.calls, "credits are asked for")
    service.listener.drain()
    service.parts.bank.open.set()
    assert (await client.reply()).startswith("250")
    assert (await client.reply()).startswith("421 4.3.2")
    assert await client.ended()
    assert counts(service.parts.path)["message"] == 1


async def test_a_port_that_is_taken_is_named(service: Service, tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rules: ListenerRules = replace(service.listener._rules, port=port)
    other = Listener(
        rules,
        service.parts.intake,
        service.parts.policy,
        service.listener.authenticator,
        None,
        ReceiveBudget(10_000_000),
    )
    with pytest.raises(OptionsError, match=f"cannot listen on 127.0.0.1:{port}.*change mta.listeners"):
        await other.start()
    await other.close()
    server.close()


async def test_the_service_name_is_in_every_greeting(tmp_path: Path) -> None:
    async with serving(tmp_path, change=untrusted) as service:
        client = await service.connect()
        assert await client.reply() == "220 mta1.barua.test ESMTP ready"
