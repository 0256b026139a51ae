"""Mail to the mock domain: played, never sent."""

from pathlib import Path

import pytest

from mta.delivery import mock
from mta.message.outcome import OutcomeKind
from mta.spool.records import EventKind
from tests.unit.delivery.parts import delivering
from tests.unit.delivery.test_agent import events, queued


@pytest.mark.parametrize(
    ("address", "kinds", "code"),
    [
        ("test@play.test", [OutcomeKind.DELIVERED] * 2, 250),
        ("deliver@play.test", [OutcomeKind.DELIVERED] * 2, 250),
        ("anybody@play.test", [OutcomeKind.DELIVERED] * 2, 250),
        ("HardBounce+tag@play.test", [OutcomeKind.BOUNCED] * 2, 550),
        ("dropped@play.test", [OutcomeKind.BOUNCED] * 2, None),
        ("softbounce@play.test", [OutcomeKind.DEFERRED, OutcomeKind.DELIVERED], 450),
    ],
)
def test_the_address_says_what_happens(address: str, kinds: list[OutcomeKind], code: int | None) -> None:
    found = [mock.outcome(address, attempts) for attempts in range(2)]
    assert [one.kind for one in found] == kinds
    assert found[0].code == code


async def test_nothing_is_sent(tmp_path: Path) -> None:
    """Not to the recipients, and no bounce message to the sender, who need not be played."""
    async with delivering(tmp_path, 1, mock_domain="play.test") as delivery:
        addresses = ("test@play.test", "hardbounce@play.test", "dropped@play.test", "softbounce@play.test")
        await delivery.submit(1, *addresses)
        await delivery.settled(4)
    assert [kind for kind, _, _ in events(tmp_path)] == [
        EventKind.DELIVERED, EventKind.BOUNCED, EventKind.BOUNCED, EventKind.DEFERRED,
    ]  # fmt: skip
    assert queued(tmp_path) == ["softbounce@play.test"]
