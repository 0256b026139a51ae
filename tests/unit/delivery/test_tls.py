"""TLS to remote servers: used when offered, given up without losing the message, and never a way in."""

import asyncio
import ssl
from pathlib import Path

import pytest

from mta.message.outcome import OutcomeKind, Stage
from mta.routing.router import TlsPolicy
from tests.support.certs import Authority
from tests.unit.delivery.peers import TLS_EHLO, Action, Do, delivering, listening, peer

BOTH_LOOPS = True


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """A server's TLS."""
    return authority.issue("mx.test").server_context()


def offering(**actions: Action) -> dict[str, Action]:
    """A server that offers STARTTLS."""
    return {"ehlo": TLS_EHLO} | actions


async def test_tls_is_used_when_offered(tmp_path: Path, context: ssl.SSLContext) -> None:
    async with peer(offering(), tls=context) as server, delivering(tmp_path, server.port) as delivery:
        for number in (1, 2):
            delivery.send(number)
            await delivery.outcomes(number)
        assert [taken.tls for taken in server.taken] == [True, True]
        verbs = [command.split(" ")[0] for command in server.commands]
        assert verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert server.connections == 1


@pytest.mark.parametrize("policy", [TlsPolicy.NEVER, TlsPolicy.OPPORTUNISTIC])
async def test_tls_is_not_used_when_it_should_or_can_not_be(
    tmp_path: Path, context: ssl.SSLContext, policy: TlsPolicy
) -> None:
    actions = offering() if policy is TlsPolicy.NEVER else {}
    async with peer(actions, tls=context) as server, delivering(tmp_path, server.port, tls=policy) as delivery:
        delivery.send()
        assert (await delivery.outcome()).kind is OutcomeKind.DELIVERED
        assert not server.taken[0].tls
        assert "STARTTLS" not in server.commands


async def test_implicit_tls(tmp_path: Path, context: ssl.SSLContext) -> None:
    async with (
        peer(offering(), tls=context, implicit=True) as server,
        delivering(tmp_path, server.port, tls=TlsPolicy.IMPLICIT) as delivery,
    ):
        delivery.send()
        assert (await delivery.outcome()).kind is OutcomeKind.DELIVERED
        assert server.taken[0].tls
        assert "STARTTLS" not in server.commands


async def test_implicit_tls_never_becomes_clear_text(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port, tls=TlsPolicy.IMPLICIT) as delivery:
        delivery.send()
        outcome = await delivery.outcome()
        assert (outcome.kind, outcome.stage) == (OutcomeKind.DEFERRED, Stage.CONNECT)
        assert not server.taken


async def test_a_refused_starttls_goes_on_in_clear_text(tmp_path: Path) -> None:
    actions = offering(starttls=b"454 4.7.0 not now\r\n")
    async with peer(actions) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send()
        assert (await delivery.outcome()).kind is OutcomeKind.DELIVERED
        assert not server.taken[0].tls
        assert server.connections == 1


async def _no_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers STARTTLS, then talks nonsense instead of TLS; does well without it."""
    starttls = False
    writer.write(b"220 mx.test\r\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"STAR":
            writer.write(b"220 go on\r\n")
            starttls = True
            await reader.read(100)
            writer.write(b"this is no handshake\r\n")
            break
        if verb == b"EHLO":
            writer.write(TLS_EHLO)
        elif verb == b"DATA":
            writer.write(b"354 go on\r\n")
        elif line == b".\r\n" or verb in (b"MAIL", b"RCPT"):
            writer.write(b"250 ok\r\n")
    assert starttls or line == b""
    writer.close()


@pytest.mark.parametrize("how", ["nonsense", "close"])
async def test_a_broken_handshake_is_remembered_and_mail_goes_in_clear_text(tmp_path: Path, how: str) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if how == "nonsense":
            await _no_handshake(reader, writer)
            return
        writer.write(b"220 mx.test\r\n")
        while line := await reader.readline():
            if line.startswith(b"STARTTLS"):
                writer.write(b"220 go on\r\n")
                await reader.read(10)
                writer.transport.abort()
                return
            if line.startswith(b"EHLO"):
                writer.write(TLS_EHLO)
            elif line.startswith(b"DATA"):
                writer.write(b"354 go on\r\n")
            elif line == b".\r\n" or line[:4] in (b"MAIL", b"RCPT"):
                writer.write(b"250 ok\r\n")
        writer.close()

    async with listening(serve) as port, delivering(tmp_path, port) as delivery:
        delivery.send()
        assert (await delivery.outcome()).kind is OutcomeKind.DELIVERED
        assert connections == 2
        assert delivery.dialer._without_tls.keys() == {"127.0.0.1"}


async def test_an_answer_injected_behind_starttls_is_not_believed(tmp_path: Path, context: ssl.SSLContext) -> None:
    actions = offering(starttls=b"220 go on\r\n250-evil.test\r\n250 PIPELINING\r\n")
    async with peer(actions, tls=context) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send()
        outcome = await delivery.outcome()
        assert outcome.kind is OutcomeKind.DEFERRED
        assert "STARTTLS" in outcome.text
        assert not server.taken


@pytest.mark.parametrize("action", [Do.CLOSE, Do.RESET, b"421 4.3.2 closing\r\n"])
async def test_a_loss_at_starttls_is_for_later(tmp_path: Path, action: Action) -> None:
    async with peer(offering(starttls=action)) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send()
        assert (await delivery.outcome()).kind is OutcomeKind.DEFERRED


async def test_what_was_offered_in_clear_text_is_forgotten(tmp_path: Path, context: ssl.SSLContext) -> None:
    """Under TLS the server offers no PIPELINING, so it must not be used."""

    def choose(stage: str, line: str, connection: int) -> Action | None:
        if stage == "ehlo" and "STARTTLS" in server.commands:
            return b"250 mx.test\r\n"
        return None

    async with peer(offering(), choose, tls=context) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, "x", "y")
        assert {outcome.kind for outcome in await delivery.outcomes(2)} == {OutcomeKind.DELIVERED}
