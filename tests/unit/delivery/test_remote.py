"""What remote servers may do to us, stage by stage: one recipient's outcome, and no harm to the next."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mta.message.outcome import OutcomeKind, SaidBy, Stage
from mta.spool.records import MessageFlag
from tests.unit.delivery.peers import CONTENT, DIAL, EHLO, PLAIN_EHLO, Action, Do, delivering, peer

STAGES = ("banner", "ehlo", "mail", "rcpt", "data", "dot")


async def test_a_message_arrives_as_it_is(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, "x", "y")
        outcomes = await delivery.outcomes(2)
        assert [(outcome.kind, outcome.code, outcome.enhanced) for outcome in outcomes] == [
            (OutcomeKind.DELIVERED, 250, "2.0.0")
        ] * 2
        assert (outcomes[0].text, outcomes[0].said_by, outcomes[0].remote_host) == (
            "taken",
            SaidBy.REMOTE,
            "127.0.0.1",
        )
        (taken,) = server.taken
        assert (taken.recipients, taken.content, taken.sender) == (
            ("x@example.net", "y@example.net"),
            CONTENT,
            "a@acme.test",
        )
        assert delivery.agent.active_recipients == delivery.agent.active_bytes == 0


async def test_a_server_without_extensions_is_asked_step_by_step(tmp_path: Path) -> None:
    async with peer({"ehlo": b"502 5.5.1 what?\r\n"}) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, "x", "y")
        assert {outcome.kind for outcome in await delivery.outcomes(2)} == {OutcomeKind.DELIVERED}
        assert [command.split(" ")[0] for command in server.commands] == [
            "EHLO",
            "HELO",
            "MAIL",
            "RCPT",
            "RCPT",
            "DATA",
        ]


@pytest.mark.parametrize("ehlo", [EHLO, PLAIN_EHLO])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reply", [b"421 4.3.2 closing\r\n", b"450 4.2.0 later\r\n", b"554 5.7.1 never\r\n"])
async def test_a_refusal_at_each_stage(tmp_path: Path, ehlo: bytes, stage: str, reply: bytes) -> None:
    def choose(at: str, line: str, connection: int) -> Action | None:
        return reply if at == stage and connection == 1 else None

    actions: dict[str, Action] = {"ehlo": ehlo, "helo": reply}
    async with peer(actions, choose) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        outcome = await delivery.outcome()
        permanent = reply.startswith(b"5") and stage not in ("banner", "ehlo")
        assert outcome.kind is (OutcomeKind.BOUNCED if permanent else OutcomeKind.DEFERRED)
        assert (outcome.code, outcome.enhanced) == (int(reply[:3]), reply[4:9].decode())
        assert outcome.stage is {
            "banner": Stage.GREETING, "ehlo": Stage.EHLO, "mail": Stage.MAIL, "rcpt": Stage.RCPT, "data": Stage.DATA,
            "dot": Stage.MESSAGE,
        }[stage]  # fmt: skip
        assert outcome.said_by is SaidBy.REMOTE
        if reply.startswith(b"421") or stage in ("banner", "ehlo"):
            server.choose = lambda *_: None
            server.actions["helo"] = b"250 ok\r\n"
        server.choose = lambda *_: None
        delivery.send(2)
        await delivery.outcomes(2)
        assert delivery.recorder.outcomes[2][0].kind is OutcomeKind.DELIVERED


@pytest.mark.parametrize("ehlo", [EHLO, PLAIN_EHLO])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("action", [Do.CLOSE, Do.RESET])
async def test_a_loss_at_each_stage_is_for_later(tmp_path: Path, ehlo: bytes, stage: str, action: Do) -> None:
    def choose(at: str, line: str, connection: int) -> Action | None:
        return action if at == stage and connection == 1 else None

    async with peer({"ehlo": ehlo}, choose) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        outcome = await delivery.outcome()
        assert (outcome.kind, outcome.code, outcome.said_by) == (OutcomeKind.DEFERRED, None, SaidBy.LOCAL)
        assert outcome.enhanced.startswith("4.4.")
        if stage == "dot":
            assert outcome.stage is Stage.MESSAGE
        delivery.send(2)
        await delivery.outcomes(2)
        assert delivery.recorder.outcomes[2][0].kind is OutcomeKind.DELIVERED


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, stage: str) -> None:
    dial = replace(DIAL, command_seconds=0.2, final_dot_seconds=0.2)
    async with peer({stage: Do.HANG}) as server, delivering(tmp_path, server.port, dial=dial) as delivery:
        delivery.send(1)
        outcome = await delivery.outcome()
        assert outcome.kind is OutcomeKind.DEFERRED
        assert "did not answer in time" in outcome.text
        assert not server.taken


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("banner", b"HTTP/1.1 400 Bad Request\r\n"),
        ("banner", b"\xff\xfe\x00garbage\r\n"),
        ("banner", b"2" * 5000),
        ("ehlo", b"250-a\r\n" * 200 + b"250 b\r\n"),
        ("ehlo", b"250-a\r\n251 b\r\n"),
        ("mail", b"123 huh\r\n"),
        ("mail", b"354 go on\r\n"),
        ("rcpt", b"25\r\n"),
        ("rcpt", b"354 go on\r\n"),
        ("data", b"250 2.0.0 taken already\r\n"),
        ("data", b"354 go on\r\n250 2.0.0 taken before it came\r\n"),
        ("dot", b"354 more\r\n"),
        ("dot", b"nonsense\r\n"),
        ("dot", b"250\x00-\r\n250 x" + b"y" * 5000 + b"\r\n"),
    ],
)
async def test_a_server_that_breaks_the_protocol_has_not_taken_the_message(
    tmp_path: Path, stage: str, reply: bytes
) -> None:
    async with peer({stage: reply}) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        outcome = await delivery.outcome()
        assert outcome.kind is OutcomeKind.DEFERRED
        assert outcome.text.isprintable()
        server.actions = server.actions | {
            stage: {"banner": b"220 x\r\n", "data": b"354 x\r\n"}.get(stage, b"250 x\r\n")
        }
        delivery.send(2)
        await delivery.outcomes(2)
        assert delivery.recorder.outcomes[2][0].kind is OutcomeKind.DELIVERED


async def test_a_reply_of_control_characters_is_harmless(tmp_path: Path) -> None:
    reply = b"550 5.1.1 \x1b[31mno\x07\xff\xc2\x9b such \xe2\x80\xae user\r\n"
    async with peer({"rcpt": reply}) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1)
        outcome = await delivery.outcome()
        assert outcome.kind is OutcomeKind.BOUNCED
        assert outcome.text.isprintable()
        assert "such" in outcome.text


@pytest.mark.parametrize("ehlo", [EHLO, PLAIN_EHLO])
async def test_each_recipient_has_its_own_outcome(tmp_path: Path, ehlo: bytes) -> None:
    def choose(stage: str, line: str, connection: int) -> Action | None:
        if stage == "rcpt" and "bad" in line:
            return b"550 5.1.1 unknown\r\n"
        return b"450 4.2.1 full\r\n" if stage == "rcpt" and "full" in line else None

    async with peer({"ehlo": ehlo}, choose) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, "good", "bad", "full", "fine")
        kinds = [outcome.kind for outcome in await delivery.outcomes(4)]
        assert kinds == [OutcomeKind.DELIVERED, OutcomeKind.BOUNCED, OutcomeKind.DEFERRED, OutcomeKind.DELIVERED]
        assert server.taken[0].recipients == ("good@example.net", "fine@example.net")


@pytest.mark.parametrize("ehlo", [EHLO, PLAIN_EHLO])
@pytest.mark.parametrize("data", [b"354 go on\r\n", b"554 5.5.1 no recipients\r\n"])
async def test_when_all_recipients_are_refused_nothing_is_sent(tmp_path: Path, ehlo: bytes, data: bytes) -> None:
    actions: dict[str, Action] = {"ehlo": ehlo, "rcpt": b"550 5.1.1 unknown\r\n", "data": data}
    async with peer(actions) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, "x", "y")
        assert {outcome.kind for outcome in await delivery.outcomes(2)} == {OutcomeKind.BOUNCED}
        assert all(taken.content == b"" for taken in server.taken)
        server.actions = server.actions | {"rcpt": b"250 ok\r\n", "data": b"354 go on\r\n"}
        delivery.send(3)
        await delivery.outcomes(3)
        assert delivery.recorder.outcomes[3][0].kind is OutcomeKind.DELIVERED
        assert server.connections == 1


@pytest.mark.parametrize(
    ("flags", "content", "enhanced"),
    [
        (MessageFlag.EIGHT_BIT, b"Subject: x\r\n\r\n\xc3\xbc\r\n", "5.6.3"),
        (MessageFlag.SMTPUTF8, CONTENT, "5.6.7"),
        (0, b"Subject: x\r\n\r\n" + b"x" * 2000 + b"\r\n", "5.3.4"),
    ],
)
async def test_what_a_server_cannot_take_is_not_tried_on_it(
    tmp_path: Path, flags: int, content: bytes, enhanced: str
) -> None:
    ehlo = b"250-mx.test\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
    async with peer({"ehlo": ehlo}) as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, content=content, flags=flags)
        outcome = await delivery.outcome()
        assert (outcome.kind, outcome.enhanced, outcome.said_by) == (OutcomeKind.BOUNCED, enhanced, SaidBy.LOCAL)
        assert server.commands == ["EHLO mta1.barua.test"]
        delivery.send(2)
        await delivery.outcomes(2)
        assert delivery.recorder.outcomes[2][0].kind is OutcomeKind.DELIVERED
        assert server.connections == 1


async def test_a_recipient_that_is_not_ascii_needs_smtputf8(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, "ü")
        assert (await delivery.outcome()).kind is OutcomeKind.DELIVERED
        assert server.commands[1].endswith(" SMTPUTF8")
        assert server.taken[0].recipients == ("ü@example.net",)


async def test_the_null_sender_is_sent_as_such(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        delivery.send(1, sender="")
        await delivery.outcome()
        assert server.commands[1].startswith("MAIL FROM:<> ")


async def test_content_that_must_not_leave_is_given_up_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with peer() as server, delivering(tmp_path, server.port) as delivery:
        for number in range(1, 401):
            delivery.send(number, content=b"Subject: x\r\n\r\nbare\nline\r\n")
        delivery.send(401)
        outcomes = await delivery.outcomes(401)
        assert {outcome.kind for outcome in outcomes[:400]} == {OutcomeKind.BOUNCED}
        assert outcomes[400].kind is OutcomeKind.DELIVERED


async def test_a_server_that_takes_its_time_byte_by_byte_is_late(tmp_path: Path) -> None:
    """Octets that never make a reply are no sign of life."""
    dial = replace(DIAL, command_seconds=0.3, final_dot_seconds=0.3)
    async with peer({"mail": b"2"}) as server, delivering(tmp_path, server.port, dial=dial) as delivery:
        delivery.send(1)

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                for writer in list(server._writers):
                    writer.write(b"5")

        dripping = asyncio.create_task(drip())
        outcome = await delivery.outcome()
        dripping.cancel()
        assert outcome.kind is OutcomeKind.DEFERRED
