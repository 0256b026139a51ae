"""TLS on the listener: nothing said in clear counts afterwards, and a failed handshake leaves nothing behind."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mta.ingress.listener import ListenerRules
from tests.support.certs import Authority
from tests.unit.ingress.service import (
    CONTENT,
    MAIL,
    PASSWORD,
    RCPT,
    Client,
    Service,
    plain,
    serving,
    untrusted,
)
from tests.unit.spool.rows import counts, rows

BOTH_LOOPS = True


async def test_a_message_over_starttls(tls_service: Service, authority: Authority) -> None:
    client = await tls_service.greeted()
    await client.secured(authority.client_context())
    assert "STARTTLS" not in await _offers(client)
    assert (await client.delivered()).startswith("250")
    query = "SELECT CAST(content AS TEXT) FROM message"
    assert "with ESMTPS id" in str(rows(tls_service.parts.path, query)[0][0])


async def _offers(client: Client) -> list[str]:
    client.send(b"EHLO client.test\r\n")
    lines = [await client.line()]
    while lines[-1][3] == "-":
        lines.append(await client.line())
    return [line[4:].split(" ")[0] for line in lines[1:]]


async def test_the_peer_has_to_say_ehlo_again(tls_service: Service, authority: Authority) -> None:
    client = await tls_service.greeted()
    assert (await client.ask(MAIL)).startswith("250")
    assert (await client.ask(b"RSET\r\n")).startswith("250")
    await client.secured(authority.client_context())
    assert (await client.ask(MAIL)).startswith("503")


async def test_what_was_proved_before_is_forgotten(tmp_path: Path, authority: Authority) -> None:
    def change(rules: ListenerRules) -> ListenerRules:
        return replace(rules, trusted=[], plaintext_auth=True)

    async with serving(tmp_path, tls=authority.issue("localhost").server_context(), change=change) as service:
        client = await service.greeted()
        assert (await client.ask(plain("acme", PASSWORD))).startswith("235")
        await client.secured(authority.client_context())
        assert (await client.ask(b"EHLO client.test\r\n")).startswith("250")
        assert (await client.ask(MAIL)).startswith("530")
        assert (await client.ask(plain("acme", PASSWORD))).startswith("235")
        assert (await client.delivered()).startswith("250")


async def test_auth_is_offered_and_taken_only_under_tls(tmp_path: Path, authority: Authority) -> None:
    async with serving(tmp_path, tls=authority.issue("localhost").server_context(), change=untrusted) as service:
        client = await service.connect()
        assert (await client.reply()).startswith("220")
        assert "AUTH" not in await _offers(client)
        assert (await client.ask(plain("acme", PASSWORD))).startswith("538")
        await client.secured(authority.client_context())
        assert "AUTH" in await _offers(client)
        assert (await client.ask(plain("acme", PASSWORD))).startswith("235")
        assert (await client.delivered()).startswith("250")
        query = "SELECT CAST(content AS TEXT) FROM message"
        assert "with ESMTPSA id" in str(rows(service.parts.path, query)[0][0])


async def test_clear_text_behind_starttls_in_the_same_packet_ends_it(tls_service: Service) -> None:
    client = await tls_service.greeted()
    client.send(b"STARTTLS\r\nEHLO evil.test\r\n" + MAIL + RCPT)
    assert (await client.reply()).startswith("554")
    assert await client.ended()


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_clear_text_after_starttls_is_never_a_command(
    tls_service: Service, authority: Authority, pause: float
) -> None:
    client = await tls_service.greeted()
    client.send(b"STARTTLS\r\n")
    if pause:
        await asyncio.sleep(pause)
    client.send(MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n")
    answers: list[str] = []
    while not await _at_end(client, answers):
        pass
    assert [answer[:3] for answer in answers] in (["220"], ["554"])
    assert counts(tls_service.parts.path)["message"] == 0
    await tls_service.until(lambda: tls_service.open_connections == 0, "the connection is forgotten")


async def _at_end(client: Client, answers: list[str]) -> bool:
    try:
        line = await client.line()
    except (ConnectionError, UnicodeDecodeError):  # a TLS alert is no text
        return True
    if line and line.isprintable():
        answers.append(line)
    return not line


def _garbage(client: Client) -> None:
    client.send(b"\x16\x03\x01\x00\x04junk" + bytes(100))


def _half_a_record(client: Client) -> None:
    client.send(b"\x16\x03\x01\x02\x00\x01")
    client.writer.close()


def _close(client: Client) -> None:
    client.writer.close()


def _reset(client: Client) -> None:
    client.writer.transport.abort()


@pytest.mark.parametrize("spoil", [_garbage, _half_a_record, _close, _reset])
async def test_a_failed_handshake_is_not_counted_for_ever(
    tmp_path: Path, authority: Authority, spoil: Callable[[Client], None]
) -> None:
    """Or a peer could use up its own, and everybody's, connections for good."""

    def change(rules: ListenerRules) -> ListenerRules:
        return replace(rules, connections_per_address=2)

    async with serving(tmp_path, tls=authority.issue("localhost").server_context(), change=change) as service:
        for _ in range(4):
            client = await service.greeted()
            assert (await client.ask(b"STARTTLS\r\n")).startswith("220")
            spoil(client)
            await service.until(lambda: service.open_connections == 0, "the connection is forgotten")
        assert not service.listener._per_address
        client = await service.greeted()
        assert (await client.delivered()).startswith("250")


async def test_a_handshake_that_never_comes_is_cut_off(tls_service: Service) -> None:
    client = await tls_service.greeted()
    assert (await client.ask(b"STARTTLS\r\n")).startswith("220")
    await asyncio.sleep(0.05)
    (connection,) = tls_service.listener._connections
    connection.expire(connection.last_active + 31, 30.0)
    assert await client.ended()
    await tls_service.until(lambda: tls_service.open_connections == 0, "the connection is forgotten")


class HandMadeTls:
    """A client's TLS over a clear connection whose every packet the test decides on."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self._client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def handshake_and_say(self, data: bytes) -> None:
        """Finish the handshake, and send its last record and ``data`` in one packet."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._client.send(self._outgoing.read())
                self._incoming.write(await self._client.reader.read(65536))
        self._tls.write(data)
        self._client.send(self._outgoing.read())

    async def read(self) -> bytes:
        """What comes next."""
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                async with asyncio.timeout(60):
                    received = await self._client.reader.read(65536)
                assert received, "the server has closed"
                self._incoming.write(received)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_command_in_one_packet_with_the_last_of_the_handshake_is_heard(
    tls_service: Service, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    client = await tls_service.greeted()
    assert (await client.ask(b"STARTTLS\r\n")).startswith("220")
    tls = HandMadeTls(client, context)
    await tls.handshake_and_say(b"EHLO client.test\r\n" + MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n")
    answers = b""
    while answers.count(b"Accepted as") == 0:
        answers += await tls.read()
    assert counts(tls_service.parts.path)["message"] == 1


async def test_a_slow_loop_hears_the_first_command_after_the_handshake(
    tls_service: Service, authority: Authority
) -> None:
    """A busy worker reads the end of the handshake and the first command together."""
    loop = asyncio.get_running_loop()
    client = await tls_service.greeted()
    assert (await client.ask(b"STARTTLS\r\n")).startswith("220")
    tls = HandMadeTls(client, authority.client_context())
    for _ in range(3):
        loop.call_soon(lambda: None)
    await tls.handshake_and_say(b"EHLO client.test\r\nNOOP\r\nQUIT\r\n")
    answers = b""
    while b"221 " not in answers:
        answers += await tls.read()
    assert answers.index(b"250 2.0.0") < answers.index(b"221 ")


async def test_implicit_tls(tmp_path: Path, authority: Authority) -> None:
    def change(rules: ListenerRules) -> ListenerRules:
        return replace(rules, trusted=[], implicit_tls=True)

    async with serving(tmp_path, tls=authority.issue("localhost").server_context(), change=change) as service:
        client = await service.connect(authority.client_context())
        assert (await client.reply()).startswith("220")
        offers = await _offers(client)
        assert "STARTTLS" not in offers
        assert "AUTH" in offers
        assert (await client.ask(b"STARTTLS\r\n")).startswith("50")
        assert (await client.ask(plain("acme", PASSWORD))).startswith("235")
        assert (await client.delivered()).startswith("250")


async def test_without_a_certificate_starttls_is_not_offered(service: Service) -> None:
    client = await service.connect()
    assert (await client.reply()).startswith("220")
    assert "STARTTLS" not in await _offers(client)
    assert (await client.ask(b"STARTTLS\r\n")).startswith("502")


async def test_a_drain_waits_for_no_handshake(tls_service: Service) -> None:
    client = await tls_service.greeted()
    assert (await client.ask(b"STARTTLS\r\n")).startswith("220")
    await asyncio.sleep(0.05)
    tls_service.listener.drain()
    (connection,) = tls_service.listener._connections
    connection.expire(connection.last_active + 31, 30.0)
    assert await client.ended()
