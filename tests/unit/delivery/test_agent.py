"""The delivery agent against servers that take, refuse, stall, drip and drop."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from mta.delivery import connection as connection_module
from mta.delivery import dial, site
from mta.routing.router import TlsPolicy
from mta.spool.records import EventKind, MessageFlag
from tests.support.ports import free_port
from tests.unit.delivery.parts import EHLO, Peer, Script, answering, delivering

Rows = list[tuple[int, int, str]]


def events(folder: Path) -> Rows:
    """(kind, code, text) of every outcome on file, in order; those of bounce messages left out."""
    file = sqlite3.connect(folder / "worker-0.db")
    try:
        query = "SELECT kind, code, text FROM outbox WHERE kind > 1 ORDER BY sequence"
        return file.execute(query).fetchall()
    finally:
        file.close()


def queued(folder: Path) -> list[str]:
    """Addresses on file."""
    file = sqlite3.connect(folder / "worker-0.db")
    try:
        return [row[0] for row in file.execute("SELECT address FROM recipient ORDER BY recipient_id")]
    finally:
        file.close()


async def test_a_connection_carries_many_messages(tmp_path: Path) -> None:
    peer = Peer(answering())
    async with peer.serving() as port, delivering(tmp_path, port, connections=1) as delivery:
        for number in range(1, 21):
            await delivery.submit(number)
        await delivery.settled(20)
    assert peer.connections == 1
    assert [kind for kind, _, _ in events(tmp_path)] == [EventKind.DELIVERED] * 20
    assert queued(tmp_path) == []


async def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    peer = Peer(answering())
    async with peer.serving() as port, delivering(tmp_path, port, connections=3) as delivery:
        for number in range(1, 101):
            await delivery.submit(number)
        await delivery.settled(100)
    assert 1 <= peer.most_open <= 3


async def test_a_connection_is_used_up_after_its_share(tmp_path: Path) -> None:
    peer = Peer(answering())
    async with peer.serving() as port, delivering(tmp_path, port, connections=1, per_connection=5) as delivery:
        for number in range(1, 16):
            await delivery.submit(number)
        await delivery.settled(15)
    assert peer.connections == 3


async def test_idle_connections_are_closed(tmp_path: Path) -> None:
    peer = Peer(answering())
    async with peer.serving() as port, delivering(tmp_path, port, idle_seconds=0.2) as delivery:
        await delivery.submit(1)
        await delivery.settled(1)
        async with asyncio.timeout(60):
            while peer.open:  # noqa: ASYNC110 (the peer counts)
                await asyncio.sleep(0.05)


async def test_content_that_is_not_in_memory_is_read(tmp_path: Path) -> None:
    async with Peer(answering()).serving() as port, delivering(tmp_path, port) as delivery:
        await delivery.submit(1, content=None)
        await delivery.settled(1)
    assert [kind for kind, _, _ in events(tmp_path)] == [EventKind.DELIVERED]


async def test_some_recipients_may_be_refused(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 peer\r\n")
        while line := await reader.readline():
            if line.startswith(b"RCPT") and b"no@" in line:
                writer.write(b"550 5.1.1 unknown\r\n")
            elif line.startswith(b"RCPT") and b"later@" in line:
                writer.write(b"450 4.2.1 later\r\n")
            elif line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 2.0.0 taken\r\n")
            else:
                writer.write(EHLO if line.startswith(b"EHLO") else b"250 ok\r\n")

    async with Peer(script).serving() as port, delivering(tmp_path, port) as delivery:
        await delivery.submit(1, "yes@example.net", "no@example.net", "later@example.net")
        await delivery.settled(3)
    outcomes = {kind: text for kind, _, text in events(tmp_path)}
    assert outcomes == {EventKind.DELIVERED: "taken", EventKind.BOUNCED: "unknown", EventKind.DEFERRED: "later"}
    assert queued(tmp_path)[0] == "later@example.net"
    assert queued(tmp_path)[1:] == ["a@acme.test"]  # the bounce message


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answering({b"banner": b"554 go away\r\n"}), EventKind.DEFERRED),
        (answering({b"banner": b"421 busy\r\n"}), EventKind.DEFERRED),
        (answering({b"EHLO": b"", b"HELO": b""}), EventKind.DEFERRED),
        (answering({b"EHLO": b"500 what\r\n"}), EventKind.DELIVERED),
        (answering({b"MAIL": b"451 later\r\n"}), EventKind.DEFERRED),
        (answering({b"MAIL": b"550 no\r\n"}), EventKind.BOUNCED),
        (answering({b"MAIL": b"421 closing\r\n"}), EventKind.DEFERRED),
        (answering({b"RCPT": b"550 unknown\r\n", b"DATA": b"554 no valid recipients\r\n"}), EventKind.BOUNCED),
        (answering({b"RCPT": b""}), EventKind.DEFERRED),
        (answering({b"DATA": b"451 later\r\n"}), EventKind.DEFERRED),
        (answering({b"DATA": b""}), EventKind.DEFERRED),
        (answering({b"DATA": b"250 what\r\n"}), EventKind.DEFERRED),
        (answering(after_dot=b"554 spam\r\n"), EventKind.BOUNCED),
        (answering(after_dot=b"452 full\r\n"), EventKind.DEFERRED),
        (answering(after_dot=b"421 closing\r\n"), EventKind.DEFERRED),
        (answering(after_dot=b""), EventKind.DEFERRED),
        (answering(after_dot=b"250"), EventKind.DEFERRED),
        (answering(after_dot=b"nonsense\r\n"), EventKind.DEFERRED),
        (answering({b"banner": b"\x00\xff garbage\r\n"}), EventKind.DEFERRED),
    ],
)
async def test_what_a_server_says_decides_the_outcome(tmp_path: Path, script: Script, kind: EventKind) -> None:
    seconds = 1.0 if kind is EventKind.DEFERRED else 3.0
    async with Peer(script).serving() as port, delivering(tmp_path, port, command_seconds=seconds) as delivery:
        await delivery.submit(1)
        await delivery.settled(1)
    assert [found for found, _, _ in events(tmp_path)] == [kind]
    left = {EventKind.DELIVERED: [], EventKind.DEFERRED: ["r1@example.net"], EventKind.BOUNCED: ["a@acme.test"]}
    assert queued(tmp_path) == left[kind]


async def test_nobody_listens(tmp_path: Path) -> None:
    async with delivering(tmp_path, free_port()) as delivery:
        for number in range(1, 6):
            await delivery.submit(number)
        await delivery.settled(5)
    assert {kind for kind, _, _ in events(tmp_path)} == {EventKind.DEFERRED}
    assert "refused" in events(tmp_path)[0][2]


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_dead_site_is_settled_under_a_steady_trickle(tmp_path: Path) -> None:
    """There is always a dial under way; what waits must be deferred all the same."""
    peer = Peer(_silent)
    async with peer.serving() as port, delivering(tmp_path, port, command_seconds=0.5) as delivery:
        number = 0
        async with asyncio.timeout(60):
            while len(delivery.released) < 10:
                number += 1
                await delivery.submit(number)
                await asyncio.sleep(0.1)
        await delivery.settled(number)
    assert {kind for kind, _, _ in events(tmp_path)} == {EventKind.DEFERRED}


async def test_a_dial_has_a_deadline_over_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "DIAL_SECONDS", 0.3)
    async with Peer(_silent).serving() as port, delivering(tmp_path, port, command_seconds=60.0) as delivery:
        await delivery.submit(1)
        await delivery.settled(1, 40.0)
    assert events(tmp_path) == [(EventKind.DEFERRED, 0, "no server was ready for mail in time")]


async def test_octets_that_finish_no_reply_are_no_progress(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 peer\r\n")
        await reader.readline()
        writer.write(EHLO)
        await reader.readline()
        for octet in b"250-" + b"x" * 500:
            writer.write(bytes([octet]))
            await writer.drain()
            await asyncio.sleep(0.1)

    async with Peer(drip).serving() as port, delivering(tmp_path, port, command_seconds=1.0) as delivery:
        await delivery.submit(1)
        await delivery.settled(1, 40.0)
    assert [kind for kind, _, _ in events(tmp_path)] == [EventKind.DEFERRED]


async def test_a_connection_that_died_while_idle_costs_no_attempt(tmp_path: Path) -> None:
    taken = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(b"220 peer\r\n")
        while line := await reader.readline():
            if line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                taken += 1
                writer.write(b"250 2.0.0 taken\r\n")
                if taken == 1:
                    await reader.readline()  # the next MAIL gets no answer
                    return
            else:
                writer.write(EHLO if line.startswith(b"EHLO") else b"250 ok\r\n")

    async with Peer(once).serving() as port, delivering(tmp_path, port, connections=1) as delivery:
        await delivery.submit(1)
        await delivery.settled(1)
        await delivery.submit(2)
        await delivery.settled(2)
    assert [kind for kind, _, _ in events(tmp_path)] == [EventKind.DELIVERED] * 2


async def test_a_server_without_smtputf8_refuses_only_those_who_need_it(tmp_path: Path) -> None:
    async with Peer(answering()).serving() as port, delivering(tmp_path, port) as delivery:
        await delivery.submit(1, "plain@example.net", "grüße@example.net")
        await delivery.settled(2)
    assert sorted(kind for kind, _, _ in events(tmp_path)) == [EventKind.DELIVERED, EventKind.BOUNCED]


async def test_eight_bit_content_is_not_mangled(tmp_path: Path) -> None:
    script = answering({b"EHLO": b"250 peer\r\n"})
    async with Peer(script).serving() as port, delivering(tmp_path, port) as delivery:
        await delivery.submit(1, content="Subject: x\r\n\r\nü\r\n".encode(), flags=MessageFlag.EIGHT_BIT)
        await delivery.settled(1)
    assert [kind for kind, _, _ in events(tmp_path)] == [EventKind.BOUNCED]


async def test_a_broken_handshake_falls_back_to_clear_text(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 peer\r\n")
        while line := await reader.readline():
            if line.startswith(b"STARTTLS"):
                writer.write(b"220 go\r\n")
                await reader.read(100)
                return
            if line.startswith(b"EHLO"):
                writer.write(b"250-peer\r\n250 STARTTLS\r\n")
            elif line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 2.0.0 taken in clear\r\n")
            else:
                writer.write(b"250 ok\r\n")

    async with Peer(script).serving() as port, delivering(tmp_path, port) as delivery:
        await delivery.submit(1)
        await delivery.settled(1)
    assert events(tmp_path) == [(EventKind.DELIVERED, 250, "taken in clear")]


async def test_tls_may_be_asked_never(tmp_path: Path) -> None:
    script = answering({b"EHLO": b"250-peer\r\n250 STARTTLS\r\n", b"STARTTLS": b""})
    async with Peer(script).serving() as port, delivering(tmp_path, port, tls=TlsPolicy.NEVER) as delivery:
        await delivery.submit(1)
        await delivery.settled(1)
    assert [kind for kind, _, _ in events(tmp_path)] == [EventKind.DELIVERED]


async def test_what_waits_at_the_stop_stays_queued(tmp_path: Path) -> None:
    async with Peer(_silent).serving() as port, delivering(tmp_path, port, command_seconds=60.0) as delivery:
        for number in range(1, 6):
            await delivery.submit(number)
    assert events(tmp_path) == []
    assert len(queued(tmp_path)) == 5


def test_the_deadlines_are_what_the_standard_asks_for() -> None:
    assert dial.MAX_ADDRESSES >= 2  # RFC 5321 §5.1: at least two addresses are tried
    assert connection_module.LOST != connection_module.TIMED_OUT
