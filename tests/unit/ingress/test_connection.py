"""Conversations over real sockets: in one piece and in many, and the ways in which a peer can go away."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.unit.custody.parts import Bank
from tests.unit.ingress.service import CONTENT, MAIL, RCPT, Service, serving
from tests.unit.spool.rows import counts, full_disk, rows

BOTH_LOOPS = True


async def test_a_message_is_taken(service: Service) -> None:
    client = await service.greeted()
    answer = await client.delivered()
    (row,) = rows(service.parts.path, "SELECT message_id, sender FROM message")
    assert answer == f"250 2.0.0 Accepted as {row[0]}"
    assert row[1] == "news@acme.test"
    assert await client.ask(b"QUIT\r\n") == "221 2.0.0 Bye"
    assert await client.ended()


async def test_several_messages_on_one_connection(service: Service) -> None:
    client = await service.greeted()
    for _ in range(5):
        assert (await client.delivered()).startswith("250")
    assert counts(service.parts.path)["message"] == 5


async def test_a_pipelined_group_is_answered_in_order(service: Service) -> None:
    client = await service.greeted()
    group = MAIL + RCPT + b"RCPT TO:<gone@example.net>\r\nRCPT TO:<y@example.net>\r\nDATA\r\n"
    client.send(group)
    assert [(await client.reply())[:3] for _ in range(5)] == ["250", "250", "550", "250", "354"]
    client.send(CONTENT + b".\r\n" + group)
    assert [(await client.reply())[:3] for _ in range(6)] == ["250", "250", "250", "550", "250", "354"]
    client.send(CONTENT + b".\r\nQUIT\r\n")
    assert [(await client.reply())[:3] for _ in range(2)] == ["250", "221"]
    assert counts(service.parts.path) | {"lease": 0} == {"message": 2, "recipient": 4, "outbox": 4, "lease": 0}


async def test_everything_at_once_is_a_conversation_too(service: Service) -> None:
    client = await service.connect()
    message = MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n"
    client.send(b"EHLO client.test\r\n" + message * 20 + b"QUIT\r\n")
    codes = [(await client.reply())[:3] for _ in range(2 + 20 * 4 + 1)]
    assert codes == ["220", "250", *["250", "250", "354", "250"] * 20, "221"]
    assert counts(service.parts.path)["message"] == 20


async def test_byte_by_byte_means_the_same(service: Service) -> None:
    client = await service.connect()
    client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for octet in b"EHLO client.test\r\n" + MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\nQUIT\r\n":
        client.send(bytes((octet,)))
        await asyncio.sleep(0)
    codes = [(await client.reply())[:3] for _ in range(7)]
    assert codes == ["220", "250", "250", "250", "354", "250", "221"]
    content = await service.parts.store.content(
        int(str(rows(service.parts.path, "SELECT message_id FROM message")[0][0]))
    )
    assert content is not None
    assert content.endswith(b"\r\n\r\nA line.\r\n")


async def test_a_recipient_named_twice_gets_one_copy(service: Service) -> None:
    client = await service.greeted()
    client.send(MAIL + RCPT + RCPT + b"RCPT TO:<x@EXAMPLE.net>\r\nDATA\r\n" + CONTENT + b".\r\n")
    assert [(await client.reply())[:3] for _ in range(6)] == ["250", "250", "250", "250", "354", "250"]
    assert counts(service.parts.path)["recipient"] == 1


async def test_bad_content_is_refused_and_the_connection_goes_on(service: Service) -> None:
    client = await service.greeted()
    client.send(MAIL + RCPT + b"DATA\r\nFrom: a@rival.test\r\n\r\nx\r\n.\r\n")
    assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "354", "550"]
    assert (await client.delivered()).startswith("250")


async def test_a_peer_that_goes_away_while_its_message_is_stored_has_sent_it(service: Service) -> None:
    client = await service.greeted()
    client.send(MAIL + RCPT + b"DATA\r\n")
    for _ in range(3):
        await client.reply()
    client.send(CONTENT + b".\r\n")
    await client.writer.drain()
    await client.close()
    await service.until(lambda: counts(service.parts.path)["message"] == 1, "the message is stored")
    await service.until(lambda: service.open_connections == 0, "the connection is forgotten")
    assert len(service.parts.delivery.jobs) == 1


@pytest.mark.parametrize("stage", range(6))
async def test_a_reset_anywhere_leaves_nothing_behind(service: Service, stage: int) -> None:
    client = await service.connect()
    pieces = [b"EHLO client.test\r\n", MAIL, RCPT, b"DATA\r\n", CONTENT[:20], CONTENT[20:]]
    client.send(b"".join(pieces[:stage]))
    await client.writer.drain()
    await asyncio.sleep(0.02)
    client.writer.transport.abort()
    await service.until(lambda: service.open_connections == 0, "the connection is forgotten")
    assert counts(service.parts.path)["message"] == 0
    assert await service.parts.drain.idle(60)


async def test_a_spool_that_cannot_store_is_a_451(service: Service) -> None:
    client = await service.greeted()
    assert (await client.delivered()).startswith("250")
    with full_disk():
        client.send(MAIL + RCPT + b"DATA\r\n" + CONTENT + b"x" * 100_000 + b"\r\n.\r\n")
        assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "354", "451"]
        assert (await client.ask(MAIL)).startswith("451")
    assert counts(service.parts.path)["message"] == 1


async def test_without_credits_it_is_a_452(tmp_path: Path) -> None:
    async with serving(tmp_path, bank=Bank(0)) as service:
        client = await service.greeted()
        assert (await client.delivered()).startswith("452 4.7.1")


async def test_a_peer_that_does_not_read_is_not_read_from(service: Service) -> None:
    """Neither its commands nor our replies pile up."""
    client = await service.greeted()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = service.listener._connections
    client.send(MAIL)
    sent = 0
    async with asyncio.timeout(60):
        while connection._writable:
            client.send(b"RCPT TO:<gone@example.net>\r\n" * 1000)
            sent += 1000
            await asyncio.sleep(0)
    client.send(b"RCPT TO:<gone@example.net>\r\n" * 20_000)
    sent += 20_000
    await asyncio.sleep(0.1)
    assert connection._transport is not None
    assert connection._transport.get_write_buffer_size() < 500_000
    assert connection._session is not None
    assert connection._session.buffered < 500_000
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    answers = 0
    async with asyncio.timeout(60):
        while answers < sent + 1:
            answers += (await client.reader.read(1 << 20)).count(b"\n")
    assert answers == sent + 1


async def test_a_silent_peer_is_told_and_closed(service: Service) -> None:
    client = await service.greeted()
    (connection,) = service.listener._connections
    connection.expire(connection.last_active + 29.9, 30.0)
    assert (await client.ask(b"NOOP\r\n")).startswith("250")
    connection.expire(connection.last_active + 30.1, 30.0)
    assert await client.reply() == "421 4.4.2 Timeout, closing the connection"
    assert await client.ended()
    await service.until(lambda: service.open_connections == 0, "the connection is forgotten")


async def test_a_peer_that_waits_for_an_answer_is_not_silent(service: Service) -> None:
    service.parts.bank.open.clear()
    client = await service.greeted()
    client.send(MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n")
    for _ in range(3):
        await client.reply()
    await service.until(lambda: service.parts.bank.calls, "credits are asked for")
    (connection,) = service.listener._connections
    connection.expire(connection.last_active + 500, 30.0)
    service.parts.bank.open.set()
    assert (await client.reply()).startswith("250")


async def test_a_deaf_peer_is_cut_off(service: Service) -> None:
    client = await service.greeted()
    (connection,) = service.listener._connections
    connection.pause_writing()
    connection.expire(connection.last_active + 31, 30.0)
    assert await client.ended()


async def test_half_a_close_is_a_close(service: Service) -> None:
    client = await service.greeted()
    client.writer.write_eof()
    assert await client.ended()
    await service.until(lambda: service.open_connections == 0, "the connection is forgotten")


async def test_a_browser_is_sent_away(service: Service) -> None:
    client = await service.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + MAIL)
    assert (await client.reply()).startswith("220")
    assert (await client.reply()).startswith("521")
    assert await client.ended()
